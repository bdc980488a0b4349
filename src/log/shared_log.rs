//! The log of a recorded stream, shared by its writer and its readers.

mod lifecycle;
mod memory;

use std::{
    sync::{Arc, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use http::HeaderMap;
use slab::Slab;
use tokio::time::Instant;

use crate::{
    codec::{ChunkSlice, id_of},
    error::{Error, ErrorKind},
    log::{
        Cursor, LogState, Position, ReadResult, ResumePoint, Retention,
        event_log::Log,
        sync::{Mutex, MutexGuard},
    },
};

pub(crate) use memory::Protected;

/// The number of blocks and bytes that a writer may write before it checks for readers again.
const BLOCKS_PER_WRITE: u64 = 1024;
const BYTES_PER_WRITE: u64 = 256 << 10;

/// A [`Log`] with the readers that wait for blocks, and the writer that waits for readers.
///
/// A stream with a single reader never drops unread events: the writer applies backpressure. With several readers, the fastest one
/// sets the pace.
///
/// No waker is called while the lock is held, because a woken task may take the lock at once.
#[derive(Debug)]
pub(crate) struct SharedLog {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    log: Log,
    retention: Retention,
    subscribers: Slab<Subscriber>,
    /// The cursor of the fastest reader.
    fastest: Cursor,
    writer: Option<Waker>,
    /// The writer waits for a reader.
    writer_waits: bool,
    /// When the last reader left. Valid while there is no reader.
    detached_since: Instant,
    /// How the last response ended. Valid unless the state is [`LogState::Live`].
    ending: Ending,
    /// The stream was closed by [`SharedLog::abort`]: the writer has to stop, and the stream cannot be resumed.
    aborted: bool,
    /// All events were evicted for other streams while no client read the stream: the writer has to stop.
    evicted: bool,
    /// No other response can continue the stream, and no client can join it.
    is_final: bool,
    /// Removed from the registry; its memory is not counted.
    retired: bool,
    /// The memory, in bytes, that the stream takes beside its log.
    overhead: usize,
    /// The number of calls of [`SharedLog::write`].
    write_count: u64,
}

#[derive(Debug)]
struct Subscriber {
    cursor: Cursor,
    waker: Option<Waker>,
}

/// How a response of the upstream ended.
#[derive(Clone, Debug)]
pub(crate) enum Ending {
    /// With these trailers.
    Clean(Option<Box<HeaderMap>>),
    Broken(Arc<Error>),
}

/// The demand of the readers: whether the writer may write.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum WriteDemand {
    /// Write at most `blocks` blocks and `bytes` bytes.
    Write { blocks: u64, bytes: u64 },
    /// Wait for a reader.
    Wait,
    /// Stop: the stream was aborted, or evicted for other streams.
    Stop,
}

/// The result of a read.
#[derive(Debug)]
pub(crate) enum ReadOutcome {
    /// Blocks, which are in the buffer of the call.
    Blocks,
    End(Option<Box<HeaderMap>>),
    Failed(Error),
}

/// The position of a client that resumes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CursorLookup {
    /// There are events to read, or they are still to come.
    At(Cursor),
    /// The client has all events of a stream that is not live.
    Tail(LogState, Cursor),
    Evicted,
    Unknown,
}

/// Where a client that joins a shared stream starts to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartAt {
    /// With the next event. The default.
    #[default]
    Live,
    /// With the oldest event in the log.
    Oldest,
}

