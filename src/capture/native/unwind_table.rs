//! `.eh_frame`: for each instruction of a file, where the caller's registers are (DWARF 5, section 6.4; LSB Core, 10.6).
//!
//! The index in `.eh_frame_hdr` is searched here, not by `gimli`, which takes its numbers as they come.

use super::arch::{Architecture, COLUMNS};
use super::headers::u32_at;
use gimli::{
    BaseAddresses, CieOrFde, EhFrame, EhFrameOffset, EndianSlice, FrameDescriptionEntry,
    LittleEndian, RegisterRule, UnwindContext, UnwindExpression, UnwindSection,
};
use rustc_hash::FxHashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Most entries of a file without an index.
const MAX_ENTRIES: usize = 1 << 20;
/// Most rows that are kept.
const MAX_ROWS: usize = 1 << 16;
/// Longest entry that is looked at, in bytes: a function with 10,000 pushes has some 50,000.
const MAX_ENTRY: usize = 1 << 20;
/// `DW_EH_PE_datarel | DW_EH_PE_sdata4`, what all linkers write.
const TABLE_ENCODING: u8 = 0x3b;
/// `DW_EH_PE_udata4`.
const COUNT_ENCODING: u8 = 0x03;

/// Where the caller's value of a register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nowhere.
    Lost,
    /// In the same register.
    Same,
    /// At the frame's address plus a distance.
    Saved(i64),
    /// It is the frame's address plus a distance.
    Distance(i64),
    /// In another register.
    Register(u16),
    /// At the address that an expression gives.
    SavedAt(UnwindExpression<usize>),
    /// It is what an expression gives.
    Computed(UnwindExpression<usize>),
    /// It is this.
    Constant(u64),
}

/// How the frame's address (CFA: what the stack pointer was before the call) is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameAddress {
    /// A register plus a distance.
    Register(u16, i64),
    Computed(UnwindExpression<usize>),
}

/// The rules for one instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) frame_address: FrameAddress,
    /// For the registers that have a rule.
    pub(super) places: Vec<(u16, Place)>,
    /// Column of the return address.
    pub(super) return_address: u16,
    /// The caller was interrupted, by a signal: it has not called anything.
    pub(super) signal: bool,
    pub(super) encoding: gimli::Encoding,
}

impl Row {
    pub(super) fn place(&self, column: u16) -> Option<Place> {
        let mut places = self.places.iter();
        places
            .find(|(of, _)| *of == column)
            .map(|(_, place)| *place)
    }
}

/// The unwind table of a file. All addresses are those of the file.
#[derive(Debug)]
pub(super) struct UnwindTable {
    eh_frame: Vec<u8>,
    arch: &'static Architecture,
    bases: BaseAddresses,
    index: Index,
    /// By address: threads and processes share what they run.
    rows: Mutex<FxHashMap<u64, Option<Arc<Row>>>>,
}

/// Finds the entry for an address.
#[derive(Debug)]
enum Index {
    /// `.eh_frame_hdr`: (distance of the function, distance of its entry), both from the header's address, in order.
    Header {
        bytes: Vec<u8>,
        address: u64,
        count: usize,
    },
    /// First address and offset in `.eh_frame` of each entry, in order: made here.
    Made(Vec<(u64, usize)>),
}

/// A section's bytes and address.
pub(super) struct Placed {
    pub(super) bytes: Vec<u8>,
    pub(super) address: u64,
}

impl UnwindTable {
    /// From the sections of a file.
    pub(super) fn new(
        arch: &'static Architecture,
        eh_frame: Placed,
        eh_frame_hdr: Option<Placed>,
    ) -> Self {
        let mut bases = BaseAddresses::default().set_eh_frame(eh_frame.address);
        if let Some(header) = &eh_frame_hdr {
            bases = bases.set_eh_frame_hdr(header.address);
        }
        let mut table = Self {
            eh_frame: eh_frame.bytes,
            arch,
            bases,
            index: Index::Made(Vec::new()),
            rows: Mutex::default(),
        };
        table.index = eh_frame_hdr
            .and_then(header_index)
            .unwrap_or_else(|| table.make_index());
        table
    }

