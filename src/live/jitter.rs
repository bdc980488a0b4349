//! Random parts of times, so that what happens to many streams does not happen to all at once.

use std::time::Duration;

/// The longest reconnection time that clients are given when their stream is drained.
const DRAIN_RETRY: Duration = Duration::from_secs(5);

/// A random reconnection time for the client of a stream that is drained, so that not all clients reconnect at the same time.
pub(crate) fn drain_retry() -> Duration {
    let longest = DRAIN_RETRY.as_millis() as u64;
    Duration::from_millis(fastrand::u64(longest / 10..=longest))
}

/// Shortens a time at random by up to a tenth, so that what began together does not end together.
pub(super) fn shortened(time: Duration) -> Duration {
    time.mul_f64(1.0 - fastrand::f64() / 10.0)
}
