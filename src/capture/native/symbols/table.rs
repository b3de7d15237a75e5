//! The symbol tables of a file: which function an address is in (elf(5)).

use super::super::headers::{Headers, Section, Source, u16_at, u32_at, u64_at};

/// Largest symbol table that is read, in bytes: that of a CPython has 30,000 symbols of 24 bytes.
const MAX_TABLE: u64 = 48 << 20;
/// Longest name that is read.
pub(super) const MAX_NAME: u64 = 8 << 10;
/// How many symbols before an address are looked at: labels lie within functions.
const MAX_BACK: usize = 256;
/// Most names of one function that are compared.
const MAX_ALIASES: usize = 16;

pub(super) const SHT_SYMTAB: u32 = 2;
const SHT_DYNSYM: u32 = 11;
const STT_NOTYPE: u8 = 0;
const STT_FUNC: u8 = 2;
const STT_GNU_IFUNC: u8 = 10;
const STB_LOCAL: u8 = 0;

/// A function, or a label in code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    start: u64,
    /// Behind its last byte; of one without a size that of its section, and it reaches to the next symbol only.
    end: u64,
    sized: bool,
    local: bool,
    /// Where its name is in the file.
    name: u64,
}

/// The functions of one symbol table, in order of address.
#[derive(Debug, Default)]
pub(super) struct SymbolTable {
    entries: Vec<Entry>,
}

impl SymbolTable {
    /// The best table of a file: `.symtab`, else `.dynsym`; `None` if it has neither, or if that is too large.
    pub(super) fn read(source: &Source, headers: &Headers) -> Option<Self> {
        Self::full(source, headers).or_else(|| Self::of_kind(source, headers, SHT_DYNSYM))
    }

    /// `.symtab`, which has what is not exported, too.
    pub(super) fn full(source: &Source, headers: &Headers) -> Option<Self> {
        Self::of_kind(source, headers, SHT_SYMTAB)
    }

    fn of_kind(source: &Source, headers: &Headers, kind: u32) -> Option<Self> {
        let sections = &headers.sections;
        let section = sections.iter().find(|section| section.kind == kind)?;
        let names = sections.get(section.link as usize)?;
        if section.size > MAX_TABLE {
            return None;
        }
        let bytes = source.read(section.offset, section.size)?;
        let entry = |symbol: &[u8]| entry(symbol, sections, names);
        let mut entries: Vec<Entry> = bytes.chunks_exact(24).filter_map(entry).collect();
        entries.sort_unstable();
        Some(Self { entries })
    }

    /// The name of the function that an address is in.
    pub(super) fn name(&self, source: &Source, address: u64) -> Option<Vec<u8>> {
        let after = self.entries.partition_point(|entry| entry.start <= address);
        let nearest = self.entries.get(after.checked_sub(1)?)?.start;
        let before = self.entries[..after].iter().rev().take(MAX_BACK);
        let mut holders =
            before.filter(|entry| address < entry.end && (entry.sized || entry.start == nearest));
        let first = holders.next()?;
        // What tells its own size knows better than a label.
        let best = match first.sized {
            true => first,
            false => holders.find(|entry| entry.sized).unwrap_or(first),
        };
        let aliases = self.entries[..after]
            .iter()
            .rev()
            .skip_while(|entry| entry.start != best.start)
            .take_while(|entry| entry.start == best.start)
            .filter(|entry| entry.sized == best.sized && address < entry.end);
        let names = aliases.take(MAX_ALIASES).filter_map(|entry| {
            let name = name(source, entry.name)?;
            let underscores = name.iter().take_while(|byte| **byte == b'_').count();
            Some((entry.local, underscores, name.len(), name))
        });
        // The one that people call it by: exported, and without underscores.
        names.min().map(|(_, _, _, name)| name)
    }
}

fn entry(symbol: &[u8], sections: &[Section], names: &Section) -> Option<Entry> {
    let info = *symbol.get(4)?;
    let (kind, local) = (info & 0xf, info >> 4 == STB_LOCAL);
    let section = sections.get(usize::from(u16_at(symbol, 6)?))?;
    let start = u64_at(symbol, 8)?;
    let size = u64_at(symbol, 16)?;
    // Local labels without a size are what an assembler notes for itself (`$x` on aarch64).
    let is_code = matches!(kind, STT_FUNC | STT_GNU_IFUNC)
        || kind == STT_NOTYPE && section.flags & 4 != 0 && (size != 0 || !local);
    // Section 0 is for symbols that are defined elsewhere.
    if !is_code || u16_at(symbol, 6)? == 0 {
        return None;
    }
    let end = match size {
        0 => section.address.checked_add(section.size)?,
        size => start.checked_add(size)?,
    };
    let at = u64::from(u32_at(symbol, 0)?);
    (at != 0 && at < names.size).then_some(Entry {
        start,
        end,
        sized: size != 0,
        local,
        name: names.offset.checked_add(at)?,
    })
}

