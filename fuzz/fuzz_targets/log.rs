//! For any operations on a log in any order: a read returns the appended blocks, or reports a gap. A simple model checks this.

#![no_main]

#[path = "../../tests/replay/log/model.rs"]
mod model;

use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use model::{Op, check_all};
use tower_sse_proxy::replay::{LogState, Retention};

#[derive(Arbitrary, Debug)]
struct Input {
    events: u8,
    bytes: u16,
    age: u8,
    at_once: bool,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Event(u8),
    Comment(u8),
    Shrink(u16, bool),
    Commit(u8),
    Pass(u8),
    Expire,
    TakeOver(u8),
    Live,
    Suspended,
    Complete,
    Failed,
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
            Step::Shrink(bytes, keep) => Op::Shrink {
                bytes: bytes.into(),
                keep: keep.into(),
            },
            Step::Commit(all_but) => Op::Commit {
                all_but: all_but.into(),
            },
            Step::Pass(seconds) => Op::Pass {
                seconds: seconds.into(),
            },
            Step::Expire => Op::Expire,
            Step::TakeOver(by) => Op::TakeOver { by: by.into() },
            Step::Live => Op::Set(LogState::Live),
            Step::Suspended => Op::Set(LogState::Suspended),
            Step::Complete => Op::Set(LogState::Complete),
            Step::Failed => Op::Set(LogState::Failed),
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
    check_all(retention, input.at_once, steps.map(Op::from));
});
