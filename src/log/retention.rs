//! Retention of a recorded stream.

use std::time::Duration;

/// Retention of one stream: how much of it its log keeps. The oldest blocks are evicted first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retention {
    /// The number of events. Comments between them do not count. `usize::MAX`, the default, is no limit.
    pub events: usize,
    /// Bytes of events and comments, and 40 more for each, which is what the log needs to store it. (The last few KiB of a stream
    /// whose events come one by one need more: at most 16 KiB for each stream, which count for all streams together, in
    /// [`replay_bytes`](crate::SseProxyLayer::max_replay_bytes).)
    pub bytes: usize,
    /// For so long; and longer what a client that is connected has still to read.
    pub age: Duration,
}

impl Retention {
    /// Keeps at most so many events; no limit unless set.
    pub fn events(mut self, events: usize) -> Self {
        self.events = events;
        self
    }

    /// Keeps at most so many bytes; 1 MiB unless set.
    pub fn bytes(mut self, bytes: usize) -> Self {
        self.bytes = bytes;
        self
    }

    /// Keeps blocks for so long; 5 minutes unless set.
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
