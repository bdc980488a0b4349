//! Tests for the behavior of a log that no response shows. (The package `models` has the models of its lock.)

mod boundaries;
mod properties;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    codec::ChunkSlice,
    log::{
        Ending, LogState, Position, Protected, ResumePoint, Retention, SharedLog, StartAt,
        WriteDemand, blocks::BLOCK_OVERHEAD, event_log::Log, shared_log::ReadOutcome,
    },
};

/// Appends an event.
fn append(log: &mut Log, event: &'static str, now: Instant) -> Position {
    let event = Bytes::from_static(event.as_bytes());
    log.append(event.into(), true, now, 1)
}

fn shared_log(retention: Retention) -> SharedLog {
    SharedLog::new(retention, Instant::now())
}

fn write(log: &SharedLog, blocks: &[&'static [u8]]) {
    let blocks = blocks
        .iter()
        .map(|block| (ChunkSlice::from(Bytes::from_static(block)), true));
    log.write(blocks, Instant::now());
}

/// The bytes of one read. `None` if there is no block.
fn read(log: &SharedLog, subscriber: usize, max_bytes: usize) -> Option<Vec<u8>> {
    let mut blocks = Vec::new();
    let cx = &mut Context::from_waker(Waker::noop());
    match log.poll_read(subscriber, cx, max_bytes, &mut blocks) {
        Poll::Ready(ReadOutcome::Blocks) => {
            Some(blocks.iter().flat_map(ChunkSlice::bytes).copied().collect())
        }
        _ => None,
    }
}

#[test]
fn read_returns_at_most_the_limit_and_at_least_one_block() {
    let log = shared_log(Retention::default());
    let subscriber = log.subscribe(log.oldest());
    write(&log, &[b"aaaa", b"bb", b"cc", b"dd"]);
    assert_eq!(read(&log, subscriber, 3).as_deref(), Some(&b"aaaa"[..]));
    assert_eq!(read(&log, subscriber, 4).as_deref(), Some(&b"bbcc"[..]));
    assert_eq!(read(&log, subscriber, 4).as_deref(), Some(&b"dd"[..]));
    assert_eq!(read(&log, subscriber, 4), None);
}

#[test]
fn join_fails_unless_the_stream_is_live() {
    for ends in [
        |log: &SharedLog| log.abort(),
        |log: &SharedLog| assert!(log.retire() == 0),
        |log: &SharedLog| assert!(log.close_if_detached()),
        |log: &SharedLog| log.suspend(Ending::Clean(None)),
        |log: &SharedLog| log.end(LogState::Complete, Ending::Clean(None)),
    ] {
        let log = shared_log(Retention::default());
        let subscriber = log.join(StartAt::Live).expect("the stream is live");
        assert!(!log.close_if_detached(), "there is a reader");
        log.unsubscribe(subscriber, Instant::now());
        assert!(log.join(StartAt::Oldest).is_some());
        log.unsubscribe(0, Instant::now());
        ends(&log);
        assert_eq!(log.join(StartAt::Live), None);
        assert_eq!(log.join(StartAt::Oldest), None);
    }
}

#[test]
fn fastest_reader_sets_the_pace_of_the_writer() {
    let log = shared_log(Retention::default().events(2));
    let cx = &mut Context::from_waker(Waker::noop());
    let (one, two) = (log.subscribe(log.oldest()), log.subscribe(log.oldest()));
    let room = |log: &SharedLog, cx: &mut Context<'_>| match log.poll_demand(cx, 0) {
        WriteDemand::Write { blocks, .. } => blocks,
        _ => 0,
    };
    assert_eq!(room(&log, cx), 2);
    write(&log, &[b"a", b"b"]);
    assert_eq!(room(&log, cx), 0);
    assert!(read(&log, one, 1).is_some());
    assert_eq!(room(&log, cx), 1);
    assert!(read(&log, one, 1).is_some());
    assert_eq!(room(&log, cx), 2);
    // The fastest reader leaves, and the slower one sets the pace.
    log.unsubscribe(one, Instant::now());
    assert_eq!(room(&log, cx), 0);
    assert!(read(&log, two, 2).is_some());
    assert_eq!(room(&log, cx), 2);
    log.unsubscribe(two, Instant::now());
    assert!(
        room(&log, cx) > 2,
        "without a reader there is no backpressure"
    );
}

