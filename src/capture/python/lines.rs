//! Line tables: which line an instruction belongs to.

use super::offsets::LineTable;

/// The line of the instruction at byte `offset`.
pub(crate) fn line_at(kind: LineTable, table: &[u8], first_line: i64, offset: i64) -> Option<u32> {
    match kind {
        LineTable::Locations => location(table, first_line, offset),
        LineTable::Ranges => range(table, first_line, offset),
        LineTable::Lnotab => lnotab(table, first_line, offset),
    }
}

/// 3.9: pairs of steps in bytecode and in lines (CPython's `Objects/lnotab_notes.txt`).
fn lnotab(table: &[u8], first_line: i64, offset: i64) -> Option<u32> {
    let (mut line, mut at) = (first_line, 0_i64);
    for pair in table.chunks_exact(2) {
        at += i64::from(pair[0]);
        if at > offset {
            break;
        }
        line = line.wrapping_add(i64::from(pair[1].cast_signed()));
    }
    u32::try_from(line).ok().filter(|_| offset >= 0)
}

/// 3.10: pairs of length in bytecode and step in lines, -128 for no line (PEP 626, `Objects/lnotab_notes.txt`).
fn range(table: &[u8], first_line: i64, offset: i64) -> Option<u32> {
    let (mut line, mut end) = (first_line, 0_i64);
    for pair in table.chunks_exact(2) {
        let start = end;
        end += i64::from(pair[0]);
        let step = pair[1].cast_signed();
        if step != i8::MIN {
            line = line.wrapping_add(i64::from(step));
        }
        if (start..end).contains(&offset) {
            return u32::try_from(line).ok().filter(|_| step != i8::MIN);
        }
    }
    None
}

/// 3.11+: the location table (CPython's `InternalDocs/code_objects.md`, "Format of the locations table").
fn location(table: &[u8], first_line: i64, offset: i64) -> Option<u32> {
    let mut bytes = table.iter().copied().peekable();
    let mut line = first_line;
    let mut end = 0_i64;
    while let Some(head) = bytes.next() {
        let kind = (head >> 3) & 15;
        end += (i64::from(head & 7) + 1) * 2;
        match kind {
            15 => {}
            13 | 14 => line = line.wrapping_add(signed_varint(&mut bytes)?),
            10..=12 => line = line.wrapping_add(i64::from(kind) - 10),
            _ => {}
        }
        if (end - (i64::from(head & 7) + 1) * 2..end).contains(&offset) {
            return if kind == 15 {
                None
            } else {
                u32::try_from(line).ok()
            };
        }
        // The rest of an entry has its top bit clear.
        while bytes.next_if(|byte| byte & 0x80 == 0).is_some() {}
    }
    None
}

fn signed_varint(bytes: &mut impl Iterator<Item = u8>) -> Option<i64> {
    let mut value = 0_u64;
    for shift in (0..).step_by(6) {
        let byte = bytes.next()?;
        if shift > 57 {
            return None;
        }
        value |= u64::from(byte & 63) << shift;
        if byte & 64 == 0 {
            break;
        }
    }
    let magnitude = i64::try_from(value >> 1).ok()?;
    Some(if value & 1 == 1 {
        -magnitude
    } else {
        magnitude
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_table_of_three_entries() {
        // One code unit without location; two units, one line further (ONE_LINE1); one unit, LONG by +2 lines.
        let table = [
            0x80 | (15 << 3),
            0x80 | (11 << 3) | 1,
            3,
            5,
            0x80 | (14 << 3),
            4,
            0,
            1,
            1,
        ];
        assert_eq!(location(&table, 10, 0), None);
        assert_eq!(location(&table, 10, 2), Some(11));
        assert_eq!(location(&table, 10, 4), Some(11));
        assert_eq!(location(&table, 10, 6), Some(13));
        assert_eq!(location(&table, 10, 8), None);
        assert_eq!(location(&table, 10, -2), None);
    }

    #[test]
    fn the_tables_of_the_older_versions() {
        // def f():       # line 1
        //     a = 1      # bytes 0 to 4
        //     return a   # bytes 4 to 8, and a step back in lines
        let steps = [0, 1, 4, 1, 4, 0xff];
        let old = |offset| line_at(LineTable::Lnotab, &steps, 1, offset);
        assert_eq!(
            [old(0), old(2), old(4), old(8)],
            [Some(2), Some(2), Some(3), Some(2)]
        );
        assert_eq!(old(-1), None);
        let ranges = [4, 1, 2, 0x80, 4, 1];
        let newer = |offset| line_at(LineTable::Ranges, &ranges, 1, offset);
        assert_eq!(
            [newer(0), newer(4), newer(6), newer(10)],
            [Some(2), None, Some(3), None]
        );
    }

    proptest! {
        #[test]
        fn any_bytes_come_to_an_end(table: Vec<u8>, first: i32, offset: i64) {
            for kind in [LineTable::Lnotab, LineTable::Ranges, LineTable::Locations] {
                let _ = line_at(kind, &table, i64::from(first), offset);
            }
        }
    }
}
