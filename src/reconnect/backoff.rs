//! How long to wait before the next attempt.

use std::time::Duration;

/// No attempt is made sooner than this after a stream broke or an attempt failed.
const MIN_DELAY: Duration = Duration::from_millis(100);

/// Waiting times that grow, at random, and how many attempts there are.
///
/// Before the `n`-th attempt in a row the wait is anything up to twice as long as before the one before it, from a first time on and
/// up to a longest: streams that broke together do not come back together. Where the upstream has named a time by `retry` (WHATWG
/// HTML 9.2.6), that comes first, in the place of the first time and as the least there is. After so many attempts in a row without
/// an event it is over, and after so many attempts [in total](Self::max_total_attempts).
///
/// Two attempts are at least 100 ms apart, whatever `retry` and these settings say: an upstream cannot make the layer call it in a
/// loop.
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
    first: Duration,
    longest: Duration,
    attempts: u32,
    max_total_attempts: u32,
}

impl Backoff {
    /// The most there is to wait before the first attempt; 3 s unless set.
    pub fn initial(mut self, time: Duration) -> Self {
        self.first = time;
        self
    }

    /// The most there is to wait before any; 30 s unless set. A longer `retry` of the upstream's is cut to this.
    pub fn max_delay(mut self, time: Duration) -> Self {
        self.longest = time;
        self
    }

    /// So many attempts in a row, before the stream is given up; 10 unless set.
    pub fn max_attempts(mut self, number: u32) -> Self {
        self.attempts = number;
        self
    }

    /// How many attempts a stream has over its life, in which events may have come or not; 1,000 unless set. Then it is cut.
    ///
    /// An upstream that breaks after each event is asked this often for one request of a client. Clients that come back after the
    /// cut, as an `EventSource` does, have as many again. With 0 a stream that breaks is cut at once.
    pub fn max_total_attempts(mut self, number: u32) -> Self {
        self.max_total_attempts = number;
        self
    }

    /// Whether a stream for which so many attempts were made has another one.
    pub(crate) fn has_another(&self, made: u32) -> bool {
        made < self.max_total_attempts
    }

    /// The wait before an attempt, of which so many have failed in a row; none if it is over. `random` is from 0 to 1. Never less
    /// than 100 ms.
    pub fn delay(&self, failed: u32, retry: Option<Duration>, random: f64) -> Option<Duration> {
        if failed >= self.attempts {
            return None;
        }
        let least = retry.unwrap_or_default().min(self.longest);
        // From nothing no time grows.
        let first = retry.unwrap_or(self.first).max(MIN_DELAY);
        let times = 2_u32.saturating_pow(failed);
        let window = first.saturating_mul(times).min(self.longest);
        let wait = least.saturating_add(window.mul_f64(random.clamp(0.0, 1.0)));
        Some(wait.min(self.longest).max(MIN_DELAY))
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(3),
            longest: Duration::from_secs(30),
            attempts: 10,
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
    fn the_window_doubles_up_to_the_longest() {
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
    fn the_upstreams_time_is_the_least() {
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
        fn a_wait_is_within_its_bounds(
            first: u64, longest: u64, failed: u32, retry: Option<u64>, random: f64,
        ) {
            let backoff = Backoff::default().initial(millis(first)).max_delay(millis(longest)).max_attempts(u32::MAX);
            let retry = retry.map(millis);
            let wait = backoff.delay(failed, retry, if random.is_nan() { 0.5 } else { random });
            if let Some(wait) = wait {
                prop_assert!(wait >= MIN_DELAY);
                prop_assert!(wait <= millis(longest).max(MIN_DELAY));
                prop_assert!(wait >= retry.unwrap_or_default().min(millis(longest)));
            }
        }
    }
}
