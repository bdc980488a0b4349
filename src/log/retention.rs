//! The retention of a recorded stream.

use std::time::Duration;

/// How much of one recorded stream its log keeps. When a limit is exceeded, the oldest blocks are evicted first.
///
/// The limits of number and size never evict the last block. While a stream has clients, no limit evicts a block that the fastest client
/// has not read yet. When such blocks fill the log, the layer stops reading the upstream until the client has read some.
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
    /// If events come one by one, the last 4 KiB of them take up to 16 KiB of memory. This memory counts in
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
