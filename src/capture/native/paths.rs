//! The paths through a piece of code, as far as the values that are known decide its branches, and what is called on them.

use super::arch::flow::{self, Decision, Flow, ReadStack, State, Step};
use super::symbols::Symbolizer;
use crate::capture::memory::CachedMemory;
use crate::model::Foreign;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Most instructions that are looked at, and most pieces without a jump that it is made of.
const MAX_INSTRUCTIONS: usize = 2000;
const MAX_BLOCKS: usize = 256;
/// Most bytes of one instruction (Intel SDM 2.3.11), and of a stub that jumps to another file.
const LONGEST_INSTRUCTION: usize = 15;
const STUB: usize = 2 * LONGEST_INSTRUCTION;
/// Functions that do not return: what comes after a call of one belongs to something else.
const LAST_CALLS: [&str; 6] = [
    "_Unwind_Resume",
    "__cxa_end_catch",
    "panic_in_cleanup",
    "panic_cannot_unwind",
    "terminate",
    "abort",
];

/// A place where a function is called.
pub(super) struct Site {
    pub(super) function: Foreign,
    pub(super) target: Option<u64>,
    /// The values when it is called.
    pub(super) state: State,
}

/// A piece of code without a jump.
#[derive(Default)]
struct Block {
    /// Numbers of the places where it calls.
    calls: BTreeSet<usize>,
    next: Vec<usize>,
    /// Which of the two next ones comes depends on the frame, which cannot be told.
    untold: bool,
}

/// All paths through a piece of code.
pub(super) struct Paths<'m, 's, 'i> {
    memory: &'m CachedMemory<'m>,
    symbols: &'s mut Symbolizer<'i>,
    stack: ReadStack<'s>,
    blocks: Vec<Block>,
    begun: HashMap<(u64, State), usize>,
    sites: Vec<Site>,
    by_address: BTreeMap<u64, usize>,
    addresses: Vec<u64>,
    left: usize,
    ended: bool,
}

/// What they came to.
pub(super) struct Found {
    blocks: Vec<Block>,
    pub(super) sites: Vec<Site>,
    pub(super) addresses: Vec<u64>,
    /// All paths came to an end that is one.
    pub(super) ended: bool,
}

impl<'m, 's, 'i> Paths<'m, 's, 'i> {
    pub(super) fn follow(
        start: u64,
        state: State,
        memory: &'m CachedMemory<'m>,
        symbols: &'s mut Symbolizer<'i>,
        stack: ReadStack<'s>,
    ) -> Found {
        let mut paths = Self {
            memory,
            symbols,
            stack,
            blocks: vec![Block::default()],
            begun: HashMap::new(),
            sites: Vec::new(),
            by_address: BTreeMap::new(),
            addresses: Vec::new(),
            left: MAX_INSTRUCTIONS,
            ended: true,
        };
        paths.begun.insert((start, state.clone()), 0);
        let mut open = vec![(0, start, state)];
        while let Some((block, at, state)) = open.pop() {
            paths.block(block, at, state, &mut open);
        }
        Found {
            blocks: paths.blocks,
            sites: paths.sites,
            addresses: paths.addresses,
            ended: paths.ended,
        }
    }

    /// Goes through one block.
    fn block(
        &mut self,
        number: usize,
        mut at: u64,
        mut state: State,
        open: &mut Vec<(usize, u64, State)>,
    ) {
        loop {
            let step = match self.left.checked_sub(1) {
                Some(left) => {
                    self.left = left;
                    self.step(at, &mut state)
                }
                None => None,
            };
            let Some((step, decision)) = step else {
                self.ended = false;
                return;
            };
            self.addresses.extend(step.named);
            let target = match step.flow {
                Flow::On => {
                    at = step.next;
                    continue;
                }
                // To another function it is a call, as the last thing of this one.
                Flow::Jump(target) if self.leaves(at, target) => {
                    self.call(number, at, Some(target), &state);
                    return;
                }
                Flow::Jump(target) => return self.go_on(number, &[target], &state, open),
                Flow::JumpThrough(slot) => {
                    let target = self.memory.u64(slot).ok();
                    self.call(number, at, target, &state);
                    return;
                }
                Flow::Branch(target) => {
                    let both = [step.next, target];
                    let ways = match decision.unwrap_or(Decision::Either) {
                        Decision::GoesOn => &both[..1],
                        Decision::Jumps => &both[1..],
                        Decision::Either => &both[..],
                        Decision::Untold => {
                            if let Some(block) = self.blocks.get_mut(number) {
                                block.untold = true;
                            }
                            &both[..]
                        }
                    };
                    if ways.len() > 1 {
                        flow::returned(&mut state);
                    }
                    return self.go_on(number, ways, &state, open);
                }
                Flow::Call(target) => Some(target),
                Flow::CallThrough(slot) => self.memory.u64(slot).ok(),
                Flow::CallUnknown => match self.called_slot(at, &state) {
                    Some(slot) => self.memory.u64(slot).ok(),
                    // By a table that a value carries: to drop that.
                    None => {
                        flow::returned(&mut state);
                        self.ended = false;
                        at = step.next;
                        continue;
                    }
                },
                Flow::End => return,
            };
            // One without a name may be one that does not return.
            if !self.call(number, at, target, &state) {
                return;
            }
            flow::returned(&mut state);
            at = step.next;
        }
    }

