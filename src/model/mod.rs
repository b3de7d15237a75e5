//! Plain serializable data: what was seen and what follows from it. No I/O, no clock, no printing.

mod child;
mod descriptor;
mod event;
mod finding;
mod foreign;
mod frame;
mod gap;
mod ids;
mod interpreter;
mod inventory;
mod native;
mod process;
mod redact;
mod report;
mod run;
mod signal;
mod snapshot;
mod task;
mod thread;
mod wait;

pub use child::{Child, ChildSet, ChildState, ChildWait};
pub use descriptor::{Access, Descriptor, FileKind, Peer, SocketState, Want};
pub use event::{Event, LeftProcess, Outcome, OutcomeKind, SlowStatus};
pub use finding::{
    Analysis, Certainty, EdgeKind, Evidence, Finding, Inconclusive, Motion, Reference,
    ThreadProgress, Verdict, WaitEdge,
};
pub use foreign::Foreign;
pub use frame::{Frame, Local, is_library_file};
pub use gap::{Gap, GapKind};
pub use ids::{Addr, Key, Pid, Tid};
pub use interpreter::{
    Gil, Interpreter, PythonReader, PythonRuntime, PythonSignals, ThreadState, Unserved,
};
pub use inventory::{Birth, Counted, Counts, Inventory, Leak, LeftKind, TestInventory, Trend};
pub use native::{NativeFrame, NativeStack};
pub use process::{Coverage, Process, RunningTest, RuntimeKind, SharedLock};
pub use redact::redact;
pub use report::{Host, Options, Report, SCHEMA, Tool, Trigger};
pub use run::{
    Role, Run, RunRecord, SlowTest, TestOutcome, TestPhase, TestProcess, TestRecord, TestSource,
    place,
};
pub use signal::signal_name;
pub use snapshot::{Pause, Snapshot, Zombie};
pub use task::{Await, CancelScope, EventLoop, Task, TaskHolder, TaskLibrary, TaskState};
pub use thread::{KernelThread, Syscall, Thread, ThreadKind, ThreadSignals};
pub use wait::{
    Grade, Holder, HolderEvidence, NativeCall, ObjectFact, Owner, Wait, WaitKind, WaitObject,
};
