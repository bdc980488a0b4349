//! How many streams have ended, by outcome, for the live page.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tower_sse_proxy::observe::{StreamObserver, StreamOutcome, StreamRecord};

/// Counts the streams that have ended, and keeps the last ones.
#[derive(Clone, Default)]
pub struct Totals(Arc<Mutex<BTreeMap<&'static str, u64>>>);

impl Totals {
    /// The number of streams that have ended with each outcome.
    pub fn by_outcome(&self) -> BTreeMap<&'static str, u64> {
        let ended = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all = StreamOutcome::ALL.map(|outcome| {
            let name = outcome.as_str();
            (name, ended.get(name).copied().unwrap_or(0))
        });
        all.into()
    }
}

impl StreamObserver for Totals {
    fn closed(&self, record: &StreamRecord) {
        let mut ended = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *ended.entry(record.outcome.as_str()).or_default() += 1;
    }
}
