//! One step: from the registers of a frame to those of its caller, by the rules of the unwind table.

use super::arch::{Architecture, Registers};
use super::stack::Reader;
use super::unwind_table::{FrameAddress, Place, Row, UnwindTable};
use gimli::{EvaluationResult, UnwindExpression, Value};

/// Most operations of one expression; the longest that are seen, of signal frames and PLTs, have ten.
const MAX_OPERATIONS: u32 = 1000;

/// Why a step leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoCaller {
    /// There is no caller: the return address is undefined by rule. The frame's address is known.
    Outermost(u64),
    /// The rules need a register that is not known.
    Unknown,
    /// What they need cannot be read, here.
    Unreadable(u64),
    /// They cannot be followed.
    Unusable,
}

/// What is at hand for a step.
pub(super) struct Stepper<'a> {
    pub(super) arch: &'static Architecture,
    /// Those of a return address that are not a signature.
    pub(super) code_bits: u64,
    pub(super) table: &'a UnwindTable,
    pub(super) row: &'a Row,
    pub(super) registers: &'a Registers,
    pub(super) reader: &'a Reader<'a>,
}

impl Stepper<'_> {
    /// The caller's registers, and the frame's address.
    pub(super) fn step(&self) -> Result<(Registers, u64), NoCaller> {
        let arch = self.arch;
        let cfa = match self.row.frame_address {
            FrameAddress::Register(register, distance) => self
                .registers
                .get(arch, register)
                .ok_or(NoCaller::Unknown)?
                .wrapping_add_signed(distance),
            FrameAddress::Computed(expression) => self.evaluate(expression, None)?,
        };
        let column = self.row.return_address;
        let pc = match self.row.place(column) {
            Some(Place::Lost) => return Err(NoCaller::Outermost(cfa)),
            // Where a call leaves the address in a register it may still be there.
            None | Some(Place::Same) if arch.has_link_register => {
                let link = self.registers.get(arch, column);
                link.ok_or(NoCaller::Unknown)?
            }
            None => return Err(NoCaller::Unusable),
            Some(place) => self.value(place, column, cfa)?,
        };
        let mut caller = Registers::blocked(cfa, pc & self.code_bits);
        for column in arch.preserved {
            caller.set(arch, *column, self.registers.get(arch, *column));
        }
        for (column, place) in &self.row.places {
            // A register that cannot be restored need not be needed.
            let value = self.value(*place, *column, cfa).ok();
            caller.set(arch, *column, value);
        }
        if arch.has_link_register && !self.row.signal {
            // What was in it is the program counter now; the caller's own is on the stack.
            caller.set(arch, arch.return_address, None);
        }
        Ok((caller, cfa))
    }

    fn value(&self, place: Place, column: u16, cfa: u64) -> Result<u64, NoCaller> {
        let read = |address: u64| {
            let word = self.reader.word(address);
            word.ok_or(NoCaller::Unreadable(address))
        };
        let register = |number: u16| {
            let known = self.registers.get(self.arch, number);
            known.ok_or(NoCaller::Unknown)
        };
        match place {
            Place::Lost => Err(NoCaller::Unusable),
            Place::Same => register(column),
            Place::Saved(distance) => read(cfa.wrapping_add_signed(distance)),
            Place::Distance(distance) => Ok(cfa.wrapping_add_signed(distance)),
            Place::Register(other) => register(other),
            Place::SavedAt(expression) => read(self.evaluate(expression, Some(cfa))?),
            Place::Computed(expression) => self.evaluate(expression, Some(cfa)),
            Place::Constant(value) => Ok(value),
        }
    }

    fn evaluate(
        &self,
        expression: UnwindExpression<usize>,
        initial: Option<u64>,
    ) -> Result<u64, NoCaller> {
        let expression = self
            .table
            .expression(expression)
            .ok_or(NoCaller::Unusable)?;
        let mut evaluation = expression.evaluation(self.row.encoding);
        evaluation.set_max_iterations(MAX_OPERATIONS);
        if let Some(value) = initial {
            evaluation.set_initial_value(value);
        }
        let mut result = evaluation.evaluate();
        loop {
            result = match result.map_err(|_| NoCaller::Unusable)? {
                EvaluationResult::Complete => break,
                EvaluationResult::RequiresRegister { register, .. } => {
                    let value = self.registers.get(self.arch, register.0);
                    let value = value.ok_or(NoCaller::Unknown)?;
                    evaluation.resume_with_register(Value::Generic(value))
                }
                EvaluationResult::RequiresMemory { address, size, .. } => {
                    let value = self.reader.read(address, usize::from(size));
                    let value = value.ok_or(NoCaller::Unreadable(address))?;
                    evaluation.resume_with_memory(Value::Generic(value))
                }
                _ => return Err(NoCaller::Unusable),
            };
        }
        match evaluation.as_result() {
            [
                gimli::Piece {
                    location: gimli::Location::Address { address },
                    ..
                },
            ] => Ok(*address),
            _ => Err(NoCaller::Unusable),
        }
    }
}
