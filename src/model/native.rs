//! Native stacks: what C, C++ and Rust code a thread is in.

use super::{Addr, Foreign, Grade};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The native stack of a thread, unwound by the call frame information of the files that it runs (DWARF 5, §6.4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NativeStack {
    /// Frames, innermost first. Inlined calls come before the frame that they are part of, with its address.
    pub frames: Vec<NativeFrame>,
    /// Why the walk ended before the outermost frame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<Foreign>,
    /// The thread has moved since the rest of the sample was read: this is where it is now, not where it waited then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub moved: bool,
    /// Why it is not known which Python frames run in which of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apart: Option<Foreign>,
    /// The Python frames were put in by counting calls of CPython's evaluation function (3.9), not by address.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub counted: bool,
    /// `read`: all registers were taken while the thread stood still under a stop; `guessed`: without a stop, where some
    /// registers had to be guessed.
    pub grade: Grade,
}

/// One native frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NativeFrame {
    /// The instruction: of the innermost frame and of one that a signal interrupted the next one, of others the one that
    /// the call returns to.
    pub address: Addr,
    /// The function, demangled; absent where no symbol covers the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<Foreign>,
    /// Name of the file that is mapped there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<Foreign>,
    /// The address as the file counts it (what addr2line takes).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_module: Option<Addr>,
    /// Source file, from debug information.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<Foreign>,
    /// Line in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The call was inlined into the next frame.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inlined: bool,
    /// The kernel made this frame to run a signal handler, which is the frame before it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub signal: bool,
    /// Found without call frame information or with registers that were guessed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub guessed: bool,
    /// How many Python frames of the thread this call of CPython's evaluation function runs. Each such frame takes the
    /// next ones from all of the thread's Python frames, innermost first.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub python_frames: usize,
}

// The form that serde asks for.
#[expect(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// Crates that are library code to those who test: what their frames wait for was asked for by the frame that calls them.
const LIBRARY_CRATES: [&str; 24] = [
    "alloc",
    "async_std",
    "core",
    "crossbeam",
    "crossbeam_channel",
    "crossbeam_epoch",
    "crossbeam_utils",
    "flume",
    "futures",
    "futures_channel",
    "futures_executor",
    "futures_util",
    "lock_api",
    "mio",
    "once_cell",
    "parking_lot",
    "parking_lot_core",
    "rayon",
    "rayon_core",
    "smol",
    "std",
    "test",
    "tokio",
    "tokio_util",
];

impl NativeFrame {
    /// The function's name, or nothing.
    #[must_use]
    pub fn function_name(&self) -> &str {
        self.function.as_ref().map_or("", Foreign::untrusted)
    }

    /// The last component of the source file's path.
    #[must_use]
    pub fn file_name(&self) -> Option<&str> {
        let file = self.file.as_ref()?.untrusted();
        Some(file.rsplit('/').next().unwrap_or(file))
    }

    /// Function, file and line in a few words: `worker (pool.rs:7)`, `worker (libpool.so)`. It is foreign text.
    #[must_use]
    pub fn place(&self) -> String {
        let function = match self.function_name() {
            "" => "??",
            name => name,
        };
        match (self.file_name(), self.line, &self.module) {
            (Some(file), Some(line), _) => format!("{function} ({file}:{line})"),
            (Some(file), None, _) => format!("{function} ({file})"),
            (None, _, Some(module)) => format!("{function} ({})", module.untrusted()),
            (None, _, None) => format!("{function} ({})", self.address),
        }
    }

    /// The crate that a Rust function is of (`tokio` of `<tokio::sync::Mutex<T> as …>::lock`), the first part of a C++ name;
    /// nothing for a name without parts.
    #[must_use]
    pub fn root_of_name(&self) -> &str {
        let name = self
            .function_name()
            .trim_start_matches(['<', '&', '*', '(']);
        let name = name.strip_prefix("dyn ").unwrap_or(name);
        name.split_once("::").map_or("", |(root, _)| root)
    }