#[test]
fn stream_is_detached_since_its_last_reader_left() {
    let log = shared_log(Retention::default());
    let begun = log.detached_since().expect("there is no reader");
    let (one, two) = (log.subscribe(log.oldest()), log.subscribe(log.oldest()));
    assert_eq!(log.detached_since(), None);
    log.unsubscribe(one, begun + Duration::from_secs(1));
    assert_eq!(log.detached_since(), None);
    log.unsubscribe(two, begun + Duration::from_secs(2));
    assert_eq!(log.detached_since(), Some(begun + Duration::from_secs(2)));
}

#[test]
fn demand_depends_on_the_size_of_the_next_block() {
    let log = shared_log(Retention::default().bytes(200));
    let cx = &mut Context::from_waker(Waker::noop());
    let subscriber = log.subscribe(log.oldest());
    let mut demand = |next| log.poll_demand(cx, next);
    // If nothing is unread, a block of any size is written.
    assert!(matches!(
        demand(1000),
        WriteDemand::Write { bytes: 200, .. }
    ));
    write(&log, &[b"a"]);
    let WriteDemand::Write { bytes: room, .. } = demand(0) else {
        panic!("there is room");
    };
    assert!(room < 199, "the overhead of a block counts");
    assert!(matches!(demand(room), WriteDemand::Write { .. }));
    assert_eq!(demand(room + 1), WriteDemand::Wait);
    write(&log, &[b"b", b"c", b"d", b"e"]);
    assert_eq!(demand(0), WriteDemand::Wait, "the log is full");
    assert!(read(&log, subscriber, 5).is_some());
    assert!(matches!(
        demand(1000),
        WriteDemand::Write { bytes: 200, .. }
    ));
    log.abort();
    assert_eq!(demand(0), WriteDemand::Stop);
}

#[test]
fn stream_resumes_once_and_only_while_it_is_suspended() {
    let suspended = || {
        let log = shared_log(Retention::default());
        assert!(!log.resume(), "the first response has not ended");
        assert!(!log.stop_waiting());
        log.suspend(Ending::Clean(None));
        log
    };
    let log = suspended();
    assert!(log.resume());
    assert!(!log.resume());
    assert!(!log.stop_waiting(), "the next response has arrived");
    for stops in [
        |log: &SharedLog| assert!(log.stop_waiting()),
        |log: &SharedLog| log.abort(),
        |log: &SharedLog| assert_eq!(log.retire(), 0),
        |log: &SharedLog| log.end(LogState::Suspended, Ending::Clean(None)),
    ] {
        let log = suspended();
        stops(&log);
        assert!(!log.resume());
    }
}

#[test]
fn memory_of_an_ended_stream_includes_its_overhead() {
    let log = shared_log(Retention::default());
    write(&log, &[b"a"]);
    assert_eq!(log.evict(0, Protected::Connected), 0);
    assert_eq!(log.set_overhead(500), (500, 0));
    assert_eq!(log.set_overhead(700), (700, 500));
    log.end(LogState::Complete, Ending::Clean(None));
    let all = log.evict(usize::MAX, Protected::Connected);
    assert!(all > 700, "the block and the overhead");
    write(&log, &[b"b"]);
    assert_eq!(log.retire(), 0, "no block is appended after the end");
    assert_eq!(
        log.evict(usize::MAX, Protected::Connected),
        0,
        "nothing is evicted from a retired log"
    );
}

#[test]
fn memory_is_that_of_the_log_and_beside_it_until_the_stream_retires() {
    let log = shared_log(Retention::default());
    write(&log, &[b"a"]);
    let alone = log.memory();
    assert!(alone > 0);
    assert_eq!(log.set_overhead(500), (500, 0));
    assert_eq!(log.memory(), alone + 500);
    assert_eq!(log.retire(), alone + 500);
    assert_eq!(log.memory(), 0);
    assert_eq!(log.set_overhead(900), (0, 0), "nothing is counted any more");
    // A stream that has to stop counts no more memory either.
    let log = shared_log(Retention::default());
    log.abort();
    assert_eq!(log.set_overhead(500), (0, 0));
}

