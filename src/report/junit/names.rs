//! How pytest's JUnit file names a test.

/// Attributes of a `testcase`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Names {
    pub(super) class: String,
    pub(super) name: String,
}

/// What pytest 9.2 makes of a node id (`_pytest.junitxml.mangle_test_address`, `_pytest.nodeid.NodeId.parse`).
pub(super) fn names_of(node_id: &str) -> Names {
    let Some((path, tail)) = node_id.split_once("::") else {
        return Names {
            class: String::new(),
            name: visible(&dotted(node_id)),
        };
    };
    let (name, parameters) = split_parameters(tail);
    let mut parts = vec![dotted(path)];
    parts.extend(name.split("::").map(str::to_owned));
    joined(parts, parameters)
}

/// What older ones make of it: there the parameters begin at the first bracket, which may be in the path.
pub(super) fn older_names_of(node_id: &str) -> Names {
    let (address, parameters) = split_parameters(node_id);
    let mut parts: Vec<String> = address.split("::").map(str::to_owned).collect();
    if let Some(path) = parts.first_mut() {
        *path = dotted(path);
    }
    joined(parts, parameters)
}

/// What nextest's own file makes of a test of Rust: the binary is the class. `id` begins with it.
pub(super) fn rust_names_of(binary: &str, id: &str) -> Names {
    let name = id.strip_prefix(binary).map_or(id, str::trim_start);
    Names {
        class: visible(binary),
        name: visible(name),
    }
}

fn joined(mut parts: Vec<String>, parameters: &str) -> Names {
    let name = parts.pop().unwrap_or_default() + parameters;
    Names {
        class: visible(&parts.join(".")),
        name: visible(&name),
    }
}

fn split_parameters(text: &str) -> (&str, &str) {
    text.split_at(text.find('[').unwrap_or(text.len()))
}

fn dotted(path: &str) -> String {
    let dotted = path.replace('/', ".");
    dotted.strip_suffix(".py").unwrap_or(&dotted).to_owned()
}

/// Whether XML 1.0 can hold a character at all.
pub(super) fn is_allowed(character: char) -> bool {
    matches!(u32::from(character), 0x9 | 0xA | 0xD | 0x20..=0xFFFD | 0x1_0000..)
}

/// Shows what XML 1.0 forbids, and DEL, as pytest does: `#x07`.
pub(super) fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        let code = u32::from(character);
        match code {
            _ if is_allowed(character) && code != 0x7F => out.push(character),
            0..=0xFF => out.push_str(&format!("#x{code:02X}")),
            _ => out.push_str(&format!("#x{code:04X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{names_of, older_names_of, rust_names_of};

    #[test]
    fn a_test_of_rust_is_in_its_binary() {
        let names = rust_names_of("demo::it", "demo::it tests::a (attempt 2 of 3)");
        let (class, name) = (names.class.as_str(), names.name.as_str());
        assert_eq!((class, name), ("demo::it", "tests::a (attempt 2 of 3)"));
    }

    #[test]
    fn both_ways_of_naming() {
        for (id, class, name) in [
            ("tests/test_a.py::test_b", "tests.test_a", "test_b"),
            (
                "t/test_a.py::TestC::test_b[x::y/z.py]",
                "t.test_a.TestC",
                "test_b[x::y/z.py]",
            ),
            ("docs/a.rst::a.rst", "docs.a.rst", "a.rst"),
            ("test_bad.py", "", "test_bad"),
            ("test_a.py::test_b[\u{7}]", "test_a", "test_b[#x07]"),
        ] {
            let names = names_of(id);
            assert_eq!((names.class.as_str(), names.name.as_str()), (class, name));
            assert_eq!(older_names_of(id), names, "{id}");
        }
        let bracket = "test[1].py::test_b";
        assert_eq!(names_of(bracket).class, "test[1]");
        assert_eq!(older_names_of(bracket).name, "test[1].py::test_b");
    }
}
