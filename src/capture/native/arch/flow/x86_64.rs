//! x86_64, by iced.

use super::{Flow, Step};
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction};

pub(super) fn step(bytes: &[u8], address: u64) -> Option<Step> {
    let mut decoder = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE);
    let instruction = decoder.decode();
    if instruction.is_invalid() {
        return None;
    }
    let named = instruction
        .is_ip_rel_memory_operand()
        .then(|| instruction.ip_rel_memory_address());
    Some(Step {
        flow: flow(&instruction, named),
        next: instruction.next_ip(),
        named,
    })
}

fn flow(instruction: &Instruction, named: Option<u64>) -> Flow {
    let target = instruction.near_branch_target();
    match instruction.flow_control() {
        FlowControl::Next => Flow::On,
        FlowControl::UnconditionalBranch => Flow::Jump(target),
        FlowControl::ConditionalBranch => Flow::Branch(target),
        FlowControl::Call => Flow::Call(target),
        FlowControl::IndirectBranch => named.map_or(Flow::End, Flow::JumpThrough),
        FlowControl::IndirectCall => named.map_or(Flow::CallUnknown, Flow::CallThrough),
        _ => Flow::End,
    }
}

/// `[endbr64] [bnd] jmp *slot(%rip)`.
pub(super) fn stub_slot(bytes: &[u8], address: u64) -> Option<u64> {
    let mut decoder = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE);
    (0..2).find_map(|_| {
        let instruction = decoder.decode();
        let jumps = instruction.flow_control() == FlowControl::IndirectBranch;
        (jumps && instruction.is_ip_rel_memory_operand())
            .then(|| instruction.ip_rel_memory_address())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_jumps_and_names() {
        let at = |bytes: &[u8]| step(bytes, 0x1000).expect("an instruction");
        assert_eq!(at(&[0xe8, 0xfb, 0, 0, 0]).flow, Flow::Call(0x1100));
        assert_eq!(at(&[0xeb, 0x0e]).flow, Flow::Jump(0x1010));
        assert_eq!(at(&[0x74, 0x0e]).flow, Flow::Branch(0x1010));
        assert_eq!(
            at(&[0xff, 0x15, 0xfa, 0, 0, 0]).flow,
            Flow::CallThrough(0x1100)
        );
        assert_eq!(
            at(&[0xff, 0x25, 0xfa, 0, 0, 0]).flow,
            Flow::JumpThrough(0x1100)
        );
        assert_eq!(at(&[0x0f, 0x0b]).flow, Flow::End);
        // lea rdi, [rip+0xf9]
        let named = at(&[0x48, 0x8d, 0x3d, 0xf9, 0, 0, 0]);
        assert_eq!((named.flow, named.named), (Flow::On, Some(0x1100)));
        assert_eq!(named.next, 0x1007);
        assert_eq!(step(&[0x06], 0), None);
        assert_eq!(
            stub_slot(&[0xff, 0x25, 0xfa, 0, 0, 0], 0x1000),
            Some(0x1100)
        );
    }
}
