//! Pages recorded of processes of each version (`fixtures/pages`): the readers run on them without that Python, and on damaged
//! ones they come to an end.

mod corruption;
mod record;

use super::offsets::{self, NEWEST_MINOR, OLDEST_MINOR};
use super::runtime::Runtime;
use super::tasks::DebugSection;
use super::{BlockedThread, PythonPart, PythonProcess, Stacks, ThreadStack};
use crate::capture::maps::Region;
use crate::capture::memory::recorded::RecordedPages;
use crate::capture::memory::{CachedMemory, PAGE};
use crate::model::Key;
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::PathBuf;

/// All that one sample of a process is made from.
#[derive(Clone, Debug)]
struct Recording {
    head: Head,
    pages: RecordedPages,
}

/// What is not memory. Lists of pages and threads are as they were.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Head {
    minor: u8,
    rest: Option<String>,
    runtime: u64,
    environ: Option<u64>,
    /// Thread id and futex.
    waiters: Vec<(i32, u64)>,
    /// Thread id, stack pointer, whether it is the first.
    threads: Vec<(i32, Option<u64>, bool)>,
    /// Start, end, whether it is `[stack]`.
    regions: Vec<(u64, u64, bool)>,
    /// Addresses of the pages that follow.
    pages: Vec<u64>,
}

fn path(minor: u8) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/pages/3.{minor}.pages"))
}

impl Recording {
    /// The header as a line of JSON and the pages, compressed.
    fn save(&self) -> io::Result<()> {
        let mut out = ZlibEncoder::new(File::create(path(self.head.minor))?, Compression::best());
        serde_json::to_writer(&mut out, &self.head)?;
        out.write_all(b"\n")?;
        for bytes in self.pages.pages.values() {
            out.write_all(bytes)?;
        }
        out.finish()?;
        Ok(())
    }

    fn load(minor: u8) -> Self {
        let mut bytes = Vec::new();
        ZlibDecoder::new(File::open(path(minor)).expect("a recording"))
            .read_to_end(&mut bytes)
            .expect("compressed");
        let end = bytes
            .iter()
            .position(|byte| *byte == b'\n')
            .expect("a line");
        let head: Head = serde_json::from_slice(&bytes[..end]).expect("a header");
        let pages = bytes[end + 1..].chunks(PAGE as usize).map(<[u8]>::to_vec);
        let pages = head.pages.iter().copied().zip(pages).collect();
        Self {
            head,
            pages: RecordedPages::new(pages),
        }
    }

    fn process(&self) -> PythonProcess {
        let head = &self.head;
        let memory = CachedMemory::new(&self.pages);
        let table = offsets::for_minor(head.minor);
        // As `runtime::identify` does it; damaged pages may have no table.
        let offsets = match offsets::table_length(head.minor) {
            Some(length) => memory.bytes(head.runtime, length).ok().and_then(|own| {
                table
                    .as_ref()
                    .and_then(|table| offsets::corrected(table, &own))
            }),
            None => table,
        };
        PythonProcess {
            runtime: Runtime {
                major: 3,
                minor: head.minor,
                rest: head.rest.clone(),
                free_threaded: false,
                address: Some(head.runtime),
                offsets,
            },
            environ: head.environ,
            static_signals: None,
            asyncio: DebugSection::default(),
        }
    }

    fn read(&self) -> PythonPart {
        let head = &self.head;
        let waiter = |(tid, address): &(i32, u64)| BlockedThread {
            native_id: *tid,
            tid: *tid,
            futex: Some(*address),
        };
        let waiters: Vec<BlockedThread> = head.waiters.iter().map(waiter).collect();
        let thread = |(tid, pointer, is_first): &(i32, Option<u64>, bool)| ThreadStack {
            native_id: *tid,
            stack_pointer: *pointer,
            is_first: *is_first,
        };
        let threads: Vec<ThreadStack> = head.threads.iter().map(thread).collect();
        let region = |(start, end, first_stack): &(u64, u64, bool)| Region {
            start: *start,
            end: *end,
            first_stack: *first_stack,
            of_program: true,
        };
        let stacks = Stacks {
            threads: &threads,
            regions: &|| head.regions.iter().map(region).collect(),
        };
        let key = Key::process(1, 1);
        self.process()
            .read_own(&key, &self.pages, head.runtime, &waiters, &stacks, true)
    }
}

