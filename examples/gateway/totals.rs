//! The streams that have ended, for the live page: how many by outcome, and the last ones.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;
use tower_sse_proxy::observe::{StreamObserver, StreamOutcome, StreamRecord};

use crate::admin::millis;

/// The number of ended streams that are listed.
const LISTED: usize = 200;

/// Counts the streams that have ended, and keeps the last ones.
#[derive(Clone, Default)]
pub struct Totals(Arc<Mutex<Counted>>);

#[derive(Default)]
struct Counted {
    by_outcome: BTreeMap<&'static str, u64>,
    last: VecDeque<Ended>,
    /// The number of the stream that ended last, from 1.
    number: u64,
}

/// A stream that has ended, as the live page shows it.
#[derive(Clone, Serialize)]
pub struct Ended {
    number: u64,
    id: String,
    outcome: &'static str,
    ended_by: &'static str,
    route: String,
    method: String,
    owner: String,
    duration_ms: u64,
    events: u64,
    bytes: u64,
}

impl Ended {
    fn of(record: &StreamRecord, number: u64) -> Self {
        Self {
            number,
            id: record.id.to_string(),
            outcome: record.outcome.as_str(),
            ended_by: record.ended_by().as_str(),
            route: record.route.as_deref().unwrap_or_default().to_owned(),
            method: record.method.to_string(),
            owner: record.owner.to_string(),
            duration_ms: millis(record.duration),
            events: record.events_out,
            bytes: record.bytes_out,
        }
    }
}

impl Totals {
    /// The number of streams that have ended with each outcome.
    pub fn by_outcome(&self) -> BTreeMap<&'static str, u64> {
        let counted = self.lock();
        let all = StreamOutcome::ALL.map(|outcome| {
            let name = outcome.as_str();
            (name, counted.by_outcome.get(name).copied().unwrap_or(0))
        });
        all.into()
    }

    /// The streams that ended after the one with this number, the last 200 at most.
    pub fn ended_after(&self, number: u64) -> Vec<Ended> {
        let counted = self.lock();
        let later = counted.last.iter().filter(|ended| ended.number > number);
        later.cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StreamObserver for Totals {
    fn closed(&self, record: &StreamRecord) {
        let mut counted = self.lock();
        *counted
            .by_outcome
            .entry(record.outcome.as_str())
            .or_default() += 1;
        counted.number += 1;
        let ended = Ended::of(record, counted.number);
        if counted.last.len() == LISTED {
            counted.last.pop_front();
        }
        counted.last.push_back(ended);
    }
}
