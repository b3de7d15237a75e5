//! Walks over processes that do not exist, on each architecture.

use super::arch::{Architecture, Registers, aarch64, x86_64};
use super::headers::Source;
use super::images::Images;
use super::object_file::{ObjectCache, ObjectFile};
use super::stack::{Reader, StackBytes};
use super::step::Stepper;
use super::unwind::{MAX_FRAMES, Unwinder, Walk, WalkEnd};
use crate::capture::maps::{Code, CodeMapping, Content};
use crate::capture::memory::recorded::RecordedPages;
use crate::capture::memory::{CachedMemory, PAGE, ProcessMemory};
use crate::model::Pid;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Where code without a file is mapped.
const CODE: u64 = 0x10_0000;
const CODE_END: u64 = 0x20_0000;
/// Where the stack begins.
const STACK: u64 = 0x7000_0000;

/// Code that no rules tell of, with these bytes at its start; a walk over these words of a stack.
fn walk(arch: &'static Architecture, code: &[u8], words: &[u64], registers: &Registers) -> Walk {
    let mapping = CodeMapping {
        start: CODE,
        end: CODE_END,
        offset: 0,
        content: Content::Anonymous,
    };
    let code_map = Code {
        mappings: vec![mapping],
        ..Code::default()
    };
    let images = Images::new(arch, code_map, String::new());
    let mut page = code.to_vec();
    page.resize(PAGE as usize, 0);
    let pages = RecordedPages::new(BTreeMap::from([(CODE, page)]));
    let memory = CachedMemory::new(&pages);
    let stack = stack(words);
    let cache = ObjectCache::default();
    Unwinder::new(&images, &cache).unwind(registers, &[stack], &memory)
}

fn stack(words: &[u64]) -> StackBytes {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    StackBytes::new(STACK, &bytes)
}

fn pcs(walk: &Walk) -> Vec<u64> {
    walk.frames.iter().map(|frame| frame.pc).collect()
}

#[test]
fn frame_pointers_where_there_are_no_rules() {
    for arch in [&x86_64::X86_64, &aarch64::AARCH64] {
        let mut registers = Registers::blocked(STACK, CODE + 0x100);
        registers.set(arch, arch.frame_pointer, Some(STACK + 16));
        let words = [0, 0, STACK + 48, CODE + 0x200, 0, 0, 0, CODE + 0x300, 0];
        let walk = walk(arch, &[], &words, &registers);
        assert_eq!(pcs(&walk), [CODE + 0x100, CODE + 0x200, CODE + 0x300]);
        assert!(matches!(walk.end, WalkEnd::NoRules(..)), "{walk:?}");
        let guessed: Vec<bool> = walk.frames.iter().map(|frame| frame.guessed).collect();
        assert_eq!(guessed, [false, true, true]);
        let frames = walk.frames.iter().map(|frame| (frame.sp, frame.cfa));
        let frames: Vec<_> = frames.collect();
        let expected = [
            (STACK, Some(STACK + 32)),
            (STACK + 32, Some(STACK + 64)),
            (STACK + 64, None),
        ];
        assert_eq!(frames, expected);
    }
}

#[test]
fn a_call_through_a_null_pointer() {
    let registers = Registers::blocked(STACK, 0);
    let found = walk(&x86_64::X86_64, &[], &[CODE + 0x200], &registers);
    assert_eq!(pcs(&found), [0, CODE + 0x200]);
    let mut registers = Registers::blocked(STACK, 0);
    // The upper bits are a signature.
    registers.set(
        &aarch64::AARCH64,
        30,
        Some(0x00ab_c000_0000_0000 | (CODE + 0x200)),
    );
    let found = walk(&aarch64::AARCH64, &[], &[], &registers);
    assert_eq!(pcs(&found), [0, CODE + 0x200]);
    let nowhere = walk(
        &x86_64::X86_64,
        &[],
        &[0x1234],
        &Registers::blocked(STACK, 0),
    );
    assert_eq!(nowhere.end, WalkEnd::NoCode(0));
}

#[test]
fn the_end_of_a_signal_handler_without_rules() {
    for arch in [&x86_64::X86_64, &aarch64::AARCH64] {
        for code in arch.signal_return {
            let mut words = vec![0; 100];
            let mut set = |distance: u64, value: u64| {
                words[usize::try_from(distance / 8).expect("a place")] = value;
            };
            for (column, distance) in arch.signal_registers {
                set(*distance, u64::from(*column) + 1000);
            }
            let (_, sp) = arch
                .signal_registers
                .iter()
                .find(|(column, _)| *column == arch.stack_pointer)
                .expect("it is saved");
            set(*sp, STACK + 700);
            set(arch.signal_pc, CODE + 0x500);
            let walk = walk(arch, code, &words, &Registers::blocked(STACK, CODE));
            let [handler, interrupted] = walk.frames.as_slice() else {
                panic!("{walk:?}");
            };
            assert!(handler.signal && !interrupted.signal && !interrupted.guessed);
            // It was interrupted at that instruction, not after a call.
            assert_eq!(interrupted.lookup(), CODE + 0x500);
            assert_eq!(interrupted.sp, STACK + 700);
        }
    }
}

