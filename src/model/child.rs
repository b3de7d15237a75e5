//! Children that are waited for.

use super::{Foreign, Key, Pid};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a wait for a child's end is for (`wait4(2)`, `waitid(2)`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChildWait {
    /// Which children's end ends it.
    pub any_of: ChildSet,
    /// The children that it is for, as they are now; those beyond the first 64 are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Child>,
}

/// Which children are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ChildSet {
    /// One.
    One,
    /// Those of one process group.
    Group,
    /// All: the first to end will do.
    All,
}

/// A process that is waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Child {
    /// Its pid in hangscope's pid namespace; absent when it is gone and was known by the target's own number only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<Pid>,
    /// Its key, to be looked up in the sample's processes: it is there if it belongs to the captured tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Key>,
    /// Its name (`comm`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Foreign>,
    /// What has become of it.
    pub state: ChildState,
    /// Processor time that it has used, in clock ticks: more of it in a later sample shows that it works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_ticks: Option<u64>,
}

/// What has become of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ChildState {
    /// It lives.
    Alive,
    /// It is stopped by a signal or a tracer (states T and t of `proc_pid_stat(5)`).
    Stopped,
    /// It has ended, and nobody has waited for it yet.
    Zombie,
    /// There is no such process.
    Gone,
}

impl Child {
    /// Whether it has not ended.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        matches!(self.state, ChildState::Alive | ChildState::Stopped)
    }

    /// "1234 (sleep, alive)".
    #[must_use]
    pub fn words(&self) -> Foreign {
        let state = match self.state {
            ChildState::Alive => "alive",
            ChildState::Stopped => "stopped",
            ChildState::Zombie => "ended, zombie",
            ChildState::Gone => "gone",
        };
        let name = match &self.name {
            Some(name) => format!("{}, ", name.untrusted()),
            None => String::new(),
        };
        let pid = self
            .pid
            .map_or_else(|| "?".to_owned(), |pid| pid.to_string());
        Foreign::from(format!("{pid} ({name}{state})"))
    }
}

impl ChildWait {
    /// "child 1234 (sleep, alive)", "any child (3 alive, 1 zombie)".
    #[must_use]
    pub fn words(&self) -> Foreign {
        if self.any_of == ChildSet::One
            && let [child] = self.children.as_slice()
        {
            return Foreign::from(format!("child {}", child.words().untrusted()));
        }
        let counted = |state, word: &str| {
            let count = self.children.iter().filter(|child| child.state == state);
            match count.count() {
                0 => None,
                count => Some(format!("{count} {word}")),
            }
        };
        let counts: Vec<String> = [
            counted(ChildState::Alive, "alive"),
            counted(ChildState::Stopped, "stopped"),
            counted(ChildState::Zombie, "zombie"),
        ]
        .into_iter()
        .flatten()
        .collect();
        let which = match self.any_of {
            ChildSet::One => "a child",
            ChildSet::Group => "a child of a process group",
            ChildSet::All => "any child",
        };
        if counts.is_empty() {
            return Foreign::from(which);
        }
        Foreign::from(format!("{which} ({})", counts.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(state: ChildState) -> Child {
        Child {
            pid: Some(77),
            process: None,
            name: Some("sleep".into()),
            state,
            cpu_ticks: None,
        }
    }

    #[test]
    fn words_of_child_waits() {
        let one = ChildWait {
            any_of: ChildSet::One,
            children: vec![child(ChildState::Alive)],
        };
        assert_eq!(one.words().untrusted(), "child 77 (sleep, alive)");
        let any = ChildWait {
            any_of: ChildSet::All,
            children: vec![
                child(ChildState::Alive),
                child(ChildState::Alive),
                child(ChildState::Zombie),
            ],
        };
        assert_eq!(any.words().untrusted(), "any child (2 alive, 1 zombie)");
    }
}
