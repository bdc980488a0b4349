//! The log of one stream: what was sent last, and how it ended.

mod eviction;
mod storage;

use std::{collections::VecDeque, fmt};

use bytes::Bytes;
use tokio::time::Instant;

use crate::codec::ChunkSlice;
use crate::log::{Position, Retention};
use storage::{Entry, Segment};

pub(crate) use storage::BLOCK;
#[cfg(test)]
pub(crate) use storage::OVERHEAD;

/// Whether more is to come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogState {
    /// The upstream is sending.
    #[default]
    Live,
    /// The upstream has ended its response, and will go on with the stream in another one.
    Suspended,
    /// All there is was sent.
    Complete,
    /// The stream broke: what was sent is not all.
    Failed,
}

/// What one stream has sent, as far as it is kept.
///
/// It has no clock and does no I/O. A block is there for readers once it is [committed](Self::commit): at once, unless the log
/// [waits](Self::manual_commit) for another store to have it too.
pub struct Log {
    bounds: Retention,
    /// The blocks that are kept, oldest first ...
    entries: VecDeque<Entry>,
    /// ... and the memory that they are in.
    segments: VecDeque<Segment>,
    /// Where the oldest block begins in the first segment. The bytes before it are of blocks that were evicted.
    front_start: usize,
    /// The segments at the end that may still be merged with each other, and how many bytes are in them.
    loose: usize,
    loose_bytes: usize,
    /// The place of the first block that is kept, counted from the first of the stream.
    first: u64,
    /// The place behind the last block that readers may have.
    committed: u64,
    commits_at_once: bool,
    /// The memory of all segments and entries.
    memory: usize,
    /// The bytes of all blocks there were.
    so_far: u64,
    events: usize,
    next: Position,
    /// The last event that was let go ...
    evicted: Option<Position>,
    /// ... and the place behind it.
    gap: u64,
    state: LogState,
}

/// A place between two blocks, where a reader goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor(u64);

/// Where a client is that has an event, and wants what comes after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResumePoint {
    /// Here: everything after its event is there, or still to come.
    After(Cursor),
    /// Something after its event is no longer kept.
    Evicted,
    /// The stream has no such event.
    Unknown,
}

/// Neighbouring blocks, or what there is instead.
pub(crate) enum RawRead {
    Blocks(ChunkSlice, Cursor),
    /// The next block is larger than what was asked for.
    NoRoom,
    Nothing(ReadResult),
}

/// What there is to read at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadResult {
    /// This block, and then the place behind it.
    Block(Bytes, Cursor),
    /// Nothing yet; more may come.
    Wait,
    /// What was here is no longer kept.
    Evicted,
    /// Nothing, and nothing more will come, for the stream is [`Complete`](LogState::Complete) or [`Failed`](LogState::Failed).
    End(LogState),
}

impl Log {
    /// The log of a stream that has sent nothing yet.
    pub fn new(bounds: Retention) -> Self {
        Self {
            bounds,
            entries: VecDeque::new(),
            segments: VecDeque::new(),
            front_start: 0,
            loose: 0,
            loose_bytes: 0,
            first: 0,
            committed: 0,
            commits_at_once: true,
            memory: 0,
            so_far: 0,
            events: 0,
            next: Position {
                epoch: 0,
                sequence: 0,
            },
            evicted: None,
            gap: 0,
            state: LogState::Live,
        }
    }

    /// Blocks wait to be [committed](Self::commit).
    pub fn manual_commit(mut self) -> Self {
        self.commits_at_once = false;
        self
    }

    /// The position that the next block will have: for the id to write into it.
    pub fn next_position(&self) -> Position {
        self.next
    }

    /// Goes on in this epoch, in which somebody else has taken over. An epoch that is not later changes nothing.
    pub fn begin_epoch(&mut self, epoch: u64) {
        self.next.epoch = self.next.epoch.max(epoch);
    }

    /// Keeps an event, and lets go of what is over the bounds; never of this one, however large it is, nor of what is not committed
    /// yet, which nobody had a chance to read. Returns its position.
    ///
    /// What comes after the end of the stream is not kept: it has none.
    pub fn append(&mut self, event: Bytes, now: Instant) -> Position {
        self.keep(event.into(), true, now, 1)
    }

    /// Keeps what is no event: comments, a `retry`. Nobody misses it if it is let go.
    pub fn append_non_event(&mut self, block: Bytes, now: Instant) -> Position {
        self.keep(block.into(), false, now, 1)
    }

    /// Keeps a block, and at least so many of the last with it.
    pub(crate) fn keep(
        &mut self,
        block: ChunkSlice,
        is_event: bool,
        now: Instant,
        hold: usize,
    ) -> Position {
        let position = self.next;
        if self.is_over() {
            return position;
        }
        self.next.sequence += 1;
        self.push(block, is_event, now);
        self.events += usize::from(is_event);
        if self.commits_at_once {
            self.committed = self.end();
        }
        self.evict(now, hold);
        position
    }

    /// Readers may have the blocks up to this position.
    pub fn commit(&mut self, position: Position) {
        let Position {
            epoch,
            sequence: number,
        } = position;
        let behind = self
            .segments
            .partition_point(|segment| (segment.epoch, segment.first) <= (epoch, number));
        if let Some(last) = behind.checked_sub(1) {
            let end = self.segment_end(last);
            let is_its = self.segments[last].epoch == epoch;
            let end = if is_its { end.min(number + 1) } else { end };
            self.committed = self.committed.max(end);
        }
    }

    /// What the stream has come to. Its end is for good.
    pub fn set_state(&mut self, state: LogState) {
        if !self.is_over() {
            self.state = state;
        }
    }

    /// What the stream has come to.
    pub fn state(&self) -> LogState {
        self.state
    }

