//! A log between the one who writes it and those who read it.

mod lifecycle;
mod memory;

use std::{
    sync::{Arc, PoisonError},
    task::{Context, Poll, Waker},
};

use http::HeaderMap;
use slab::Slab;
use tokio::time::Instant;

use crate::log::{
    LogState, Position, Retention,
    event_log::{Cursor, Log, RawRead, ReadResult, ResumePoint},
    sync::{Mutex, MutexGuard},
};
use crate::{
    codec::{ChunkSlice, id_of},
    error::{Error, ErrorKind},
};

pub(crate) use memory::Spare;

/// What a writer may be ahead of those who read, with nobody there to read: so much in one go.
const BLOCKS_A_GO: u64 = 1024;
const BYTES_A_GO: u64 = 256 << 10;

/// A log, the readers that wait for what comes next, and the writer that waits for them.
///
/// Nobody is woken while the lock is held, for who is woken may come for it at once.
#[derive(Debug)]
pub(crate) struct SharedLog {
    shared: Mutex<Shared>,
}

#[derive(Debug)]
struct Shared {
    log: Log,
    bounds: Retention,
    readers: Slab<Subscriber>,
    /// The place of the reader that has read the most.
    furthest: Cursor,
    writer: Option<Waker>,
    /// The writer waits for somebody to read.
    writer_waits: bool,
    /// Since when nobody reads.
    alone_since: Instant,
    /// How it ended, unless there is more to come.
    ending: Ending,
    /// The writer is to give up, and there is nothing to come back to.
    aborted: bool,
    /// There will be no other answer to go on with, and nobody can join.
    closed: bool,
    /// What is kept is accounted for no longer.
    retired: bool,
    /// What is counted beside the log.
    rest: usize,
    /// How many times something was written.
    writes: u64,
}

#[derive(Debug)]
struct Subscriber {
    cursor: Cursor,
    waker: Option<Waker>,
}

/// How an answer of the upstream ended.
#[derive(Clone, Debug)]
pub(crate) enum Ending {
    Clean(Option<Box<HeaderMap>>),
    Broken(Arc<Error>),
}

/// What the writer is to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum WriteDemand {
    /// Go on, with so much before it looks again.
    Write { blocks: u64, bytes: u64 },
    /// Wait until somebody has read.
    Wait,
    /// Give up the stream.
    Stop,
}

/// What a reader gets.
#[derive(Debug)]
pub(crate) enum ReadOutcome {
    /// What was put among the others.
    Blocks,
    End(Option<Box<HeaderMap>>),
    Failed(Error),
}

/// Where somebody is who wants to read on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CursorLookup {
    /// There is something to read, or it is on its way.
    At(Cursor),
    /// All that there is has been read, and this is what the stream has come to.
    Tail(LogState, Cursor),
    Evicted,
    Unknown,
}

/// Where a client begins that joins a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartAt {
    /// With what comes next.
    #[default]
    Live,
    /// With the oldest that is kept.
    Oldest,
}

