//! What of a channel no stream shows from outside. (The models of its locking are a package of their own.)

mod boundaries;

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

use crate::codec::ChunkSlice;
use crate::log::{
    Ending, Log, LogState, Retention, SharedLog, StartAt, WriteDemand,
    event_log::BLOCK,
    shared_log::{ReadOutcome, Spare},
};

fn channel(bounds: Retention) -> SharedLog {
    SharedLog::new(bounds, Instant::now())
}

fn write(channel: &SharedLog, blocks: &[&'static [u8]]) {
    let blocks = blocks
        .iter()
        .map(|block| (ChunkSlice::from(Bytes::from_static(block)), true));
    channel.write(blocks, Instant::now());
}

/// What comes of one read.
fn read(channel: &SharedLog, seat: usize, most: usize) -> Option<Vec<u8>> {
    let mut blocks = Vec::new();
    let cx = &mut Context::from_waker(Waker::noop());
    match channel.poll_read(seat, cx, most, &mut blocks) {
        Poll::Ready(ReadOutcome::Blocks) => {
            Some(blocks.iter().flat_map(ChunkSlice::bytes).copied().collect())
        }
        _ => None,
    }
}

#[test]
fn a_read_is_so_much_and_at_least_a_block() {
    let channel = channel(Retention::default());
    let seat = channel.join(channel.oldest());
    write(&channel, &[b"aaaa", b"bb", b"cc", b"dd"]);
    assert_eq!(read(&channel, seat, 3).as_deref(), Some(&b"aaaa"[..]));
    assert_eq!(read(&channel, seat, 4).as_deref(), Some(&b"bbcc"[..]));
    assert_eq!(read(&channel, seat, 4).as_deref(), Some(&b"dd"[..]));
    assert_eq!(read(&channel, seat, 4), None);
}

#[test]
fn nobody_joins_what_does_not_go_on() {
    for ends in [
        |channel: &SharedLog| channel.abort(),
        |channel: &SharedLog| assert!(channel.retire() == 0),
        |channel: &SharedLog| assert!(channel.abandon()),
        |channel: &SharedLog| channel.suspend(Ending::Clean(None)),
        |channel: &SharedLog| channel.end(LogState::Complete, Ending::Clean(None)),
    ] {
        let channel = channel(Retention::default());
        let seat = channel.join_live(StartAt::Live).expect("it goes on");
        assert!(!channel.abandon(), "somebody reads");
        channel.leave(seat, Instant::now());
        assert!(channel.join_live(StartAt::Oldest).is_some());
        channel.leave(0, Instant::now());
        ends(&channel);
        assert_eq!(channel.join_live(StartAt::Live), None);
        assert_eq!(channel.join_live(StartAt::Oldest), None);
    }
}

#[test]
fn the_writer_heeds_the_one_who_has_read_the_most() {
    let channel = channel(Retention::default().events(2));
    let cx = &mut Context::from_waker(Waker::noop());
    let (one, two) = (
        channel.join(channel.oldest()),
        channel.join(channel.oldest()),
    );
    let room = |channel: &SharedLog, cx: &mut Context<'_>| match channel.poll_demand(cx, 0) {
        WriteDemand::Write { blocks, .. } => blocks,
        _ => 0,
    };
    assert_eq!(room(&channel, cx), 2);
    write(&channel, &[b"a", b"b"]);
    assert_eq!(room(&channel, cx), 0);
    assert!(read(&channel, one, 1).is_some());
    assert_eq!(room(&channel, cx), 1);
    assert!(read(&channel, one, 1).is_some());
    assert_eq!(room(&channel, cx), 2);
    // With it goes what it had read.
    channel.leave(one, Instant::now());
    assert_eq!(room(&channel, cx), 0);
    assert!(read(&channel, two, 2).is_some());
    assert_eq!(room(&channel, cx), 2);
    channel.leave(two, Instant::now());
    assert!(
        room(&channel, cx) > 2,
        "for nobody there is no need to wait"
    );
}

#[test]
fn who_is_alone_is_so_since_the_last_one_left() {
    let channel = channel(Retention::default());
    let begun = channel.without_readers_since().expect("nobody is there");
    let (one, two) = (
        channel.join(channel.oldest()),
        channel.join(channel.oldest()),
    );
    assert_eq!(channel.without_readers_since(), None);
    channel.leave(one, begun + Duration::from_secs(1));
    assert_eq!(channel.without_readers_since(), None);
    channel.leave(two, begun + Duration::from_secs(2));
    assert_eq!(
        channel.without_readers_since(),
        Some(begun + Duration::from_secs(2))
    );
}

#[test]
fn the_writer_heeds_what_the_next_block_takes() {
    let channel = channel(Retention::default().bytes(200));
    let cx = &mut Context::from_waker(Waker::noop());
    let seat = channel.join(channel.oldest());
    let mut demand = |next| channel.poll_demand(cx, next);
    // With nothing unread one is written, however large.
    assert!(matches!(
        demand(1000),
        WriteDemand::Write { bytes: 200, .. }
    ));
    write(&channel, &[b"a"]);
    let WriteDemand::Write { bytes: room, .. } = demand(0) else {
        panic!("there is room");
    };
    assert!(room < 199, "what it takes to keep a block counts");
    assert!(matches!(demand(room), WriteDemand::Write { .. }));
    assert_eq!(demand(room + 1), WriteDemand::Wait);
    write(&channel, &[b"b", b"c", b"d", b"e"]);
    assert_eq!(demand(0), WriteDemand::Wait, "there is no room at all");
    assert!(read(&channel, seat, 5).is_some());
    assert!(matches!(
        demand(1000),
        WriteDemand::Write { bytes: 200, .. }
    ));
    channel.abort();
    assert_eq!(demand(0), WriteDemand::Stop);
}

