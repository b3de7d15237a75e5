//! Rust's and C's function names without what varies: type parameters, traits, hashes.

/// Deepest nesting of types before a function's own name that is looked into.
const MAX_DEPTH: usize = 32;

/// `std::sync::mpmc::list::Channel::recv` of `<std::sync::mpmc::list::Channel<u32>>::recv` (v0),
/// `std::sync::mpmc::list::Channel<T>::recv` (legacy), `<std::…::Channel<T> as Trait>::recv`.
pub(super) fn plain(name: &str) -> String {
    plain_within(name, MAX_DEPTH)
}

fn plain_within(name: &str, depth_left: usize) -> String {
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    // `<A as B>::m` and `<A>::m` are `A::m`.
    if let Some(inner) = rest.strip_prefix('<')
        && let Some(depth_left) = depth_left.checked_sub(1)
        && let Some(end) = closing(inner)
    {
        let (subject, after) = inner.split_at(end);
        let subject = subject.split(" as ").next().unwrap_or(subject);
        let subject = subject.trim_start_matches(['&', '*', '(']);
        out.push_str(&plain_within(subject, depth_left));
        rest = after.get(1..).unwrap_or("");
    }
    let mut depth = 0_usize;
    let mut previous = ' ';
    for character in rest.chars() {
        match character {
            '<' => depth += 1,
            // Not of an arrow: `fn() -> T`.
            '>' if previous != '-' => depth = depth.saturating_sub(1),
            _ if depth == 0 => out.push(character),
            _ => {}
        }
        previous = character;
    }
    // `Vec::<T>::push` has left two pairs of colons, `park::<T>` one at its end.
    let out = out.replace("::::", "::");
    out.strip_suffix("::").map_or(out.clone(), str::to_owned)
}

/// Where the bracket closes that was opened just before `text`.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 1_usize;
    let mut previous = ' ';
    for (at, character) in text.char_indices() {
        match character {
            '<' => depth += 1,
            '>' if previous != '-' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
        previous = character;
    }
    None
}

/// Whether a plain path ends in these components: `Mutex::lock` does in `std::sync::poison::mutex::Mutex::lock`.
pub(super) fn ends(path: &str, components: &str) -> bool {
    path.strip_suffix(components)
        .is_some_and(|head| head.is_empty() || head.ends_with("::"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn type_parameters_and_traits_go() {
        for (name, expected) in [
            (
                "std::sync::poison::mutex::Mutex<T>::lock",
                "std::sync::poison::mutex::Mutex::lock",
            ),
            (
                "<std::sync::poison::mutex::Mutex<u32>>::lock",
                "std::sync::poison::mutex::Mutex::lock",
            ),
            (
                "<alloc::boxed::Box<F,A> as core::ops::function::FnOnce<Args>>::call_once",
                "alloc::boxed::Box::call_once",
            ),
            (
                "core::ops::function::FnOnce::call_once{{vtable.shim}}",
                "core::ops::function::FnOnce::call_once{{vtable.shim}}",
            ),
            (
                "std::thread::Builder::spawn_unchecked_::<fn() -> u32, u32>::{closure#1}",
                "std::thread::Builder::spawn_unchecked_::{closure#1}",
            ),
            ("pthread_mutex_lock", "pthread_mutex_lock"),
            ("<&mut T as a::B>::c", "mut T::c"),
            (
                "test::run_tests::<test::console::{closure#2}>",
                "test::run_tests",
            ),
            ("", ""),
            ("<", ""),
        ] {
            assert_eq!(plain(name), expected);
        }
    }

    #[test]
    fn a_name_of_nothing_but_brackets_is_survived() {
        let nested = |depth: usize| format!("{}a::b{}", "<".repeat(depth), ">".repeat(depth));
        assert_eq!(plain(&nested(MAX_DEPTH)), "a::b");
        assert_eq!(plain(&nested(1 << 16)), "");
    }

    #[test]
    fn components_are_compared_whole() {
        assert!(ends("a::b::Mutex::lock", "Mutex::lock"));
        assert!(ends("Mutex::lock", "Mutex::lock"));
        assert!(!ends("a::ReentrantMutex::lock", "Mutex::lock"));
    }

    proptest! {
        #[test]
        fn any_text_is_survived(name in ".{0,80}") {
            let plain = plain(&name);
            prop_assert!(plain.len() <= name.len());
        }
    }
}
