//! The log of one stream: what was sent last, and how it ended.

use std::{collections::VecDeque, fmt, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use super::Position;
use crate::codec::Raw;

/// How much of a stream is kept. Whatever is over is let go, the oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bounds {
    /// So many events. Comments between them are not counted.
    pub events: usize,
    /// So many bytes, with what it takes to keep them.
    pub bytes: usize,
    /// For so long; and longer what a client that is connected has still to read.
    pub age: Duration,
}

impl Bounds {
    /// Keeps at most so many events; 1024 unless set.
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

impl Default for Bounds {
    fn default() -> Self {
        Self {
            events: 1024,
            bytes: 1 << 20,
            age: Duration::from_secs(5 * 60),
        }
    }
}

/// Whether more is to come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
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
/// [waits](Self::commit_later) for another store to have it too.
pub struct Log {
    bounds: Bounds,
    blocks: VecDeque<Kept>,
    /// The place of the first block that is kept, counted from the first of the stream.
    first: u64,
    /// The place behind the last block that readers may have.
    committed: u64,
    commits_at_once: bool,
    bytes: usize,
    so_far: u64,
    events: usize,
    next: Position,
    /// The last event that was let go ...
    evicted: Option<Position>,
    /// ... and the place behind it.
    gap: u64,
    state: State,
}

struct Kept {
    position: Position,
    block: Raw,
    since: Instant,
    is_event: bool,
    /// How many bytes the log has taken in so far, with this one.
    so_far: u64,
}

/// What a block takes beside its bytes.
pub(crate) const OVERHEAD: usize = size_of::<Kept>();

impl Kept {
    fn size(&self) -> usize {
        self.block.len() + OVERHEAD
    }
}

/// A place between two blocks, where a reader goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor(u64);

/// Where a client is that has an event, and wants what comes after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Located {
    /// Here: everything after its event is there, or still to come.
    After(Cursor),
    /// Something after its event is no longer kept.
    Evicted,
    /// The stream has no such event.
    Unknown,
}

/// A block, or what there is instead.
pub(crate) enum RawRead<'a> {
    Block(&'a Raw, Cursor),
    Nothing(Read),
}

/// What there is to read at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Read {
    /// This block, and then the place behind it.
    Block(Bytes, Cursor),
    /// Nothing yet; more may come.
    Wait,
    /// What was here is no longer kept.
    Evicted,
    /// Nothing, and nothing more will come, for the stream is [`Complete`](State::Complete) or [`Failed`](State::Failed).
    End(State),
}

