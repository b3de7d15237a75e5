//! What a process's environment says of the test that it runs: nextest's variables, and cargo's.

use crate::model::Foreign;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A test as nextest's variables name it.
#[derive(Clone, Debug)]
pub(super) struct NextestTest {
    pub(super) binary: Foreign,
    pub(super) name: Foreign,
    pub(super) attempt: Option<(u32, u32)>,
}

/// The environment that a program was started with.
pub(super) struct Environment(Vec<u8>);

impl Environment {
    /// Variables, each with a zero after it, as in `/proc/PID/environ`.
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The value of a variable, if it is not empty.
    pub(super) fn get(&self, name: &str) -> Option<&[u8]> {
        let mut variables = self.0.split(|&byte| byte == 0);
        variables.find_map(|variable| {
            let value = variable.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
            Some(value).filter(|value| !value.is_empty())
        })
    }

    /// The test that nextest has started this for (0.9.116 and newer tell by variables; before, by the arguments).
    pub(super) fn nextest(&self, arguments: &[&[u8]]) -> Option<NextestTest> {
        self.get("NEXTEST")?;
        let exact = || {
            let at = arguments
                .iter()
                .position(|argument| *argument == b"--exact")?;
            arguments.get(at + 1).copied()
        };
        let name = self.get("NEXTEST_TEST_NAME").or_else(exact)?;
        let number = |name| {
            std::str::from_utf8(self.get(name)?)
                .ok()?
                .parse::<u32>()
                .ok()
        };
        let attempt = number("NEXTEST_ATTEMPT").zip(number("NEXTEST_TOTAL_ATTEMPTS"));
        Some(NextestTest {
            binary: Foreign::from_bytes(self.get("NEXTEST_BINARY_ID").unwrap_or_default()),
            name: Foreign::from_bytes(name),
            attempt: attempt.filter(|(_, total)| *total > 1),
        })
    }

    /// Whether it names the test that hangscope itself was started in.
    pub(super) fn is_ours(&self) -> bool {
        [
            "NEXTEST_RUN_ID",
            "NEXTEST_BINARY_ID",
            "NEXTEST_TEST_NAME",
            "NEXTEST_ATTEMPT_ID",
        ]
        .iter()
        .all(|name| {
            let own = std::env::var_os(name);
            own.as_deref().map(OsStr::as_bytes) == self.get(name)
        })
    }
}

/// A binary's name as nextest has it: `demo`, `demo::it` for a test target. The package is in the environment that cargo
/// sets; of a library and a program with its name nobody can say which it is.
pub(super) fn binary(exe: Option<&Path>, environment: &Environment) -> Foreign {
    let package = environment
        .get("CARGO_PKG_NAME")
        .map(String::from_utf8_lossy);
    let stem = exe
        .and_then(Path::file_name)
        .map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned())
        .unwrap_or_default();
    // cargo adds a hash.
    let stem = match stem.rsplit_once('-') {
        Some((stem, hash)) if hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => {
            stem
        }
        _ => stem.as_str(),
    };
    Foreign::from(match package {
        None => stem.to_owned(),
        Some(package) if package.replace('-', "_") == stem.replace('-', "_") => {
            package.into_owned()
        }
        // The names of their programs say nothing.
        Some(package) if matches!(stem, "rustdoc" | "rust_out") => package.into_owned(),
        Some(package) => format!("{package}::{stem}"),
    })
}

#[cfg(test)]
mod tests {
    use super::{Environment, binary};
    use std::path::Path;

    fn environment(variables: &[&str]) -> Environment {
        Environment(variables.join("\0").into_bytes())
    }

    #[test]
    fn binaries_are_named_as_nextest_names_them() {
        let of = |exe: &str, variables: &[&str]| {
            let name = binary(Some(Path::new(exe)), &environment(variables));
            name.untrusted().to_owned()
        };
        let package = &["CARGO_PKG_NAME=my-demo"][..];
        for (exe, variables, name) in [
            ("/t/deps/my_demo-8348ca7a80742723", package, "my-demo"),
            ("/t/deps/it-8348ca7a80742723", package, "my-demo::it"),
            ("/t/deps/it-others", package, "my-demo::it-others"),
            ("/t/deps/it-8348ca7a80742723", &[], "it"),
            ("/bin/rustdoc", package, "my-demo"),
        ] {
            assert_eq!(of(exe, variables), name, "{exe}");
        }
    }

    #[test]
    fn nextest_names_its_tests_in_the_environment_or_the_arguments() {
        let all = environment(&[
            "NEXTEST=1",
            "NEXTEST_TEST_NAME=tests::a",
            "NEXTEST_BINARY_ID=demo::it",
            "NEXTEST_ATTEMPT=2",
            "NEXTEST_TOTAL_ATTEMPTS=3",
        ]);
        let test = all.nextest(&[]).expect("a test");
        assert_eq!(test.name.untrusted(), "tests::a");
        assert_eq!(
            (test.binary.untrusted(), test.attempt),
            ("demo::it", Some((2, 3)))
        );
        let old = environment(&["NEXTEST=1"]);
        let test = old
            .nextest(&[b"/t/it", b"--exact", b"tests::b"])
            .expect("a test");
        assert_eq!((test.name.untrusted(), test.attempt), ("tests::b", None));
        assert!(old.nextest(&[b"/t/it", b"--list"]).is_none());
        assert!(
            environment(&[])
                .nextest(&[b"/t/it", b"--exact", b"x"])
                .is_none()
        );
    }
}
