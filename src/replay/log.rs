//! The log of one stream: what was sent last, and how it ended.

use std::{collections::VecDeque, fmt, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use super::Position;

/// How much of a stream is kept. Whatever is over is let go, the oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bounds {
    /// So many blocks.
    pub events: usize,
    /// So many bytes, with what it takes to keep them.
    pub bytes: usize,
    /// For so long.
    pub age: Duration,
}

impl Bounds {
    /// Keeps at most so many blocks; 1024 unless set.
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
    next: Position,
    /// The last block that was let go.
    evicted: Option<Position>,
    state: State,
}

struct Kept {
    position: Position,
    block: Bytes,
    since: Instant,
}

impl Kept {
    /// What a block takes beside its bytes.
    const OVERHEAD: usize = size_of::<Self>();

    fn size(&self) -> usize {
        self.block.len() + Self::OVERHEAD
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
            next: Position {
                epoch: 0,
                number: 0,
            },
            evicted: None,
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
        if epoch > self.next.epoch {
            self.next.epoch = epoch;
        }
    }

    /// Keeps a block, and lets go of what is over the bounds; never of this one, however large it is, nor of what is not committed
    /// yet, which nobody had a chance to read. Returns its position.
    ///
    /// The log goes on also if it was [suspended](State::Suspended). What comes after its end is not kept: the stream has none.
    pub fn append(&mut self, block: Bytes, now: Instant) -> Position {
        let position = self.next;
        if self.is_over() {
            return position;
        }
        self.state = State::Live;
        self.next.number += 1;
        let kept = Kept {
            position,
            block,
            since: now,
        };
        self.bytes += kept.size();
        self.blocks.push_back(kept);
        if self.commits_at_once {
            self.committed = self.end();
        }
        self.evict(now, 1);
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
        self.evict(now, 0);
        let oldest = self
            .blocks
            .front()
            .filter(|_| self.first < self.committed)?;
        oldest.since.checked_add(self.bounds.age)
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

    /// Reads at a place.
    pub fn read(&self, Cursor(at): Cursor) -> Read {
        if at < self.first {
            return Read::Evicted;
        }
        if at < self.committed
            && let Some(kept) = self.blocks.get((at - self.first) as usize)
        {
            return Read::Block(kept.block.clone(), Cursor(at + 1));
        }
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

    /// How many blocks it keeps.
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

    /// Lets go of what is over the bounds, but for so many blocks.
    fn evict(&mut self, now: Instant, keep: usize) {
        while self.blocks.len() > keep
            && self.first < self.committed
            && let Some(oldest) = self.blocks.front()
        {
            let old = now.saturating_duration_since(oldest.since) >= self.bounds.age;
            let over = self.blocks.len() > self.bounds.events || self.bytes > self.bounds.bytes;
            // Only age lets go of the last one: it is what a reader at the live edge is about to read.
            if !(old || (over && self.blocks.len() > 1)) {
                break;
            }
            self.bytes -= oldest.size();
            self.evicted = Some(oldest.position);
            self.first += 1;
            self.blocks.pop_front();
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
