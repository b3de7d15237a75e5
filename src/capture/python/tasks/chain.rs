//! The frames of a task, and which of them are the library's.

use super::Reader;
use crate::capture::python::frame::RawFrame;
use crate::capture::python::generator::{self, AwaitChain};
use crate::capture::python::heap::Heap;
use crate::capture::python::slots;
use crate::model::{Foreign, Frame};
use std::sync::Arc;

/// Most frames of one task that are kept.
const MAX_FRAMES: usize = 1000;

/// Functions by which anyio starts a task's own.
const STARTERS: [&str; 2] = ["_run_coro", "_run_wrapped_task"];

/// The frames of a task, innermost first.
pub(super) struct Chain {
    pub(super) raw: Vec<RawFrame>,
    pub(super) frames: Arc<[Frame]>,
    /// The task's coroutine executes: it is the one that runs.
    pub(super) executing: bool,
}

/// Reads the chain of awaits from a task's coroutine.
pub(super) fn read(reader: &Reader<'_>, coroutine: u64) -> Chain {
    let AwaitChain {
        mut frames,
        executing,
        ..
    } = generator::await_chain(reader.heap, reader.codes, coroutine);
    if executing && let Some(with_callees) = frames.first().and_then(|own| on_thread(reader, own)) {
        return finished(reader, with_callees, true);
    }
    frames.reverse();
    finished(reader, frames, executing)
}

/// The frames of a thread from the innermost one out to a task's own.
fn on_thread(reader: &Reader<'_>, outermost: &RawFrame) -> Option<Vec<RawFrame>> {
    reader.census.thread_states.iter().find_map(|state| {
        let frames = &state.raw_frames;
        let at = frames
            .iter()
            .position(|frame| frame.address == outermost.address)?;
        Some(frames[..=at].to_vec())
    })
}

fn finished(reader: &Reader<'_>, mut raw: Vec<RawFrame>, executing: bool) -> Chain {
    raw.truncate(MAX_FRAMES);
    let mut frames = Vec::with_capacity(raw.len());
    for frame in &raw {
        let shown = frame.code.frame(reader.heap, frame.address, frame.offset);
        if !reader.codes.afford(&shown) {
            reader
                .cut
                .set(Some("more text than hangscope keeps of one process"));
            break;
        }
        frames.push(shown);
    }
    raw.truncate(frames.len());
    raw.shrink_to_fit();
    Chain {
        raw,
        frames: reader.shared_stack(frames),
        executing,
    }
}

impl Chain {
    /// The library's frames at the inner end, innermost first.
    pub(super) fn library(&self) -> &[RawFrame] {
        let count = self
            .frames
            .iter()
            .take_while(|frame| library_of(frame).is_some())
            .count();
        self.raw.get(..count).unwrap_or_default()
    }

    /// The library call that the program's own code awaits: `asyncio.Queue.get`. What the language calls (`__aenter__`)
    /// is passed over for what that calls, and a method is told by the class of its object.
    pub(super) fn call(&self, heap: &Heap<'_>) -> Option<Foreign> {
        let own = self.library();
        let outermost = own.len().checked_sub(1)?;
        let library = library_of(self.frames.get(outermost)?)?;
        let mut index = outermost;
        while index > 0 && STARTERS.contains(&&*own.get(index)?.code.name) {
            index -= 1;
        }
        let name = loop {
            let code = &own.get(index)?.code;
            match &*code.name {
                "to_thread_run_sync" => break "to_thread.run_sync".to_owned(),
                "__aexit__" if of_class(heap, own.get(index)?, "NurseryManager") => {
                    break "open_nursery".to_owned();
                }
                "__aexit__" if of_class(heap, own.get(index)?, "TaskGroup") => {
                    break "TaskGroup".to_owned();
                }
                name if name.starts_with("__") && index > 0 => index -= 1,
                name => break self.method(heap, index, name),
            }
        };
        Some(format!("{library}.{name}").into())
    }

    fn method(&self, heap: &Heap<'_>, index: usize, name: &str) -> String {
        let frame = self.raw.get(index);
        let object = frame.and_then(|frame| slots::variable(heap, frame, "self"));
        match object.and_then(|object| heap.type_name(object).ok()) {
            Some(class) => format!("{}.{name}", class.rsplit('.').next().unwrap_or(&class)),
            None => name.to_owned(),
        }
    }
}

fn of_class(heap: &Heap<'_>, frame: &RawFrame, class: &str) -> bool {
    slots::variable(heap, frame, "self").is_some_and(|object| heap.is_instance(object, class))
}

/// The library of tasks that a frame belongs to.
pub(super) fn library_of(frame: &Frame) -> Option<&'static str> {
    let file = frame.file.untrusted();
    if frame.is_stdlib() {
        return file.contains("/asyncio/").then_some("asyncio");
    }
    let package = |name: &str| {
        file.rfind(name).is_some_and(|at| {
            let rest = &file[at + name.len()..];
            // All of trio's and anyio's own modules, and none of a project that is called like them.
            (rest.starts_with('_') || name == "/anyio/" && frame.is_library())
                && !rest.contains("_tests/")
        })
    };
    ["trio", "anyio"]
        .into_iter()
        .find(|name| package(&format!("/{name}/")))
}

#[cfg(test)]
mod tests {
    use super::library_of;
    use crate::model::Frame;

    #[test]
    fn a_project_is_not_its_library() {
        let library = |file: &str| {
            library_of(&Frame {
                function: "f".into(),
                file: file.into(),
                line: None,
                instruction: 0,
                locals: Vec::new(),
            })
        };
        let site = "/v/lib/python3.14/site-packages";
        assert_eq!(library(&format!("{site}/trio/_core/_run.py")), Some("trio"));
        assert_eq!(library("/src/trio/src/trio/_sync.py"), Some("trio"));
        assert_eq!(library("/src/trio/src/trio/_core/_tests/test_run.py"), None);
        assert_eq!(library("/home/me/trio/client.py"), None);
        assert_eq!(
            library(&format!("{site}/anyio/to_thread.py")),
            Some("anyio")
        );
        assert_eq!(
            library("/usr/lib/python3.14/asyncio/locks.py"),
            Some("asyncio")
        );
        assert_eq!(library("/home/me/asyncio/locks.py"), None);
    }
}
