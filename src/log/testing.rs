//! A model of the log: operations on a log, compared with a list of all blocks that were ever appended.
//!
//! The unit tests and the fuzz target `log` run it. It is not part of the public API.

#![allow(missing_docs, reason = "only tests see this module")]

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::log::{Cursor, LogState, Position, ReadResult, ResumePoint, Retention, event_log::Log};

/// An operation on a log.
#[derive(Clone, Debug)]
pub enum Op {
    Append {
        size: usize,
        event: bool,
    },
    /// Evicts for another log.
    Evict {
        memory: usize,
        protected: usize,
    },
    /// Commits all blocks but the last ones.
    Commit {
        all_but: usize,
    },
    /// Time passes.
    Pass {
        seconds: u64,
    },
    Expire,
    BeginEpoch {
        epoch: u64,
    },
    Live,
    Suspend,
    Complete,
    Fail,
}

/// A block that was appended.
struct Appended {
    position: Position,
    block: Bytes,
    since: Instant,
    is_event: bool,
}

/// All blocks that were ever appended, and how many of them are evicted.
struct Model {
    all: Vec<Appended>,
    evicted: usize,
    committed: usize,
    ended: bool,
}

/// The upper bound, in bytes, of memory that one call evicts beyond the requested memory: half of a merged segment, and its overhead.
const EXCESS: usize = 8 << 10;

/// The upper bound, in bytes, of the overhead of a block.
const PER_BLOCK: usize = 100;

/// Reads from a cursor to the end. Returns the blocks and the result that is not a block.
fn read_all(log: &Log, mut cursor: Cursor) -> (Vec<Bytes>, ReadResult) {
    let mut blocks = Vec::new();
    loop {
        match log.read(cursor, 0, true) {
            ReadResult::Blocks(block, next) => {
                assert!(next > cursor);
                blocks.push(block.to_bytes());
                cursor = next;
            }
            stop => return (blocks, stop),
        }
    }
}

impl Model {
    /// Whether an evicted block from this index on is an event.
    fn has_gap(&self, from: usize) -> bool {
        (from..self.evicted).any(|index| self.all[index].is_event)
    }

    /// Checks that a read returned all committed blocks from this index on, and then the end.
    fn check_rest(&self, from: usize, (blocks, stop): (Vec<Bytes>, ReadResult)) {
        let from = from.max(self.evicted);
        let expected = &self.all[from..self.committed.max(from)];
        assert!(
            blocks
                .iter()
                .eq(expected.iter().map(|appended| &appended.block))
        );
        if self.ended && self.committed == self.all.len() {
            assert!(matches!(stop, ReadResult::End), "{stop:?}");
        } else {
            assert!(matches!(stop, ReadResult::Wait), "{stop:?}");
        }
    }

    /// Compares the log with the list. `cursors` are cursors of readers, each with the index of its block.
    fn check(&self, log: &Log, cursors: &[(Cursor, usize)]) {
        let retained = &self.all[self.evicted..];
        assert_eq!(log.len(), retained.len());
        assert_eq!(log.is_empty(), retained.is_empty());
        let events = retained.iter().filter(|appended| appended.is_event);
        assert_eq!(log.events(), events.count());
        let text: usize = retained.iter().map(|appended| appended.block.len()).sum();
        assert!(log.bytes() >= text && log.bytes() <= text + PER_BLOCK * retained.len());

        for (index, appended) in self.all.iter().enumerate() {
            if !appended.is_event && index < self.evicted {
                continue; // A comment has no id that a client could name.
            }
            match log.locate(appended.position) {
                ResumePoint::After(cursor) => {
                    assert!(!self.has_gap(index + 1) && index < self.committed, "gap");
                    self.check_rest(index + 1, read_all(log, cursor));
                }
                ResumePoint::Evicted => assert!(self.has_gap(index + 1), "no gap"),
                ResumePoint::Unknown => assert!(index >= self.committed, "lost"),
            }
        }
        let next = log.next_position();
        let of_later_epoch = Position {
            epoch: next.epoch + 1,
            sequence: 0,
        };
        for unknown in [next, of_later_epoch] {
            assert_eq!(log.locate(unknown), ResumePoint::Unknown);
        }

        for (cursor, index) in cursors {
            let read = read_all(log, *cursor);
            if self.has_gap(*index) {
                assert!(read.0.is_empty() && matches!(read.1, ReadResult::Evicted));
            } else {
                self.check_rest(*index, read);
            }
        }
    }
}

