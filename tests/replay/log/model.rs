//! Compares a `Log` with a list of all blocks that were ever appended.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tower_sse_proxy::replay::{
    Cursor, Log, LogState, Position, ReadResult, ResumePoint, Retention,
};

/// An operation on a log.
#[derive(Clone, Debug)]
pub enum Op {
    Append {
        size: usize,
        event: bool,
    },
    Shrink {
        bytes: usize,
        keep: usize,
    },
    /// Commits all blocks except the last `all_but`.
    Commit {
        all_but: usize,
    },
    Pass {
        seconds: u64,
    },
    Expire,
    TakeOver {
        by: u64,
    },
    Set(LogState),
}

/// An appended block: its position, bytes and time, and whether it is an event.
type Appended = (Position, Bytes, Instant, bool);

/// All blocks that were ever appended, and the number of evicted and of committed ones.
struct Model {
    all: Vec<Appended>,
    evicted: usize,
    committed: usize,
    over: bool,
}

/// Reads from a cursor until the log has no more blocks. Returns the blocks and the last result.
fn read_all(log: &Log, mut at: Cursor) -> (Vec<Bytes>, ReadResult) {
    let mut blocks = Vec::new();
    loop {
        match log.read(at) {
            ReadResult::Block(block, next) => {
                assert!(next > at);
                blocks.push(block);
                at = next;
            }
            last => return (blocks, last),
        }
    }
}

fn check(log: &Log, model: &Model, cursors: &[(Cursor, usize)]) {
    let retained = &model.all[model.evicted..];
    assert_eq!(log.len(), retained.len());
    assert_eq!(log.is_empty(), retained.is_empty());
    assert_eq!(
        log.events(),
        retained.iter().filter(|block| block.3).count()
    );
    let texts: usize = retained.iter().map(|(_, block, _, _)| block.len()).sum();
    assert!(log.bytes() >= texts && log.bytes() <= texts + 100 * retained.len());

    // The log finds each event, or reports that later events were evicted.
    let end = if model.over && model.committed == model.all.len() {
        ReadResult::End(log.state())
    } else {
        ReadResult::Wait
    };
    // An evicted block that is not an event is no gap.
    let gap = |from: usize| (from..model.evicted).any(|number| model.all[number].3);
    for (number, (position, _, _, is_event)) in model.all.iter().enumerate() {
        if !is_event && number < model.evicted {
            continue; // A client cannot name a block without an id.
        }
        match log.locate(*position) {
            ResumePoint::After(at) => {
                assert!(
                    !gap(number + 1) && number < model.committed,
                    "a gap was not reported"
                );
                let (blocks, last) = read_all(log, at);
                let next = (number + 1).max(model.evicted);
                let expected = &model.all[next..model.committed.max(next)];
                assert!(
                    blocks
                        .iter()
                        .eq(expected.iter().map(|(_, block, _, _)| block))
                );
                assert_eq!(last, end);
            }
            ResumePoint::Evicted => assert!(gap(number + 1), "evicted event without a gap"),
            ResumePoint::Unknown => {
                assert!(number >= model.committed, "committed event is unknown")
            }
            other => panic!("{other:?}"),
        }
    }
    let next = log.next_position();
    for never in [
        next,
        Position {
            epoch: next.epoch + 1,
            sequence: 0,
        },
    ] {
        assert_eq!(log.locate(never), ResumePoint::Unknown);
    }

    // An earlier cursor reads all later blocks, or learns that some were evicted.
    for (cursor, number) in cursors {
        let (blocks, last) = read_all(log, *cursor);
        if gap(*number) {
            assert_eq!((blocks.len(), last), (0, ReadResult::Evicted));
        } else {
            let next = model.evicted.max(*number);
            let expected = &model.all[next..model.committed.max(next)];
            assert!(
                blocks
                    .iter()
                    .eq(expected.iter().map(|(_, block, _, _)| block))
            );
            assert_eq!(last, end);
        }
    }
}

