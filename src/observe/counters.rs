//! The counters and times of one open stream.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// The counters of one stream.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) events_in: AtomicU64,
    pub(crate) events_out: AtomicU64,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    pub(crate) resumes: AtomicU64,
    pub(crate) gaps: AtomicU64,
    pub(crate) lagged_readers: AtomicU64,
    pub(crate) reconnects: AtomicU64,
    /// The bytes that the layer added to an attached stream: comments, and the event of an error.
    pub(crate) added_bytes: AtomicU64,
    pub(super) first_event: Moment,
    pub(super) last_event: Moment,
    pub(super) first_content: Moment,
    /// In microseconds.
    pub(super) longest_gap: AtomicU64,
    /// The gaps, and their sum in microseconds.
    pub(super) gap_count: AtomicU64,
    pub(super) gap_sum: AtomicU64,
    pub(super) held_max: AtomicU64,
}

/// The time from the arrival of the request to a moment, in microseconds plus one. 0 until that moment.
#[derive(Default)]
pub(super) struct Moment(AtomicU64);

impl Moment {
    pub(super) fn set(&self, after: Duration) {
        self.0.store(micros(after) + 1, Relaxed);
    }

    pub(super) fn get(&self) -> Option<Duration> {
        let micros = self.0.load(Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros - 1))
    }
}

/// A duration in microseconds.
pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX - 1)
}
