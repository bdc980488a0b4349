//! A stream of HTTP/2 whose client takes nothing. The connection does not show it: pings are answered, and other streams
//! may do well.

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

/// No more than this is handed out at once, or a client that is only slow could not show it.
const PART: usize = 64 << 10;

/// Since when a part has been on its way, if one is. hyper asks for another one once the client has room for it.
type OnItsWay = watch::Sender<Option<Instant>>;

tokio::task_local! {
    static ON_ITS_WAY: Arc<OnItsWay>;
}

/// Lets go of a stream whose client takes nothing for so long, by which HTTP/2 resets it.
#[derive(Clone)]
pub struct Patience(pub Duration);

/// hyper runs every stream of HTTP/2 in a task of its own.
impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Patience {
    fn execute(&self, stream: F) {
        let on_its_way = Arc::new(OnItsWay::new(None));
        let stalled = stalled(on_its_way.subscribe(), self.0);
        tokio::spawn(ON_ITS_WAY.scope(on_its_way, async {
            tokio::select! {
                _ = stream => {}
                () = stalled => tracing::info!("a client takes nothing of its stream"),
            }
        }));
    }
}

async fn stalled(on_its_way: watch::Receiver<Option<Instant>>, limit: Duration) {
    loop {
        let now = Instant::now();
        let end = on_its_way.borrow().unwrap_or(now) + limit;
        if end <= now {
            return;
        }
        sleep_until(end).await;
    }
}

/// A body that notes when a part of it is on its way, in a task that has patience. To one of HTTP/1 it makes no difference.
pub struct Watched<B> {
    body: B,
    rest: Bytes,
    on_its_way: Option<Arc<OnItsWay>>,
}

impl<B> Watched<B> {
    /// For an answer of the current task.
    pub fn new(body: B) -> Self {
        Self {
            body,
            rest: Bytes::new(),
            on_its_way: ON_ITS_WAY.try_with(Arc::clone).ok(),
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Watched<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let Some(on_its_way) = &this.on_its_way else {
            return Pin::new(&mut this.body).poll_frame(cx);
        };
        on_its_way.send_replace(None);
        if this.rest.is_empty() {
            let frame = ready!(Pin::new(&mut this.body).poll_frame(cx)?);
            match frame.map(Frame::into_data) {
                Some(Ok(data)) => this.rest = data,
                Some(Err(trailers)) => return Poll::Ready(Some(Ok(trailers))),
                None => return Poll::Ready(None),
            }
        }
        on_its_way.send_replace(Some(Instant::now()));
        let part = this.rest.split_to(min(this.rest.len(), PART));
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
