//! Cold files of `/proc/PID`: arguments, environment, status.

use crate::model::{Foreign, redact};
use std::fs;
use std::io::Read;

/// Longest such file that is read.
const MAX_FILE: u64 = 256 << 10;

pub(super) fn arguments(bytes: &[u8]) -> Vec<Foreign> {
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    if bytes.is_empty() {
        return Vec::new();
    }
    let arguments: Vec<String> = bytes
        .split(|byte| *byte == 0)
        .map(|argument| String::from_utf8_lossy(argument).into_owned())
        .collect();
    redact(&arguments).into_iter().map(Foreign::from).collect()
}

pub(super) fn read_bounded(path: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(file) = fs::File::open(path) {
        let _ = file.take(MAX_FILE).read_to_end(&mut bytes);
    }
    bytes
}

/// The signals in a mask of `/proc/PID/status`, such as `SigCgt:`.
pub(super) fn signal_mask(status: &str, label: &str) -> Vec<i32> {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix(label))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    (1..=64)
        .filter(|signal| mask >> (signal - 1) & 1 == 1)
        .collect()
}

/// The last number on a line of `/proc/PID/status`.
pub(super) fn last_number(status: &str, label: &str) -> Option<i32> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(label))?
        .split_ascii_whitespace()
        .next_back()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn masks() {
        let status = "Name:\tx\nSigBlk:\t0000000000004003\nSigIgn:\t8000000000000000\n";
        assert_eq!(signal_mask(status, "SigBlk:"), [1, 2, 15]);
        assert_eq!(signal_mask(status, "SigIgn:"), [64]);
        assert_eq!(signal_mask(status, "SigCgt:"), [0; 0]);
    }

    proptest! {
        #[test]
        fn any_status(text in "\\PC{0,80}", mask in "SigBlk:[\t ]*[0-9a-fxz]{0,20}") {
            let _ = signal_mask(&text, "SigBlk:");
            let _ = signal_mask(&mask, "SigBlk:");
            let _ = last_number(&text, "N");
        }
    }
}
