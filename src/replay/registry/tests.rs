//! Which events are evicted when the logs exceed a limit.

use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::time::Instant;

use super::*;
use crate::log::{Retention, SINGLE_BLOCK_OVERHEAD, shared_log::ReadOutcome};

/// A stream with a log. A busy stream is written to whenever the registry accesses its log.
struct Stream {
    log: SharedLog,
    is_busy: bool,
    owner: u32,
    account: Arc<Account>,
}

/// A registry in which one owner may hold all bytes.
fn registry(bytes: usize) -> LogRegistry<Stream> {
    LogRegistry::new(Quota {
        bytes,
        bytes_per_owner: Some(bytes),
        ..Quota::default()
    })
}

impl Stream {
    fn write(&self, bytes: usize) -> (usize, usize) {
        let event = Bytes::from(vec![b'x'; bytes]);
        self.log.write([(event.into(), true)], Instant::now())
    }
}

impl Registered for Stream {
    type StreamOwner = ();
    type Owner = u32;

    fn stream_owner(&self) -> &() {
        &()
    }

    fn owner(&self) -> &u32 {
        &self.owner
    }

    fn account(&self) -> &Arc<Account> {
        &self.account
    }

    fn log(&self) -> &SharedLog {
        if self.is_busy {
            self.log.write([], Instant::now());
        }
        &self.log
    }
}

fn new_stream(registry: &LogRegistry<Stream>, owner: u32, is_busy: bool) -> Arc<Stream> {
    Arc::new(Stream {
        log: SharedLog::new(Retention::default(), Instant::now()),
        is_busy,
        owner,
        account: registry.account_of(&owner),
    })
}

fn stream(registry: &LogRegistry<Stream>, is_busy: bool) -> Arc<Stream> {
    let stream = new_stream(registry, 0, is_busy);
    registry.insert(StreamId::random(), Arc::clone(&stream));
    stream
}

/// A detached stream of this owner with some events, each of [`EVENT`] bytes. Also returns whether a limit is still exceeded.
fn detached(registry: &LogRegistry<Stream>, owner: u32, events: usize) -> (Arc<Stream>, bool) {
    let stream = new_stream(registry, owner, false);
    registry.insert(StreamId::random(), Arc::clone(&stream));
    let mut is_exceeded = false;
    for _ in 0..events {
        is_exceeded = registry.account(&stream, stream.write(100));
    }
    (stream, is_exceeded)
}

/// Subscribes a client, which reads everything.
fn read_all(stream: &Stream) {
    let subscriber = stream.log.subscribe(stream.log.oldest());
    let mut cx = Context::from_waker(Waker::noop());
    let read = stream
        .log
        .poll_read(subscriber, &mut cx, usize::MAX, &mut Vec::new());
    assert!(matches!(read, Poll::Ready(ReadOutcome::Blocks)));
}

/// The bytes that these streams hold. Retires them.
fn retired<const N: usize>(streams: [&Arc<Stream>; N]) -> [usize; N] {
    streams.map(|stream| stream.log.retire())
}

const EVENT: usize = 100 + SINGLE_BLOCK_OVERHEAD;

#[test]
fn least_recently_written_log_is_evicted_first() {
    let registry = registry(3 * EVENT);
    let written = || {
        let stream = stream(&registry, false);
        registry.account(&stream, stream.write(100));
        stream
    };
    let (a, b, c) = (written(), written(), written());
    assert_eq!(registry.bytes(), 3 * EVENT, "three logs fit");
    let d = written();
    assert_eq!(registry.bytes(), 3 * EVENT);
    // Writing `d` has evicted `a`. Writing `b` again evicts `c`, which is now the least recently written.
    registry.account(&b, b.write(100));
    assert_eq!(registry.bytes(), 3 * EVENT);
    assert_eq!(retired([&a, &b, &c, &d]), [0, 2 * EVENT, 0, EVENT]);
}

#[test]
fn account_returns_whether_a_limit_is_exceeded_after_eviction() {
    let registry = registry(2 * EVENT);
    let detached = [(); 3].map(|()| stream(&registry, false));
    for stream in &detached {
        assert!(!registry.account(stream, stream.write(100)));
    }
    assert_eq!(registry.bytes(), 2 * EVENT, "the oldest log was evicted");
    let connected = stream(&registry, false);
    connected.log.subscribe(connected.log.oldest());
    assert!(!registry.account(&connected, connected.write(100)));
    assert!(!registry.account(&connected, connected.write(100)));
    // Only events that the client has not read are left.
    assert!(registry.account(&connected, connected.write(100)));
}

