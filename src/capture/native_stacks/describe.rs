//! From the frames of a walk to the model's: which functions and files they are in, and which Python frames run in them.

use super::{Unwound, splice};
use crate::capture::native::{self, Symbol, Symbolizer, WalkEnd};
use crate::capture::python::Evaluation;
use crate::model::{Addr, Foreign, NativeFrame, NativeStack, Thread};
use rustc_hash::FxHashMap;
use std::rc::Rc;

/// Describes stack after stack; what it has found out of an address it knows when it comes to it again.
pub(super) struct Describer<'s> {
    symbols: Symbolizer<'s>,
    /// By the address and the one that was looked up for it.
    known: FxHashMap<(u64, u64), Rc<[NativeFrame]>>,
    /// CPython's evaluation function where its frames are to be counted; see [`splice::by_count`].
    counted: Option<&'s str>,
}

impl<'s> Describer<'s> {
    pub(super) fn new(symbols: Symbolizer<'s>, counted: Option<&'s str>) -> Self {
        Self {
            symbols,
            known: FxHashMap::default(),
            counted,
        }
    }

    pub(super) fn symbols(&self) -> &Symbolizer<'s> {
        &self.symbols
    }

    /// Names and places the frames of a thread. `calls` are its calls of CPython's evaluation function, as its Python frames
    /// tell them; where that function is known, its frames are counted instead.
    pub(super) fn describe(
        &mut self,
        thread: &Thread,
        unwound: &Unwound,
        calls: Result<Vec<Evaluation>, String>,
    ) -> NativeStack {
        let walk = &unwound.walk;
        let found: Vec<Rc<[NativeFrame]>> = walk.frames.iter().map(|it| self.frames(it)).collect();
        let python_frames = thread.frames().count();
        let placed = match self.counted {
            _ if unwound.moved => Err("it has moved".to_owned()),
            Some(function) => {
                let is_call = found.iter().map(|frames| is_in(frames, function));
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
        let mut frames = Vec::with_capacity(found.iter().map(|frames| frames.len()).sum());
        for (at, (frame, described)) in walk.frames.iter().zip(&found).enumerate() {
            frames.extend(described.iter().map(|described| NativeFrame {
                signal: frame.signal && !described.inlined,
                guessed: frame.guessed,
                ..described.clone()
            }));
            if let Some(outermost) = frames.last_mut() {
                outermost.python_frames = counts.get(at).copied().unwrap_or(0);
            }
        }
        NativeStack {
            frames,
            cut: match &walk.end {
                WalkEnd::Outermost | WalkEnd::Zero => None,
                end => Some(Foreign::from(end.to_string())),
            },
            moved: unwound.moved,
            counted: self.counted.is_some() && apart.is_none() && python_frames > 0,
            apart: apart.map(Foreign::from),
            grade: unwound.grade,
        }
    }

    /// A physical frame, after those that are inlined into it. How it was found is left out.
    fn frames(&mut self, frame: &native::NativeFrame) -> Rc<[NativeFrame]> {
        let place = (frame.pc, frame.lookup());
        if let Some(known) = self.known.get(&place) {
            return Rc::clone(known);
        }
        let bare = NativeFrame {
            address: Addr(frame.pc),
            function: None,
            module: frame
                .module
                .map(|module| self.symbols.module_name(module).into()),
            in_module: self.symbols.in_file(frame.pc).map(Addr),
            file: None,
            line: None,
            inlined: false,
            signal: false,
            guessed: false,
            python_frames: 0,
        };
        let symbols = self.symbols.resolve(frame);
        let described: Rc<[NativeFrame]> = match symbols.is_empty() {
            true => Rc::new([bare]),
            false => symbols.iter().map(|symbol| named(&bare, symbol)).collect(),
        };
        self.known.insert(place, Rc::clone(&described));
        described
    }
}

/// Whether the frame of these is in a function; compilers add to the names of its parts (`.cold`).
fn is_in(frames: &[NativeFrame], function: &str) -> bool {
    let physical = frames.last().and_then(|frame| frame.function.as_ref());
    physical.is_some_and(|name| name.untrusted().split('.').next() == Some(function))
}

fn named(bare: &NativeFrame, symbol: &Symbol) -> NativeFrame {
    NativeFrame {
        function: symbol.function.clone(),
        file: symbol.file.clone(),
        line: symbol.line,
        inlined: symbol.inlined,
        ..bare.clone()
    }
}
