//! `Log` behaves as a model: a list of all blocks that were ever appended.

mod model;

use std::time::Duration;

use model::{Op, check_all};
use proptest::{collection::vec, prelude::*};
use tokio::time::Instant;
use tower_sse_proxy::replay::{Log, LogState, ResumePoint, Retention};

fn op() -> impl Strategy<Value = Op> {
    let states = prop::sample::select(vec![
        LogState::Live,
        LogState::Suspended,
        LogState::Complete,
        LogState::Failed,
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

fn bounds() -> impl Strategy<Value = Retention> {
    (0..12_usize, 0..3000_usize, 1..60_u64).prop_map(|(events, bytes, age)| {
        let age = Duration::from_secs(age);
        Retention::default().events(events).bytes(bytes).age(age)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn log_returns_all_blocks_in_order_or_reports_a_gap(
        bounds in bounds(),
        at_once: bool,
        ops in vec(op(), 1..60),
    ) {
        check_all(bounds, at_once, ops);
    }
}

#[test]
fn newest_block_is_retained_with_any_bounds() {
    let bounds = Retention::default().events(0).bytes(0).age(Duration::ZERO);
    assert_eq!(
        (bounds.events, bounds.bytes, bounds.age),
        (0, 0, Duration::ZERO)
    );
    let (mut log, now) = (Log::new(bounds), Instant::now());
    let position = log.append("data: 1\n\n".into(), now);
    assert_eq!(log.len(), 1);
    assert_eq!(log.expire(now), None);
    assert!(log.is_empty());
    assert_eq!(log.locate(position), ResumePoint::After(log.live_edge()));
}

#[test]
fn expire_returns_the_time_of_the_next_expiry() {
    let (age, second) = (Duration::from_secs(60), Duration::from_secs(1));
    let now = Instant::now();
    let mut log = Log::new(Retention::default().age(age));
    assert_eq!(log.expire(now), None, "the log is empty");
    log.append("data: 1\n\n".into(), now);
    log.append("data: 2\n\n".into(), now + second);
    assert_eq!(log.expire(now + second), Some(now + age));
    assert_eq!(log.expire(now + age), Some(now + age + second));
    assert_eq!(log.expire(now + age + second), None);

    let mut log = Log::new(Retention::default().age(age)).manual_commit();
    let position = log.append("data: 1\n\n".into(), now);
    assert_eq!(log.expire(now + age), None, "the block is not committed");
    log.commit(position);
    assert_eq!(log.expire(now + second), Some(now + age));
}

#[test]
fn debug_output_contains_no_block_content() {
    let mut log = Log::new(Retention::default());
    log.append("data: canary\n\n".into(), Instant::now());
    let shown = format!("{log:?}");
    assert!(shown.contains("blocks: 1") && !shown.contains("canary"));
}
