//! Who holds the file lock that a process waits for (`proc_locks(5)`).

use crate::capture::facts::read_bounded;
use crate::model::Pid;

/// The process that has the lock which a thread of `waiter` waits for; `None` where that is not known, or where its threads wait
/// for several.
pub(super) fn holder_for(waiter: Pid) -> Option<Pid> {
    let text = read_bounded("/proc/locks");
    find(&String::from_utf8_lossy(&text), waiter)
}

/// A lock has a line with its number, and those who wait for it follow with the same number and an arrow:
/// `3: FLOCK  ADVISORY  WRITE 71 fe:00:99 0 EOF`, `3: -> FLOCK  ADVISORY  WRITE 72 fe:00:99 0 EOF`.
fn find(text: &str, waiter: Pid) -> Option<Pid> {
    let mut found = None;
    let mut holder: Option<(&str, Pid)> = None;
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let number = words.next()?;
        let mut rest = words.peekable();
        let waits = rest.peek() == Some(&"->");
        let pid = rest.nth(if waits { 4 } else { 3 })?.parse::<Pid>().ok()?;
        if !waits {
            holder = Some((number, pid));
        } else if pid == waiter {
            let (_, pid) = holder.filter(|(of, _)| *of == number)?;
            if found.is_some_and(|known| known != pid) {
                return None;
            }
            found = Some(pid).filter(|pid| *pid > 0);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::find;
    use proptest::prelude::*;

    const LOCKS: &str = "\
1: FLOCK  ADVISORY  WRITE 71 fe:00:99 0 EOF
1: -> FLOCK  ADVISORY  WRITE 72 fe:00:99 0 EOF
2: POSIX  ADVISORY  READ 80 fe:00:98 0 EOF
3: OFDLCK ADVISORY  WRITE -1 fe:00:97 0 EOF
3: -> OFDLCK ADVISORY  WRITE 73 fe:00:97 0 EOF
";

    #[test]
    fn the_holder_is_that_of_the_same_number() {
        assert_eq!(find(LOCKS, 72), Some(71));
        assert_eq!(find(LOCKS, 71), None, "it waits for nothing");
        assert_eq!(
            find(LOCKS, 73),
            None,
            "a lock of a description names nobody"
        );
    }

    proptest! {
        #[test]
        fn any_text(text: String, waiter: i32) {
            let _ = find(&text, waiter);
        }
    }
}