/// What a reader made of a recording, as text.
fn told(recording: &Recording, part: &PythonPart) -> String {
    let mut out = String::new();
    let thread = |tid: i32| {
        let place = recording
            .head
            .threads
            .iter()
            .position(|(own, ..)| *own == tid);
        place.map_or_else(|| "no thread".to_owned(), |place| format!("thread {place}"))
    };
    let _ = writeln!(out, "CPython {}", part.runtime.version);
    if part.runtime.running_threads_known {
        let _ = writeln!(out, "which threads run the sub-interpreters is known");
    }
    for interpreter in &part.interpreters {
        let _ = writeln!(
            out,
            "interpreter {}, own GIL {}, thread states {}, whence {:?}, {}",
            interpreter.id,
            interpreter.own_gil,
            interpreter.thread_states,
            interpreter.whence,
            interpreter.gil.as_ref().map_or("no GIL", |gil| {
                if gil.locked { "GIL taken" } else { "GIL free" }
            })
        );
    }
    for raw in &part.thread_states {
        let state = &raw.state;
        let _ = writeln!(
            out,
            "\n{} {:?} in interpreter {}{}, daemon {:?}, {:?} {:?} {:?}",
            thread(raw.native_id),
            state.name.as_ref().map(|name| name.untrusted()),
            state.interpreter_id,
            if raw.runs_nowhere {
                ", run by nobody"
            } else {
                ""
            },
            state.daemon,
            state.whence,
            state.state,
            state.status,
        );
        for frame in &state.frames {
            let _ = writeln!(
                out,
                "    {} {}:{:?}",
                frame.function.untrusted(),
                frame.file.untrusted(),
                frame.line
            );
            for local in &frame.locals {
                let _ = writeln!(
                    out,
                    "        {}",
                    serde_json::to_string(local).expect("JSON")
                );
            }
        }
        if let Some(cut) = &state.cut {
            let _ = writeln!(out, "    cut: {}", cut.untrusted());
        }
    }
    out.push('\n');
    let mut waits: Vec<_> = part.waits.iter().collect();
    waits.sort_by_key(|(tid, _)| *tid);
    for (tid, wait) in waits {
        let _ = writeln!(out, "{} waits: {wait:?}", thread(*tid));
    }
    for gap in &part.gaps {
        let _ = writeln!(
            out,
            "gap: {} ({})",
            gap.missing.untrusted(),
            gap.cause.untrusted()
        );
    }
    out
}

/// All of them, made anew before if `HANGSCOPE_SAVE_PAGES` asks for it.
#[test]
fn recorded_pages_tell_what_the_process_did() {
    if std::env::var_os("HANGSCOPE_SAVE_PAGES").is_some() {
        for minor in OLDEST_MINOR..=NEWEST_MINOR {
            record::record(minor).save().expect("saved");
        }
    }
    // Made on x86_64: before 3.11 the kernel's id of a thread is where glibc has it, which is elsewhere on other machines.
    let first = if cfg!(target_arch = "x86_64") {
        OLDEST_MINOR
    } else {
        11
    };
    for minor in first..=NEWEST_MINOR {
        let recording = Recording::load(minor);
        let part = recording.read();
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path("../../../../fixtures/pages");
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| {
            insta::assert_snapshot!(format!("3.{minor}"), told(&recording, &part));
        });
    }
}

#[test]
fn recordings_are_small_and_name_no_machine() {
    for minor in OLDEST_MINOR..=NEWEST_MINOR {
        let size = fs::metadata(path(minor)).expect("a recording").len();
        assert!(size < 400 << 10, "3.{minor}: {size} bytes");
        record::check_anonymous(&Recording::load(minor));
    }
}
