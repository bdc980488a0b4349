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
        &0
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

fn stream(registry: &LogRegistry<Stream>, is_busy: bool) -> Arc<Stream> {
    let log = SharedLog::new(Retention::default(), Instant::now());
    let stream = Arc::new(Stream {
        log,
        is_busy,
        account: registry.account_of(&0),
    });
    registry.insert(StreamId::random(), Arc::clone(&stream));
    stream
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
    // The first was evicted as the oldest. The third and the fourth were not written to after that.
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
fn busy_streams_without_a_client_are_evicted_before_events_that_a_client_has_read() {
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

#[test]
fn queue_drops_removed_streams_when_they_are_most() {
    // The number of streams, of removed ones, and of queue entries after that.
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
            let log = SharedLog::new(Retention::default(), Instant::now());
            let stream = Stream {
                log,
                is_busy: false,
                account: registry.account_of(&0),
            };
            registry.insert(id, Arc::new(stream));
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
fn accounts_of_owners_without_streams_are_dropped_when_they_are_most() {
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