impl SharedLog {
    pub(crate) fn new(bounds: Retention, now: Instant) -> Self {
        let log = Log::new(bounds);
        let shared = Shared {
            bounds,
            readers: Slab::new(),
            furthest: log.live_edge(),
            log,
            writer: None,
            writer_waits: false,
            alone_since: now,
            ending: Ending::Clean(None),
            aborted: false,
            closed: false,
            retired: false,
            rest: 0,
            writes: 0,
        };
        Self {
            shared: Mutex::new(shared),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the one is who has this event.
    pub(crate) fn locate(&self, position: Position) -> CursorLookup {
        let shared = self.lock();
        shared.place(shared.log.locate(position))
    }

    /// Where the one is who has nothing of it.
    pub(crate) fn start(&self) -> CursorLookup {
        let shared = self.lock();
        shared.place(shared.log.start())
    }

    /// The last event with this id. Blanks around it are lost on the way to a client and back (RFC 9110 5.5).
    pub(crate) fn position_of(&self, id: &str) -> Option<Position> {
        let id = id.as_bytes().trim_ascii();
        self.lock()
            .log
            .find(|event| id_of(event).is_some_and(|other| other.trim_ascii() == id))
    }

    /// The place before all that is kept.
    pub(crate) fn oldest(&self) -> Cursor {
        self.lock().log.oldest()
    }

    /// The same, and the last event there was if none is kept.
    pub(crate) fn oldest_or_last(&self) -> (Cursor, Option<Position>) {
        let shared = self.lock();
        (shared.log.oldest(), shared.log.last_if_evicted())
    }

    /// Takes a seat for somebody who reads on from there.
    pub(crate) fn join(&self, cursor: Cursor) -> usize {
        let mut shared = self.lock();
        let (seat, writer) = shared.join(cursor);
        drop(shared);
        wake(writer);
        seat
    }

    /// Whether a client can join now. Joining may fail all the same, if the stream ends first.
    pub(crate) fn is_joinable(&self) -> bool {
        let shared = self.lock();
        !shared.closed && shared.log.state() == LogState::Live
    }

    /// Takes a seat for somebody who joins a stream that goes on. There is none if it does not.
    pub(crate) fn join_live(&self, join: StartAt) -> Option<usize> {
        let mut shared = self.lock();
        if shared.closed || shared.log.state() != LogState::Live {
            return None;
        }
        let cursor = match join {
            StartAt::Live => shared.log.live_edge(),
            StartAt::Oldest => shared.log.oldest(),
        };
        let (seat, writer) = shared.join(cursor);
        drop(shared);
        wake(writer);
        Some(seat)
    }

    /// Gives up a seat.
    pub(crate) fn leave(&self, seat: usize, now: Instant) {
        let mut shared = self.lock();
        let left = shared.readers.remove(seat).cursor;
        if shared.readers.is_empty() {
            shared.readers = Slab::new();
            shared.alone_since = now;
        } else if left == shared.furthest {
            // When many leave, there is mostly another one who is as far.
            let mut others = shared.readers.iter().map(|(_, seat)| seat.cursor);
            if !others.any(|other| other == left) {
                let others = shared.readers.iter().map(|(_, seat)| seat.cursor);
                shared.furthest = others.max().unwrap_or(left);
            }
        }
        let writer = shared.writer.take();
        drop(shared);
        wake(writer);
    }

    /// Whether there are events to read, or were.
    pub(crate) fn has_events(&self, seat: usize) -> bool {
        let shared = self.lock();
        let reader = shared.readers.get(seat);
        reader.is_some_and(|reader| {
            let lost = matches!(
                shared.log.read_raw(reader.cursor, 0, true),
                RawRead::Nothing(ReadResult::Evicted)
            );
            lost || shared.log.has_events_from(reader.cursor)
        })
    }

    /// Reads on, at most so many bytes.
    pub(crate) fn poll_read(
        &self,
        seat: usize,
        cx: &mut Context<'_>,
        most: usize,
        blocks: &mut Vec<ChunkSlice>,
    ) -> Poll<ReadOutcome> {
        let mut shared = self.lock();
        let Shared { log, readers, .. } = &mut *shared;
        let Some(reader) = readers.get_mut(seat) else {
            return Poll::Ready(ReadOutcome::End(None));
        };
        let mut bytes = 0;
        let nothing = loop {
            match log.read_raw(reader.cursor, most.saturating_sub(bytes), bytes == 0) {
                RawRead::Blocks(run, next) => {
                    bytes += run.len();
                    reader.cursor = next;
                    blocks.push(run);
                }
                RawRead::NoRoom => break None,
                RawRead::Nothing(nothing) => break Some(nothing),
            }
        };
        if bytes > 0 {
            let cursor = reader.cursor;
            let moved = cursor > shared.furthest;
            shared.furthest = shared.furthest.max(cursor);
            let waits = moved && shared.writer_waits;
            let writer = waits.then(|| shared.writer.take()).flatten();
            drop(shared);
            wake(writer);
            return Poll::Ready(ReadOutcome::Blocks);
        }
        match nothing {
            Some(ReadResult::Evicted) => {
                Poll::Ready(ReadOutcome::Failed(Error::new(ErrorKind::Lagged)))
            }
            Some(ReadResult::Wait) if shared.log.state() != LogState::Suspended => {
                let waker = &mut shared.readers[seat].waker;
                match waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    None => *waker = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
            _ => Poll::Ready(match &shared.ending {
                Ending::Clean(trailers) => ReadOutcome::End(trailers.clone()),
                Ending::Broken(error) => ReadOutcome::Failed(Error::shared(error)),
            }),
        }
    }

    /// What the writer is to do, that has a block of so many bytes to write next, or none yet. It is woken when that changes.
    pub(crate) fn poll_demand(&self, cx: &mut Context<'_>, next: u64) -> WriteDemand {
        let mut shared = self.lock();
        match &mut shared.writer {
            Some(writer) => writer.clone_from(cx.waker()),
            writer => *writer = Some(cx.waker().clone()),
        }
        let demand = shared.demand(next);
        shared.writer_waits = demand == WriteDemand::Wait;
        demand
    }

    /// Since when nobody reads.
    pub(crate) fn without_readers_since(&self) -> Option<Instant> {
        let shared = self.lock();
        shared.readers.is_empty().then_some(shared.alone_since)
    }

    /// The position of what is written next.
    pub(crate) fn next_position(&self) -> Position {
        self.lock().log.next_position()
    }

    /// Writes blocks, each an event or not. Returns how many bytes are kept now, and how many were before.
    pub(crate) fn write(
        &self,
        blocks: impl IntoIterator<Item = (ChunkSlice, bool)>,
        now: Instant,
    ) -> (usize, usize) {
        let mut shared = self.lock();
        let before = shared.log.memory();
        let mut unread = shared.unread();
        for (block, is_event) in blocks {
            unread = unread.map(|unread| unread + 1);
            shared.log.keep(block, is_event, now, unread.unwrap_or(1));
        }
        shared.writes += 1;
        let after = shared.log.memory();
        let waiting = shared.waiting();
        drop(shared);
        waiting.into_iter().for_each(Waker::wake);
        (after, before)
    }

    /// Whether the reader that is ahead of all others has read everything, or there is none. If not, the writer is woken when
    /// that changes.
    pub(crate) fn poll_caught_up(&self, cx: &mut Context<'_>) -> bool {
        let mut shared = self.lock();
        let caught_up = shared.unread().unwrap_or(0) == 0;
        if !caught_up {
            shared.writer = Some(cx.waker().clone());
            shared.writer_waits = true;
        }
        caught_up
    }

    /// Has the writer look again.
    pub(crate) fn wake_writer(&self) {
        let writer = self.lock().writer.take();
        wake(writer);
    }

    /// How many times something was written.
    pub(crate) fn writes(&self) -> u64 {
        self.lock().writes
    }
}

impl Shared {
    fn place(&self, located: ResumePoint) -> CursorLookup {
        match located {
            ResumePoint::After(cursor) => match self.log.state() {
                // Who is sent comments alone comes back for ever, as it learns of no other place by them.
                state if state != LogState::Live && !self.log.has_events_from(cursor) => {
                    CursorLookup::Tail(state, cursor)
                }
                _ => CursorLookup::At(cursor),
            },
            ResumePoint::Evicted => CursorLookup::Evicted,
            ResumePoint::Unknown => CursorLookup::Unknown,
        }
    }

    /// Also the writer, to be woken, if it waits for somebody who is behind this one.
    fn join(&mut self, cursor: Cursor) -> (usize, Option<Waker>) {
        if self.readers.is_empty() {
            self.furthest = cursor;
        }
        let ahead = cursor > self.furthest && self.writer_waits;
        let writer = ahead.then(|| self.writer.take()).flatten();
        self.furthest = self.furthest.max(cursor);
        let waker = None;
        (self.readers.insert(Subscriber { cursor, waker }), writer)
    }

    /// How many blocks those who read have not read, none of them.
    fn unread(&self) -> Option<usize> {
        let reads = !self.readers.is_empty();
        reads.then(|| self.log.beyond(self.furthest).0 as usize)
    }

    fn demand(&self, next: u64) -> WriteDemand {
        if self.aborted {
            return WriteDemand::Stop;
        }
        if self.readers.is_empty() {
            let (blocks, bytes) = (BLOCKS_A_GO, BYTES_A_GO);
            return WriteDemand::Write { blocks, bytes };
        }
        // Of what the one who is ahead of all others has not read nothing may be let go of: it would have a gap without having
        // been slow.
        let (blocks, bytes) = self.log.beyond(self.furthest);
        let room = (self.bounds.events as u64).max(1).saturating_sub(blocks);
        let room_bytes = (self.bounds.bytes as u64).saturating_sub(bytes);
        if blocks > 0 && (room == 0 || room_bytes < next.max(1)) {
            return WriteDemand::Wait;
        }
        WriteDemand::Write {
            blocks: room.min(BLOCKS_A_GO),
            bytes: room_bytes.clamp(1, BYTES_A_GO),
        }
    }

    /// Those who wait to read, to be woken once the lock is given back.
    fn waiting(&mut self) -> Vec<Waker> {
        let readers = self.readers.iter_mut();
        readers.filter_map(|(_, seat)| seat.waker.take()).collect()
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
