//! Points of time in the target, which counts from the same start as we do.

use nix::time::{ClockId, clock_gettime};

/// Longest time that is told, in milliseconds: 100 years. Libraries say "never" by times beyond.
const NEVER: f64 = 100.0 * 365.0 * 86_400_000.0;

/// `time.monotonic()`, in seconds.
pub(super) fn monotonic() -> Option<f64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).ok()?;
    Some(std::time::Duration::from(now).as_secs_f64())
}

/// Whole milliseconds; `None` for never, or no number at all.
pub(super) fn milliseconds(seconds: f64) -> Option<i64> {
    let value = seconds * 1000.0;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "it is within 100 years either way"
    )]
    (value.abs() < NEVER).then_some(value as i64)
}

#[cfg(test)]
mod tests {
    use super::milliseconds;

    #[test]
    fn never_is_no_time() {
        assert_eq!(milliseconds(1.5), Some(1500));
        assert_eq!(milliseconds(-0.25), Some(-250));
        assert_eq!(milliseconds(f64::INFINITY), None);
        assert_eq!(milliseconds(f64::NAN), None);
    }
}