/// Runs the operations on a log, and compares it with the list after each.
///
/// # Panics
/// If the log loses, repeats or invents a block, hides a gap, or evicts too much or too little.
pub fn check_all(retention: Retention, manual_commit: bool, ops: impl IntoIterator<Item = Op>) {
    let mut now = Instant::now();
    let mut log = Log::new(retention);
    if manual_commit {
        log = log.manual_commit();
    }
    let mut model = Model {
        all: Vec::new(),
        evicted: 0,
        committed: 0,
        ended: false,
    };
    let mut cursors = vec![(log.oldest(), 0)];
    for (number, op) in ops.into_iter().enumerate() {
        let mut may_evict = false;
        match op {
            Op::Append { size, event } => {
                let block = Bytes::from(vec![number as u8; size]);
                let expected = log.next_position();
                let state = log.state();
                let position = log.append(block.clone().into(), event, now, 1);
                assert_eq!(position, expected);
                assert_eq!(log.state(), state);
                if !model.ended {
                    let last = model.all.last();
                    assert!(last.is_none_or(|last| last.position < expected));
                    assert!(!log.is_empty(), "the new block is evicted");
                    model.all.push(Appended {
                        position,
                        block,
                        since: now,
                        is_event: event,
                    });
                    may_evict = true;
                    if !manual_commit {
                        model.committed = model.all.len();
                    }
                }
            }
            Op::Evict { memory, protected } => {
                let (before, len) = (log.memory(), log.len());
                let freed = log.evict_memory(memory, protected);
                assert_eq!(before - log.memory(), freed);
                let evicted = model.all.len() - log.len();
                assert!(freed >= memory || log.len() <= protected || evicted == model.committed);
                assert!(
                    log.len() >= len.min(protected),
                    "a protected block is evicted"
                );
                assert!(freed < memory + EXCESS, "too much is evicted");
                model.evicted = evicted;
            }
            Op::Commit { all_but } => {
                if let Some(last) = model.all.len().checked_sub(all_but + 1) {
                    log.commit(model.all[last].position);
                    model.committed = model.committed.max(last + 1);
                }
            }
            Op::Pass { seconds } => now += Duration::from_secs(seconds),
            Op::Expire => {
                let next = log.expire(now, 0);
                may_evict = true;
                assert!(next.is_none_or(|at| at > now), "expired blocks remain");
            }
            Op::BeginEpoch { epoch } => {
                let expected = epoch.max(log.next_position().epoch);
                log.begin_epoch(epoch);
                assert_eq!(log.next_position().epoch, expected);
            }
            Op::Live | Op::Suspend | Op::Complete | Op::Fail => {
                let state = match op {
                    Op::Live => LogState::Live,
                    Op::Suspend => LogState::Suspended,
                    Op::Complete => LogState::Complete,
                    _ => LogState::Failed,
                };
                log.set_state(state);
                if !model.ended {
                    assert_eq!(log.state(), state);
                    model.ended = matches!(state, LogState::Complete | LogState::Failed);
                }
            }
        }
        let evicted = model.all.len() - log.len();
        assert!(evicted >= model.evicted && (may_evict || evicted == model.evicted));
        assert!(
            evicted <= model.committed,
            "an uncommitted block is evicted"
        );
        if evicted > model.evicted {
            // The last evicted block had expired, or the log would be too large with it.
            let Appended { block, since, .. } = &model.all[evicted - 1];
            let expired = now.duration_since(*since) >= retention.age;
            let too_large = log.events() + 1 > retention.events
                || log.bytes() + block.len() + PER_BLOCK > retention.bytes;
            assert!(expired || (too_large && !log.is_empty()));
        }
        model.evicted = evicted;
        if may_evict && model.evicted < model.committed {
            let fits = log.events() <= retention.events && log.bytes() <= retention.bytes;
            assert!(fits || log.len() == 1, "the log exceeds its retention");
        }
        model.check(&log, &cursors);
        cursors.push((log.live_edge(), model.committed));
        cursors.push((log.oldest(), model.evicted));
    }
}
