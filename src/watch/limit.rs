//! The clock of a limit. It stands while the whole job is suspended: time at the shell's prompt is no hang.

use std::time::{Duration, Instant};

/// A limit on time. Everything takes the present as an argument, so that it can be tested.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    length: Duration,
    until: Option<Instant>,
    stood_since: Option<Instant>,
}

impl Limit {
    /// A limit that begins now. One that would end after the end of time never ends.
    pub(super) fn new(length: Duration, now: Instant) -> Self {
        Self {
            length,
            until: now.checked_add(length),
            stood_since: None,
        }
    }

    /// When it is reached, if nothing else happens.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until.filter(|_| self.stood_since.is_none())
    }

    /// Whether it is reached.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.until().is_some_and(|until| until <= now)
    }

    /// Stops the clock.
    pub(super) fn stand(&mut self, now: Instant) {
        self.stood_since.get_or_insert(now);
    }

    /// Lets the clock go on.
    pub(super) fn go_on(&mut self, now: Instant) {
        if let Some(since) = self.stood_since.take() {
            self.until = self
                .until
                .and_then(|until| until.checked_add(now.saturating_duration_since(since)));
        }
    }

    /// Its length in milliseconds.
    pub(super) fn millis(&self) -> u64 {
        u64::try_from(self.length.as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::Limit;
    use std::time::{Duration, Instant};

    #[test]
    fn suspended_time_does_not_count() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut limit = Limit::new(Duration::from_secs(10), start);
        assert!(!limit.is_over(at(9)) && limit.is_over(at(10)));
        limit.stand(at(4));
        limit.stand(at(6));
        assert!(!limit.is_over(at(100)) && limit.until().is_none());
        limit.go_on(at(104));
        limit.go_on(at(105));
        assert_eq!(limit.until(), Some(at(110)));
    }

    #[test]
    fn an_endless_limit_never_ends() {
        let limit = Limit::new(Duration::MAX, Instant::now());
        assert!(limit.until().is_none() && !limit.is_over(Instant::now()));
    }
}