#[test]
fn frames_without_end() {
    let words: Vec<u64> = (0..20_002)
        .flat_map(|number| [STACK + 16 * (number + 1), CODE + 0x100])
        .collect();
    let mut registers = Registers::blocked(STACK, CODE + 0x100);
    registers.set(&x86_64::X86_64, 6, Some(STACK));
    let found = walk(&x86_64::X86_64, &[], &words, &registers);
    assert_eq!(found.frames.len(), MAX_FRAMES);
    assert_eq!(found.end, WalkEnd::TooMany);
}

/// The vdso of this process: a small ELF file that is always there.
fn vdso() -> Vec<u8> {
    let pid = Pid::try_from(std::process::id()).expect("our pid");
    let code = Code::read(pid, pid).expect("our map");
    let mut mappings = code.mappings.iter();
    let vdso = mappings.find(|mapping| mapping.content == Content::Vdso);
    let vdso = vdso.expect("a vdso");
    let inner = ProcessMemory::new(pid);
    let length = usize::try_from(vdso.end - vdso.start).expect("its size");
    CachedMemory::new(&inner)
        .bytes(vdso.start, length)
        .expect("readable")
}

/// The C library of this process, from its file and from memory.
#[test]
fn a_mapped_file_that_cannot_be_opened() {
    let arch = Architecture::host().expect("a known architecture");
    let pid = Pid::try_from(std::process::id()).expect("our pid");
    let code = Code::read(pid, pid).expect("our map");
    let libc = code
        .modules
        .iter()
        .find(|module| module.name.starts_with("libc.so"));
    let libc = libc.expect("a C library");
    let inner = ProcessMemory::new(pid);
    let memory = CachedMemory::new(&inner);
    let mapped = ObjectFile::from_memory(arch, &memory, libc.first_mapping).expect("mapped");
    let file = Source::File(libc.open_file().expect("opened"));
    let file = ObjectFile::from_source(arch, file).expect("an ELF file");
    assert!(file.build_id.is_some());
    assert_eq!(mapped.build_id, file.build_id);
    let (mapped, file) = (mapped.unwind_table(), file.unwind_table());
    let (mapped, file) = (mapped.expect("a table"), file.expect("a table"));
    let mut rules = 0;
    for address in (0x20000..0x180_000).step_by(997) {
        let row = file.row(address);
        assert_eq!(
            mapped.row(address).map(|row| row.places.clone()),
            row.as_ref().map(|row| row.places.clone())
        );
        rules += usize::from(row.is_some());
    }
    assert!(rules > 1000, "{rules}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn a_damaged_file(
        bytes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..60),
        addresses in prop::collection::vec(0_u64..0x3000, 8),
        words in prop::collection::vec(any::<u64>(), 32),
    ) {
        let arch = Architecture::host().expect("a known architecture");
        let mut file = vdso();
        for (at, byte) in &bytes {
            let at = at.index(file.len());
            file[at] = *byte;
        }
        let Ok(object) = ObjectFile::from_source(arch, Source::Bytes(file)) else {
            return Ok(());
        };
        let _ = object.headers.bias(words[0], words[1] % 0x4000);
        let _ = super::symbols::function(&object, addresses[0]);
        let Ok(table) = object.unwind_table() else {
            return Ok(());
        };
        let pages = RecordedPages::default();
        let memory = CachedMemory::new(&pages);
        let stacks = [stack(&words)];
        let reader = Reader::new(&stacks, &memory);
        let mut registers = Registers::blocked(STACK, words[2]);
        for column in 0..33 {
            registers.set(arch, column, Some(STACK + words[3] % 256));
        }
        for address in addresses {
            if let Some(row) = table.row(address) {
                let stepper = Stepper { arch, code_bits: arch.code_bits, table, row: &row, registers: &registers, reader: &reader };
                let _ = stepper.step();
            }
        }
    }

    #[test]
    fn a_stack_of_anything(
        words in prop::collection::vec(prop_oneof![
            any::<u64>(),
            STACK..STACK + 512,
            CODE..CODE_END,
        ], 0..64),
        sp in STACK - 64..STACK + 512,
        pointer in STACK..STACK + 512,
        pc in CODE..CODE_END,
    ) {
        for arch in [&x86_64::X86_64, &aarch64::AARCH64] {
            let mut registers = Registers::blocked(sp, pc);
            registers.set(arch, arch.frame_pointer, Some(pointer));
            let found = walk(arch, &[], &words, &registers);
            // Each frame is above the one before.
            prop_assert!(found.frames.is_sorted_by_key(|frame| frame.sp));
            prop_assert!(found.frames.iter().skip(1).all(|frame| frame.guessed));
        }
    }
}
