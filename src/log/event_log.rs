//! The log of one stream: what was sent last, and how it ended.

use std::{collections::VecDeque, fmt, ops::Range, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use crate::codec::ChunkSlice;
use crate::log::Position;

/// Retention of one stream: how much of it its log keeps. The oldest blocks are evicted first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retention {
    /// The number of events. Comments between them do not count. `usize::MAX`, the default, is no limit.
    pub events: usize,
    /// Bytes of events and comments, and 40 more for each, which is what the log needs to store it. (The last few KiB of a stream
    /// whose events come one by one need more: at most 16 KiB for each stream, which count for all streams together, in
    /// [`replay_bytes`](crate::SseProxyLayer::max_replay_bytes).)
    pub bytes: usize,
    /// For so long; and longer what a client that is connected has still to read.
    pub age: Duration,
}

impl Retention {
    /// Keeps at most so many events; no limit unless set.
    pub fn events(mut self, events: usize) -> Self {
        self.events = events;
        self
    }

    /// Keeps at most so many bytes; 1 MiB unless set.
    pub fn bytes(mut self, bytes: usize) -> Self {
        self.bytes = bytes;
        self
    }

    /// Keeps blocks for so long; 5 minutes unless set.
    pub fn age(mut self, age: Duration) -> Self {
        self.age = age;
        self
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            events: usize::MAX,
            bytes: 1 << 20,
            age: Duration::from_secs(5 * 60),
        }
    }
}

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

/// One block: its number is its place in the stream, and its bytes begin where those of the block before it end.
struct Entry {
    since: Instant,
    /// Where it ends in its segment. (The last one of a segment ends with it, also beyond 4 GiB.)
    end: u32,
    is_event: bool,
}

/// Neighbouring blocks in one buffer.
///
/// Blocks that are written together come in a buffer of their own. Those that come one by one are merged, or the buffers would
/// take more memory than the blocks.
struct Segment {
    run: ChunkSlice,
    /// The number of its first block. (In the first segment, some blocks may have been evicted.)
    first: u64,
    epoch: u64,
    /// The bytes of all blocks in the segments before it, also of those that were evicted.
    so_far: u64,
}

/// What a block counts for beside its bytes: its entry, and its part of a segment's memory where segments are merged.
pub(crate) const BLOCK: usize = 40;

/// The memory of an entry, with what a growing deque has to spare.
const ENTRY: usize = size_of::<Entry>() * 5 / 4;

/// The memory of a segment beside its bytes: itself, the chunk, the handle by which its bytes are shared, and what an allocator
/// needs for them.
const SEGMENT: usize = size_of::<Segment>() * 5 / 4 + ChunkSlice::CHUNK_OVERHEAD + 3 * 16 + 32;

/// The memory that a block takes beside its bytes, if it was written alone.
#[cfg(test)]
pub(crate) const OVERHEAD: usize = ENTRY + SEGMENT;

/// Segments of less than this are merged ...
const SMALL: usize = 2 << 10;

/// ... once they are as much as this together.
const MERGED: usize = 4 << 10;

