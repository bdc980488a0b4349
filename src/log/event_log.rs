//! The log of one stream, without clock and I/O: append, read from a cursor, resume after an event, and evict.

use std::{fmt, time::Duration};

use tokio::time::Instant;

use crate::{
    codec::ChunkSlice,
    log::{Cursor, LogState, Position, ReadResult, ResumePoint, Retention, blocks::Blocks},
};

/// The last blocks of one stream: events and comments.
///
/// Live reading, catching up, resuming and fan-out are one operation: reading from a cursor. Readers see committed blocks only. A block
/// is committed when it is appended, unless commits are manual.
pub(crate) struct Log {
    retention: Retention,
    blocks: Blocks,
    /// The sequence number after the last committed block.
    committed: u64,
    commits_manually: bool,
    /// The position of the next block.
    next: Position,
    /// The position of the last evicted event.
    evicted: Option<Position>,
    /// The sequence number after the last evicted event. A reader with a lower cursor has missed an event.
    gap_end: u64,
    state: LogState,
}

impl Log {
    pub(crate) fn new(retention: Retention) -> Self {
        Self {
            retention,
            blocks: Blocks::new(),
            committed: 0,
            commits_manually: false,
            next: Position {
                epoch: 0,
                sequence: 0,
            },
            evicted: None,
            gap_end: 0,
            state: LogState::Live,
        }
    }

    /// The position of the next block, for the id in it.
    pub(crate) fn next_position(&self) -> Position {
        self.next
    }

    /// Appends a block, and evicts the oldest committed blocks that exceed the retention. The last `protected` blocks stay. Returns the
    /// position of the block.
    ///
    /// A block that comes after the end of the stream is dropped.
    pub(crate) fn append(
        &mut self,
        block: ChunkSlice,
        is_event: bool,
        now: Instant,
        protected: usize,
    ) -> Position {
        let position = self.next;
        if self.has_ended() {
            return position;
        }
        self.next.sequence += 1;
        self.blocks.push(block, is_event, self.next.epoch, now);
        if !self.commits_manually {
            self.committed = self.blocks.end();
        }
        self.evict(now, protected);
        position
    }

    /// Evicts expired blocks, but not the last `protected` ones. Returns when to call this again.
    pub(crate) fn expire(&mut self, now: Instant, protected: usize) -> Option<Instant> {
        self.evict(now, protected);
        let max_age = self.retention.age;
        let oldest = self.blocks.oldest_since();
        let oldest = oldest.filter(|_| self.blocks.first() < self.committed)?;
        let expires = oldest.checked_add(max_age)?;
        if expires > now {
            return Some(expires);
        }
        // The block has expired, but is protected. Nothing signals the end of the protection, so the caller checks again later.
        now.checked_add(max_age.max(Duration::from_secs(1)))
    }

    /// Sets the state. An ended stream keeps its state.
    pub(crate) fn set_state(&mut self, state: LogState) {
        if !self.has_ended() {
            self.state = state;
        }
    }

    pub(crate) fn state(&self) -> LogState {
        self.state
    }

    fn has_ended(&self) -> bool {
        matches!(self.state, LogState::Complete | LogState::Failed)
    }

    /// The cursor after the last committed block.
    pub(crate) fn live_edge(&self) -> Cursor {
        Cursor(self.committed)
    }

    /// The cursor before the oldest block.
    pub(crate) fn oldest(&self) -> Cursor {
        Cursor(self.blocks.first())
    }

    /// The position of a client that has no event of the stream.
    pub(crate) fn start(&self) -> ResumePoint {
        match self.evicted {
            None => ResumePoint::After(self.oldest()),
            Some(_) => ResumePoint::Evicted,
        }
    }

    /// The position of a client that has received this event.
    pub(crate) fn locate(&self, position: Position) -> ResumePoint {
        if let Some(evicted) = self.evicted
            && position <= evicted
        {
            return if position == evicted {
                ResumePoint::After(self.oldest())
            } else {
                ResumePoint::Evicted
            };
        }
        let sequence = position.sequence;
        // No client can have received a block that is not committed.
        let is_readable = (self.blocks.first()..self.committed).contains(&sequence);
        if is_readable && self.blocks.epoch_of(sequence) == position.epoch {
            return ResumePoint::After(Cursor(sequence + 1));
        }
        ResumePoint::Unknown
    }

    /// The last committed event for which `matches` returns true.
    pub(crate) fn find(&self, matches: impl Fn(&[u8]) -> bool) -> Option<Position> {
        self.blocks.find_event(self.committed, matches)
    }

