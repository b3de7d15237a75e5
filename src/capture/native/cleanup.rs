//! What a frame would clean up if a panic passed it: the paths through its landing pad. Where the code tests what the frame
//! has noted (a drop flag: whether a value was moved away, an option's tag), the frame's memory tells which way it goes.

use super::arch::flow::{self, ReadStack};
use super::landing::landing_pad;
use super::paths::Paths;
use super::symbols::Symbolizer;
use super::unwind::NativeFrame;
use crate::capture::memory::CachedMemory;
use crate::model::Foreign;

/// Most functions that it calls to drop something and that are looked into.
const MAX_DROPS: usize = 16;
/// Bytes of a guard: the lock's address, and of std's another address or whether the thread was panicking.
const GUARD_WORDS: usize = 2;
/// What a landing pad does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cleanup {
    /// The functions that it calls whatever way it goes that depends on the frame alone.
    pub(crate) calls: Vec<Call>,
    /// Those that it calls only if the frame has noted something that cannot be read.
    pub(crate) doubtful: Vec<Foreign>,
    /// Functions that those call which drop something: linkers and compilers fold functions that are alike, so that the
    /// guard of one type may be dropped by a function that is named after another.
    pub(crate) in_drops: Vec<Foreign>,
    /// Addresses that its instructions name: of statics.
    pub(crate) addresses: Vec<u64>,
}

/// A call in a landing pad.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) function: Foreign,
    /// Its first two arguments, where they are known: the value that is dropped, where that is two words and the compiler
    /// passes it so, or its address.
    pub(crate) arguments: Vec<u64>,
    /// The words at its first argument, where that is known: of the value that is dropped, or of what that refers to where it is
    /// passed itself.
    pub(crate) words: Vec<u64>,
    /// It was looked into, and does nothing: the option that it drops is none.
    pub(crate) idle: bool,
}

/// The cleanup of a frame at the call that it is in; `None` where it has none, or that cannot be read.
pub(crate) fn cleanup(
    frame: &NativeFrame,
    memory: &CachedMemory<'_>,
    symbols: &mut Symbolizer<'_>,
    stack: ReadStack<'_>,
) -> Option<Cleanup> {
    let address = frame.lookup();
    let (start, table) = symbols.landing_table(address)?;
    let pad = landing_pad(memory, start, table, address)?;
    let state = flow::at_pad(frame.sp, &frame.preserved);
    let found = Paths::follow(pad, state, memory, symbols, stack);
    let certain = found.certain();
    let mut cleanup = Cleanup {
        addresses: found.addresses,
        ..Cleanup::default()
    };
    let mut looked_into = 0;
    for (at, site) in found.sites.into_iter().enumerate() {
        if !certain.contains(&at) {
            cleanup.doubtful.push(site.function);
            continue;
        }
        let drops = site.function.untrusted().contains("drop_in_place");
        let mut idle = false;
        if let Some(target) = site.target.filter(|_| drops && looked_into < MAX_DROPS) {
            looked_into += 1;
            let state = flow::entered(&site.state);
            let inner = Paths::follow(target, state, memory, symbols, stack);
            idle = inner.ended && inner.sites.is_empty();
            let inner = inner.sites.into_iter().map(|site| site.function);
            cleanup.in_drops.extend(inner);
        }
        let arguments = flow::arguments(&site.state);
        let words = arguments.first().copied().flatten().map(|argument| {
            let read = move |at: u64| stack(at, 8).or_else(|| memory.u64(at).ok());
            (0..GUARD_WORDS as u64).map_while(move |word| read(argument.checked_add(word * 8)?))
        });
        cleanup.calls.push(Call {
            arguments: arguments.into_iter().flatten().collect(),
            words: words.into_iter().flatten().collect(),
            function: site.function,
            idle,
        });
    }
    Some(cleanup)
}
