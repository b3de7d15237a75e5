//! Names of bundles: `2026-04-18T04-25-26Z-4242-1`.

use crate::model::Pid;

/// The form of a time in a bundle's name. No colons: archives are unpacked on Windows, too.
const TIME: &str = "%Y-%m-%dT%H-%M-%SZ";

/// A bundle's name, taken apart. Orders by time, then process, then number: oldest first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    time: String,
    pid: Pid,
    number: u32,
}

impl Name {
    /// The name of the `number`th bundle of this process, made now.
    pub(super) fn new(number: u32) -> Self {
        Self {
            time: jiff::Timestamp::now().strftime(TIME).to_string(),
            pid: i32::try_from(std::process::id()).unwrap_or(0),
            number,
        }
    }

    /// Takes a file name apart; `None` for everything that is not exactly of the form that we make.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (time, rest) = text.split_at_checked("2026-04-18T04-25-26Z".len())?;
        let form = b"dddd-dd-ddTdd-dd-ddZ";
        let fits = time.bytes().zip(form).all(|(byte, &want)| match want {
            b'd' => byte.is_ascii_digit(),
            _ => byte == want,
        });
        let (pid, number) = rest.strip_prefix('-')?.split_once('-')?;
        let name = Self {
            time: time.to_owned(),
            pid: pid.parse().ok()?,
            number: number.parse().ok()?,
        };
        // Written again it must be the same text: "+1" and "01" parse, but are not ours.
        (fits && name.text() == text).then_some(name)
    }

    /// The name as text.
    pub(super) fn text(&self) -> String {
        format!("{}-{}-{}", self.time, self.pid, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::Name;

    #[test]
    fn our_own_names_parse_and_sort() {
        let name = Name::new(3);
        assert_eq!(Name::parse(&name.text()), Some(name));
        let names = [
            "2026-04-18T04-25-26Z-9-2",
            "2026-04-18T04-25-26Z-9-10",
            "2026-04-18T04-25-26Z-10-1",
        ];
        let parsed: Vec<_> = names.iter().filter_map(|name| Name::parse(name)).collect();
        assert!(parsed.is_sorted() && parsed.len() == 3);
    }

    #[test]
    fn nothing_else_parses() {
        for text in [
            "",
            "latest",
            "2026-04-18",
            "2026-04-18T04-25-26Z",
            "2026-04-18T04-25-26Z-1",
            "2026-04-18T04-25-26Z-1-",
            "2026-04-18T04-25-26Z-01-1",
            "2026-04-18T04-25-26Z-+1-1",
            "2026-04-18T04-25-26Z-1-1-1",
            "2026-04-18T04-25-26Z-1-1x",
            "2026-04-18 04-25-26Z-1-1",
            "2026-04-18T04-25-26é-1-1",
            "x026-04-18T04-25-26Z-1-1",
        ] {
            assert_eq!(Name::parse(text), None, "{text}");
        }
    }
}