impl Log {
    /// The log of a stream that has sent nothing yet.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            blocks: VecDeque::new(),
            first: 0,
            committed: 0,
            commits_at_once: true,
            bytes: 0,
            so_far: 0,
            events: 0,
            next: Position {
                epoch: 0,
                number: 0,
            },
            evicted: None,
            gap: 0,
            state: State::Live,
        }
    }

    /// Blocks wait to be [committed](Self::commit).
    pub fn commit_later(mut self) -> Self {
        self.commits_at_once = false;
        self
    }

    /// The position that the next block will have: for the id to write into it.
    pub fn next_position(&self) -> Position {
        self.next
    }

    /// Goes on in this epoch, in which somebody else has taken over. An epoch that is not later changes nothing.
    pub fn take_over(&mut self, epoch: u64) {
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
    pub fn append_aside(&mut self, block: Bytes, now: Instant) -> Position {
        self.keep(block.into(), false, now, 1)
    }

    /// Keeps a block, and at least so many of the last with it.
    pub(crate) fn keep(
        &mut self,
        block: Raw,
        is_event: bool,
        now: Instant,
        hold: usize,
    ) -> Position {
        let position = self.next;
        if self.is_over() {
            return position;
        }
        self.next.number += 1;
        let mut kept = Kept {
            position,
            block,
            since: now,
            is_event,
            so_far: self.so_far,
        };
        self.bytes += kept.size();
        self.so_far += kept.size() as u64;
        kept.so_far = self.so_far;
        self.events += usize::from(is_event);
        self.blocks.push_back(kept);
        if self.commits_at_once {
            self.committed = self.end();
        }
        self.evict(now, hold);
        position
    }

    /// Readers may have the blocks up to this position.
    pub fn commit(&mut self, position: Position) {
        let behind = self
            .blocks
            .partition_point(|kept| kept.position <= position);
        self.committed = self.committed.max(self.first + behind as u64);
    }

    /// Lets go of what is too old by now, and says when there is something to let go of again.
    pub fn expire(&mut self, now: Instant) -> Option<Instant> {
        self.expire_but(now, 0)
    }

    /// As [`expire`](Self::expire), but for so many of the last blocks.
    pub(crate) fn expire_but(&mut self, now: Instant, hold: usize) -> Option<Instant> {
        self.evict(now, hold);
        let oldest = self
            .blocks
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
    pub fn set_state(&mut self, state: State) {
        if !self.is_over() {
            self.state = state;
        }
    }

    /// What the stream has come to.
    pub fn state(&self) -> State {
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
    pub(crate) fn start(&self) -> Located {
        match self.evicted {
            None => Located::After(Cursor(self.first)),
            Some(_) => Located::Evicted,
        }
    }

    /// Finds the place after an event, strictly: that event itself is not read again.
    pub fn locate(&self, position: Position) -> Located {
        if let Some(evicted) = self.evicted
            && position <= evicted
        {
            return if position == evicted {
                Located::After(Cursor(self.first))
            } else {
                Located::Evicted
            };
        }
        match self
            .blocks
            .binary_search_by_key(&position, |kept| kept.position)
        {
            // What is not committed has been sent to nobody.
            Ok(at) if self.first + (at as u64) < self.committed => {
                Located::After(Cursor(self.first + at as u64 + 1))
            }
            _ => Located::Unknown,
        }
    }

    /// The last event that this is true of. Not of what is not committed, which was sent to nobody.
    pub(crate) fn find(&self, is_it: impl Fn(&[u8]) -> bool) -> Option<Position> {
        let committed = (self.committed - self.first) as usize;
        let mut kept = self.blocks.iter().take(committed).rev();
        let kept = kept.find(|kept| kept.is_event && is_it(kept.block.bytes()))?;
        Some(kept.position)
    }

    /// Reads at a place.
    pub fn read(&self, cursor: Cursor) -> Read {
        match self.read_raw(cursor) {
            RawRead::Block(block, next) => Read::Block(block.to_bytes(), next),
            RawRead::Nothing(read) => read,
        }
    }

    /// Reads at a place, without a copy of what is there.
    pub(crate) fn read_raw(&self, Cursor(at): Cursor) -> RawRead<'_> {
        if at < self.gap {
            return RawRead::Nothing(Read::Evicted);
        }
        // Between there and here were only comments.
        let at = at.max(self.first);
        if at < self.committed
            && let Some(kept) = self.blocks.get((at - self.first) as usize)
        {
            return RawRead::Block(&kept.block, Cursor(at + 1));
        }
        RawRead::Nothing(self.read_end(at))
    }

    fn read_end(&self, at: u64) -> Read {
        // Its end is what comes after all it has, also what is not committed yet.
        if self.is_over() && at >= self.end() {
            return Read::End(self.state);
        }
        Read::Wait
    }

    /// How many bytes it keeps, with what it takes to keep them.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many events it keeps.
    pub fn events(&self) -> usize {
        self.events
    }

    /// How many blocks it keeps, events and others.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether it keeps nothing.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    fn is_over(&self) -> bool {
        matches!(self.state, State::Complete | State::Failed)
    }

    /// The place behind the last block.
    fn end(&self) -> u64 {
        self.first + self.blocks.len() as u64
    }

    /// Whether anything but comments stands there or behind it.
    pub(crate) fn has_events_from(&self, Cursor(at): Cursor) -> bool {
        let behind = at.saturating_sub(self.first) as usize;
        let mut kept = self.blocks.iter().skip(behind);
        kept.any(|kept| kept.is_event)
    }

    /// The last event, if it is no longer kept.
    pub(crate) fn last_if_evicted(&self) -> Option<Position> {
        self.evicted.filter(|_| self.events == 0)
    }

    /// How many blocks and bytes there are from a place on.
    pub(crate) fn beyond(&self, Cursor(at): Cursor) -> (u64, u64) {
        let at = at.max(self.first);
        let read = match at.checked_sub(self.first + 1) {
            Some(before) => self
                .blocks
                .get(before as usize)
                .map_or(self.so_far, |kept| kept.so_far),
            None => self.so_far - self.bytes as u64,
        };
        (self.end().saturating_sub(at), self.so_far - read)
    }

    /// Lets go of the oldest until so many bytes are free, but for so many blocks: there is no room for all logs. Returns how
    /// many are.
    pub fn shrink(&mut self, bytes: usize, keep: usize) -> usize {
        let before = self.bytes;
        while before - self.bytes < bytes && self.blocks.len() > keep && self.first < self.committed
        {
            self.let_go();
        }
        before - self.bytes
    }

    /// Lets go of what is over the bounds, but for so many blocks.
    fn evict(&mut self, now: Instant, keep: usize) {
        while self.blocks.len() > keep
            && self.first < self.committed
            && let Some(oldest) = self.blocks.front()
        {
            let old = now.saturating_duration_since(oldest.since) >= self.bounds.age;
            let over = self.events > self.bounds.events || self.bytes > self.bounds.bytes;
            // Only age lets go of the last one: it is what a reader at the live edge is about to read.
            if !(old || (over && self.blocks.len() > 1)) {
                break;
            }
            self.let_go();
        }
    }

    /// Lets go of the oldest block.
    fn let_go(&mut self) {
        let Some(oldest) = self.blocks.pop_front() else {
            return;
        };
        self.bytes -= oldest.size();
        self.first += 1;
        if oldest.is_event {
            self.events -= 1;
            self.evicted = Some(oldest.position);
            self.gap = self.first;
        }
    }
}

/// Shows how much there is, never what.
impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("bounds", &self.bounds)
            .field("blocks", &self.blocks.len())
            .field("bytes", &self.bytes)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