/// A name, without the version that a linker may add (`pthread_cond_wait@@GLIBC_2.3.2`).
fn name(source: &Source, offset: u64) -> Option<Vec<u8>> {
    let mut name = Vec::new();
    while (name.len() as u64) < MAX_NAME {
        // The table may be the last of the file.
        let at = offset.checked_add(name.len() as u64)?;
        let piece = source
            .read(at, 64)
            .or_else(|| (1..64).rev().find_map(|length| source.read(at, length)))?;
        match piece.iter().position(|byte| matches!(byte, 0 | b'@')) {
            Some(end) => {
                name.extend_from_slice(&piece[..end]);
                break;
            }
            None => name.extend(piece),
        }
    }
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Type and binding.
    const FUNCTION: u8 = 0x12;
    const LOCAL_FUNCTION: u8 = 0x02;
    const LABEL: u8 = 0x10;
    const LOCAL_LABEL: u8 = 0x00;

    /// A file with code at 0x1000..0x2000 and these symbols: name, type and binding, address, size.
    fn table(symbols: &[(&str, u8, u64, u64)]) -> (Source, SymbolTable) {
        let mut names = vec![0];
        let mut bytes = vec![0; 24];
        for (name, info, address, size) in symbols {
            bytes.extend(u32::try_from(names.len()).expect("an offset").to_le_bytes());
            bytes.extend([*info, 0, 1, 0]);
            bytes.extend(address.to_le_bytes());
            bytes.extend(size.to_le_bytes());
            names.extend(name.as_bytes());
            names.push(0);
        }
        let section = |kind, flags, address, offset: usize, size: usize, link| Section {
            name: Vec::new(),
            kind,
            flags,
            address,
            offset: offset as u64,
            size: size as u64,
            link,
        };
        let headers = Headers {
            machine: 62,
            segments: Vec::new(),
            sections: vec![
                section(0, 0, 0, 0, 0, 0),
                section(1, 6, 0x1000, 0, 0x1000, 0),
                section(SHT_SYMTAB, 0, 0, 0, bytes.len(), 3),
                section(3, 0, 0, bytes.len(), names.len(), 0),
            ],
        };
        bytes.extend(names);
        let source = Source::Bytes(bytes);
        let table = SymbolTable::read(&source, &headers).expect("a table");
        (source, table)
    }

    #[test]
    fn names_at_addresses() {
        let (source, table) = table(&[
            ("sized", FUNCTION, 0x1000, 0x10),
            ("outer", LOCAL_FUNCTION, 0x1100, 0x100),
            ("inner_label", LABEL, 0x1180, 0),
            ("__lock", FUNCTION, 0x1300, 0x20),
            ("lock@@V1", FUNCTION, 0x1300, 0x20),
            ("l", LOCAL_FUNCTION, 0x1300, 0x20),
            ("assembly", LABEL, 0x1400, 0),
            ("$x", LOCAL_LABEL, 0x1404, 0),
            ("next", FUNCTION, 0x1500, 0),
            ("huge", FUNCTION, 0x1600, u64::MAX),
        ]);
        let cases = [
            (0xfff, None),
            (0x1000, Some("sized")),
            (0x100f, Some("sized")),
            (0x1010, None),
            (0x1190, Some("outer")),
            (0x1310, Some("lock")),
            (0x1320, None),
            (0x14ff, Some("assembly")),
            (0x1500, Some("next")),
            (0x1fff, Some("next")),
            (0x2000, None),
        ];
        for (address, name) in cases {
            let found = table.name(&source, address);
            assert_eq!(found.as_deref(), name.map(str::as_bytes), "{address:#x}");
        }
    }

    proptest! {
        #[test]
        fn anything(symbols in prop::collection::vec(("[a-z@]{0,3}", any::<u8>(), 0x1000_u64..0x2000, 0_u64..0x200), 0..20), address in 0xf00_u64..0x2100) {
            let symbols: Vec<(&str, u8, u64, u64)> = symbols.iter().map(|(name, info, start, size)| (&**name, *info, *start, *size)).collect();
            let (source, table) = table(&symbols);
            if let Some(name) = table.name(&source, address) {
                // A name is that of a symbol which begins at or before the address.
                let of_symbol = symbols.iter().any(|(of, _, start, _)| {
                    of.split('@').next().map(str::as_bytes) == Some(&name) && *start <= address
                });
                prop_assert!(of_symbol);
            }
        }
    }
}