    /// The place of whoever wants all that comes from now on.
    pub fn live_edge(&self) -> Cursor {
        Cursor(self.committed)
    }

    /// The place before everything that is kept.
    pub fn oldest(&self) -> Cursor {
        Cursor(self.first)
    }

    /// The place before everything there was, if all of it is kept.
    pub(crate) fn start(&self) -> ResumePoint {
        match self.evicted {
            None => ResumePoint::After(Cursor(self.first)),
            Some(_) => ResumePoint::Evicted,
        }
    }

    /// Finds the place after an event, strictly: that event itself is not read again.
    pub fn locate(&self, position: Position) -> ResumePoint {
        if let Some(evicted) = self.evicted
            && position <= evicted
        {
            return if position == evicted {
                ResumePoint::After(Cursor(self.first))
            } else {
                ResumePoint::Evicted
            };
        }
        let at = position.sequence;
        // What is not committed has been sent to nobody.
        let is_kept = (self.first..self.committed).contains(&at);
        if is_kept && self.segments[self.segment_of(at)].epoch == position.epoch {
            return ResumePoint::After(Cursor(at + 1));
        }
        ResumePoint::Unknown
    }

    /// The last event that this is true of. Not of what is not committed, which was sent to nobody.
    pub(crate) fn find(&self, is_it: impl Fn(&[u8]) -> bool) -> Option<Position> {
        for (n, segment) in self.segments.iter().enumerate().rev() {
            let first = segment.first.max(self.first);
            for at in (first..self.segment_end(n).min(self.committed)).rev() {
                let is_event = self.entries[(at - self.first) as usize].is_event;
                if is_event && is_it(&segment.run.bytes()[self.place(n, at, at + 1)]) {
                    let (epoch, number) = (segment.epoch, at);
                    return Some(Position {
                        epoch,
                        sequence: number,
                    });
                }
            }
        }
        None
    }

    /// Reads at a place.
    pub fn read(&self, cursor: Cursor) -> ReadResult {
        match self.read_raw(cursor, 0, true) {
            RawRead::Blocks(block, next) => ReadResult::Block(block.to_bytes(), next),
            RawRead::Nothing(read) => read,
            RawRead::NoRoom => ReadResult::Wait,
        }
    }

    /// Reads neighbouring blocks at a place without a copy of them: as many as are in `most` bytes, and one in any case if there
    /// has to be one.
    pub(crate) fn read_raw(&self, Cursor(at): Cursor, most: usize, one: bool) -> RawRead {
        if at < self.gap {
            return RawRead::Nothing(ReadResult::Evicted);
        }
        // Between there and here were only comments.
        let at = at.max(self.first);
        if at >= self.committed {
            return RawRead::Nothing(self.read_end(at));
        }
        let n = self.segment_of(at);
        if most == 0 && one {
            let block = self.segments[n].run.part(self.place(n, at, at + 1));
            return RawRead::Blocks(block, Cursor(at + 1));
        }
        let end = self.segment_end(n).min(self.committed);
        let mut place = self.place(n, at, end);
        let mut next = end;
        if place.len() > most {
            // The last block that ends within so many bytes.
            let (mut fits, mut over) = (at, end);
            while over - fits > 1 {
                let middle = fits + (over - fits) / 2;
                if self.place(n, at, middle).len() > most {
                    over = middle;
                } else {
                    fits = middle;
                }
            }
            next = if fits == at && one { at + 1 } else { fits };
            if next == at {
                return RawRead::NoRoom;
            }
            place = self.place(n, at, next);
        }
        RawRead::Blocks(self.segments[n].run.part(place), Cursor(next))
    }

    fn read_end(&self, at: u64) -> ReadResult {
        // Its end is what comes after all it has, also what is not committed yet.
        if self.is_over() && at >= self.end() {
            return ReadResult::End(self.state);
        }
        ReadResult::Wait
    }

    /// How many bytes it keeps, as [`Retention::bytes`] counts them.
    pub fn bytes(&self) -> usize {
        self.text() + self.entries.len() * BLOCK
    }

    /// The memory it holds, in bytes. Up to half of the buffer of its oldest block is of blocks that were evicted.
    pub(crate) fn memory(&self) -> usize {
        self.memory
    }

    /// How many events it keeps.
    pub fn events(&self) -> usize {
        self.events
    }

    /// How many blocks it keeps, events and others.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it keeps nothing.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn is_over(&self) -> bool {
        matches!(self.state, LogState::Complete | LogState::Failed)
    }

    /// The place behind the last block.
    fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// Whether anything but comments stands there or behind it.
    pub(crate) fn has_events_from(&self, Cursor(at): Cursor) -> bool {
        let behind = at.saturating_sub(self.first) as usize;
        let mut entries = self.entries.iter().skip(behind);
        entries.any(|entry| entry.is_event)
    }

    /// The last event, if it is no longer kept.
    pub(crate) fn last_if_evicted(&self) -> Option<Position> {
        self.evicted.filter(|_| self.events == 0)
    }

    /// How many blocks and bytes there are from a place on.
    pub(crate) fn beyond(&self, Cursor(at): Cursor) -> (u64, u64) {
        let at = at.max(self.first);
        let blocks = self.end().saturating_sub(at);
        if blocks == 0 {
            return (0, 0);
        }
        let n = self.segment_of(at);
        let Segment { so_far, .. } = self.segments[n];
        let before = so_far + self.place(n, at, at + 1).start as u64;
        (blocks, self.so_far - before + blocks * BLOCK as u64)
    }
}

/// Shows how much there is, never what.
impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("bounds", &self.bounds)
            .field("blocks", &self.entries.len())
            .field("bytes", &self.bytes())
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