/// Runs the operations. After each, compares the log with the model for all positions and all cursors so far.
pub fn check_all(bounds: Retention, at_once: bool, ops: impl IntoIterator<Item = Op>) {
    let mut now = Instant::now();
    let mut log = Log::new(bounds);
    if !at_once {
        log = log.manual_commit();
    }
    let mut model = Model {
        all: Vec::new(),
        evicted: 0,
        committed: 0,
        over: false,
    };
    let mut cursors = vec![(log.oldest(), 0)];
    for (number, op) in ops.into_iter().enumerate() {
        let sizes_before = (log.len(), model.all.len());
        let mut may_evict = false;
        match op {
            Op::Append { size, event } => {
                let block = Bytes::from(vec![number as u8; size]);
                let expected = log.next_position();
                let state = log.state();
                let position = if event {
                    log.append(block.clone(), now)
                } else {
                    log.append_non_event(block.clone(), now)
                };
                assert_eq!(position, expected);
                assert_eq!(log.state(), state);
                if !model.over {
                    assert!(
                        model
                            .all
                            .last()
                            .is_none_or(|(last, _, _, _)| *last < expected)
                    );
                    assert!(!log.is_empty(), "the newest block was evicted");
                    model.all.push((expected, block, now, event));
                    may_evict = true;
                    if at_once {
                        model.committed = model.all.len();
                    }
                }
            }
            Op::Shrink { bytes, keep } => {
                let (size, len) = (log.bytes(), log.len());
                let freed = log.shrink(bytes, keep);
                assert_eq!(size - log.bytes(), freed);
                let evicted = model.all.len() - log.len();
                assert!(freed >= bytes || log.len() <= keep || evicted == model.committed);
                assert!(
                    log.len() >= len.min(keep),
                    "fewer than `keep` blocks are left"
                );
                // No more than necessary: without the last evicted block, `shrink` would have freed too little.
                if evicted > model.evicted {
                    assert!(freed - model.all[evicted - 1].1.len() < bytes + 100);
                }
                model.evicted = evicted;
            }
            Op::Commit { all_but } => {
                if let Some(upto) = model.all.len().checked_sub(all_but + 1) {
                    log.commit(model.all[upto].0);
                    model.committed = model.committed.max(upto + 1);
                }
            }
            Op::Pass { seconds } => now += Duration::from_secs(seconds),
            Op::Expire => {
                let again = log.expire(now);
                may_evict = true;
                assert!(
                    again.is_none_or(|at| at > now),
                    "a block has expired but was not evicted"
                );
            }
            Op::TakeOver { by } => {
                let expected = by.max(log.next_position().epoch);
                log.begin_epoch(by);
                assert_eq!(log.next_position().epoch, expected);
            }
            Op::Set(state) => {
                log.set_state(state);
                if !model.over {
                    assert_eq!(log.state(), state);
                    model.over = matches!(state, LogState::Complete | LogState::Failed);
                }
            }
        }
        let evicted = model.all.len() - log.len();
        assert!(
            evicted >= model.evicted && (may_evict || evicted == model.evicted),
            "{sizes_before:?}"
        );
        assert!(
            evicted <= model.committed,
            "an uncommitted block was evicted"
        );
        if evicted > model.evicted {
            // The last evicted block was too old, or over a bound.
            let (_, block, since, _) = &model.all[evicted - 1];
            let too_old = now.duration_since(*since) >= bounds.age;
            let too_much =
                log.events() + 1 > bounds.events || log.bytes() + block.len() + 100 > bounds.bytes;
            assert!(too_old || (too_much && !log.is_empty()));
        }
        model.evicted = evicted;
        if may_evict && model.evicted < model.committed {
            let fits = log.events() <= bounds.events && log.bytes() <= bounds.bytes;
            assert!(fits || log.len() == 1, "above the retention bounds");
        }
        check(&log, &model, &cursors);
        cursors.push((log.live_edge(), model.committed));
        cursors.push((log.oldest(), model.evicted));
    }
}
