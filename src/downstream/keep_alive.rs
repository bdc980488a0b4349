//! Comments that keep an idle connection open.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::codec::Block;

/// Sends a comment when nothing has been sent to the client for a while, so that no proxy, load balancer or
/// NAT on the way takes the stream for dead (WHATWG HTML 9.2.7 advises one every 15 seconds or so).
///
/// Comments go only between two blocks, and every event sent puts the next one off. After each comment the interval is
/// shortened anew by up to a tenth at random, so that many streams opened at once do not speak at once. The first
/// comment is sent with the head: some CDNs hold a response back until its body begins.
///
/// ```
/// use std::time::Duration;
/// use tower_sse_proxy::{KeepAlive, SseProxyLayer};
///
/// let layer = SseProxyLayer::default()
///     .keep_alive(KeepAlive::new(Duration::from_secs(15)).text("still here"));
/// ```
#[derive(Clone, Debug)]
pub struct KeepAlive {
    interval: Duration,
    comment: Bytes,
    at_once: bool,
}

impl KeepAlive {
    /// A comment after each `interval` of silence towards the client; at least a millisecond.
    pub fn new(interval: Duration) -> Self {
        Self {
            interval: interval.clamp(Duration::from_millis(1), LONGEST),
            comment: Bytes::from_static(b":\n\n"),
            at_once: true,
        }
    }

    /// The text of the comment; empty unless set. Line ends make several comment lines.
    pub fn text(mut self, text: &str) -> Self {
        self.comment = Block::comment(text).into_raw();
        self
    }

    /// Whether the first comment goes out with the head. It does unless set.
    pub fn immediate(mut self, at_once: bool) -> Self {
        self.at_once = at_once;
        self
    }
}

/// A year: more than any stream lasts, and little enough to reckon with.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The keep-alive of one stream.
#[derive(Debug)]
#[repr(C)] // See `Stream`.
pub(crate) struct Idle {
    next: Instant,
    /// Something has been sent since that was last decided.
    traffic: bool,
    /// The present interval, shortened at random.
    interval: Duration,
    keep_alive: KeepAlive,
}

impl Idle {
    pub(crate) fn new(keep_alive: KeepAlive, now: Instant) -> Self {
        let interval = jittered(keep_alive.interval);
        let next = if keep_alive.at_once {
            now
        } else {
            now + interval
        };
        Self {
            keep_alive,
            interval,
            next,
            traffic: false,
        }
    }

    /// When a comment is due.
    pub(crate) fn deadline(&mut self, now: Instant) -> Instant {
        if std::mem::take(&mut self.traffic) {
            self.next = now + self.interval;
        }
        self.next
    }

    /// Something was sent.
    pub(crate) fn handle_traffic(&mut self) {
        self.traffic = true;
    }

    /// The comment to send now.
    pub(crate) fn comment(&mut self) -> Bytes {
        self.interval = jittered(self.keep_alive.interval);
        self.keep_alive.comment.clone()
    }
}

fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(1.0 - fastrand::f64() / 10.0)
}
