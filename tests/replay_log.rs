//! The log of a stream against a list of all that was ever put into it.

use std::time::Duration;

use bytes::Bytes;
use proptest::{collection::vec, prelude::*};
use tokio::time::Instant;
use tower_sse_proxy::replay::{Bounds, Cursor, Located, Log, Position, Read, State};

#[derive(Clone, Debug)]
enum Op {
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
    Set(State),
}

fn op() -> impl Strategy<Value = Op> {
    let states = prop::sample::select(vec![
        State::Live,
        State::Suspended,
        State::Complete,
        State::Failed,
    ]);
    prop_oneof![
        12 => (0..600_usize, prop::bool::weighted(0.7))
            .prop_map(|(size, event)| Op::Append { size, event }),
        1 => (0..2000_usize, 0..2_usize).prop_map(|(bytes, keep)| Op::Shrink { bytes, keep }),
        3 => (0..4_usize).prop_map(|all_but| Op::Commit { all_but }),
        3 => (0..40_u64).prop_map(|seconds| Op::Pass { seconds }),
        1 => Just(Op::Expire),
        1 => (0..3_u64).prop_map(|by| Op::TakeOver { by }),
        1 => states.prop_map(Op::Set),
    ]
}

fn bounds() -> impl Strategy<Value = Bounds> {
    (0..12_usize, 0..3000_usize, 1..60_u64).prop_map(|(events, bytes, age)| {
        let age = Duration::from_secs(age);
        Bounds::default().events(events).bytes(bytes).age(age)
    })
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
fn read_all(log: &Log, mut at: Cursor) -> (Vec<Bytes>, Read) {
    let mut blocks = Vec::new();
    loop {
        match log.read(at) {
            Read::Block(block, next) => {
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
        Read::End(log.state())
    } else {
        Read::Wait
    };
    // What is no event is missed by nobody.
    let gap = |from: usize| (from..model.gone).any(|number| model.all[number].3);
    for (number, (position, _, _, is_event)) in model.all.iter().enumerate() {
        if !is_event && number < model.gone {
            continue; // It has no id that a client could name.
        }
        match log.locate(*position) {
            Located::After(at) => {
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
            Located::Evicted => assert!(gap(number + 1), "hidden too early"),
            Located::Unknown => assert!(number >= model.committed, "forgotten"),
            other => panic!("{other:?}"),
        }
    }
    let next = log.next_position();
    for never in [
        next,
        Position {
            epoch: next.epoch + 1,
            number: 0,
        },
    ] {
        assert_eq!(log.locate(never), Located::Unknown);
    }

    // Whoever reads on from where it was gets all, or learns that it cannot.
    for (cursor, number) in cursors {
        let (blocks, stopped) = read_all(log, *cursor);
        if gap(*number) {
            assert_eq!((blocks.len(), stopped), (0, Read::Evicted));
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_log_tells_what_it_was_told_or_that_it_cannot(
        bounds in bounds(),
        at_once: bool,
        ops in vec(op(), 1..60),
    ) {
        let mut now = Instant::now();
        let mut log = Log::new(bounds);
        if !at_once {
            log = log.commit_later();
        }
        let mut model = Model { all: Vec::new(), gone: 0, committed: 0, over: false };
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
                        log.append_aside(block.clone(), now)
                    };
                    prop_assert_eq!(position, expected);
                    prop_assert_eq!(log.state(), state);
                    if !model.over {
                        prop_assert!(model.all.last().is_none_or(|(last, _, _, _)| *last < expected));
                        prop_assert!(!log.is_empty(), "what has just come is gone");
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
                    prop_assert_eq!(size - log.bytes(), freed);
                    let gone = model.all.len() - log.len();
                    prop_assert!(freed >= bytes || log.len() <= keep || gone == model.committed);
                    prop_assert!(log.len() >= len.min(keep), "the last one stays");
                    // No more than had to: the last one that went was needed.
                    if gone > model.gone {
                        prop_assert!(freed - model.all[gone - 1].1.len() < bytes + 100);
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
                    prop_assert!(again.is_none_or(|at| at > now), "it is due and was not done");
                }
                Op::TakeOver { by } => {
                    let expected = by.max(log.next_position().epoch);
                    log.take_over(by);
                    prop_assert_eq!(log.next_position().epoch, expected);
                }
                Op::Set(state) => {
                    log.set_state(state);
                    if !model.over {
                        prop_assert_eq!(log.state(), state);
                        model.over = matches!(state, State::Complete | State::Failed);
                    }
                }
            }
            let gone = model.all.len() - log.len();
            prop_assert!(gone >= model.gone && (may_evict || gone == model.gone), "{before:?}");
            prop_assert!(gone <= model.committed, "what nobody could read is gone");
            if gone > model.gone {
                // The last one that went would have been too old, or too much.
                let (_, block, since, _) = &model.all[gone - 1];
                let too_old = now.duration_since(*since) >= bounds.age;
                let too_much = log.events() + 1 > bounds.events || log.bytes() + block.len() + 100 > bounds.bytes;
                prop_assert!(too_old || (too_much && !log.is_empty()));
            }
            model.gone = gone;
            if may_evict && model.gone < model.committed {
                let fits = log.events() <= bounds.events && log.bytes() <= bounds.bytes;
                prop_assert!(fits || log.len() == 1, "over the bounds");
            }
            check(&log, &model, &cursors);
            cursors.push((log.live_edge(), model.committed));
            cursors.push((log.oldest(), model.gone));
        }
    }
}

#[test]
fn what_has_just_come_is_kept_whatever_the_bounds() {
    let bounds = Bounds::default().events(0).bytes(0).age(Duration::ZERO);
    assert_eq!(
        (bounds.events, bounds.bytes, bounds.age),
        (0, 0, Duration::ZERO)
    );
    let (mut log, now) = (Log::new(bounds), Instant::now());
    let position = log.append("data: 1\n\n".into(), now);
    assert_eq!(log.len(), 1);
    assert_eq!(log.expire(now), None);
    assert!(log.is_empty());
    assert_eq!(log.locate(position), Located::After(log.live_edge()));
}

#[test]
fn a_log_shows_nothing_of_what_it_keeps() {
    let mut log = Log::new(Bounds::default());
    log.append("data: canary\n\n".into(), Instant::now());
    let shown = format!("{log:?}");
    assert!(shown.contains("blocks: 1") && !shown.contains("canary"));
}