    /// Reads neighboring blocks at a cursor, without a copy: as many as fit in `max_bytes`, and at least one if `at_least_one` is set.
    pub(crate) fn read(
        &self,
        Cursor(from): Cursor,
        max_bytes: usize,
        at_least_one: bool,
    ) -> ReadResult {
        if from < self.gap_end {
            return ReadResult::Evicted;
        }
        // All evicted blocks after the cursor are comments.
        let from = from.max(self.blocks.first());
        if from < self.committed {
            let read = self
                .blocks
                .read(from, self.committed, max_bytes, at_least_one);
            return match read {
                Some((blocks, next)) => ReadResult::Blocks(blocks, next),
                None => ReadResult::TooLarge,
            };
        }
        // The end comes after all blocks, also those that are not committed.
        if self.has_ended() && from >= self.blocks.end() {
            ReadResult::End
        } else {
            ReadResult::Wait
        }
    }

    /// The size, in bytes, that [`Retention::bytes`] limits.
    pub(crate) fn bytes(&self) -> usize {
        self.blocks.bytes()
    }

    /// The allocated memory, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.blocks.memory()
    }

    /// The number of blocks.
    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.len() == 0
    }

    /// The time at which the oldest retained block after the cursor was written. `None` if no block follows the cursor.
    pub(crate) fn since(&self, Cursor(from): Cursor) -> Option<Instant> {
        self.blocks.since(from)
    }

    /// Whether there is an event after the cursor.
    pub(crate) fn has_events_from(&self, Cursor(from): Cursor) -> bool {
        self.blocks.has_events_from(from)
    }

    /// The last event of the stream, if no event is left in the log.
    pub(crate) fn last_if_evicted(&self) -> Option<Position> {
        self.evicted.filter(|_| self.blocks.events() == 0)
    }

    /// The number of blocks after a cursor, and their size in bytes as [`Retention::bytes`] counts it.
    pub(crate) fn size_from(&self, Cursor(from): Cursor) -> (u64, u64) {
        self.blocks.size_from(from)
    }

    /// Frees spare capacity. For a log to which nothing more is appended.
    pub(crate) fn compact(&mut self) {
        self.blocks.compact();
    }

    /// Evicts the oldest blocks until `memory` bytes are free. The last `protected` blocks stay. Returns the freed memory.
    ///
    /// A buffer is freed as a whole, or by a copy of the rest if more than half of it is evicted. So up to half a buffer more than
    /// necessary is evicted.
    pub(crate) fn evict_memory(&mut self, memory: usize, protected: usize) -> usize {
        let before = self.blocks.memory();
        while before - self.blocks.memory() + self.blocks.trimmable() < memory
            && self.may_evict(protected)
        {
            self.evict_oldest();
        }
        self.blocks.trim();
        before - self.blocks.memory()
    }

    /// Evicts the oldest blocks while they exceed the retention. The last `protected` blocks stay.
    fn evict(&mut self, now: Instant, protected: usize) {
        let before = self.blocks.first();
        while self.may_evict(protected)
            && let Some(oldest) = self.blocks.oldest_since()
        {
            let is_over = self.blocks.events() > self.retention.events
                || self.blocks.bytes() > self.retention.bytes;
            // The last block is evicted by age only: readers at the live edge are about to read it.
            let is_over = is_over && self.blocks.len() > 1;
            if !is_over && now.saturating_duration_since(oldest) < self.retention.age {
                break;
            }
            self.evict_oldest();
        }
        if self.blocks.first() > before {
            self.blocks.trim();
        }
    }

    fn may_evict(&self, protected: usize) -> bool {
        self.blocks.len() > protected && self.blocks.first() < self.committed
    }

    fn evict_oldest(&mut self) {
        if let Some(event) = self.blocks.evict_oldest() {
            self.evicted = Some(event);
            self.gap_end = self.blocks.first();
        }
    }
}

/// For tests and models: blocks that are not committed yet, and later epochs.
#[cfg(any(test, feature = "testing"))]
impl Log {
    /// Makes appended blocks invisible to readers until they are [committed](Self::commit).
    pub(crate) fn manual_commit(mut self) -> Self {
        self.commits_manually = true;
        self
    }

    /// Commits the blocks up to this position.
    pub(crate) fn commit(&mut self, position: Position) {
        if let Some(end) = self.blocks.end_at(position) {
            self.committed = self.committed.max(end);
        }
    }

    /// Appends the next blocks in this epoch. An epoch that is not later has no effect.
    pub(crate) fn begin_epoch(&mut self, epoch: u64) {
        self.next.epoch = self.next.epoch.max(epoch);
    }

    /// The number of blocks that are events.
    pub(crate) fn events(&self) -> usize {
        self.blocks.events()
    }
}

/// Shows sizes, and no content.
impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("retention", &self.retention)
            .field("blocks", &self.len())
            .field("bytes", &self.bytes())
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