#[test]
fn busy_streams_are_evicted_too() {
    let registry = registry(0);
    let busy = [(); 5].map(|()| stream(&registry, true));
    for stream in &busy {
        stream.write(100);
    }
    registry.account(&busy[0], (5 * EVENT, 0));
    assert_eq!(registry.bytes(), 0);
    assert_eq!(retired(busy.each_ref()), [0; 5]);
}

#[test]
fn busy_detached_streams_are_evicted_before_events_that_a_client_has_read() {
    let registry = registry(2 * EVENT);
    let detached = [(); 3].map(|()| stream(&registry, true));
    let connected = stream(&registry, false);
    let subscriber = connected.log.subscribe(connected.log.oldest());
    let write = || registry.account(&connected, connected.write(100));
    write();
    let mut cx = Context::from_waker(Waker::noop());
    let read = connected
        .log
        .poll_read(subscriber, &mut cx, usize::MAX, &mut Vec::new());
    assert!(matches!(read, Poll::Ready(ReadOutcome::Blocks)));
    for stream in &detached {
        registry.account(stream, stream.write(100));
    }
    write();
    assert_eq!(retired(detached.each_ref()), [0; 3]);
    assert_eq!(retired([&connected]), [2 * EVENT]);
}

#[test]
fn events_that_a_client_has_read_are_evicted_and_no_longer_counted() {
    let registry = registry(2 * EVENT);
    let connected = stream(&registry, false);
    let subscriber = connected.log.subscribe(connected.log.oldest());
    for _ in 0..4 {
        registry.account(&connected, connected.write(100));
        let mut cx = Context::from_waker(Waker::noop());
        let (log, mut blocks) = (&connected.log, Vec::new());
        let read = log.poll_read(subscriber, &mut cx, usize::MAX, &mut blocks);
        assert!(matches!(read, Poll::Ready(ReadOutcome::Blocks)));
    }
    assert_eq!(registry.bytes(), 2 * EVENT);
    assert_eq!(retired([&connected]), [2 * EVENT]);
}

/// The layer may hold 6 events, and one owner 5 of them.
fn registry_of_several_owners() -> LogRegistry<Stream> {
    LogRegistry::new(Quota {
        bytes: 6 * EVENT,
        bytes_per_owner: Some(5 * EVENT),
        ..Quota::default()
    })
}

#[test]
fn full_layer_evicts_from_the_largest_owner_first() {
    let registry = registry_of_several_owners();
    let (large, _) = detached(&registry, 1, 4);
    let (small, _) = detached(&registry, 2, 2);
    let (new, is_exceeded) = detached(&registry, 3, 1);
    assert!(!is_exceeded);
    assert_eq!(
        retired([&large, &small, &new]),
        [3 * EVENT, 2 * EVENT, EVENT]
    );
}

#[test]
fn full_layer_evicts_from_each_larger_owner_at_most_its_surplus_over_the_writing_owner() {
    let registry = registry_of_several_owners();
    let (one, _) = detached(&registry, 1, 3);
    let (two, _) = detached(&registry, 2, 3);
    let (new, is_exceeded) = detached(&registry, 3, 0);
    assert!(!is_exceeded);
    let event = |_| Bytes::from(vec![b'x'; 100]);
    let events: Vec<_> = (0..2).map(event).map(|e| (e.into(), true)).collect();
    let change = new.log.write(events, Instant::now());
    assert!(!registry.account(&new, change));
    assert_eq!(retired([&one, &two, &new]), [2 * EVENT; 3]);
}

#[test]
fn owner_with_an_equal_share_loses_nothing_to_others() {
    let registry = registry_of_several_owners();
    let (one, _) = detached(&registry, 1, 2);
    let (two, _) = detached(&registry, 2, 2);
    let (new, is_exceeded) = detached(&registry, 3, 3);
    assert!(!is_exceeded);
    assert_eq!(retired([&one, &two, &new]), [2 * EVENT; 3]);
}

/// Each owner is within its limit, but all together exceed that of the layer.
#[test]
fn writer_waits_when_all_events_of_a_full_layer_are_unread() {
    let registry = registry_of_several_owners();
    for owner in 1..=3 {
        let stream = new_stream(&registry, owner, false);
        registry.insert(StreamId::random(), Arc::clone(&stream));
        stream.log.subscribe(stream.log.oldest());
        for event in 0..3 {
            let is_exceeded = registry.account(&stream, stream.write(100));
            assert_eq!(is_exceeded, owner == 3, "{owner} {event}");
        }
    }
}

#[test]
fn eviction_from_detached_logs_stops_at_the_limit() {
    let registry = registry(4 * EVENT);
    let (first, _) = detached(&registry, 0, 2);
    let (second, _) = detached(&registry, 0, 2);
    registry.account(&second, (3 * EVENT, 0));
    assert_eq!(retired([&first, &second]), [0, EVENT]);
}

