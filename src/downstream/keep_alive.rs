//! Keep-alive comments on idle streams.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::codec::Block;

/// Sends a comment to the client when nothing was sent for an interval, so that proxies, load balancers and NATs do not close the
/// connection as idle. WHATWG HTML 9.2.7 advises a comment about every 15 seconds.
///
/// Comments are sent only between two blocks, and each event restarts the interval. Each interval is shortened by a random part of
/// up to 10 %, so that streams that were opened together do not send their comments together. By default the first comment is sent
/// at once, because some CDNs hold back a response until its body begins.
///
/// Needs a tokio runtime with its timer enabled; without one, polling an idle stream panics.
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
    immediate: bool,
}

impl KeepAlive {
    /// Sends a comment after each `interval` without data for the client. An interval below 1 ms counts as 1 ms, and one above a
    /// year as a year.
    pub fn new(interval: Duration) -> Self {
        Self {
            interval: interval.clamp(Duration::from_millis(1), MAX_INTERVAL),
            comment: Bytes::from_static(b":\n\n"),
            immediate: true,
        }
    }

    /// Sets the text of the comment. Default: empty. A text of several lines becomes several comment lines.
    pub fn text(mut self, text: &str) -> Self {
        self.comment = Block::comment(text).into_raw();
        self
    }

    /// Sets whether the first comment is sent at once, with the response head, or after the first interval. Default: at once.
    pub fn immediate(mut self, immediate: bool) -> Self {
        self.immediate = immediate;
        self
    }
}

/// One year. Larger intervals could overflow an `Instant`.
const MAX_INTERVAL: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The keep-alive timer of one stream.
#[derive(Debug)]
#[repr(C)] // For the order of the fields; see `downstream::stream::Stream`.
pub(crate) struct KeepAliveTimer {
    next: Instant,
    /// Whether data was sent since `next` was set.
    has_traffic: bool,
    /// The present interval, shortened by the random part.
    interval: Duration,
    keep_alive: KeepAlive,
}

impl KeepAliveTimer {
    /// Starts the timer of a stream.
    pub(crate) fn new(keep_alive: KeepAlive, now: Instant) -> Self {
        let interval = jittered(keep_alive.interval);
        let next = if keep_alive.immediate {
            now
        } else {
            now + interval
        };
        Self {
            keep_alive,
            interval,
            next,
            has_traffic: false,
        }
    }

    /// The time of the next comment, unless data is sent before.
    pub(crate) fn deadline(&mut self, now: Instant) -> Instant {
        if std::mem::take(&mut self.has_traffic) {
            self.next = now + self.interval;
        }
        self.next
    }

    /// Handles data that was sent to the client: the interval starts again at the next call of [`deadline`](Self::deadline).
    pub(crate) fn handle_traffic(&mut self) {
        self.has_traffic = true;
    }

    /// The comment that is due now. Chooses the next interval.
    pub(crate) fn comment(&mut self) -> Bytes {
        self.interval = jittered(self.keep_alive.interval);
        self.keep_alive.comment.clone()
    }
}

fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(1.0 - fastrand::f64() / 10.0)
}