#[test]
fn evicted_stream_without_a_client_stops_its_writer_and_admits_no_client() {
    let log = shared_log(Retention::default());
    write(&log, &[b"a"]);
    log.set_overhead(500);
    // Later evictions find nothing to free, and change nothing.
    for is_first in [true, false] {
        let freed = log.evict(usize::MAX, Protected::Connected);
        assert_eq!(freed > 0, is_first);
        let cx = &mut Context::from_waker(Waker::noop());
        assert_eq!(log.poll_demand(cx, 0), WriteDemand::Stop);
        assert!(!log.is_joinable());
        assert_eq!(log.join(StartAt::Oldest), None);
    }
}

/// A stream that ends while its interceptors still hold events.
#[test]
fn evicted_writer_of_a_final_stream_stops_and_counts_no_memory() {
    let log = shared_log(Retention::default());
    log.suspend(Ending::Clean(None));
    assert!(log.stop_waiting());
    log.set_overhead(500);
    // Its client may still get events.
    let subscriber = log.subscribe(log.oldest());
    assert_eq!(log.evict(usize::MAX, Protected::Connected), 0);
    log.unsubscribe(subscriber, Instant::now());
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(matches!(log.poll_demand(cx, 0), WriteDemand::Write { .. }));
    assert_eq!(log.evict(usize::MAX, Protected::Connected), 500);
    assert_eq!(log.poll_demand(cx, 0), WriteDemand::Stop);
    assert_eq!(log.set_overhead(500), (0, 0));
}

#[test]
fn eviction_ends_no_stream_that_has_a_client_or_events_or_need_not_end() {
    // A client has read everything.
    let log = shared_log(Retention::default());
    log.set_overhead(500);
    let subscriber = log.subscribe(log.oldest());
    write(&log, &[b"a"]);
    assert!(read(&log, subscriber, 1).is_some());
    let freed = log.evict(usize::MAX, Protected::UnreadByAll);
    assert!((1..500).contains(&freed), "the block: {freed}");
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(matches!(log.poll_demand(cx, 0), WriteDemand::Write { .. }));
    assert!(log.is_joinable());

    // There is nothing to free beside the log, as when a stream begins.
    let log = shared_log(Retention::default());
    write(&log, &[b"a"]);
    assert!(log.evict(usize::MAX, Protected::Connected) > 0);
    assert!(matches!(log.poll_demand(cx, 0), WriteDemand::Write { .. }));
    assert!(log.is_joinable());

    // The only event is enough, and no client is there.
    let log = shared_log(Retention::default());
    write(&log, &[b"a"]);
    let block = log.memory();
    log.set_overhead(500);
    assert_eq!(log.evict(block, Protected::Connected), block);
    assert!(log.is_joinable());

    // The stream has ended, and one event is left.
    let log = shared_log(Retention::default());
    log.set_overhead(500);
    write(&log, &[b"a", b"b"]);
    log.end(LogState::Complete, Ending::Clean(None));
    let freed = log.evict(1, Protected::Connected);
    assert!((1..500).contains(&freed), "one block: {freed}");
}

#[test]
fn eviction_wakes_the_writer_when_it_empties_the_log() {
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let cx = &mut Context::from_waker(&waker);
    let log = shared_log(Retention::default());
    write(&log, &[b"a", b"b"]);
    log.set_overhead(500);
    for (bytes, wakes_so_far) in [(1, 0), (usize::MAX, 1), (usize::MAX, 1)] {
        log.poll_demand(cx, 0);
        log.evict(bytes, Protected::Connected);
        assert_eq!(wakes.0.load(Ordering::Relaxed), wakes_so_far);
    }
}

#[test]
fn write_count_counts_calls_of_write() {
    let log = shared_log(Retention::default());
    write(&log, &[b"a", b"b"]);
    write(&log, &[b"c"]);
    assert_eq!(log.write_count(), 2);
}

