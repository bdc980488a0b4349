//! A log against a list of all that was ever put into it.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tower_sse_proxy::replay::{
    Cursor, Log, LogState, Position, ReadResult, ResumePoint, Retention,
};

/// Something that is done to a log.
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
    /// Commits all but so many of the last.
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

/// A block that was put in, when, and whether it was an event.
type Put = (Position, Bytes, Instant, bool);

/// All that was ever put in, and how much of it has gone.
struct Model {
    all: Vec<Put>,
    gone: usize,
    committed: usize,
    over: bool,
}

/// Reads from a place to where there is nothing more, and says why it stopped.
fn read_all(log: &Log, mut at: Cursor) -> (Vec<Bytes>, ReadResult) {
    let mut blocks = Vec::new();
    loop {
        match log.read(at) {
            ReadResult::Block(block, next) => {
                assert!(next > at);
                blocks.push(block);
                at = next;
            }
            stopped => return (blocks, stopped),
        }
    }
}

fn check(log: &Log, model: &Model, cursors: &[(Cursor, usize)]) {
    let kept = &model.all[model.gone..];
    assert_eq!(log.len(), kept.len());
    assert_eq!(log.is_empty(), kept.is_empty());
    assert_eq!(log.events(), kept.iter().filter(|put| put.3).count());
    let texts: usize = kept.iter().map(|(_, block, _, _)| block.len()).sum();
    assert!(log.bytes() >= texts && log.bytes() <= texts + 100 * kept.len());

    // Every event that ever was is found, or known to be followed by a gap.
    let end = if model.over && model.committed == model.all.len() {
        ReadResult::End(log.state())
    } else {
        ReadResult::Wait
    };
    // What is no event is missed by nobody.
    let gap = |from: usize| (from..model.gone).any(|number| model.all[number].3);
    for (number, (position, _, _, is_event)) in model.all.iter().enumerate() {
        if !is_event && number < model.gone {
            continue; // It has no id that a client could name.
        }
        match log.locate(*position) {
            ResumePoint::After(at) => {
                assert!(!gap(number + 1) && number < model.committed, "after a gap");
                let (blocks, stopped) = read_all(log, at);
                let next = (number + 1).max(model.gone);
                let expected = &model.all[next..model.committed.max(next)];
                assert!(
                    blocks
                        .iter()
                        .eq(expected.iter().map(|(_, block, _, _)| block))
                );
                assert_eq!(stopped, end);
            }
            ResumePoint::Evicted => assert!(gap(number + 1), "hidden too early"),
            ResumePoint::Unknown => assert!(number >= model.committed, "forgotten"),
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

    // Whoever reads on from where it was gets all, or learns that it cannot.
    for (cursor, number) in cursors {
        let (blocks, stopped) = read_all(log, *cursor);
        if gap(*number) {
            assert_eq!((blocks.len(), stopped), (0, ReadResult::Evicted));
        } else {
            let next = model.gone.max(*number);
            let expected = &model.all[next..model.committed.max(next)];
            assert!(
                blocks
                    .iter()
                    .eq(expected.iter().map(|(_, block, _, _)| block))
            );
            assert_eq!(stopped, end);
        }
    }
}

/// Does all that, and looks after each whether the log tells what it was told or that it cannot.
pub fn check_all(bounds: Retention, at_once: bool, ops: impl IntoIterator<Item = Op>) {
    let mut now = Instant::now();
    let mut log = Log::new(bounds);
    if !at_once {
        log = log.manual_commit();
    }
    let mut model = Model {
        all: Vec::new(),
        gone: 0,
        committed: 0,
        over: false,
    };
    let mut cursors = vec![(log.oldest(), 0)];
    for (number, op) in ops.into_iter().enumerate() {
        let before = (log.len(), model.all.len());
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
                    assert!(!log.is_empty(), "what has just come is gone");
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
                let gone = model.all.len() - log.len();
                assert!(freed >= bytes || log.len() <= keep || gone == model.committed);
                assert!(log.len() >= len.min(keep), "the last one stays");
                // No more than had to: the last one that went was needed.
                if gone > model.gone {
                    assert!(freed - model.all[gone - 1].1.len() < bytes + 100);
                }
                model.gone = gone;
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
                    "it is due and was not done"
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
        let gone = model.all.len() - log.len();
        assert!(
            gone >= model.gone && (may_evict || gone == model.gone),
            "{before:?}"
        );
        assert!(gone <= model.committed, "what nobody could read is gone");
        if gone > model.gone {
            // The last one that went would have been too old, or too much.
            let (_, block, since, _) = &model.all[gone - 1];
            let too_old = now.duration_since(*since) >= bounds.age;
            let too_much =
                log.events() + 1 > bounds.events || log.bytes() + block.len() + 100 > bounds.bytes;
            assert!(too_old || (too_much && !log.is_empty()));
        }
        model.gone = gone;
        if may_evict && model.gone < model.committed {
            let fits = log.events() <= bounds.events && log.bytes() <= bounds.bytes;
            assert!(fits || log.len() == 1, "over the bounds");
        }
        check(&log, &model, &cursors);
        cursors.push((log.live_edge(), model.committed));
        cursors.push((log.oldest(), model.gone));
    }
}