/// Streams of one owner, each with some events. A client has read them if `is_read`. The registry does not count them yet.
fn uncounted<const N: usize>(
    registry: &LogRegistry<Stream>,
    streams: [(usize, bool); N],
) -> [Arc<Stream>; N] {
    streams.map(|(events, is_read)| {
        let stream = stream(registry, false);
        for _ in 0..events {
            stream.write(100);
        }
        if is_read {
            read_all(&stream);
        }
        stream
    })
}

#[test]
fn read_events_are_evicted_after_detached_logs_and_from_the_newest_stream_first() {
    let registry = registry(4 * EVENT);
    let streams = uncounted(&registry, [(1, false), (3, true), (3, true)]);
    registry.account(&streams[2], (7 * EVENT, 0));
    assert_eq!(registry.bytes(), 4 * EVENT);
    assert_eq!(retired(streams.each_ref()), [0, 3 * EVENT, EVENT]);
}

#[test]
fn events_that_are_not_counted_yet_do_not_cause_more_eviction() {
    let registry = registry(5 * EVENT);
    let streams = uncounted(&registry, [(3, true), (3, true), (2, true)]);
    // The registry does not count the two events of the last stream.
    registry.account(&streams[1], (6 * EVENT, 0));
    assert_eq!(retired(streams.each_ref()), [3 * EVENT, 3 * EVENT, EVENT]);
}

#[test]
fn queue_drops_removed_streams_when_they_are_the_majority() {
    // The number of streams, of those that are removed, and of the entries in the queue after that.
    for (all, removed, queued) in [
        (100, 1, 100),
        (100, 50, 100),
        (100, 51, 49),
        (64, 64, 64),
        (65, 32, 65),
        (65, 33, 32),
    ] {
        let registry = registry(0);
        let ids: Vec<_> = (0..all).map(|_| StreamId::random()).collect();
        for &id in &ids {
            registry.insert(id, new_stream(&registry, 0, false));
        }
        for &id in &ids[..removed] {
            registry.remove(id);
        }
        assert_eq!(
            registry.lock().by_owner[&0].eviction_queue.len(),
            queued,
            "{removed} of {all}"
        );
        assert_eq!(registry.len(), all - removed);
    }
}

#[test]
fn accounts_of_owners_without_streams_are_dropped_when_they_are_the_majority() {
    let registry = registry(0);
    let _stream = stream(&registry, false);
    let held = registry.account_of(&1);
    for owner in 2..1000 {
        registry.account_of(&owner);
    }
    let owners = registry.lock().by_owner.len();
    assert!(owners <= 65, "{owners}");
    assert!(Arc::ptr_eq(&held, &registry.account_of(&1)));
    assert!(registry.lock().by_owner.contains_key(&0));
}

#[test]
fn accounts_stay_while_their_owners_have_streams() {
    let registry = registry(0);
    let streams: Vec<_> = (0..100)
        .map(|owner| (StreamId::random(), new_stream(&registry, owner, false)))
        .collect();
    for (id, stream) in &streams {
        registry.insert(*id, Arc::clone(stream));
    }
    for owner in 1000..2000 {
        registry.account_of(&owner);
    }
    let owners = registry.lock().by_owner.len();
    assert!((150..=201).contains(&owners), "{owners}");
    for (id, _) in streams {
        registry.remove(id);
    }
    for owner in 2000..3000 {
        registry.account_of(&owner);
    }
    let owners = registry.lock().by_owner.len();
    assert!(owners <= 65, "{owners}");
}

#[test]
fn debug_shows_the_number_of_streams_and_their_bytes() {
    let registry = registry(1000);
    let one = stream(&registry, false);
    stream(&registry, false);
    registry.account(&one, one.write(100));
    let shown = format!("LogRegistry {{ streams: 2, bytes: {EVENT} }}");
    assert_eq!(format!("{registry:?}"), shown);
}

#[test]
fn eviction_before_accounting_evicts_nothing_else() {
    let registry = registry(500);
    let stream = |bytes| {
        let stream = stream(&registry, false);
        let change = stream.write(bytes);
        (stream, change)
    };
    let (one, uncounted) = stream(1000);
    // Another stream needs room.
    registry.account(&one, (600, 0));
    let (other, change) = stream(100);
    registry.account(&other, change);
    assert_eq!(one.log.retire(), 0);
    assert_eq!(other.log.retire(), change.0);
    registry.account(&one, uncounted);
    assert_eq!(registry.bytes(), 600 + change.0);
}