impl SharedLog {
    /// `now` is the time since which the stream has no reader.
    pub(crate) fn new(retention: Retention, now: Instant) -> Self {
        let log = Log::new(retention);
        let inner = Inner {
            retention,
            subscribers: Slab::new(),
            fastest: log.live_edge(),
            log,
            writer: None,
            writer_waits: false,
            detached_since: now,
            ending: Ending::Clean(None),
            aborted: false,
            evicted: false,
            is_final: false,
            retired: false,
            overhead: 0,
            write_count: 0,
        };
        Self {
            inner: Mutex::new(inner),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The position of a client that has received this event.
    pub(crate) fn locate(&self, position: Position) -> CursorLookup {
        let inner = self.lock();
        inner.lookup(inner.log.locate(position))
    }

    /// The position of a client that has no event of the stream.
    pub(crate) fn start(&self) -> CursorLookup {
        let inner = self.lock();
        inner.lookup(inner.log.start())
    }

    /// The position of the last event with this id of the upstream. Blanks around an id do not count: header values lose them
    /// (RFC 9110 5.5).
    pub(crate) fn position_of(&self, id: &str) -> Option<Position> {
        let id = id.as_bytes().trim_ascii();
        self.lock()
            .log
            .find(|event| id_of(event).is_some_and(|other| other.trim_ascii() == id))
    }

    /// The cursor before the oldest block.
    pub(crate) fn oldest(&self) -> Cursor {
        self.lock().log.oldest()
    }

    /// The cursor before the oldest block, and the last event of the stream if the log has no event left.
    pub(crate) fn oldest_or_last(&self) -> (Cursor, Option<Position>) {
        let inner = self.lock();
        (inner.log.oldest(), inner.log.last_if_evicted())
    }

    /// Adds a subscriber at this cursor. [`unsubscribe`](Self::unsubscribe) has to remove it.
    pub(crate) fn subscribe(&self, cursor: Cursor) -> usize {
        let mut inner = self.lock();
        let (subscriber, writer) = inner.subscribe(cursor);
        drop(inner);
        wake(writer);
        subscriber
    }

    /// Whether a client can join now. Joining can fail after that, if the stream ends first.
    pub(crate) fn is_joinable(&self) -> bool {
        let inner = self.lock();
        !inner.is_final && inner.log.state() == LogState::Live
    }

    /// Adds a subscriber to a live stream. Returns `None` if the stream is not live.
    pub(crate) fn join(&self, start: StartAt) -> Option<usize> {
        let mut inner = self.lock();
        if inner.is_final || inner.log.state() != LogState::Live {
            return None;
        }
        let cursor = match start {
            StartAt::Live => inner.log.live_edge(),
            StartAt::Oldest => inner.log.oldest(),
        };
        let (subscriber, writer) = inner.subscribe(cursor);
        drop(inner);
        wake(writer);
        Some(subscriber)
    }

    /// Removes a subscriber.
    pub(crate) fn unsubscribe(&self, subscriber: usize, now: Instant) {
        let mut inner = self.lock();
        let cursor = inner.subscribers.remove(subscriber).cursor;
        if inner.subscribers.is_empty() {
            inner.subscribers = Slab::new();
            inner.detached_since = now;
        } else if cursor == inner.fastest {
            // If many readers leave at once, usually another reader has the same cursor.
            let mut others = inner.subscribers.iter().map(|(_, other)| other.cursor);
            if !others.any(|other| other == cursor) {
                let others = inner.subscribers.iter().map(|(_, other)| other.cursor);
                inner.fastest = others.max().unwrap_or(cursor);
            }
        }
        let writer = inner.writer.take();
        drop(inner);
        wake(writer);
    }

    /// Whether there is an event after the subscriber's cursor, in the log or evicted.
    pub(crate) fn has_events(&self, subscriber: usize) -> bool {
        let inner = self.lock();
        let subscriber = inner.subscribers.get(subscriber);
        subscriber.is_some_and(|Subscriber { cursor, .. }| {
            let read = inner.log.read(*cursor, 0, true);
            matches!(read, ReadResult::Evicted) || inner.log.has_events_from(*cursor)
        })
    }

    /// Reads blocks of at most `max_bytes`, or one block that is larger, and adds them to `blocks`.
    ///
    /// A subscriber that has missed an evicted event gets [`ErrorKind::Lagged`].
    pub(crate) fn poll_read(
        &self,
        subscriber: usize,
        cx: &mut Context<'_>,
        max_bytes: usize,
        blocks: &mut Vec<ChunkSlice>,
    ) -> Poll<ReadOutcome> {
        let mut inner = self.lock();
        let Inner {
            log, subscribers, ..
        } = &mut *inner;
        let Some(Subscriber { cursor, waker }) = subscribers.get_mut(subscriber) else {
            return Poll::Ready(ReadOutcome::End(None));
        };
        let mut bytes = 0;
        let stop = loop {
            match log.read(*cursor, max_bytes.saturating_sub(bytes), bytes == 0) {
                ReadResult::Blocks(span, next) => {
                    bytes += span.len();
                    *cursor = next;
                    blocks.push(span);
                }
                stop => break stop,
            }
        };
        if bytes > 0 {
            let cursor = *cursor;
            let is_fastest = cursor > inner.fastest;
            inner.fastest = inner.fastest.max(cursor);
            let wakes = is_fastest && inner.writer_waits;
            let writer = wakes.then(|| inner.writer.take()).flatten();
            drop(inner);
            wake(writer);
            return Poll::Ready(ReadOutcome::Blocks);
        }
        match stop {
            ReadResult::Evicted => Poll::Ready(ReadOutcome::Failed(Error::new(ErrorKind::Lagged))),
            ReadResult::Wait if log.state() != LogState::Suspended => {
                match waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    None => *waker = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
            _ => Poll::Ready(match &inner.ending {
                Ending::Clean(trailers) => ReadOutcome::End(trailers.clone()),
                Ending::Broken(error) => ReadOutcome::Failed(Error::shared(error)),
            }),
        }
    }

    /// Returns the demand of the readers. `next_size` is the size, in bytes, of the writer's next block, or 0. The writer is woken when the
    /// demand changes.
    pub(crate) fn poll_demand(&self, cx: &mut Context<'_>, next_size: u64) -> WriteDemand {
        let mut inner = self.lock();
        match &mut inner.writer {
            Some(writer) => writer.clone_from(cx.waker()),
            writer => *writer = Some(cx.waker().clone()),
        }
        let demand = inner.demand(next_size);
        inner.writer_waits = demand == WriteDemand::Wait;
        demand
    }

    /// The number of readers.
    pub(crate) fn readers(&self) -> usize {
        self.lock().subscribers.len()
    }

    /// When the last reader left. `None` if there is a reader.
    pub(crate) fn detached_since(&self) -> Option<Instant> {
        let inner = self.lock();
        inner.subscribers.is_empty().then_some(inner.detached_since)
    }

    /// The position of the next block.
    pub(crate) fn next_position(&self) -> Position {
        self.lock().log.next_position()
    }

    /// Appends blocks, each with whether it is an event. Returns the memory of the log, in bytes, after and before.
    pub(crate) fn write(
        &self,
        blocks: impl IntoIterator<Item = (ChunkSlice, bool)>,
        now: Instant,
    ) -> (usize, usize) {
        let mut inner = self.lock();
        let before = inner.log.memory();
        let mut unread = inner.unread();
        for (block, is_event) in blocks {
            unread = unread.map(|unread| unread + 1);
            inner.log.append(block, is_event, now, unread.unwrap_or(1));
        }
        inner.write_count += 1;
        let after = inner.log.memory();
        let readers = inner.take_wakers();
        drop(inner);
        readers.into_iter().for_each(Waker::wake);
        (after, before)
    }

    /// Whether the fastest reader has read everything, or there is no reader. If not, the writer is woken when that changes.
    pub(crate) fn poll_caught_up(&self, cx: &mut Context<'_>) -> bool {
        let mut inner = self.lock();
        let caught_up = inner.unread().unwrap_or(0) == 0;
        if !caught_up {
            inner.writer = Some(cx.waker().clone());
            inner.writer_waits = true;
        }
        caught_up
    }

    /// Makes the writer check its limits again.
    pub(crate) fn wake_writer(&self) {
        let writer = self.lock().writer.take();
        wake(writer);
    }

    /// The age of the oldest block that some reader has not read. Zero if all readers have read everything.
    pub(crate) fn lag(&self, now: Instant) -> Duration {
        let inner = self.lock();
        let slowest = inner.subscribers.iter().map(|(_, reader)| reader.cursor);
        let since = slowest.min().and_then(|cursor| inner.log.since(cursor));
        since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// The number of calls of [`write`](Self::write).
    pub(crate) fn write_count(&self) -> u64 {
        self.lock().write_count
    }
}

impl Inner {
    fn lookup(&self, point: ResumePoint) -> CursorLookup {
        match point {
            ResumePoint::After(cursor) => match self.log.state() {
                // Comments carry no id: a client that got only comments would resume at the same event again and again.
                state if state != LogState::Live && !self.log.has_events_from(cursor) => {
                    CursorLookup::Tail(state, cursor)
                }
                _ => CursorLookup::At(cursor),
            },
            ResumePoint::Evicted => CursorLookup::Evicted,
            ResumePoint::Unknown => CursorLookup::Unknown,
        }
    }

    /// Adds a subscriber. Also returns the waker of the writer, if it waits for slower readers than this one, or if the stream was
    /// detached: the writer then releases its slot among the detached streams.
    fn subscribe(&mut self, cursor: Cursor) -> (usize, Option<Waker>) {
        let was_detached = self.subscribers.is_empty();
        if was_detached {
            self.fastest = cursor;
        }
        let wakes = was_detached || (cursor > self.fastest && self.writer_waits);
        let writer = wakes.then(|| self.writer.take()).flatten();
        self.fastest = self.fastest.max(cursor);
        let waker = None;
        let subscriber = self.subscribers.insert(Subscriber { cursor, waker });
        (subscriber, writer)
    }

    /// The number of blocks that no reader has read. `None` if there is no reader.
    fn unread(&self) -> Option<usize> {
        let is_read = !self.subscribers.is_empty();
        is_read.then(|| self.log.size_from(self.fastest).0 as usize)
    }

    /// Whether the writer has to stop before the upstream ends.
    fn must_stop(&self) -> bool {
        self.aborted || self.evicted
    }

    fn demand(&self, next_size: u64) -> WriteDemand {
        if self.must_stop() {
            return WriteDemand::Stop;
        }
        if self.subscribers.is_empty() {
            let (blocks, bytes) = (BLOCKS_PER_WRITE, BYTES_PER_WRITE);
            return WriteDemand::Write { blocks, bytes };
        }
        // Blocks that the fastest reader has not read are not evicted: it would have a gap without being slow.
        let (blocks, bytes) = self.log.size_from(self.fastest);
        let free_blocks = (self.retention.events as u64).max(1).saturating_sub(blocks);
        let free_bytes = (self.retention.bytes as u64).saturating_sub(bytes);
        if blocks > 0 && (free_blocks == 0 || free_bytes < next_size.max(1)) {
            return WriteDemand::Wait;
        }
        WriteDemand::Write {
            blocks: free_blocks.min(BLOCKS_PER_WRITE),
            bytes: free_bytes.clamp(1, BYTES_PER_WRITE),
        }
    }

    /// The wakers of all waiting readers, to be called after the lock is released.
    fn take_wakers(&mut self) -> Vec<Waker> {
        let subscribers = self.subscribers.iter_mut();
        subscribers
            .filter_map(|(_, subscriber)| subscriber.waker.take())
            .collect()
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
