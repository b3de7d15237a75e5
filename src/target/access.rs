//! May we read this process, and if not, what would help.

use crate::model::Pid;
use nix::unistd::{Uid, User};
use std::fs;
use std::os::unix::fs::MetadataExt;

/// Why a process may not be read, with what helps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessDenied {
    /// One line: whose process it is and who we are.
    pub reason: String,
    /// Lines that each name a way out.
    pub remedies: Vec<String>,
}

/// `kernel.yama.ptrace_scope`; absent where the kernel has no Yama.
#[must_use]
pub fn yama_scope() -> Option<u8> {
    fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope")
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// Explains a refusal by the kernel (`ptrace(2)`, "Ptrace access mode checking").
#[must_use]
pub fn explain_denied(pid: Pid) -> AccessDenied {
    let ours = Uid::effective();
    let theirs = fs::metadata(format!("/proc/{pid}"))
        .ok()
        .map(|meta| Uid::from_raw(meta.uid()));
    let owner = theirs.map_or_else(|| "unknown".to_owned(), user_name);
    let reason = format!("user {owner}, you are {}", user_name(ours));
    let mut remedies = Vec::new();
    match yama_scope() {
        Some(1) if theirs == Some(ours) => {
            remedies.push("Yama ptrace_scope is 1: only ancestors may attach. Any one of these helps:".to_owned());
            remedies.push("  hangscope watch -- CMD            start the command under hangscope".to_owned());
        }
        Some(2) => remedies.push("Yama ptrace_scope is 2: only root (CAP_SYS_PTRACE) may attach.".to_owned()),
        Some(3) => {
            remedies.push("Yama ptrace_scope is 3: nobody may attach until the next boot.".to_owned());
            return AccessDenied { reason, remedies };
        }
        _ if ours.is_root() => remedies.push(
            "You are root, still refused: CAP_SYS_PTRACE is missing, it belongs to another user namespace, or a security \
             module forbids it."
                .to_owned(),
        ),
        _ if theirs == Some(ours) => remedies.push(
            "Same user, still refused: it is set-uid, not dumpable, or a security module forbids it.".to_owned(),
        ),
        _ => remedies.push("Only the same user or root may read it. Any one of these helps:".to_owned()),
    }
    if !ours.is_root() {
        remedies.push(format!("  sudo hangscope dump {pid}"));
    }
    remedies.push("  docker run --cap-add=SYS_PTRACE …  (in a container)".to_owned());
    AccessDenied { reason, remedies }
}

fn user_name(uid: Uid) -> String {
    User::from_uid(uid)
        .ok()
        .flatten()
        .map_or_else(|| uid.to_string(), |user| user.name)
}
