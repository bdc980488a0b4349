//! Detects an HTTP/2 stream that the client does not read. The connection does not show it: the client still answers pings and may
//! read other streams.

use std::{
    cmp::min,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::{
    body::{Body, Frame, SizeHint},
    rt::Executor,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// The largest part of a body that is in flight at once, in bytes. Without this limit, a slow client could not show its progress.
const MAX_PART: usize = 64 << 10;

/// The time since which a part is in flight, or `None`. hyper polls for the next part when the client has window for it.
type InFlight = watch::Sender<Option<Instant>>;

tokio::task_local! {
    static IN_FLIGHT: Arc<InFlight>;
}

/// An executor that drops a stream if its client reads nothing for this time. HTTP/2 then resets the stream.
#[derive(Clone)]
pub struct StallLimit(pub Duration);

/// hyper runs each HTTP/2 stream in a separate task.
impl<F: Future<Output: Send> + Send + 'static> Executor<F> for StallLimit {
    fn execute(&self, stream: F) {
        let in_flight = Arc::new(InFlight::new(None));
        let stalled = stalled(in_flight.subscribe(), self.0);
        tokio::spawn(IN_FLIGHT.scope(in_flight, async {
            tokio::select! {
                _ = stream => {}
                () = stalled => tracing::info!("dropped a stream that its client does not read"),
            }
        }));
    }
}

async fn stalled(in_flight: watch::Receiver<Option<Instant>>, limit: Duration) {
    loop {
        let now = Instant::now();
        let end = in_flight.borrow().unwrap_or(now) + limit;
        if end <= now {
            return;
        }
        sleep_until(end).await;
    }
}

/// A body that records when a part of it is in flight, for the [`StallLimit`] of its task. For HTTP/1, it changes nothing.
pub struct WatchedBody<B> {
    body: B,
    rest: Bytes,
    in_flight: Option<Arc<InFlight>>,
}

impl<B> WatchedBody<B> {
    /// Wraps the body of a response of the current task.
    pub fn new(body: B) -> Self {
        Self {
            body,
            rest: Bytes::new(),
            in_flight: IN_FLIGHT.try_with(Arc::clone).ok(),
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for WatchedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let Some(in_flight) = &this.in_flight else {
            return Pin::new(&mut this.body).poll_frame(cx);
        };
        in_flight.send_replace(None);
        if this.rest.is_empty() {
            let frame = ready!(Pin::new(&mut this.body).poll_frame(cx)?);
            match frame.map(Frame::into_data) {
                Some(Ok(data)) => this.rest = data,
                Some(Err(trailers)) => return Poll::Ready(Some(Ok(trailers))),
                None => return Poll::Ready(None),
            }
        }
        in_flight.send_replace(Some(Instant::now()));
        let part = this.rest.split_to(min(this.rest.len(), MAX_PART));
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}
