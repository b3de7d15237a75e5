//! Lines and inlined functions, by the debug information of a file (DWARF).

use super::super::headers::{Headers, Section, Source, u32_at, u64_at};
use addr2line::Context;
use gimli::{Dwarf, DwarfSections, EndianArcSlice, EndianSlice, LittleEndian, SectionId};
use object::read::{CompressedData, CompressionFormat};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most debug information of one file that is read, in bytes: that of a program of 300 MB.
const MAX_DEBUG: u64 = 256 << 20;
/// Largest `.debug_line`: each of its bytes may stand for a line of some 30.
const MAX_LINES: u64 = 48 << 20;
/// Deepest nesting of blocks and inlined functions that is followed, by recursion. `rustc` makes some 60.
const MAX_DEPTH: isize = 400;
/// Most functions that are inlined into each other at one place.
const MAX_INLINED: usize = 256;

const SHF_COMPRESSED: u64 = 1 << 11;

type Bytes = EndianArcSlice<LittleEndian>;

/// A function at a place, inlined into the next one.
pub(super) struct Place {
    /// As linkers name it.
    pub(super) function: Option<String>,
    pub(super) file: Option<String>,
    pub(super) line: Option<u32>,
}

/// The debug information of a file.
pub(super) struct Lines {
    sections: DwarfSections<Arc<[u8]>>,
    context: Context<Bytes>,
    /// The units (their offset), by first and last address.
    units: Vec<(u64, u64, usize)>,
    /// Units whose addresses are not told by themselves.
    unplaced: Vec<usize>,
    /// Whether a unit is nested no deeper than is followed.
    shallow: BTreeMap<usize, bool>,
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").finish_non_exhaustive()
    }
}

impl Lines {
    /// Reads the debug information.
    ///
    /// # Errors
    /// In words, when there is none or it cannot be used.
    pub(super) fn read(source: &Source, headers: &Headers) -> Result<Self, &'static str> {
        if headers.section(b".debug_info").is_none() {
            return Err("no debug information");
        }
        let mut left = MAX_DEBUG;
        let load = |id: SectionId| -> Result<Arc<[u8]>, &'static str> {
            // What only a debugger needs.
            let wanted = !matches!(
                id,
                SectionId::DebugLoc
                    | SectionId::DebugLocLists
                    | SectionId::DebugTypes
                    | SectionId::DebugMacro
                    | SectionId::DebugMacinfo
                    | SectionId::DebugNames
            );
            let section = wanted
                .then(|| headers.section(id.name().as_bytes()))
                .flatten();
            let bytes = match section {
                Some(section) => section_bytes(source, section, &mut left, id)?,
                None => Vec::new(),
            };
            Ok(Arc::from(bytes))
        };
        let sections = DwarfSections::load(load)?;
        let shared = sections.borrow(|bytes| Bytes::new(Arc::clone(bytes), LittleEndian));
        let context =
            Context::from_dwarf(shared).map_err(|_| "its debug information is damaged")?;
        let mut lines = Self {
            sections,
            context,
            units: Vec::new(),
            unplaced: Vec::new(),
            shallow: BTreeMap::new(),
        };
        lines.find_units();
        Ok(lines)
    }

    fn find_units(&mut self) {
        let borrowed = borrowed(&self.sections);
        let mut headers = borrowed.units();
        while let Ok(Some(header)) = headers.next() {
            let Some(offset) = header.debug_info_offset() else {
                continue;
            };
            let before = self.units.len();
            if let Ok(unit) = borrowed.unit(header)
                && let Ok(mut ranges) = borrowed.unit_ranges(&unit)
            {
                while let Ok(Some(range)) = ranges.next() {
                    self.units.push((range.begin, range.end, offset.0));
                }
            }
            if self.units.len() == before {
                self.unplaced.push(offset.0);
            }
        }
        self.units.sort_unstable();
    }

    /// The functions at an address, the innermost first; empty if nothing is known of it.
    pub(super) fn places(&mut self, address: u64) -> Vec<Place> {
        if !self.can_follow(address) {
            return Vec::new();
        }
        let mut places = Vec::new();
        let Ok(mut frames) = self.context.find_frames(address).skip_all_loads() else {
            return places;
        };
        while places.len() < MAX_INLINED
            && let Ok(Some(frame)) = frames.next()
        {
            let function = frame.function.and_then(|function| {
                let name = function.raw_name().ok()?;
                Some(name.into_owned())
            });
            let location = frame.location;
            places.push(Place {
                function,
                file: location.as_ref().and_then(|at| at.file.map(str::to_owned)),
                line: location.and_then(|at| at.line),
            });
        }
        places
    }

    /// Whether all units that may know an address are nested no deeper than may be followed.
    fn can_follow(&mut self, address: u64) -> bool {
        let after = self
            .units
            .partition_point(|(first, _, _)| *first <= address);
        let holding = self.units[..after]
            .iter()
            .filter(|(_, end, _)| address < *end);
        let units: Vec<usize> = holding
            .map(|(_, _, unit)| *unit)
            .chain(self.unplaced.iter().copied())
            .collect();
        units.into_iter().all(|unit| match self.shallow.get(&unit) {
            Some(shallow) => *shallow,
            None => {
                let shallow = self.is_shallow(unit).unwrap_or(false);
                self.shallow.insert(unit, shallow);
                shallow
            }
        })
    }

    fn is_shallow(&self, unit: usize) -> gimli::Result<bool> {
        let borrowed = borrowed(&self.sections);
        let header = borrowed
            .debug_info
            .header_from_offset(gimli::DebugInfoOffset(unit))?;
        let abbreviations = borrowed.abbreviations(&header)?;
        let mut entries = header.entries_raw(&abbreviations, None)?;
        while !entries.is_empty() {
            if entries.next_depth() > MAX_DEPTH {
                return Ok(false);
            }
            if let Some(abbreviation) = entries.read_abbreviation()? {
                entries.skip_attributes(abbreviation.attributes())?;
            }
        }
        Ok(true)
    }
}

fn borrowed(sections: &DwarfSections<Arc<[u8]>>) -> Dwarf<EndianSlice<'_, LittleEndian>> {
    sections.borrow(|bytes| EndianSlice::new(bytes, LittleEndian))
}

fn section_bytes(
    source: &Source,
    section: &Section,
    left: &mut u64,
    id: SectionId,
) -> Result<Vec<u8>, &'static str> {
    const TOO_LARGE: &str = "its debug information is too large";
    const DAMAGED: &str = "its debug information is damaged";
    let mut take = |size: u64| {
        *left = left.checked_sub(size).ok_or(TOO_LARGE)?;
        if id == SectionId::DebugLine && size > MAX_LINES {
            return Err(TOO_LARGE);
        }
        Ok(())
    };
    take(section.size)?;
    let bytes = source.read(section.offset, section.size).ok_or(DAMAGED)?;
    if section.flags & SHF_COMPRESSED == 0 {
        return Ok(bytes);
    }
    // `Elf64_Chdr`: type, padding, size, alignment.
    let format = match u32_at(&bytes, 0) {
        Some(1) => CompressionFormat::Zlib,
        Some(2) => CompressionFormat::Zstandard,
        _ => return Err(DAMAGED),
    };
    let uncompressed_size = u64_at(&bytes, 8).ok_or(DAMAGED)?;
    take(uncompressed_size)?;
    let compressed = CompressedData {
        format,
        data: bytes.get(24..).ok_or(DAMAGED)?,
        uncompressed_size,
    };
    let bytes = compressed.decompress().map_err(|_| DAMAGED)?;
    Ok(bytes.into_owned())
}
