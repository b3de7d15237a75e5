//! From the frames of a walk to the model's: which functions and files they are in, and which Python frames run in them.

use super::{Unwound, splice};
use crate::capture::native::{Symbol, Symbolizer, WalkEnd};
use crate::capture::python::Evaluation;
use crate::model::{Addr, Foreign, NativeFrame, NativeStack, Thread};
use std::sync::Arc;

/// Names and places the frames of a thread. `calls` are its calls of CPython's evaluation function, as its Python frames tell
/// them; where that function is known (`counted`), its frames are counted instead.
pub(super) fn describe(
    thread: &Thread,
    unwound: &Unwound,
    symbols: &mut Symbolizer<'_>,
    calls: Result<Vec<Evaluation>, String>,
    counted: Option<&str>,
) -> NativeStack {
    let walk = &unwound.walk;
    let functions: Vec<Arc<[Symbol]>> = walk
        .frames
        .iter()
        .map(|frame| symbols.resolve(frame))
        .collect();
    let python_frames = thread.frames().count();
    let placed = match counted {
        _ if unwound.moved => Err("it has moved".to_owned()),
        Some(function) => {
            let is_call = functions.iter().map(|symbols| is_in(symbols, function));
            splice::by_count(is_call, python_frames)
        }
        None => calls.and_then(|calls| {
            let parts: Vec<splice::Part> = walk
                .frames
                .iter()
                .map(|frame| (frame.sp, frame.cfa.unwrap_or(frame.sp)))
                .collect();
            splice::splice(&parts, &calls, python_frames)
        }),
    };
    let (counts, apart) = match placed {
        Ok(counts) => (counts, None),
        Err(reason) => (Vec::new(), (!thread.python.is_empty()).then_some(reason)),
    };
    let mut frames = Vec::new();
    for (at, (frame, functions)) in walk.frames.iter().zip(&functions).enumerate() {
        let bare = NativeFrame {
            address: Addr(frame.pc),
            function: None,
            module: frame
                .module
                .map(|module| symbols.module_name(module).into()),
            in_module: symbols.in_file(frame.pc).map(Addr),
            file: None,
            line: None,
            inlined: false,
            signal: frame.signal,
            guessed: frame.guessed,
            python_frames: 0,
        };
        frames.extend(functions.iter().map(|symbol| named(&bare, symbol)));
        if functions.is_empty() {
            frames.push(bare);
        }
        if let Some(outermost) = frames.last_mut() {
            outermost.python_frames = counts.get(at).copied().unwrap_or(0);
        }
    }
    NativeStack {
        frames,
        cut: match &walk.end {
            WalkEnd::Outermost => None,
            end => Some(Foreign::from(end.to_string())),
        },
        moved: unwound.moved,
        counted: counted.is_some() && apart.is_none() && python_frames > 0,
        apart: apart.map(Foreign::from),
        grade: unwound.grade,
    }
}

/// Whether the frame of these is in a function; compilers add to the names of its parts (`.cold`).
fn is_in(symbols: &[Symbol], function: &str) -> bool {
    let physical = symbols.last().and_then(|symbol| symbol.function.as_ref());
    physical.is_some_and(|name| name.untrusted().split('.').next() == Some(function))
}

fn named(bare: &NativeFrame, symbol: &Symbol) -> NativeFrame {
    NativeFrame {
        function: symbol.function.clone(),
        file: symbol.file.clone(),
        line: symbol.line,
        inlined: symbol.inlined,
        signal: bare.signal && !symbol.inlined,
        ..bare.clone()
    }
}
