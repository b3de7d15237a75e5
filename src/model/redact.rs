//! Secrets out of command lines, before they are written down.

/// What stands for a secret.
const HIDDEN: &str = "***";

/// Parts of a name that mark its value as a secret. `pass` alone would hide pytest's `--passed`.
const SECRET_NAMES: [&str; 13] = [
    "password",
    "passwd",
    "passphrase",
    "pgpass",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "privatekey",
    "credential",
    "authorization",
    "bearer",
    "cookie",
];

/// A command line with the secrets that can be told by their names or form replaced by `***`.
///
/// Hidden are the values of options and variables whose names say so (`--password=x`, `--token x`,
/// `DB_PASSWORD=x`), headers (`Authorization: x`) and the user part of URLs. It errs on the side of
/// hiding; a secret that nothing marks as one (`-pX`, a bare argument) stays.
#[must_use]
pub fn redact(arguments: &[String]) -> Vec<String> {
    let mut hide_next = false;
    arguments
        .iter()
        .map(|argument| {
            let is_value = std::mem::take(&mut hide_next) && !argument.starts_with('-');
            if is_value {
                return HIDDEN.to_owned();
            }
            hide_next =
                argument.starts_with("--") && !argument.contains('=') && is_secret(argument);
            one(argument)
        })
        .collect()
}

fn one(argument: &str) -> String {
    for separator in ['=', ':'] {
        if let Some((name, value)) = argument.split_once(separator)
            && is_name(name)
            && is_secret(name)
            && !value.is_empty()
            && !value.starts_with("//")
        {
            let space = if value.starts_with(' ') { " " } else { "" };
            return format!("{name}{separator}{space}{HIDDEN}");
        }
    }
    without_userinfo(argument)
}

/// Whether this can be the name of an option, variable or header: not, say, the start of a test id or path.
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

fn is_secret(name: &str) -> bool {
    let plain: String = name
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase())
        .collect();
    SECRET_NAMES.iter().any(|secret| plain.contains(secret))
}

/// `scheme://user:secret@host` becomes `scheme://***@host`, wherever it stands in the text.
fn without_userinfo(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        out.push_str(before);
        out.push_str("://");
        let authority = after
            .find(|c: char| matches!(c, '/' | '?' | '#' | '"' | '\'') || c.is_whitespace())
            .unwrap_or(after.len());
        rest = after;
        // The last @ of the authority: a password may hold one unescaped.
        if let Some(at) = after.get(..authority).and_then(|part| part.rfind('@')) {
            out.push_str(HIDDEN);
            rest = after.get(at..).unwrap_or("");
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::redact;

    fn redacted(arguments: &[&str]) -> Vec<String> {
        redact(
            &arguments
                .iter()
                .map(|&text| text.to_owned())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn values_of_secret_options_and_variables_are_hidden() {
        assert_eq!(
            redacted(&[
                "env",
                "PGPASSWORD=a b",
                "run",
                "--password=x",
                "--api-key",
                "k",
                "--db_token=",
                "-v"
            ]),
            [
                "env",
                "PGPASSWORD=***",
                "run",
                "--password=***",
                "--api-key",
                "***",
                "--db_token=",
                "-v"
            ]
        );
        assert_eq!(
            redacted(&["--token", "--verbose"]),
            ["--token", "--verbose"]
        );
        assert_eq!(redacted(&["--token"]), ["--token"]);
        assert_eq!(
            redacted(&["Authorization: Bearer abc"]),
            ["Authorization: ***"]
        );
    }

    #[test]
    fn user_and_password_of_urls_are_hidden() {
        assert_eq!(
            redacted(&[
                "--url=https://u:p@ss@h/x?q=a@b",
                "a://b@c d://e",
                "mailto:x@y"
            ]),
            [
                "--url=https://***@h/x?q=a@b",
                "a://***@c d://e",
                "mailto:x@y"
            ]
        );
        assert_eq!(
            redacted(&["x://", "://@", "ü://ü@ü/ü"]),
            ["x://", "://***@", "ü://***@ü/ü"]
        );
    }

    #[test]
    fn ordinary_arguments_stay() {
        let plain = [
            "pytest",
            "-n",
            "4",
            "tests/test_token.py::test_password",
            "-k",
            "token=1 or b",
            "--passed",
            "é",
        ];
        assert_eq!(redacted(&plain)[..5], plain[..5]);
        assert_eq!(redacted(&plain)[6..], plain[6..]);
    }
}
