//! For any operations on a log in any order: a read returns the appended blocks, or reports a gap. A simple model checks this.

#![no_main]

use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use tower_sse_proxy::replay::{
    Retention,
    log_testing::{Op, check_all},
};

#[derive(Arbitrary, Debug)]
struct Input {
    events: u8,
    bytes: u16,
    age: u8,
    manual_commit: bool,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Event(u8),
    Comment(u8),
    Evict(u16, bool),
    Commit(u8),
    Pass(u8),
    Expire,
    BeginEpoch(u8),
    Live,
    Suspend,
    Complete,
    Fail,
}

impl From<Step> for Op {
    fn from(step: Step) -> Self {
        match step {
            Step::Event(size) => Op::Append {
                size: size.into(),
                event: true,
            },
            Step::Comment(size) => Op::Append {
                size: size.into(),
                event: false,
            },
            Step::Evict(memory, protected) => Op::Evict {
                memory: memory.into(),
                protected: protected.into(),
            },
            Step::Commit(all_but) => Op::Commit {
                all_but: all_but.into(),
            },
            Step::Pass(seconds) => Op::Pass {
                seconds: seconds.into(),
            },
            Step::Expire => Op::Expire,
            Step::BeginEpoch(epoch) => Op::BeginEpoch {
                epoch: epoch.into(),
            },
            Step::Live => Op::Live,
            Step::Suspend => Op::Suspend,
            Step::Complete => Op::Complete,
            Step::Fail => Op::Fail,
        }
    }
}

fuzz_target!(|input: Input| {
    let retention = Retention::default()
        .events(input.events.into())
        .bytes(input.bytes.into())
        .age(Duration::from_secs(input.age.into()));
    // The model compares the whole log after each step, so the number of steps is limited.
    let steps = input.steps.into_iter().take(200);
    check_all(retention, input.manual_commit, steps.map(Op::from));
});