    /// Whether the file is the C library, its loader or a part of it, or the kernel's vdso.
    #[must_use]
    pub fn is_in_c_library(&self) -> bool {
        const NAMES: [&str; 8] = [
            "libc.so",
            "libc-2",
            "libpthread",
            "ld-linux",
            "ld-musl",
            "librt.so",
            "libm.so",
            "[vdso]",
        ];
        let module = self.module.as_ref().map_or("", Foreign::untrusted);
        NAMES.iter().any(|name| module.starts_with(name))
    }

    /// Whether the file is CPython itself: `python3.14`, `libpython3.14.so.1.0`.
    #[must_use]
    pub fn is_in_cpython(&self) -> bool {
        let module = self.module.as_ref().map_or("", Foreign::untrusted);
        let version = module
            .strip_prefix("libpython")
            .or_else(|| module.strip_prefix("python"));
        version.is_some_and(|version| version.is_empty() || version.starts_with('3'))
    }

    /// Whether the code is of the language's runtime or of a library for threads and waiting, not of the user's project:
    /// judged by the name, the source file and the mapped file.
    #[must_use]
    pub fn is_library(&self) -> bool {
        if self.is_in_c_library() || self.is_in_cpython() {
            return true;
        }
        let file = self.file.as_ref().map_or("", Foreign::untrusted);
        if [
            "/rustc/",
            "/.cargo/registry/",
            "/rustlib/src/",
            "/include/c++/",
        ]
        .iter()
        .any(|folder| file.contains(folder))
        {
            return true;
        }
        const STARTS: [&str; 11] = [
            "_start",
            "__libc_",
            "__rust_",
            "_Unwind",
            "start_thread",
            "clone",
            "__clone",
            "rust_",
            "__pthread",
            "__gthread",
            "__glibcxx",
        ];
        let name = self.function_name();
        let root = self.root_of_name();
        LIBRARY_CRATES.contains(&root)
            || (root.is_empty() && STARTS.iter().any(|start| name.starts_with(start)))
    }
}

impl NativeStack {
    /// What the innermost Python frame has called that does not return, in a few words: `wait_ready of libdevice.so`. The first
    /// function outside of the C library, CPython and what calls for it (ctypes, libffi); else that of the C library which was
    /// called; else that of CPython. It is foreign text. `None` where the frames do not fit the Python ones.
    #[must_use]
    pub fn called_by_python(&self) -> Option<String> {
        if self.moved || self.apart.is_some() {
            return None;
        }
        let python = self
            .frames
            .iter()
            .position(|frame| frame.python_frames > 0)?;
        let called = self.frames.get(..python)?;
        let between = |frame: &&NativeFrame| {
            let module = frame.module.as_ref().map_or("", Foreign::untrusted);
            frame.is_in_cpython() || module.starts_with("_ctypes.") || module.starts_with("libffi.")
        };
        let named = |frame: &&NativeFrame| frame.function.is_some();
        let told = |frame: &NativeFrame| {
            let module = frame.module.as_ref()?.untrusted();
            Some(match frame.function_name() {
                "" => module.to_owned(),
                name => format!("{name} of {module}"),
            })
        };
        let of_others = || called.iter().filter(|frame| !between(frame));
        let own = |frame: &&NativeFrame| !frame.is_library();
        let foreign = |frame: &&NativeFrame| !frame.is_in_c_library();
        if let Some(first) = of_others().find(own).or_else(|| of_others().find(foreign)) {
            let beside = |frame: &&NativeFrame| frame.module == first.module && own(frame);
            let best = of_others().filter(beside).find(named).unwrap_or(first);
            return told(best);
        }
        let of_c_library = of_others().rfind(named);
        let of_cpython = || called.iter().find(named);
        told(of_c_library.or_else(of_cpython)?)
    }

    /// The innermost frame of the user's own code; of C programs without debug information that is what is in no system
    /// library.
    #[must_use]
    pub fn own_frame(&self) -> Option<&NativeFrame> {
        self.frames
            .iter()
            .find(|frame| !frame.is_library() && frame.function.is_some())
    }
}

