//! Rings as a writer makes them, as a hostile one does, and as they are overwritten while they are read.

use super::news::Who;
use super::record::Body;
use super::ring::{HEADER, Look, Opened, Ring};
use super::writer::{Writer, bytes_of};
use proptest::prelude::*;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use tempfile::TempDir;

const WHO: Who = Who {
    start_ticks: 977,
    pid: 42,
};
const NAME: &str = "42-977.ring";

struct Pair {
    folder: TempDir,
    writer: Writer,
    ring: Ring,
}

fn pair(capacity: u64) -> Pair {
    let folder = tempfile::tempdir().expect("a folder");
    let writer = Writer::new(folder.path(), WHO, capacity);
    let Opened::Ring(ring) = open(&folder) else {
        panic!("a ring");
    };
    Pair {
        folder,
        writer,
        ring,
    }
}

fn open(folder: &TempDir) -> Opened {
    let open = File::open(folder.path()).expect("the folder");
    Ring::open(&open, NAME, WHO).expect("a file")
}

fn seqs(look: &Look) -> Vec<u32> {
    look.records.iter().map(|record| record.seq).collect()
}

#[test]
fn records_come_once_and_in_order_around_the_end() {
    let mut pair = pair(4096);
    let mut expected = 0;
    for round in 0..500_u32 {
        let count = round % 4;
        for _ in 0..count {
            let text = "x".repeat(usize::try_from(round * 7 % 200).expect("small"));
            pair.writer.record(2, 0, 0, &text);
        }
        let look = pair.ring.look();
        assert_eq!((look.lost, look.stopped), (0, None));
        assert_eq!(seqs(&look), Vec::from_iter(expected..expected + count));
        expected += count;
    }
    assert!(
        pair.writer.total > 10 * pair.writer.capacity,
        "it wrapped around"
    );
}

#[test]
fn after_a_lap_what_is_whole_is_read_and_the_rest_counted() {
    let mut pair = pair(4096);
    for _ in 0..3 {
        pair.writer.record(2, 0, 0, "before");
    }
    assert_eq!(pair.ring.look().records.len(), 3);
    for _ in 0..1000 {
        pair.writer.record(4, 0, 7, "3\n\na.py\na.py::test");
    }
    let look = pair.ring.look();
    let seqs = seqs(&look);
    // Three quarters of the stream are safe from a record that is being written.
    assert_eq!(seqs.len(), 3072 / (44 + 18));
    assert_eq!(seqs.last(), Some(&1002));
    assert_eq!(look.lost + 3 + seqs.len() as u64, 1003);
    pair.writer.record(5, 0, 7, "");
    let look = pair.ring.look();
    assert_eq!((look.lost, look.records.len()), (0, 1));
}

#[test]
fn what_is_overwritten_while_it_is_copied_is_discarded() {
    let mut pair = pair(4096);
    for _ in 0..20 {
        pair.writer.record(2, 0, 0, "the first twenty");
    }
    let Pair { writer, ring, .. } = &mut pair;
    // All of the copy is overwritten; the second copy is left alone.
    let mut first = true;
    let look = ring.look_with(&mut || {
        if std::mem::take(&mut first) {
            for _ in 0..200 {
                writer.record(2, 0, 0, "others");
            }
        }
    });
    assert!(look.lost >= 20 && look.stopped.is_none());
    let only_others =
        |record: &super::record::Record| record.body == Body::Collect("others".into());
    assert!(!look.records.is_empty() && look.records.iter().all(only_others));
    assert_eq!(look.lost + look.records.len() as u64, 220);
}

#[test]
fn a_stream_that_runs_away_is_caught_later() {
    let mut pair = pair(4096);
    let Pair { writer, ring, .. } = &mut pair;
    writer.record(2, 0, 0, "");
    let look = ring.look_with(&mut || {
        for _ in 0..200 {
            writer.record(2, 0, 0, "");
        }
    });
    assert_eq!((look.records.len(), look.stopped), (0, None));
    writer.record(2, 0, 0, "caught");
    let look = ring.look();
    assert_eq!(seqs(&look), [writer.seq - 1]);
    assert_eq!(look.lost, u64::from(writer.seq - 1));
}

#[test]
fn text_that_looks_like_records_does_not_move_the_boundary() {
    let mut pair = pair(4096);
    let fake = bytes_of(990, 1, 1, [0; 5], 2, 0, b"fake");
    let fake = String::from_utf8_lossy(&fake).into_owned();
    for _ in 0..1000 {
        pair.writer.record(2, 0, 0, &fake.repeat(3));
    }
    let look = pair.ring.look();
    let whole =
        |record: &super::record::Record| record.body == Body::Collect(fake.repeat(3).into());
    assert!(look.records.len() > 5 && look.records.iter().all(whole));
}

#[test]
fn a_torn_or_unfinished_total_is_waited_for() {
    let mut pair = pair(4096);
    pair.writer.record(2, 0, 0, "a");
    assert_eq!(pair.ring.look().records.len(), 1);
    pair.writer.file.write_all_at(&[0; 8], 64).expect("zero");
    assert_eq!(pair.ring.look(), Look::default());
    // The number before the bytes, as a weakly ordered machine may show it.
    let next = bytes_of(1, 2, 0, [0; 5], 2, 0, b"b");
    let total = pair.writer.total + next.len() as u64;
    pair.writer
        .file
        .write_all_at(&total.to_le_bytes(), 64)
        .expect("a total");
    for _ in 0..5 {
        assert_eq!(pair.ring.look(), Look::default());
    }
    pair.writer.raw(&next);
    assert_eq!(seqs(&pair.ring.look()), [1]);
}

