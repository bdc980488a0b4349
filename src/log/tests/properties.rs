//! The log against its model, and examples of its limits.

use proptest::{collection::vec, prelude::*};

use crate::log::{
    testing::{Op, check_all},
    tests::*,
};

fn op() -> impl Strategy<Value = Op> {
    let states = prop::sample::select(vec![Op::Live, Op::Suspend, Op::Complete, Op::Fail]);
    prop_oneof![
        12 => (0..600_usize, prop::bool::weighted(0.7))
            .prop_map(|(size, event)| Op::Append { size, event }),
        1 => (0..2000_usize, 0..2_usize)
            .prop_map(|(memory, protected)| Op::Evict { memory, protected }),
        3 => (0..4_usize).prop_map(|all_but| Op::Commit { all_but }),
        3 => (0..40_u64).prop_map(|seconds| Op::Pass { seconds }),
        1 => Just(Op::Expire),
        1 => (0..3_u64).prop_map(|epoch| Op::BeginEpoch { epoch }),
        1 => states,
    ]
}

fn retention() -> impl Strategy<Value = Retention> {
    (0..12_usize, 0..3000_usize, 1..60_u64).prop_map(|(events, bytes, age)| {
        let age = Duration::from_secs(age);
        Retention::default().events(events).bytes(bytes).age(age)
    })
}

proptest! {
    #[test]
    fn log_returns_what_was_appended_or_reports_a_gap(
        retention in retention(),
        manual_commit: bool,
        ops in vec(op(), 1..60),
    ) {
        check_all(retention, manual_commit, ops);
    }
}

#[test]
fn newest_block_is_retained_whatever_the_limits() {
    let retention = Retention::default().events(0).bytes(0).age(Duration::ZERO);
    assert_eq!(
        (retention.events, retention.bytes, retention.age),
        (0, 0, Duration::ZERO)
    );
    let (mut log, now) = (Log::new(retention), Instant::now());
    let position = append(&mut log, "data: 1\n\n", now);
    assert_eq!(log.len(), 1);
    assert_eq!(log.expire(now, 0), None);
    assert!(log.is_empty());
    assert_eq!(log.locate(position), ResumePoint::After(log.live_edge()));
}

#[test]
fn expire_returns_when_the_next_block_expires() {
    let (age, second) = (Duration::from_secs(60), Duration::from_secs(1));
    let now = Instant::now();
    let mut log = Log::new(Retention::default().age(age));
    assert_eq!(log.expire(now, 0), None, "the log is empty");
    append(&mut log, "data: 1\n\n", now);
    append(&mut log, "data: 2\n\n", now + second);
    assert_eq!(log.expire(now + second, 0), Some(now + age));
    assert_eq!(log.expire(now + age, 0), Some(now + age + second));
    assert_eq!(log.expire(now + age + second, 0), None);

    let mut log = Log::new(Retention::default().age(age)).manual_commit();
    let position = append(&mut log, "data: 1\n\n", now);
    assert_eq!(log.expire(now + age, 0), None, "no reader could read it");
    log.commit(position);
    assert_eq!(log.expire(now + second, 0), Some(now + age));
}

#[test]
fn debug_of_a_log_shows_no_content() {
    let mut log = Log::new(Retention::default());
    append(&mut log, "data: canary\n\n", Instant::now());
    let shown = format!("{log:?}");
    assert!(shown.contains("blocks: 1") && !shown.contains("canary"));
}
