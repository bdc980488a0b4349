//! Streams that are observed while they run: the upstream half of an attached stream in a slot that others can empty, and the clocks of
//! the watchdogs.
//!
//! A server does not poll a body while its client takes nothing. So whatever has to happen at a time of its own, such as the end of a
//! stream that an operator closes, cannot wait for the next poll: [`Attached`] shares the upstream half, and [`Housekeeper`] is the one
//! task of a layer that checks the watchdogs, and reports the progress of streams.

use std::time::Duration;

mod attached;
mod clock;
mod housekeeper;
mod watchdog;

pub use watchdog::Watchdog;

pub(crate) use attached::Attached;
#[cfg(feature = "replay")]
pub(crate) use attached::outcome_of;
pub(crate) use clock::StreamClock;
pub(crate) use housekeeper::{Checked, Housekeeper};

/// The longest reconnection time that clients are given when their stream is drained.
const DRAIN_RETRY: Duration = Duration::from_secs(5);

/// A random reconnection time for the client of a stream that is drained, so that not all clients reconnect at the same time.
pub(crate) fn drain_retry() -> Duration {
    let longest = DRAIN_RETRY.as_millis() as u64;
    Duration::from_millis(fastrand::u64(longest / 10..=longest))
}
