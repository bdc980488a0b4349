//! The delay before each attempt, and the number of attempts.

use std::time::Duration;

/// The shortest delay between a broken stream or a failed attempt and the next attempt.
const MIN_DELAY: Duration = Duration::from_millis(100);

/// Exponential backoff with full jitter, and limits of the number of attempts.
///
/// The attempt after `n` failures in a row waits a random time between 0 and `initial * 2^n`, at most `max_delay`. The jitter
/// keeps streams that broke together from reconnecting together.
///
/// If the upstream has sent a reconnection time (`retry`, WHATWG HTML 9.2.6), that time replaces `initial`, and it is added to the
/// random time. The sum is cut to `max_delay`.
///
/// The delay is at least 100 ms, whatever `retry` and the settings say, so that an upstream cannot make the layer call it in a
/// loop.
///
/// The stream ends with an error after [`max_attempts`](Self::max_attempts) failures in a row, or after
/// [`max_total_attempts`](Self::max_total_attempts) attempts.
///
/// ```
/// use std::time::Duration;
/// use tower_sse_proxy::reconnect::Backoff;
///
/// let backoff = Backoff::default()
///     .initial(Duration::from_millis(500))
///     .max_delay(Duration::from_secs(10))
///     .max_attempts(5);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    initial: Duration,
    max_delay: Duration,
    max_attempts: u32,
    max_total_attempts: u32,
}

impl Backoff {
    /// Sets the longest delay before the first attempt. Default: 3 s.
    pub fn initial(mut self, delay: Duration) -> Self {
        self.initial = delay;
        self
    }

    /// Sets the longest delay before any attempt. Default: 30 s. A longer `retry` of the upstream is cut to this.
    pub fn max_delay(mut self, delay: Duration) -> Self {
        self.max_delay = delay;
        self
    }

    /// Sets the number of failures in a row after which the layer stops reconnecting. Default: 10.
    ///
    /// A failure is an attempt without an event stream as the response, or a response that broke before a new event. A new event
    /// starts the count again.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// Sets the number of attempts in the lifetime of one stream, successful or not. Default: 1,000. With 0 the layer never
    /// reconnects.
    ///
    /// This limits the requests that one client request can cause if the upstream breaks after each event. A client that resumes
    /// with a new request, as an `EventSource` does, starts a new count.
    pub fn max_total_attempts(mut self, attempts: u32) -> Self {
        self.max_total_attempts = attempts;
        self
    }

    /// Whether a stream has another attempt after this number of attempts.
    pub(crate) fn has_another(&self, attempts: u32) -> bool {
        attempts < self.max_total_attempts
    }

    /// The delay before the next attempt, at least 100 ms. `None` if there is no further attempt.
    ///
    /// `failures` is the number of failures in a row, `retry` the reconnection time of the upstream, and `random` a number from 0
    /// to 1 that chooses the jitter.
    pub fn delay(&self, failures: u32, retry: Option<Duration>, random: f64) -> Option<Duration> {
        if failures >= self.max_attempts {
            return None;
        }
        let min_delay = retry.unwrap_or_default().min(self.max_delay);
        // An initial delay of zero would never grow.
        let initial = retry.unwrap_or(self.initial).max(MIN_DELAY);
        let factor = 2_u32.saturating_pow(failures);
        let window = initial.saturating_mul(factor).min(self.max_delay);
        let delay = min_delay.saturating_add(window.mul_f64(random.clamp(0.0, 1.0)));
        Some(delay.min(self.max_delay).max(MIN_DELAY))
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            initial: Duration::from_secs(3),
            max_delay: Duration::from_secs(30),
            max_attempts: 10,
            max_total_attempts: 1000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn window_doubles_up_to_the_maximum() {
        let backoff = Backoff::default()
            .initial(millis(100))
            .max_delay(millis(500));
        let most: Vec<_> = (0..5).map(|n| backoff.delay(n, None, 1.0)).collect();
        assert_eq!(most, [100, 200, 400, 500, 500].map(|n| Some(millis(n))));
        assert_eq!(backoff.delay(3, None, 0.0), Some(millis(100)));
        assert_eq!(backoff.delay(9, None, 1.0), Some(millis(500)));
        assert_eq!(backoff.delay(10, None, 1.0), None);
    }

    #[test]
    fn retry_of_the_upstream_is_the_minimum() {
        let backoff = Backoff::default().max_delay(millis(500));
        assert_eq!(backoff.delay(0, Some(millis(150)), 0.0), Some(millis(150)));
        assert_eq!(backoff.delay(0, Some(millis(150)), 1.0), Some(millis(300)));
        assert_eq!(backoff.delay(1, Some(millis(150)), 1.0), Some(millis(450)));
        assert_eq!(backoff.delay(0, Some(millis(5000)), 0.5), Some(millis(500)));
    }

    #[test]
    fn delay_is_never_below_the_floor_and_grows_from_it() {
        for retry in [None, Some(Duration::ZERO), Some(millis(99))] {
            let backoff = Backoff::default().initial(Duration::ZERO);
            assert_eq!(backoff.delay(0, retry, 0.0), Some(millis(100)));
            let most: Vec<_> = (0..3).map(|n| backoff.delay(n, retry, 1.0)).collect();
            let least = retry.unwrap_or_default();
            assert_eq!(most, [100, 200, 400].map(|n| Some(least + millis(n))));
        }
        let backoff = Backoff::default().max_delay(Duration::ZERO);
        assert_eq!(backoff.delay(0, None, 1.0), Some(millis(100)));
    }

    proptest! {
        #[test]
        fn delay_is_within_its_bounds(
            initial: u64, max_delay: u64, failures: u32, retry: Option<u64>, random: f64,
        ) {
            let backoff = Backoff::default().initial(millis(initial)).max_delay(millis(max_delay)).max_attempts(u32::MAX);
            let retry = retry.map(millis);
            let delay = backoff.delay(failures, retry, if random.is_nan() { 0.5 } else { random });
            if let Some(delay) = delay {
                prop_assert!(delay >= MIN_DELAY);
                prop_assert!(delay <= millis(max_delay).max(MIN_DELAY));
                prop_assert!(delay >= retry.unwrap_or_default().min(millis(max_delay)));
            }
        }
    }
}
