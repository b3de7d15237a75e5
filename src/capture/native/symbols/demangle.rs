//! From the names that linkers see to those that people wrote.

use std::fmt::{self, Write};

/// Longest name that is taken apart; of longer ones nobody reads the end.
const MAX_MANGLED: usize = 4 << 10;
/// Longest name that comes out: with references to its own parts a short name can stand for a huge one.
const MAX_NAME: usize = 4 << 10;

/// Text up to a length.
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > MAX_NAME {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

/// The name of a Rust or C++ function, without hash, parameters and return type; `None` of any other.
pub(super) fn demangle(name: &str) -> Option<String> {
    if name.len() > MAX_MANGLED || !name.is_ascii() {
        return None;
    }
    let mut out = Bounded(String::new());
    if let Ok(rust) = rustc_demangle::try_demangle(name) {
        write!(out, "{rust:#}").ok()?;
        return Some(out.0);
    }
    if !name.starts_with("_Z") {
        return None;
    }
    let symbol = cpp_demangle::Symbol::new(name).ok()?;
    let options = cpp_demangle::DemangleOptions::new()
        .no_params()
        .no_return_type();
    symbol.structured_demangle(&mut out, &options).ok()?;
    Some(out.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names() {
        let cases = [
            (
                "_ZN4core3ops8function6FnOnce9call_once17h0123456789abcdefE",
                Some("core::ops::function::FnOnce::call_once"),
            ),
            ("_RNvC6_123foo3bar", Some("123foo::bar")),
            (
                "_ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE",
                Some("std::condition_variable::wait"),
            ),
            ("pthread_cond_wait", None),
            ("_Zzz", None),
        ];
        for (mangled, name) in cases {
            assert_eq!(demangle(mangled).as_deref(), name, "{mangled}");
        }
    }

    #[test]
    fn a_short_name_of_a_huge_one() {
        // Each parameter is a pair of what came before.
        let mut name = "_Z1fISt4pairIiiE".to_owned();
        for number in 0..26 {
            let last = char::from(b'A' + number);
            name += &format!("St4pairIS{last}_S{last}_E");
        }
        name += "Evv";
        assert!(demangle(&name).is_none_or(|name| name.len() <= MAX_NAME));
    }

    proptest! {
        #[test]
        fn anything(
            start in prop::sample::select(vec!["_ZN", "_Z", "_R", "_RNv", "_ZNSt", "_RINv"]),
            parts in prop::collection::vec("[A-Za-z0-9_$.]{1,4}|S_|S0_|B_|St4pairI|IiiE|NvC3foo", 0..60),
        ) {
            let _ = demangle(&format!("{start}{}", parts.concat()));
        }
    }
}
