//! An error that reaches the server after the frames before it have been sent.
//!
//! When a body fails, HTTP/1 servers close the connection without flushing, and HTTP/2 servers reset the stream without sending the
//! frames that they have buffered. So the body stays pending between its last frame and its error.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{error::Error, timer::Timer};

/// The delay of an error after the server has dropped the last frame and has last polled the body. (A server polls when its client
/// has read data.)
const FLUSH_GRACE: Duration = Duration::from_millis(100);

/// The longest delay of an error.
const MAX_DELAY: Duration = Duration::from_secs(5);

/// The data of a frame that counts as in flight until the server drops it.
pub(super) struct InFlightFrame {
    bytes: Bytes,
    _in_flight: Arc<()>,
}

impl InFlightFrame {
    /// Wraps the data of a frame, so that it holds a clone of `in_flight`.
    pub(super) fn frame(bytes: Bytes, in_flight: &Arc<()>) -> Bytes {
        Bytes::from_owner(Self {
            bytes,
            _in_flight: Arc::clone(in_flight),
        })
    }
}

impl AsRef<[u8]> for InFlightFrame {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// An error that waits until the server has sent the frames before it.
#[derive(Debug)]
pub(super) struct DelayedError {
    error: Error,
    /// The time of the last poll.
    last_poll: Instant,
    /// The end of the longest delay.
    deadline: Instant,
}

impl DelayedError {
    /// Starts the delay.
    pub(super) fn new(error: Error) -> Self {
        let now = Instant::now();
        Self {
            error,
            last_poll: now,
            deadline: now + MAX_DELAY,
        }
    }

    /// Ready when the delay is over. `in_flight` is shared with the [frames](InFlightFrame) that the server has not sent.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        timer: &mut Timer,
        in_flight: &Arc<()>,
    ) -> Poll<()> {
        let now = Instant::now();
        let has_frames = Arc::strong_count(in_flight) > 1;
        let grace_start = if has_frames { now } else { self.last_poll };
        if now >= self.deadline.min(grace_start + FLUSH_GRACE) {
            return Poll::Ready(());
        }
        self.last_poll = now;
        timer.poll(cx, self.deadline.min(now + FLUSH_GRACE))
    }

    pub(super) fn into_error(self) -> Error {
        self.error
    }
}