    fn leaves(&mut self, at: u64, target: u64) -> bool {
        self.symbols.function_at(target) != self.symbols.function_at(at)
    }

    /// The blocks that come next, each begun once for the same values.
    fn go_on(
        &mut self,
        number: usize,
        ways: &[u64],
        state: &State,
        open: &mut Vec<(usize, u64, State)>,
    ) {
        for way in ways {
            let key = (*way, state.clone());
            let next = match self.begun.get(&key) {
                Some(known) => *known,
                None if self.blocks.len() >= MAX_BLOCKS => {
                    self.ended = false;
                    continue;
                }
                None => {
                    let next = self.blocks.len();
                    self.blocks.push(Block::default());
                    self.begun.insert(key, next);
                    open.push((next, *way, state.clone()));
                    next
                }
            };
            if let Some(block) = self.blocks.get_mut(number) {
                block.next.push(next);
            }
        }
    }

    /// Notes a call. Whether the code after it is reached.
    fn call(&mut self, number: usize, at: u64, target: Option<u64>, state: &State) -> bool {
        let function = target.and_then(|target| called(target, self.memory, self.symbols));
        let Some(function) = function else {
            self.ended = false;
            return false;
        };
        let last = LAST_CALLS
            .iter()
            .any(|last| function.untrusted().contains(last));
        let sites = &mut self.sites;
        let site = *self.by_address.entry(at).or_insert_with(|| {
            sites.push(Site {
                function,
                target,
                state: state.clone(),
            });
            sites.len() - 1
        });
        if let Some(block) = self.blocks.get_mut(number) {
            block.calls.insert(site);
        }
        !last
    }

    fn called_slot(&self, at: u64, state: &State) -> Option<u64> {
        flow::called_slot(&self.bytes(at)?, at, state)
    }

    /// The bytes of an instruction. Near the end of a mapping fewer can be read.
    fn bytes(&self, at: u64) -> Option<Vec<u8>> {
        (1..=LONGEST_INSTRUCTION)
            .rev()
            .find_map(|length| self.memory.bytes(at, length).ok())
    }

    fn step(&self, at: u64, state: &mut State) -> Option<(Step, Option<Decision>)> {
        let bytes = self.bytes(at)?;
        let mut step = flow::step(&bytes, at)?;
        step.named = step
            .named
            .or_else(|| flow::named(&bytes, state, self.stack));
        let decision = flow::execute(&bytes, at, state, self.stack);
        Some((step, decision))
    }
}

impl Found {
    /// Numbers of the calls that are made whichever way it goes where that depends on what the frame has noted. Where it
    /// depends on anything else, as on whether a lock has waiters, those of both ways count.
    pub(super) fn certain(&self) -> BTreeSet<usize> {
        let mut certain: Vec<BTreeSet<usize>> = self
            .blocks
            .iter()
            .map(|block| block.calls.clone())
            .collect();
        for _ in 0..=self.blocks.len() {
            let mut changed = false;
            for (number, block) in self.blocks.iter().enumerate().rev() {
                let mut after = block.next.iter().filter_map(|next| certain.get(*next));
                let mut all = after.next().cloned().unwrap_or_default();
                for other in after {
                    match block.untold {
                        true => all.retain(|call| other.contains(call)),
                        false => all.extend(other),
                    }
                }
                if let Some(known) = certain.get_mut(number) {
                    let before = known.len();
                    known.extend(all);
                    changed |= known.len() > before;
                }
            }
            if !changed {
                break;
            }
        }
        certain.into_iter().next().unwrap_or_default()
    }
}

/// The name of what is called, through the stub of a dynamic call if need be.
fn called(target: u64, memory: &CachedMemory<'_>, symbols: &mut Symbolizer<'_>) -> Option<Foreign> {
    if let Some(name) = symbols.function_at(target) {
        return Some(name);
    }
    let bytes = memory.bytes(target, STUB).ok()?;
    let slot = flow::stub_slot(&bytes, target)?;
    symbols.function_at(memory.u64(slot).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(blocks: &[(&[usize], &[usize], bool)]) -> Found {
        let block = |(calls, next, untold): &(&[usize], &[usize], bool)| Block {
            calls: calls.iter().copied().collect(),
            next: next.to_vec(),
            untold: *untold,
        };
        Found {
            blocks: blocks.iter().map(block).collect(),
            sites: Vec::new(),
            addresses: Vec::new(),
            ended: true,
        }
    }

    #[test]
    fn what_an_untold_flag_guards_is_not_certain() {
        // 0 tests a flag and may skip 1, which calls #7; both lead to 2, which calls #8.
        let paths = |untold| {
            found(&[
                (&[], &[1, 2], untold),
                (&[7], &[2], false),
                (&[8], &[], false),
            ])
        };
        assert_eq!(paths(true).certain(), BTreeSet::from([8]));
        assert_eq!(paths(false).certain(), BTreeSet::from([7, 8]));
    }

    #[test]
    fn a_loop_comes_to_an_end() {
        let paths = found(&[
            (&[1], &[1], false),
            (&[2], &[0, 2], true),
            (&[], &[], false),
        ]);
        assert_eq!(paths.certain(), BTreeSet::from([1, 2]));
    }
}