    fn section(&self) -> EhFrame<EndianSlice<'_, LittleEndian>> {
        let mut section = EhFrame::new(&self.eh_frame, LittleEndian);
        section.set_address_size(8);
        if self.arch.has_link_register {
            section.set_vendor(gimli::Vendor::AArch64);
        }
        section
    }

    /// The rules for the instruction at `address`; `None` if there are none.
    pub(super) fn row(&self, address: u64) -> Option<Arc<Row>> {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(row) = rows.get(&address) {
            return row.clone();
        }
        let row = self.find(address).map(Arc::new);
        if rows.len() >= MAX_ROWS {
            rows.clear();
        }
        rows.insert(address, row.clone());
        row
    }

    fn find(&self, address: u64) -> Option<Row> {
        let section = self.section();
        let fde = self.function(&section, address)?;
        if fde.entry_len() > MAX_ENTRY {
            return None;
        }
        let mut context = UnwindContext::new();
        let row = fde
            .unwind_info_for_address(&section, &self.bases, &mut context, address)
            .ok()?;
        let frame_address = match row.cfa() {
            gimli::CfaRule::RegisterAndOffset { register, offset } => {
                FrameAddress::Register(register.0, *offset)
            }
            gimli::CfaRule::Expression(expression) => FrameAddress::Computed(*expression),
        };
        let rules = row.registers();
        let places = rules
            .filter(|(column, _)| usize::from(column.0) < COLUMNS)
            .map(|(column, rule)| (column.0, place(rule)))
            .collect();
        Some(Row {
            frame_address,
            places,
            return_address: fde.cie().return_address_register().0,
            signal: fde.is_signal_trampoline(),
            encoding: fde.cie().encoding(),
        })
    }

    /// Where the function at an address begins, and its table of landing pads; `None` if it has none.
    pub(super) fn landing_table(&self, address: u64) -> Option<(u64, u64)> {
        let fde = self.function(&self.section(), address)?;
        match fde.lsda()? {
            gimli::Pointer::Direct(table) => Some((fde.initial_address(), table)),
            gimli::Pointer::Indirect(_) => None,
        }
    }

    /// The entry of the function at an address.
    fn function<'t>(
        &self,
        section: &EhFrame<EndianSlice<'t, LittleEndian>>,
        address: u64,
    ) -> Option<FrameDescriptionEntry<EndianSlice<'t, LittleEndian>>> {
        let offset = EhFrameOffset(self.entry(address)?);
        let entry = section.fde_from_offset(&self.bases, offset, EhFrame::cie_from_offset);
        entry.ok().filter(|fde| fde.contains(address))
    }

    /// Offset in `.eh_frame` of the entry that may hold an address.
    fn entry(&self, address: u64) -> Option<usize> {
        match &self.index {
            Index::Header {
                bytes,
                address: base,
                count,
            } => {
                let distance = |number: usize, field: usize| {
                    let at = 12 + number * 8 + field * 4;
                    let distance = u32_at(bytes, at)?.cast_signed();
                    Some(base.wrapping_add_signed(i64::from(distance)))
                };
                let (mut low, mut high) = (0, *count);
                while low < high {
                    let middle = low + (high - low) / 2;
                    if distance(middle, 0)? <= address {
                        low = middle + 1;
                    } else {
                        high = middle;
                    }
                }
                let entry = distance(low.checked_sub(1)?, 1)?;
                usize::try_from(entry.checked_sub(self.bases.eh_frame.section?)?).ok()
            }
            Index::Made(entries) => {
                let after = entries.partition_point(|(first, _)| *first <= address);
                Some(entries.get(after.checked_sub(1)?)?.1)
            }
        }
    }

    fn make_index(&self) -> Index {
        let section = self.section();
        let mut entries = Vec::new();
        let mut all = section.entries(&self.bases);
        while let Ok(Some(entry)) = all.next() {
            if entries.len() >= MAX_ENTRIES {
                break;
            }
            if let CieOrFde::Fde(partial) = entry
                && let Ok(fde) = partial.parse(EhFrame::cie_from_offset)
            {
                entries.push((fde.initial_address(), fde.offset()));
            }
        }
        entries.sort_unstable();
        Index::Made(entries)
    }

    /// The bytes of an expression of one of its rows.
    pub(super) fn expression(
        &self,
        expression: UnwindExpression<usize>,
    ) -> Option<gimli::Expression<EndianSlice<'_, LittleEndian>>> {
        let end = expression.offset.checked_add(expression.length)?;
        let bytes = self.eh_frame.get(expression.offset..end)?;
        Some(gimli::Expression(EndianSlice::new(bytes, LittleEndian)))
    }
}

/// The index of a usual `.eh_frame_hdr`; `None` of any other.
fn header_index(header: Placed) -> Option<Index> {
    let Placed { bytes, address } = header;
    let usual = bytes.first() == Some(&1)
        && bytes.get(2) == Some(&COUNT_ENCODING)
        && bytes.get(3) == Some(&TABLE_ENCODING)
        // The pointer before the count has four bytes, however it is meant.
        && bytes.get(1).is_some_and(|encoding| matches!(encoding & 0x0f, 0x03 | 0x0b));
    if !usual {
        return None;
    }
    let claimed = usize::try_from(u32_at(&bytes, 8)?).ok()?;
    let count = claimed.min((bytes.len() - 12) / 8);
    (count > 0).then_some(Index::Header {
        bytes,
        address,
        count,
    })
}

/// Address of `.eh_frame` by the pointer in a usual `.eh_frame_hdr`.
pub(super) fn eh_frame_of(header: &Placed) -> Option<u64> {
    // DW_EH_PE_pcrel | DW_EH_PE_sdata4.
    if header.bytes.first() != Some(&1) || header.bytes.get(1) != Some(&0x1b) {
        return None;
    }
    let distance = i64::from(u32_at(&header.bytes, 4)?.cast_signed());
    Some(header.address.wrapping_add(4).wrapping_add_signed(distance))
}

fn place(rule: &RegisterRule<usize>) -> Place {
    match rule {
        RegisterRule::SameValue => Place::Same,
        RegisterRule::Offset(distance) => Place::Saved(*distance),
        RegisterRule::ValOffset(distance) => Place::Distance(*distance),
        RegisterRule::Register(other) => Place::Register(other.0),
        RegisterRule::Expression(expression) => Place::SavedAt(*expression),
        RegisterRule::ValExpression(expression) => Place::Computed(*expression),
        RegisterRule::Constant(value) => Place::Constant(*value),
        _ => Place::Lost,
    }
}