#[test]
fn nonsense_stops_the_ring_once() {
    for nonsense in [
        vec![0; 60],
        vec![255; 60],
        bytes_of(1, 0, 0, [0; 5], 99, 0, b""),
        bytes_of(7, 0, 0, [0; 5], 2, 0, b"a hole in the numbers"),
    ] {
        let mut pair = pair(4096);
        pair.writer.record(2, 0, 0, "sound");
        pair.writer.raw(&nonsense);
        pair.writer.publish();
        assert_eq!(seqs(&pair.ring.look()), [0], "what came before counts");
        let stopped = (0..100).filter(|_| pair.ring.look().stopped.is_some());
        assert_eq!(stopped.count(), 1);
    }
}

#[test]
fn a_file_that_is_no_ring_is_refused() {
    let whole = |folder: &TempDir| Writer::new(folder.path(), WHO, 4096);
    let refused = |change: &dyn Fn(&File)| {
        let folder = tempfile::tempdir().expect("a folder");
        change(&whole(&folder).file);
        match open(&folder) {
            Opened::Refused(_) => "refused",
            Opened::NotYet => "not yet",
            Opened::Ring(_) => "a ring",
        }
    };
    assert_eq!(refused(&|_| ()), "a ring");
    let set = |at, bytes: &'static [u8]| {
        move |file: &File| file.write_all_at(bytes, at).expect("a change")
    };
    assert_eq!(refused(&set(0, b"x")), "not yet");
    assert_eq!(refused(&set(8, b"\x07")), "refused");
    assert_eq!(refused(&set(16, b"\x07")), "refused");
    assert_eq!(refused(&set(24, &[255; 8])), "refused");
    assert_eq!(refused(&set(24, &[0; 8])), "refused");
    let size = |size| move |file: &File| file.set_len(size).expect("a size");
    assert_eq!(refused(&size(100)), "not yet");
    assert_eq!(refused(&size(HEADER + 4095)), "refused");
    assert_eq!(refused(&size(1 << 40)), "refused");

    let folder = tempfile::tempdir().expect("a folder");
    let fifo = rustix::fs::FileType::Fifo;
    let path = folder.path().join(NAME);
    rustix::fs::mknodat(rustix::fs::CWD, &path, fifo, 0o600.into(), 0).expect("a FIFO");
    assert!(matches!(open(&folder), Opened::Refused(_)));
    fs::remove_file(&path).expect("no FIFO");
    std::os::unix::fs::symlink("/proc/self/mem", &path).expect("a link");
    let open = File::open(folder.path()).expect("the folder");
    assert!(Ring::open(&open, NAME, WHO).is_err());
}

#[test]
fn a_file_that_shrinks_stops_the_ring() {
    let mut pair = pair(4096);
    pair.writer.record(2, 0, 0, "a");
    pair.writer.file.set_len(HEADER).expect("a size");
    assert!(pair.ring.look().stopped.is_some());
    drop(pair.folder);
}

#[test]
fn a_request_is_as_the_plugin_reads_it() {
    let pair = pair(4096);
    let request = || {
        let mut bytes = [0; 4096];
        pair.writer
            .file
            .read_exact_at(&mut bytes, 0)
            .expect("a header");
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four"));
        let length = usize::try_from(number(140)).expect("a length");
        let text = String::from_utf8(bytes[144..144 + length].to_vec()).expect("UTF-8");
        ((number(128), number(132), number(136)), text)
    };
    pair.ring.request(7, 1, "too slow: ü").expect("a request");
    assert_eq!(request(), ((7, 0, 1), "too slow: ü".to_owned()));
    pair.ring
        .request(7, 2, &"ü".repeat(4000))
        .expect("a request");
    assert_eq!(request(), ((7, 0, 2), "ü".repeat(1900)));
    let Opened::Ring(_) = open(&pair.folder) else {
        panic!("the rest of the header is as it was");
    };
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn garbage_ends(
        stream in prop::collection::vec(any::<u8>(), 4096),
        totals in prop::collection::vec(any::<u64>(), 1..8),
        small in prop::collection::vec(0u64..20_000, 1..8),
    ) {
        let mut pair = pair(4096);
        pair.writer.file.write_all_at(&stream, HEADER).expect("a stream");
        for total in small.into_iter().chain(totals) {
            pair.writer.file.write_all_at(&total.to_le_bytes(), 64).expect("a total");
            for _ in 0..30 {
                pair.ring.look();
            }
        }
    }

    #[test]
    fn whatever_is_lost_is_counted(
        bursts in prop::collection::vec((0usize..120, 0usize..300), 1..30),
        during in 0usize..80,
    ) {
        let mut pair = pair(4096);
        let Pair { writer, ring, .. } = &mut pair;
        let (mut read, mut lost, mut next) = (0, 0, 0);
        let mut check = |look: Look| {
            for record in &look.records {
                assert!(record.seq >= next, "in order");
                assert_eq!(record.body, Body::Collect("y".repeat(record.serial as usize).into()));
                next = record.seq + 1;
            }
            assert_eq!(look.stopped, None);
            read += look.records.len() as u64;
            lost += look.lost;
        };
        for (count, size) in bursts {
            let mut write = |count| for _ in 0..count {
                let serial = u32::try_from(size).expect("small");
                writer.record(2, 0, serial, &"y".repeat(size));
            };
            write(count);
            check(ring.look_with(&mut || write(during)));
        }
        // One more makes known what was lost before it.
        writer.record(2, 0, 0, "");
        check(ring.look());
        prop_assert_eq!(read + lost, u64::from(writer.seq));
    }
}