#[cfg(test)]
impl NativeFrame {
    /// A frame of which no more is known.
    pub(crate) fn of(function: &str, module: &str) -> Self {
        Self {
            address: Addr(1),
            function: Some(function.into()),
            module: Some(module.into()),
            in_module: None,
            file: None,
            line: None,
            inlined: false,
            signal: false,
            guessed: false,
            python_frames: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_code_is_told_from_libraries() {
        for (function, module, library) in [
            ("hang::worker", "hang-1f2e", false),
            ("main", "a.out", false),
            ("pthread_cond_wait", "libc.so.6", true),
            ("std::thread::park", "hang-1f2e", true),
            (
                "<tokio::sync::Mutex<T> as core::fmt::Debug>::fmt",
                "hang",
                true,
            ),
            ("<mine::Guard as core::ops::Drop>::drop", "hang", false),
            ("core::ops::function::FnOnce::call_once", "hang", true),
            ("_PyEval_EvalFrameDefault", "python3.11", true),
            ("PyEval_EvalCode", "libpython3.14.so.1.0", true),
            ("python_config", "pythonic.so", false),
            ("corelib::go", "a.out", false),
            ("__gthread_mutex_lock", "a.out", true),
            ("std::mutex::lock", "a.out", true),
        ] {
            assert_eq!(
                NativeFrame::of(function, module).is_library(),
                library,
                "{function}"
            );
        }
    }

    #[test]
    fn what_python_has_called() {
        let stack = |frames: &[(&str, &str)]| {
            let mut frames: Vec<NativeFrame> = frames
                .iter()
                .map(|(function, module)| NativeFrame {
                    function: (!function.is_empty()).then(|| Foreign::from(*function)),
                    ..NativeFrame::of(function, module)
                })
                .collect();
            frames.last_mut().expect("a frame").python_frames = 2;
            NativeStack {
                frames,
                cut: None,
                moved: false,
                counted: false,
                apart: None,
                grade: Grade::Read,
            }
        };
        let eval = ("_PyEval_EvalFrameDefault", "python3.14");
        let ffi = ("ffi_call", "libffi.so.8");
        let proc = ("", "_ctypes.cpython-314-x86_64-linux-gnu.so");
        let read = ("read", "libc.so.6");
        let ready = ("wait_ready", "libdevice.so");
        for (frames, expected) in [
            (
                &[read, ready, ffi, proc, eval][..],
                Some("wait_ready of libdevice.so"),
            ),
            (
                &[("", "libdevice.so"), ready, eval],
                Some("wait_ready of libdevice.so"),
            ),
            (&[("", "libdevice.so"), ffi, eval], Some("libdevice.so")),
            (
                &[("tokio::park", "x.abi3.so"), ("x::wait", "x.abi3.so"), eval],
                Some("x::wait of x.abi3.so"),
            ),
            (
                &[("", "libc.so.6"), read, ffi, proc, eval],
                Some("read of libc.so.6"),
            ),
            (
                &[("x_mul", "python3.11"), ("long_mul", "python3.11"), eval],
                Some("x_mul of python3.11"),
            ),
            (
                &[
                    ("", "python3.14"),
                    ("PyNumber_Multiply", "python3.14"),
                    eval,
                ],
                Some("PyNumber_Multiply of python3.14"),
            ),
            (&[eval], None),
        ] {
            assert_eq!(
                stack(frames).called_by_python().as_deref(),
                expected,
                "{frames:?}"
            );
        }
        let mut apart = stack(&[ready, eval]);
        apart.apart = Some("it is not known".into());
        assert_eq!(apart.called_by_python(), None);
    }

    #[test]
    fn places_are_told_by_what_is_known() {
        let mut known = NativeFrame::of("work", "libwork.so");
        assert_eq!(known.place(), "work (libwork.so)");
        known.file = Some("/src/work.c".into());
        known.line = Some(7);
        assert_eq!(known.place(), "work (work.c:7)");
        known.function = None;
        assert_eq!(known.place(), "?? (work.c:7)");
    }
}
