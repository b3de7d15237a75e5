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

/// The signals in the mask `SigCgt` of `/proc/PID/status`.
pub(super) fn caught_signals(status: &str) -> Vec<i32> {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigCgt:"))
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