/// A log that is not larger than this becomes one segment when its stream ends.
const ONE_SEGMENT: usize = 16 << 10;

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

    fn push(&mut self, block: ChunkSlice, is_event: bool, since: Instant) {
        let (len, epoch) = (block.len(), self.next.epoch);
        let follows = self
            .segments
            .back_mut()
            .is_some_and(|last| last.epoch == epoch && last.run.extend(&block));
        if !follows {
            self.settle(len);
            grow(&mut self.segments);
            self.segments.push_back(Segment {
                run: block,
                first: self.end(),
                epoch,
                so_far: self.so_far,
            });
            self.memory += SEGMENT;
        }
        self.memory += ENTRY + len;
        self.so_far += len as u64;
        let end = self.segments.back().map_or(0, |last| last.run.len());
        let end = end.try_into().unwrap_or(u32::MAX);
        grow(&mut self.entries);
        self.entries.push_back(Entry {
            since,
            end,
            is_event,
        });
    }

    /// Another segment of so many bytes begins, or more: the last one may be merged with those before it.
    fn settle(&mut self, next: usize) {
        let Some(before) = self.segments.len().checked_sub(1) else {
            return;
        };
        // The first of them may have been evicted.
        self.loose = self.loose.min(before);
        let last = self.segments[before].run.len();
        if last >= SMALL {
            return self.merge_loose(before);
        }
        self.loose += 1;
        self.loose_bytes += last;
        if self.loose_bytes >= MERGED || next >= SMALL {
            self.merge_loose(before + 1);
        }
    }

    /// Merges those before this one.
    fn merge_loose(&mut self, end: usize) {
        let from = end - self.loose;
        if end - from > 1 {
            self.rewrite(from, end);
        }
        (self.loose, self.loose_bytes) = (0, 0);
    }

    /// Puts what is kept of these neighbouring segments into one buffer for each epoch.
    fn rewrite(&mut self, from: usize, to: usize) {
        let mut to = to;
        while to > from {
            let epoch = self.segments[to - 1].epoch;
            let begin = (from..to).rfind(|&n| self.segments[n].epoch != epoch);
            let begin = begin.map_or(from, |other| other + 1);
            self.rewrite_epoch(begin, to);
            to = begin;
        }
    }

    fn rewrite_epoch(&mut self, from: usize, to: usize) {
        let dead = if from == 0 { self.front_start } else { 0 };
        let size: usize = (from..to).map(|n| self.segments[n].run.len()).sum();
        let mut buffer = Vec::with_capacity(size - dead);
        for n in from..to {
            let start = if n == from { dead } else { 0 };
            let (offset, end) = (buffer.len(), self.segment_end(n));
            let first = self.segments[n].first.max(self.first);
            let run = self.segments[n].run.bytes();
            buffer.extend_from_slice(&run[start..]);
            let entries = (first - self.first) as usize..(end - self.first) as usize;
            for entry in self.entries.range_mut(entries) {
                let end = (entry.end as usize - start) + offset;
                entry.end = end.try_into().unwrap_or(u32::MAX);
            }
        }
        let gone = to - from - 1;
        self.segments.drain(from + 1..to);
        let merged = &mut self.segments[from];
        merged.run = Bytes::from(buffer).into();
        merged.so_far += dead as u64;
        merged.first = merged.first.max(self.first);
        self.memory -= dead + gone * SEGMENT;
        if from == 0 {
            self.front_start = 0;
        }
    }

    /// Gives back the memory that the log does not need if nothing is appended.
    pub(crate) fn compact(&mut self) {
        if self.text() <= ONE_SEGMENT && (self.segments.len() > 1 || self.front_start > 0) {
            self.rewrite(0, self.segments.len());
            (self.loose, self.loose_bytes) = (0, 0);
        } else {
            self.settle(SMALL);
        }
        self.entries.shrink_to_fit();
        self.segments.shrink_to_fit();
    }

    /// The number behind the last block of a segment.
    fn segment_end(&self, n: usize) -> u64 {
        self.segments
            .get(n + 1)
            .map_or(self.end(), |next| next.first)
    }

    /// The segment that a block is in which is kept.
    fn segment_of(&self, at: u64) -> usize {
        let behind = self.segments.partition_point(|segment| segment.first <= at);
        behind.saturating_sub(1)
    }

    /// Where blocks of a segment stand in it.
    fn place(&self, segment: usize, from: u64, to: u64) -> Range<usize> {
        let Segment { run, first, .. } = &self.segments[segment];
        let end_of = |at: u64| self.entries[(at - self.first) as usize].end as usize;
        let start = if from == self.first {
            self.front_start
        } else if from == *first {
            0
        } else {
            end_of(from - 1)
        };
        let is_last = to == self.segment_end(segment);
        start..if is_last { run.len() } else { end_of(to - 1) }
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

    /// Lets go of what is too old by now, and says when there is something to let go of again.
    pub fn expire(&mut self, now: Instant) -> Option<Instant> {
        self.expire_but(now, 0)
    }

    /// As [`expire`](Self::expire), but for so many of the last blocks.
    pub(crate) fn expire_but(&mut self, now: Instant, hold: usize) -> Option<Instant> {
        self.evict(now, hold);
        let oldest = self
            .entries
            .front()
            .filter(|_| self.first < self.committed)?;
        let age = self.bounds.age;
        let at = oldest.since.checked_add(age)?;
        if at > now {
            return Some(at);
        }
        // It is held. Nobody tells when it is no longer.
        now.checked_add(age.max(Duration::from_secs(1)))
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
            let block = self.segments[n].run.slice(self.place(n, at, at + 1));
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
        RawRead::Blocks(self.segments[n].run.slice(place), Cursor(next))
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

    /// The bytes of its blocks.
    fn text(&self) -> usize {
        let beside = self.segments.len() * SEGMENT + self.entries.len() * ENTRY;
        self.memory - beside - self.front_start
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

    /// Lets go of the oldest until so many bytes are free, but for so many blocks: there is no room for all logs. Returns how
    /// many are.
    pub fn shrink(&mut self, bytes: usize, keep: usize) -> usize {
        let before = self.bytes();
        while before - self.bytes() < bytes && self.may_let_go(keep) {
            self.let_go();
        }
        self.trim();
        before - self.bytes()
    }

    /// Lets go of the oldest until so much memory is free, but for so many blocks. Returns how much is.
    ///
    /// A buffer is freed as a whole, or by a copy of what is kept of it, which is worth it only for less than half: so up to half
    /// a buffer more goes than had to.
    pub(crate) fn release(&mut self, memory: usize, keep: usize) -> usize {
        let before = self.memory;
        while before - self.memory + self.trimmable() < memory && self.may_let_go(keep) {
            self.let_go();
        }
        self.trim();
        before - self.memory
    }

    fn may_let_go(&self, keep: usize) -> bool {
        self.entries.len() > keep && self.first < self.committed
    }

    /// Lets go of what is over the bounds, but for so many blocks.
    fn evict(&mut self, now: Instant, keep: usize) {
        let before = self.first;
        while self.entries.len() > keep
            && self.first < self.committed
            && let Some(oldest) = self.entries.front()
        {
            let old = now.saturating_duration_since(oldest.since) >= self.bounds.age;
            let over = self.events > self.bounds.events || self.bytes() > self.bounds.bytes;
            // Only age lets go of the last one: it is what a reader at the live edge is about to read.
            if !(old || (over && self.entries.len() > 1)) {
                break;
            }
            self.let_go();
        }
        if self.first > before {
            self.trim();
        }
    }

    /// Lets go of the oldest block.
    fn let_go(&mut self) {
        let (Some(oldest), Some(segment)) = (self.entries.pop_front(), self.segments.front())
        else {
            return;
        };
        if oldest.is_event {
            self.events -= 1;
            let (epoch, number) = (segment.epoch, self.first);
            self.evicted = Some(Position {
                epoch,
                sequence: number,
            });
            self.gap = self.first + 1;
        }
        self.first += 1;
        self.memory -= ENTRY;
        self.front_start = oldest.end as usize;
        if self.first >= self.segment_end(0) {
            self.memory -= segment.run.len() + SEGMENT;
            self.segments.pop_front();
            self.front_start = 0;
        }
    }

    /// How much memory a copy of what is kept of the first buffer would free, if it is worth it.
    fn trimmable(&self) -> usize {
        let first = self.segments.front();
        let is_most = first.is_some_and(|first| self.front_start > first.run.len() / 2);
        if is_most { self.front_start } else { 0 }
    }

    /// Gives back memory of blocks that were evicted, where it is worth a copy of the others.
    fn trim(&mut self) {
        if self.trimmable() > 0 {
            self.rewrite(0, 1);
        }
        shrink(&mut self.entries);
        shrink(&mut self.segments);
    }
}

/// Makes room for one more by a quarter, not by doubling.
fn grow<T>(deque: &mut VecDeque<T>) {
    if deque.len() == deque.capacity() {
        deque.reserve_exact((deque.len() / 4).max(2));
    }
}

/// Gives back what is unused, if that is most.
fn shrink<T>(deque: &mut VecDeque<T>) {
    if deque.len() < deque.capacity() / 2 && deque.capacity() > 16 {
        deque.shrink_to(deque.len() * 5 / 4);
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
