//! How much of a stream its log keeps.

use std::time::Duration;

/// How much of one recorded stream its log keeps. When a limit is exceeded, the oldest blocks are evicted first.
///
/// A log keeps the last block whatever the limits of number and size are. While a stream has clients, it also keeps what the fastest
/// of them has not read yet.
///
/// ```
/// use std::time::Duration;
/// use tower_sse_proxy::replay::Retention;
///
/// let retention = Retention::default().events(500).age(Duration::from_secs(60));
/// assert_eq!(retention.bytes, 1 << 20);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retention {
    /// The maximum number of events. Comments do not count. `usize::MAX`, the default, is no limit.
    pub events: usize,
    /// The maximum size, in bytes, of events and comments, where each counts 40 bytes more for its entry in the log. The default is
    /// 1 MiB.
    ///
    /// The last 4 KiB of a stream whose events come one by one take up to 16 KiB of memory. This memory counts in
    /// [`max_replay_bytes`](crate::SseProxyLayer::max_replay_bytes), not here.
    pub bytes: usize,
    /// The maximum age. The default is 5 minutes. Events that no connected client has read yet stay longer.
    pub age: Duration,
}

impl Retention {
    /// Sets the maximum number of events. Unlimited by default.
    pub fn events(mut self, events: usize) -> Self {
        self.events = events;
        self
    }

    /// Sets the maximum size in bytes. The default is 1 MiB.
    pub fn bytes(mut self, bytes: usize) -> Self {
        self.bytes = bytes;
        self
    }

    /// Sets the maximum age. The default is 5 minutes.
    pub fn age(mut self, age: Duration) -> Self {
        self.age = age;
        self
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            events: usize::MAX,
            bytes: 1 << 20,
            age: Duration::from_secs(5 * 60),
        }
    }
}
