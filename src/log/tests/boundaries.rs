//! Values exactly at a limit: the age of a protected block, a reader at the cursor of the fastest, the size of a read, and the memory
//! of segments.

use std::{sync::Arc, time::Duration};

use crate::log::{
    ReadResult,
    blocks::{SEGMENT, SINGLE_BLOCK_OVERHEAD},
    tests::*,
};

#[test]
fn protected_block_of_exactly_the_maximum_age_is_due_again_later() {
    let (age, begun) = (Duration::from_secs(10), Instant::now());
    let mut log = Log::new(Retention::default().age(age));
    append(&mut log, "data: 1\n\n", begun);
    let now = begun + age;
    // A time that is not later would wake the writer at once, again and again, while the block is protected.
    assert_eq!(log.expire(now, 1), Some(now + age));
    assert_eq!(log.expire(now, 0), None);
}

#[test]
fn reader_that_reaches_the_fastest_does_not_wake_the_writer() {
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let cx = &mut Context::from_waker(&waker);
    let log = shared_log(Retention::default().events(2));
    let (first, second) = (log.subscribe(log.oldest()), log.subscribe(log.oldest()));
    // An unread comment takes space, and does not count as an event.
    let comment = ChunkSlice::from(Bytes::from_static(b":"));
    log.write([(comment, false)], Instant::now());
    write(&log, &[b"a"]);
    assert!(read(&log, first, 1).is_some());
    write(&log, &[b"b"]);
    assert_eq!(log.poll_demand(cx, 0), WriteDemand::Wait);
    // The second reader makes no room: the first has read as far.
    assert!(read(&log, second, 1).is_some());
    assert_eq!(wakes.0.load(Ordering::Relaxed), 0);
    assert!(read(&log, second, 1).is_some());
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
}

#[test]
fn neighbors_share_a_segment_only_within_an_epoch() {
    let mut log = Log::new(Retention::default());
    let mut parts = ChunkSlice::split_at_ends(Bytes::from_static(b"abc"), 1..=3);
    let mut append = |log: &mut Log| {
        let before = log.memory();
        log.append(parts.next().unwrap(), true, Instant::now(), 1);
        log.memory() - before
    };
    let with_segment = append(&mut log);
    assert!(append(&mut log) < with_segment);
    log.begin_epoch(7);
    assert_eq!(append(&mut log), with_segment);
}

#[test]
fn read_returns_as_many_neighbors_as_fit() {
    let mut log = Log::new(Retention::default());
    let text = b"the text of one chunk that is cut in twenty blocks of three.";
    for block in ChunkSlice::split_at_ends(Bytes::from_static(text), (3..=60).step_by(3)) {
        log.append(block, true, Instant::now(), 1);
    }
    for max_bytes in 1..=60 {
        let ReadResult::Blocks(read, _) = log.read(log.oldest(), max_bytes, true) else {
            panic!("nothing read of at most {max_bytes} bytes");
        };
        let fits = (max_bytes / 3).max(1) * 3;
        assert_eq!(read.bytes(), &text[..fits]);
    }
}

#[test]
fn small_blocks_are_merged_while_the_stream_is_live() {
    let mut log = Log::new(Retention::default().events(2000).bytes(1 << 20));
    let append = |log: &mut Log, size: usize| {
        let block = Bytes::from(vec![b'x'; size]);
        log.append(block.into(), true, Instant::now(), 1);
    };
    for _ in 0..1000 {
        append(&mut log, 100);
    }
    let alone = 1000 * (100 + SINGLE_BLOCK_OVERHEAD);
    assert!(log.memory() < alone / 2, "{} of {alone}", log.memory());

    // A large block is not merged, but the small blocks before it are.
    let mut log = Log::new(Retention::default());
    for size in [100, 100, 100, 100, 3000] {
        append(&mut log, size);
    }
    let alone = 3400 + 5 * SINGLE_BLOCK_OVERHEAD;
    let memory = log.memory();
    assert!(memory < alone - 2 * SEGMENT, "{memory} of {alone}");
}

#[test]
fn compact_frees_the_bytes_of_evicted_blocks() {
    // Of a live stream, at most half of the oldest buffer belongs to evicted blocks. Eviction itself frees more than that.
    for (events, freed) in [(3, 100), (2, 200), (1, 0)] {
        let mut log = Log::new(Retention::default().events(events));
        let chunk = Bytes::from(vec![b'x'; 400]);
        for block in ChunkSlice::split_at_ends(chunk, (100..=400).step_by(100)) {
            log.append(block, true, Instant::now(), 1);
        }
        let before = log.memory();
        log.compact();
        assert_eq!(before - log.memory(), freed, "{events} of 4");
    }
}
