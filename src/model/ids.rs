//! Identities: what a thing is called across samples, and the numbers the kernel and CPython give it.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// A process id as seen by hangscope (its own pid namespace).
pub type Pid = i32;
/// A kernel thread id (`gettid(2)`) as seen by hangscope.
pub type Tid = i32;

/// An address in the target. Hexadecimal text in JSON, since JSON numbers lose the upper bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr(pub u64);

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl Serialize for Addr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Addr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.strip_prefix("0x")
            .and_then(|hex| u64::from_str_radix(hex, 16).ok())
            .map(Addr)
            .ok_or_else(|| D::Error::custom("an address is hexadecimal text such as \"0x7f00\""))
    }
}

impl JsonSchema for Addr {
    fn schema_name() -> Cow<'static, str> {
        "Addr".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^0x[0-9a-f]{1,16}$",
            "description": "An address in the target, hexadecimal."
        })
    }
}

/// The stable name of an object across samples: `p42.977` (pid and start time in clock ticks),
/// `p42.977/t43` (a thread of it), `p42.977/i1` (an interpreter), `p42.977/gil@0x…` (a GIL),
/// `p42.977/loop@0x…` (an event loop), `p42.977/task@0x…` (a task).
#[derive(
    Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct Key(Arc<str>);

impl Key {
    /// The key of a process. `start_ticks` is field 22 of `/proc/PID/stat` and keeps a re-used pid apart.
    #[must_use]
    pub fn process(pid: Pid, start_ticks: u64) -> Self {
        Self(format!("p{pid}.{start_ticks}").into())
    }
    /// The key of a thread of this process.
    #[must_use]
    pub fn thread(&self, tid: Tid) -> Self {
        Self(format!("{}/t{tid}", self.process_part()).into())
    }
    /// The key of an interpreter of this process.
    #[must_use]
    pub fn interpreter(&self, id: i64) -> Self {
        Self(format!("{}/i{id}", self.process_part()).into())
    }
    /// The key of a global interpreter lock, by the address of its `struct _gil_runtime_state`.
    #[must_use]
    pub fn gil(&self, address: Addr) -> Self {
        Self(format!("{}/gil@{address}", self.process_part()).into())
    }
    /// The key of a lock, by address.
    #[must_use]
    pub fn lock(&self, address: Addr) -> Self {
        Self(format!("{}/lock@{address}", self.process_part()).into())
    }
    /// The key of an event loop, by address.
    #[must_use]
    pub fn event_loop(&self, address: Addr) -> Self {
        Self(format!("{}/loop@{address}", self.process_part()).into())
    }
    /// The key of a task, by address.
    #[must_use]
    pub fn task(&self, address: Addr) -> Self {
        Self(format!("{}/task@{address}", self.process_part()).into())
    }
    /// The key of the process that this object belongs to.
    #[must_use]
    pub fn of_process(&self) -> Self {
        Self(self.process_part().into())
    }
    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// Whether it is the key of a process's first thread, whose id is that of the process.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        let pid = self
            .0
            .strip_prefix('p')
            .and_then(|rest| rest.split('.').next());
        pid.and_then(|pid| pid.parse::<Tid>().ok())
            .is_some_and(|pid| self.tid() == Some(pid))
    }
    /// The thread id in the key of a thread.
    pub fn tid(&self) -> Option<Tid> {
        self.0.split_once("/t")?.1.parse().ok()
    }
    pub(super) fn process_part(&self) -> &str {
        self.0.split('/').next().unwrap_or("")
    }
}