#[test]
fn another_answer_is_taken_once_and_only_while_it_is_waited_for() {
    let suspended = || {
        let channel = channel(Retention::default());
        assert!(!channel.resume(), "the first goes on");
        assert!(!channel.stop_waiting());
        channel.suspend(Ending::Clean(None));
        channel
    };
    let channel = suspended();
    assert!(channel.resume());
    assert!(!channel.resume());
    assert!(!channel.stop_waiting(), "one has come");
    for stops in [
        |channel: &SharedLog| assert!(channel.stop_waiting()),
        |channel: &SharedLog| channel.abort(),
        |channel: &SharedLog| assert_eq!(channel.retire(), 0),
        |channel: &SharedLog| channel.end(LogState::Suspended, Ending::Clean(None)),
    ] {
        let channel = suspended();
        stops(&channel);
        assert!(!channel.resume());
    }
}

#[test]
fn what_is_over_counts_with_all_that_it_takes() {
    let channel = channel(Retention::default());
    write(&channel, &[b"a"]);
    let kept = channel.shrink(0, Spare::Connected);
    assert_eq!(kept, 0);
    assert_eq!(channel.count_rest(500), (500, 0));
    assert_eq!(channel.count_rest(700), (700, 500));
    channel.end(LogState::Complete, Ending::Clean(None));
    let all = channel.shrink(usize::MAX, Spare::Connected);
    assert!(all > 700, "the block, and what the stream takes");
    write(&channel, &[b"b"]);
    assert_eq!(channel.retire(), 0, "nothing is written after the end");
    assert_eq!(
        channel.shrink(usize::MAX, Spare::Connected),
        0,
        "it is accounted for elsewhere"
    );
}

#[test]
fn writes_are_counted() {
    let channel = channel(Retention::default());
    write(&channel, &[b"a", b"b"]);
    write(&channel, &[b"c"]);
    assert_eq!(channel.writes(), 2);
}

/// Counts how often it is woken.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn the_writer_is_woken_when_it_waits_for_what_is_read_and_not_otherwise() {
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let cx = &mut Context::from_waker(&waker);
    let woken = || wakes.0.swap(0, Ordering::Relaxed);
    let channel = channel(Retention::default().events(4));
    let (one, two) = (
        channel.join(channel.oldest()),
        channel.join(channel.oldest()),
    );
    // It takes room while it is unread, and is no event.
    channel.write(
        [(ChunkSlice::from(Bytes::from_static(b":")), false)],
        Instant::now(),
    );
    write(&channel, &[b"a", b"b", b"c"]);
    assert_eq!(channel.poll_demand(cx, 0), WriteDemand::Wait);
    assert!(read(&channel, one, 1).is_some());
    assert_eq!(woken(), 1);
    // It does not wait: there is room.
    assert!(matches!(
        channel.poll_demand(cx, 0),
        WriteDemand::Write { .. }
    ));
    write(&channel, &[b"d"]);
    assert_eq!(channel.poll_demand(cx, 0), WriteDemand::Wait);
    // Those who are behind make no room, and come no farther by what they read.
    assert!(read(&channel, two, 1).is_some());
    let beside = channel.join(channel.oldest());
    assert_eq!(woken(), 0);
    channel.leave(beside, Instant::now());
    assert_eq!(woken(), 1, "who leaves may have been the last");
    assert_eq!(channel.poll_demand(cx, 0), WriteDemand::Wait);
    channel.join_live(StartAt::Live).expect("it goes on");
    assert_eq!(woken(), 1, "who joins ahead has read all, as it were");
    assert!(matches!(
        channel.poll_demand(cx, 0),
        WriteDemand::Write { .. }
    ));
    channel.join_live(StartAt::Live).expect("it goes on");
    write(&channel, &[b"e"]);
    channel.join_live(StartAt::Live).expect("it goes on");
    assert_eq!(woken(), 0, "it does not wait");
}

#[test]
fn what_is_found_is_the_last_that_was_sent() {
    let now = Instant::now();
    let mut log = Log::new(Retention::default().events(3)).manual_commit();
    let positions: Vec<_> = (0..4)
        .map(|_| {
            let position = log.append("data: same\n\n".into(), now);
            log.commit(position);
            position
        })
        .collect();
    assert_eq!(log.find(|_| true), Some(positions[3]));
    // Of two that nobody has yet, and one that was let go of.
    log.append("data: same\n\n".into(), now);
    log.append("data: same\n\n".into(), now);
    assert_eq!(log.find(|_| true), Some(positions[3]));
}

#[test]
fn bytes_are_let_go_of_when_they_are_more_than_there_is_room_for() {
    let event = |log: &mut Log| log.append("data: 1\n\n".into(), Instant::now());
    let size = "data: 1\n\n".len() + BLOCK;
    for (bytes, left) in [(2 * size, 2), (2 * size - 1, 1)] {
        let mut log = Log::new(Retention::default().bytes(bytes));
        event(&mut log);
        event(&mut log);
        assert_eq!(log.bytes(), left * size);
    }
}
