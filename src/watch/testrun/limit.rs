//! The limit that a test has by a mark or an option of its own.

/// Longest limit that is taken for one: about 30 years, far from where sums of times could overflow.
const LONGEST_S: f64 = 1e9;

/// Who set a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// `@pytest.mark.hangscope(timeout=…)`.
    Hangscope,
    /// `@pytest.mark.timeout(…)` (pytest-timeout).
    Timeout,
    /// pytest-timeout's option, variable or ini setting, for all tests.
    Global,
}

/// How long a test may take by the word of the project.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum TestLimit {
    /// Nothing is said.
    #[default]
    Unsaid,
    /// It is said that there is no limit (zero seconds).
    Without(Mark),
    /// So many milliseconds, at least one.
    After(Mark, u64),
}

impl TestLimit {
    /// A limit in seconds. What is no time (negative, not a number, endless) says nothing.
    pub(super) fn seconds(mark: Mark, seconds: f64) -> Self {
        if !(0.0..=LONGEST_S).contains(&seconds) {
            return Self::Unsaid;
        }
        if seconds == 0.0 {
            return Self::Without(mark);
        }
        match std::time::Duration::try_from_secs_f64(seconds) {
            Ok(limit) => Self::After(
                mark,
                u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1),
            ),
            Err(_) => Self::Unsaid,
        }
    }

    /// Reads `<mark>:<seconds>`.
    pub(super) fn parse(text: &str) -> Self {
        let Some((mark, seconds)) = text.split_once(':') else {
            return Self::Unsaid;
        };
        let mark = match mark {
            "hangscope" => Mark::Hangscope,
            "timeout" => Mark::Timeout,
            _ => return Self::Unsaid,
        };
        seconds
            .parse()
            .map_or(Self::Unsaid, |seconds| Self::seconds(mark, seconds))
    }

    /// This one, or the other if this one says nothing.
    pub(super) fn or(self, other: Self) -> Self {
        if self == Self::Unsaid { other } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::{Mark, TestLimit};

    #[test]
    fn limits_parse() {
        let cases = [
            ("", TestLimit::Unsaid),
            ("timeout:2", TestLimit::After(Mark::Timeout, 2000)),
            ("hangscope:0.25", TestLimit::After(Mark::Hangscope, 250)),
            ("hangscope:0", TestLimit::Without(Mark::Hangscope)),
            ("timeout:0.0", TestLimit::Without(Mark::Timeout)),
            ("timeout:1e-9", TestLimit::After(Mark::Timeout, 1)),
            ("timeout:-1", TestLimit::Unsaid),
            ("timeout:inf", TestLimit::Unsaid),
            ("timeout:nan", TestLimit::Unsaid),
            ("timeout:1e300", TestLimit::Unsaid),
            ("timeout:", TestLimit::Unsaid),
            ("other:3", TestLimit::Unsaid),
        ];
        for (text, limit) in cases {
            assert_eq!(TestLimit::parse(text), limit, "{text}");
        }
    }

    #[test]
    fn a_mark_goes_before_the_option_for_all() {
        let all = TestLimit::seconds(Mark::Global, 9.0);
        assert_eq!(TestLimit::parse("").or(all), all);
        let none = TestLimit::parse("timeout:0");
        assert_eq!(none.or(all), none);
    }
}