/// Counts its wakes.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn writer_is_woken_when_it_waits_for_a_reader_that_reads() {
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let cx = &mut Context::from_waker(&waker);
    let woken = || wakes.0.swap(0, Ordering::Relaxed);
    let log = shared_log(Retention::default().events(4));
    let (one, two) = (log.subscribe(log.oldest()), log.subscribe(log.oldest()));
    // An unread comment takes space in the log, too.
    log.write(
        [(ChunkSlice::from(Bytes::from_static(b":")), false)],
        Instant::now(),
    );
    write(&log, &[b"a", b"b", b"c"]);
    assert_eq!(log.poll_demand(cx, 0), WriteDemand::Wait);
    assert!(read(&log, one, 1).is_some());
    assert_eq!(woken(), 1);
    // The writer does not wait: there is room.
    assert!(matches!(log.poll_demand(cx, 0), WriteDemand::Write { .. }));
    write(&log, &[b"d"]);
    assert_eq!(log.poll_demand(cx, 0), WriteDemand::Wait);
    // A slower reader makes no room.
    assert!(read(&log, two, 1).is_some());
    let beside = log.subscribe(log.oldest());
    assert_eq!(woken(), 0);
    log.unsubscribe(beside, Instant::now());
    assert_eq!(woken(), 1, "the reader that leaves may be the last");
    assert_eq!(log.poll_demand(cx, 0), WriteDemand::Wait);
    log.join(StartAt::Live).expect("the stream is live");
    assert_eq!(
        woken(),
        1,
        "a reader that joins at the live edge is the fastest"
    );
    assert!(matches!(log.poll_demand(cx, 0), WriteDemand::Write { .. }));
    log.join(StartAt::Live).expect("the stream is live");
    write(&log, &[b"e"]);
    log.join(StartAt::Live).expect("the stream is live");
    assert_eq!(woken(), 0, "the writer does not wait");
}

#[test]
fn find_returns_the_last_committed_event() {
    let now = Instant::now();
    let mut log = Log::new(Retention::default().events(3)).manual_commit();
    let positions: Vec<_> = (0..4)
        .map(|_| {
            let position = append(&mut log, "data: same\n\n", now);
            log.commit(position);
            position
        })
        .collect();
    assert_eq!(log.find(|_| true), Some(positions[3]));
    // Two of these events are not committed, and one is evicted.
    append(&mut log, "data: same\n\n", now);
    append(&mut log, "data: same\n\n", now);
    assert_eq!(log.find(|_| true), Some(positions[3]));
}

#[test]
fn blocks_are_evicted_above_the_maximum_size() {
    let event = |log: &mut Log| append(log, "data: 1\n\n", Instant::now());
    let size = "data: 1\n\n".len() + BLOCK_OVERHEAD;
    for (bytes, count) in [(2 * size, 2), (2 * size - 1, 1)] {
        let mut log = Log::new(Retention::default().bytes(bytes));
        event(&mut log);
        event(&mut log);
        assert_eq!(log.bytes(), count * size);
    }
}

#[tokio::test(start_paused = true)]
async fn lag_is_the_age_of_the_oldest_block_that_the_slowest_reader_has_not_read() {
    let second = Duration::from_secs(1);
    let log = shared_log(Retention::default());
    write(&log, &[b"data: a\n\n"]);
    let start = Instant::now();
    assert_eq!(log.lag(start + second), Duration::ZERO, "no reader");
    let [slow, fast] = [(); 2].map(|()| log.subscribe(log.oldest()));
    assert_eq!(log.lag(start + second), second);
    let mut cx = Context::from_waker(Waker::noop());
    let mut read = |reader| {
        let read = log.poll_read(reader, &mut cx, usize::MAX, &mut Vec::new());
        assert!(matches!(read, Poll::Ready(ReadOutcome::Blocks)));
    };
    read(fast);
    assert_eq!(log.lag(start + second), second);
    read(slow);
    assert_eq!(log.lag(start + second), Duration::ZERO);
    tokio::time::advance(second).await;
    write(&log, &[b"data: b\n\n", b"data: c\n\n"]);
    read(fast);
    assert_eq!(log.lag(start + 3 * second), 2 * second);
}
