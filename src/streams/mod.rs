//! The open event streams of a layer, for operators: [`Streams`] lists, closes, taps and drains them.

mod drain;
mod progress;
#[cfg_attr(not(feature = "replay"), path = "no_replay.rs")]
mod recorded;
mod select;

use std::{collections::HashSet, fmt, future::Future, sync::Arc, time::Duration};

use crate::{
    observe::{LiveStream, LiveStreams, StreamInfo, Tap},
    replay::RecordedStreams,
    stream_id::StreamId,
};

pub use select::{CloseReason, Select};

pub(crate) use progress::ProgressReports;

/// The open event streams of a layer. Returned by [`SseProxyLayer::streams`](crate::SseProxyLayer::streams); clones are handles of the same
/// streams.
///
/// Create it before the layer handles requests: streams that were opened earlier may be missing. It can also end a stream whose client
/// takes nothing, although the server does not poll the body of such a response.
///
/// ```
/// use tower_sse_proxy::{SseProxyLayer, streams::{CloseReason, Select}};
///
/// let layer = SseProxyLayer::default();
/// let streams = layer.streams();
/// for stream in streams.list() {
///     println!("{:?} {:?} {} events", stream.route, stream.age, stream.events);
/// }
/// let closed = streams.close(Select::All, CloseReason::Cancelled);
/// assert_eq!(closed, 0);
/// ```
#[derive(Clone)]
pub struct Streams {
    live: Arc<LiveStreams>,
    recorded: Arc<RecordedStreams>,
}

impl Streams {
    pub(crate) fn new(live: Arc<LiveStreams>, recorded: Arc<RecordedStreams>) -> Self {
        live.start();
        Self { live, recorded }
    }

    /// Returns a snapshot of all open streams, in no order. A stream is open until its upstream half is over.
    pub fn list(&self) -> Vec<StreamInfo> {
        let all = self.live.all();
        all.iter().map(|stream| stream.info()).collect()
    }

    /// Returns the number of open streams.
    pub fn count(&self) -> usize {
        self.live.len()
    }

    /// Closes streams: cancels their upstream requests, and ends the responses of their clients. Returns how many streams were closed.
    ///
    /// A client sees the error event of the stream's API, if the API is known, and then a cut. A recorded stream can no longer be
    /// resumed: a `GET` or `HEAD` with one of its ids is answered with 204, at which an `EventSource` stops (WHATWG HTML 9.2.3), and any
    /// other method with 410. Streams that a closed stream continued, or that continued it, are closed with it. Recorded streams that
    /// have ended and are kept for clients that resume them are closed, too: their events are dropped. For other owners the ids stay
    /// unknown.
    ///
    /// The layer remembers the last 16,384 closed recorded streams, in at most 2 MiB. Beyond that it forgets the oldest one of the owner
    /// with the most closed streams, and answers its ids as [unknown](crate::replay::Gap).
    ///
    /// This method does not check the right to call it: the caller authorizes the request to close.
    pub fn close(&self, select: impl Into<Select>, reason: CloseReason) -> usize {
        let select = select.into();
        let outcome = reason.outcome();
        let mut closed = HashSet::new();
        for stream in self.live.all() {
            if select.matches(&stream) && stream.end_with(outcome) {
                closed.insert(stream.id);
            }
        }
        closed.extend(self.close_recorded(&select, outcome));
        closed.len()
    }

    /// Returns a copy of what passes a stream from now on, or `None` if no such stream is open. See [`Tap`].
    pub fn tap(&self, stream: StreamId) -> Option<Tap> {
        self.live.find(stream)?.taps.open()
    }

    /// Drains the layer: refuses new streams from now on, waits for the open ones, and ends those that are still open near the end of
    /// `limit`. The future is ready when no stream is open.
    ///
    /// Requests for event streams, and responses that turn out to be one, are answered with 503 and a random `Retry-After`. A stream that
    /// is still open in the last part of the time (a fifth of it, at most 5 s) is ended between two events, with the outcome
    /// [`Drained`](crate::observe::StreamOutcome::Drained): its client sees a cut, after the error event of the stream's API if the API
    /// is known. The clients of a recorded stream first get a random reconnection time (`retry`), so that they do not all reconnect at
    /// once. The ends are spread over that part of the time for the same reason. Streams without a client end as soon as no stream has
    /// one.
    ///
    /// A layer that has been drained stays so. Call this beside the graceful shutdown of the server, which waits for the responses: of
    /// axum with `axum::serve(..).with_graceful_shutdown(..)`, of hyper with `graceful_shutdown` of its connections. To end a drain early,
    /// call this again with a shorter limit.
    ///
    /// Dropping the future stops waiting; new streams are still refused.
    pub fn drain(&self, limit: Duration) -> impl Future<Output = ()> + Send + use<> {
        self.live.admission().start_draining();
        drain::drain(Arc::clone(&self.live), limit)
    }

    /// Returns the memory, in bytes, that open streams hold in buffers now, as counted against
    /// [`max_buffered_bytes`](crate::SseProxyLayer::max_buffered_bytes).
    pub fn buffered_bytes(&self) -> usize {
        self.live.buffered()
    }
}

impl Select {
    fn matches(&self, stream: &LiveStream) -> bool {
        match self {
            Self::Stream(id) => stream.id == *id,
            Self::Session(session) => stream.session.as_ref() == Some(session),
            Self::Owner(owner) => stream.origin.owner == *owner,
            Self::All => true,
        }
    }
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams")
            .field("open", &self.count())
            .finish_non_exhaustive()
    }
}
