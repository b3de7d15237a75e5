//! Arguments of `hangscope watch`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Run a command; when it hangs, say why and end it.
///
/// Without --run-timeout nothing is ever ended. SIGQUIT or SIGUSR1 to hangscope: dump now and go on.
#[derive(Clone, Debug, clap::Args)]
pub struct WatchArgs {
    /// Dump and end the run after this time (60s, 2m, 1h30m; a plain number is seconds)
    #[arg(long, value_name = "DURATION", value_parser = limit)]
    pub run_timeout: Option<Duration>,
    /// Time between TERM and KILL when a limit ends the run
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "5s")]
    pub grace: Duration,
    /// Folder that bundles are written to
    #[arg(long, value_name = "DIR", default_value = ".hangscope")]
    pub archive: PathBuf,
    /// Write no bundles
    #[arg(long, conflicts_with = "archive")]
    pub no_archive: bool,
    /// Exit code when a limit ended the run
    #[arg(long, value_name = "CODE", default_value_t = 124)]
    pub hang_exit_code: u8,
    /// Number of samples [default: 1, and 2 more if anything waits]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub samples: Option<u32>,
    /// Pause between samples
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "500ms")]
    pub interval: Duration,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

fn limit(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("leave the option out for no limit".to_owned()),
        limit => Ok(limit),
    }
}

/// Reads a duration: `90`, `1.5s`, `500ms`, `1h30m`. Units are h, m, s and ms; a plain number is seconds.
/// Fails when the text is no duration, or one beyond the range of [`Duration`].
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a duration such as 60s, 2m, 1h30m or 500ms".to_owned();
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let split = |rest: &str, digits: bool| {
            rest.find(|c: char| (c.is_ascii_digit() || c == '.') != digits)
                .unwrap_or(rest.len())
        };
        let (number, after) = rest.split_at(split(rest, true));
        let (unit, after) = after.split_at(split(after, false));
        let scale = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            "" if number.len() == text.trim().len() => 1.0,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let part = Duration::try_from_secs_f64(number * scale).map_err(|_| wrong())?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = after;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::{duration, limit};
    use std::time::Duration;

    #[test]
    fn durations_are_read() {
        for (text, millis) in [
            ("60s", 60_000),
            ("90", 90_000),
            ("0", 0),
            ("2m", 120_000),
            ("1h30m", 5_400_000),
            ("500ms", 500),
            ("1.5s", 1500),
            ("0.25", 250),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            " ",
            "s",
            "5x",
            "-1",
            "1h30",
            "1e3",
            "inf",
            "5 s",
            "..",
            "99999999999999999999999h",
            "5µs",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(limit("0").is_err() && limit("1ms").is_ok());
    }
}
