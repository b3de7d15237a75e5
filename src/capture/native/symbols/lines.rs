//! Lines and inlined functions, by the debug information of a file (DWARF).

use super::super::headers::{Headers, Section, Source, u32_at, u64_at};
use super::table::MAX_NAME;
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
    /// Whether a file has any.
    pub(super) fn are_in(headers: &Headers) -> bool {
        section(headers, SectionId::DebugInfo).is_some()
    }

    /// Reads the debug information.
    ///
    /// # Errors
    /// In words, when there is none or it cannot be used.
    pub(super) fn read(source: &Source, headers: &Headers) -> Result<Self, &'static str> {
        if !Self::are_in(headers) {
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
            let section = wanted.then(|| section(headers, id)).flatten();
            let bytes = match section {
                Some(section) => section_bytes(source, section, &mut left, id)?,
                None => Vec::new(),
            };
            Ok(Arc::from(bytes))
        };
        Self::new(DwarfSections::load(load)?)
    }

    fn new(sections: DwarfSections<Arc<[u8]>>) -> Result<Self, &'static str> {
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
        // `addr2line` looks for what lies between an address and the next.
        if address == u64::MAX || !self.can_follow(address) {
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
                (name.len() as u64 <= MAX_NAME).then(|| name.into_owned())
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

/// A section of debug information. Before compression had a flag it had a name of its own: `.zdebug_info`.
fn section(headers: &Headers, id: SectionId) -> Option<&Section> {
    let old_name = id.name().replacen(".debug_", ".zdebug_", 1);
    let named = headers.section(id.name().as_bytes());
    named.or_else(|| headers.section(old_name.as_bytes()))
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
    let (format, uncompressed_size, head) = if section.name.starts_with(b".zdebug_") {
        // "ZLIB", and the size with its highest byte first.
        let size = bytes.strip_prefix(b"ZLIB").and_then(<[u8]>::first_chunk);
        let size = size.map(|size| u64::from_be_bytes(*size));
        (Some(CompressionFormat::Zlib), size, 12)
    } else if section.flags & SHF_COMPRESSED == 0 {
        return Ok(bytes);
    } else {
        // `Elf64_Chdr`: type, padding, size, alignment.
        let format = match u32_at(&bytes, 0) {
            Some(1) => Some(CompressionFormat::Zlib),
            Some(2) => Some(CompressionFormat::Zstandard),
            _ => None,
        };
        (format, u64_at(&bytes, 8), 24)
    };
    let uncompressed_size = uncompressed_size.ok_or(DAMAGED)?;
    take(uncompressed_size)?;
    let compressed = CompressedData {
        format: format.ok_or(DAMAGED)?,
        data: bytes.get(head..).ok_or(DAMAGED)?,
        uncompressed_size,
    };
    let bytes = compressed.decompress().map_err(|_| DAMAGED)?;
    Ok(bytes.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::{Object as _, ObjectSymbol as _};
    use proptest::prelude::*;
    use std::fs::File;

    const UNIT: u8 = 0x11;
    const SUBPROGRAM: u8 = 0x2e;
    const INLINED: u8 = 0x1d;

    /// The start of our own debug information.
    fn ours() -> BTreeMap<&'static str, Vec<u8>> {
        let source = Source::File(File::open("/proc/self/exe").expect("our own program"));
        let headers = Headers::read(&source).expect("ELF");
        let names = [
            ".debug_info",
            ".debug_abbrev",
            ".debug_line",
            ".debug_str",
            ".debug_ranges",
        ];
        let mut sections = BTreeMap::new();
        for name in names {
            if let Some(section) = headers.section(name.as_bytes()) {
                let length = section.size.min(256 << 10);
                let mut bytes = source.read(section.offset, length).expect("its bytes");
                if name == ".debug_info" {
                    bytes.truncate(whole_units(&bytes));
                }
                sections.insert(name, bytes);
            }
        }
        sections
    }

    /// The length of the units that are there to their end.
    fn whole_units(info: &[u8]) -> usize {
        let mut end = 0;
        while let Some(length) = u32_at(info, end) {
            let next = end + 4 + length as usize;
            if next > info.len() {
                break;
            }
            end = next;
        }
        end
    }

    fn lines(sections: &BTreeMap<&'static str, Vec<u8>>) -> Result<Lines, &'static str> {
        let load = |id: SectionId| -> Result<Arc<[u8]>, &'static str> {
            Ok(sections.get(id.name()).cloned().unwrap_or_default().into())
        };
        Lines::new(DwarfSections::load(load)?)
    }

    /// A unit at 0x1000 with a function, and functions inlined into it and each other.
    fn nested(depth: usize) -> BTreeMap<&'static str, Vec<u8>> {
        let placed = |code: u8, tag: u8| [code, tag, 1, 0x11, 0x01, 0x12, 0x06, 0, 0];
        let mut abbreviations = Vec::new();
        abbreviations.extend(placed(1, UNIT));
        abbreviations.extend(placed(2, SUBPROGRAM));
        abbreviations.extend(placed(3, INLINED));
        abbreviations.push(0);
        let mut entries = Vec::new();
        for level in 0..depth + 2 {
            entries.push(u8::try_from(level.min(2) + 1).expect("a code"));
            entries.extend(0x1000_u64.to_le_bytes());
            entries.extend(0x100_u32.to_le_bytes());
        }
        entries.resize(entries.len() + depth + 2, 0);
        let mut info = Vec::new();
        info.extend(
            u32::try_from(entries.len() + 7)
                .expect("a length")
                .to_le_bytes(),
        );
        info.extend([4, 0, 0, 0, 0, 0, 8]);
        info.extend(entries);
        BTreeMap::from([(".debug_info", info), (".debug_abbrev", abbreviations)])
    }

    #[test]
    fn our_own_functions() {
        let source = Source::File(File::open("/proc/self/exe").expect("our own program"));
        let headers = Headers::read(&source).expect("ELF");
        let mut lines = Lines::read(&source, &headers).expect("debug information");
        let program = std::fs::read("/proc/self/exe").expect("our own program");
        let program = object::File::parse(program.as_slice()).expect("ELF");
        let own = program
            .symbols()
            .find(|symbol| {
                symbol
                    .name()
                    .is_ok_and(|name| name.contains("tests17our_own_functions17h"))
            })
            .expect("this test");
        let places = lines.places(own.address());
        assert!(!places.is_empty());
        assert!(places.iter().all(|place| place.line.is_some()));
    }

    #[test]
    fn functions_inlined_into_each_other() {
        let mut lines = lines(&nested(50)).expect("debug information");
        assert_eq!(lines.places(0x1000).len(), 51);
        assert_eq!(lines.places(0x10ff).len(), 51);
        assert!(lines.places(0x1100).is_empty());
    }

    #[test]
    fn as_deep_as_is_followed() {
        let mut lines = lines(&nested(390)).expect("debug information");
        assert_eq!(lines.places(0x1000).len(), MAX_INLINED);
    }

    #[test]
    fn deeper_than_any_stack() {
        let mut lines = lines(&nested(1_000_000)).expect("debug information");
        assert!(lines.places(0x1000).is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn damaged(
            bytes in prop::collection::vec((0_usize..5, any::<prop::sample::Index>(), any::<u8>()), 1..40),
            small in any::<bool>(),
        ) {
            let mut sections = if small { nested(20) } else { ours() };
            for (section, at, byte) in bytes {
                let count = sections.len();
                if let Some(bytes) = sections.values_mut().nth(section % count) {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
            }
            if let Ok(mut lines) = lines(&sections) {
                let known: Vec<u64> = lines.units.iter().map(|(first, _, _)| *first).collect();
                for address in known.into_iter().take(20).chain([0, 0x1000, u64::MAX]) {
                    let _ = lines.places(address);
                }
            }
        }
    }
}
