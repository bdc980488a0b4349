//! Reads the body of an HTTP/2 response ahead of its client.
//!
//! All requests to an HTTP/2 upstream share one connection. hyper's client holds unread frames, and closes the whole connection when it
//! holds too many small ones. Unread large frames fill the flow control window that all streams share. So a client that does not read
//! its stream would break or stop the streams of other clients. Therefore a task reads such a stream into a bounded buffer, and cuts
//! only this stream if the buffer is full.

mod buffer;
mod signal;

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::{runtime::Handle, time::Instant};
use tower::BoxError;

use self::{buffer::ReadAheadBuffer, signal::Signal};
use crate::{
    error::{Error, ErrorKind},
    observe::{LiveStream, StreamOutcome},
    timer::Timer,
};

/// The time after which the task cuts the stream of a client that takes nothing from a full buffer, if the frames are not small.
const MAX_STALL: Duration = Duration::from_secs(30);

/// The maximum number of frames that the task reads in one poll.
const FRAMES_PER_POLL: usize = 64;

/// The body of an HTTP/2 response that a task reads while the client does not. The client's poll reads the body directly as long as the
/// client keeps up. Dropping this cancels the upstream.
pub(crate) struct ReadAhead<B> {
    shared: Arc<Shared<B>>,
}

/// The state that the client's side and the task share.
pub(crate) struct Shared<B> {
    state: Mutex<State<B>>,
    signal: Arc<Signal>,
}

struct State<B> {
    /// `None` after its end.
    body: Option<Pin<Box<B>>>,
    /// The waker of `signal`, with which both sides poll the body.
    waker: Waker,
    buffer: ReadAheadBuffer,
    limit: usize,
    /// The trailers or the error after the buffered bytes, until the client's side has returned them.
    end: Option<Result<HeaderMap, Error>>,
    /// Whether the client's side has polled since the task last cleared this flag.
    has_polled: bool,
    /// The stream, if it is observed.
    live: Option<Arc<LiveStream>>,
}

impl<B> ReadAhead<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// Reads `body` at most `limit` bytes ahead.
    ///
    /// # Errors
    /// Returns the body outside of a tokio runtime.
    pub(crate) fn new(body: B, limit: usize) -> Result<Self, B> {
        let Ok(runtime) = Handle::try_current() else {
            return Err(body);
        };
        let signal = Arc::<Signal>::default();
        let state = State {
            body: Some(Box::pin(body)),
            waker: Arc::clone(&signal).into(),
            buffer: ReadAheadBuffer::default(),
            limit,
            end: None,
            has_polled: false,
            live: None,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            signal,
        });
        let (reads, mut stall) = (Arc::downgrade(&shared), Stall::default());
        runtime.spawn(poll_fn(move |cx| match Weak::upgrade(&reads) {
            Some(shared) => shared.poll_read(cx, &mut stall),
            None => Poll::Ready(()),
        }));
        Ok(Self { shared })
    }
}

impl<B> ReadAhead<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// Polls the next frame, as [`Body::poll_frame`] does. Small frames that the task has read are merged.
    pub(crate) fn poll_frame(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Shared { state, signal } = &*self.shared;
        let mut state = lock(state);
        state.has_polled = true;
        if let Some(bytes) = state.take_buffered() {
            drop(state);
            signal.read_on();
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        if let Some(end) = state.end.take() {
            return Poll::Ready(Some(end.map(Frame::trailers)));
        }
        signal.client_waits(cx.waker());
        let frame = ready!(state.poll_body(signal));
        drop(state);
        // The task reads on, because the client may take nothing after this frame.
        signal.read_on();
        Poll::Ready(frame)
    }
}

impl<B> ReadAhead<B> {
    /// Counts the buffered bytes for this observed stream, and reports its end if the task cuts it.
    pub(crate) fn observe(&self, live: &Arc<LiveStream>) {
        self.shared.observe(live);
    }

    /// A weak handle to [observe](Shared::observe) the body.
    pub(crate) fn shared(&self) -> Weak<Shared<B>> {
        Arc::downgrade(&self.shared)
    }
}

impl<B: Body> ReadAhead<B> {
    pub(crate) fn is_end_stream(&self) -> bool {
        let state = lock(&self.shared.state);
        let has_ended = state.body.as_ref().is_none_or(|body| body.is_end_stream());
        has_ended && state.buffer.bytes() == 0 && state.end.is_none()
    }

    /// After the end of the body there is no upper bound: a server would send an exact size as `Content-Length`, and the client would miss
    /// an error or trailers behind the buffer.
    pub(crate) fn size_hint(&self) -> SizeHint {
        let state = lock(&self.shared.state);
        let body = state.body.as_ref();
        let mut hint = body.map(|body| body.size_hint()).unwrap_or_default();
        let buffered = state.buffer.bytes() as u64;
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(buffered));
        }
        hint.set_lower(hint.lower().saturating_add(buffered));
        hint
    }
}

/// Runs when the client has disconnected, or the stream has ended.
impl<B> Drop for ReadAhead<B> {
    fn drop(&mut self) {
        let mut state = lock(&self.shared.state);
        let rest = (state.body.take(), state.clear_buffer());
        drop(state);
        drop(rest);
        self.shared.signal.wake_task();
    }
}

impl<B> Shared<B> {
    /// See [`ReadAhead::observe`].
    pub(crate) fn observe(&self, live: &Arc<LiveStream>) {
        let mut state = lock(&self.state);
        live.add_read_ahead(state.buffer.bytes());
        state.live = Some(Arc::clone(live));
    }
}

impl<B> Shared<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// Reads the body while the client does not. Ready when there is nothing more to read.
    fn poll_read(&self, cx: &mut Context<'_>, stall: &mut Stall) -> Poll<()> {
        self.signal.task_waits(cx.waker());
        for _ in 0..FRAMES_PER_POLL {
            let mut state = lock(&self.state);
            if state.body.is_none() {
                return Poll::Ready(());
            }
            if self.signal.is_registered() {
                return Poll::Pending;
            }
            if state.buffer.bytes() >= state.limit {
                let has_polled = std::mem::take(&mut state.has_polled);
                if !state.buffer.has_small_frames() {
                    ready!(stall.poll(cx, has_polled));
                }
                cut(state);
                return Poll::Ready(());
            }
            stall.end();
            let data = match ready!(state.poll_body(&self.signal)) {
                Some(Ok(frame)) => frame.into_data(),
                Some(Err(error)) => {
                    state.end = Some(Err(error));
                    continue;
                }
                None => continue,
            };
            match data {
                Ok(data) => {
                    state.buffer.push(data.clone());
                    let live = state.live.clone();
                    // Under the lock: the bytes are counted before the client's side takes and subtracts them.
                    let is_too_much = live
                        .as_ref()
                        .is_some_and(|live| live.add_read_ahead(data.len()));
                    drop(state);
                    if let Some(live) = live.filter(|_| is_too_much) {
                        live.end_largest();
                    }
                }
                Err(frame) => state.end = frame.into_trailers().ok().map(Ok),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<B> State<B> {
    /// Takes data from the buffer.
    fn take_buffered(&mut self) -> Option<Bytes> {
        let bytes = self.buffer.pop()?;
        if let Some(live) = &self.live {
            live.remove_read_ahead(bytes.len());
        }
        Some(bytes)
    }

    /// Empties the buffer. Returns its content.
    fn clear_buffer(&mut self) -> ReadAheadBuffer {
        if let Some(live) = &self.live {
            live.remove_read_ahead(self.buffer.bytes());
        }
        std::mem::take(&mut self.buffer)
    }
}

impl<B> State<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// Polls the body. If it is pending, `signal` notices when it has more.
    fn poll_body(&mut self, signal: &Signal) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        // Before the poll: the body may wake at once.
        signal.set_registered(true);
        let frame = ready!(
            body.as_mut()
                .poll_frame(&mut Context::from_waker(&self.waker))
        );
        signal.set_registered(false);
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        let failed = |error: B::Error| Error::with_source(ErrorKind::Upstream, error);
        Poll::Ready(frame.map(|frame| frame.map_err(failed)))
    }
}

/// Cuts the stream of a client that is too far behind.
fn cut<B>(mut state: MutexGuard<'_, State<B>>) {
    let rest = (state.body.take(), state.clear_buffer());
    state.end = Some(Err(Error::new(ErrorKind::Lagged)));
    let live = state.live.clone();
    drop(state);
    drop(rest);
    // The end is reported here, because the client's side may never poll again.
    if let Some(live) = live {
        live.end_with(StreamOutcome::Stalled);
    }
}

fn lock<B>(state: &Mutex<State<B>>) -> MutexGuard<'_, State<B>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Measures how long the client has taken nothing while the buffer is full.
#[derive(Default)]
struct Stall {
    deadline: Option<Instant>,
    timer: Timer,
}

impl Stall {
    /// Ready when the client has taken nothing for [`MAX_STALL`]. `has_polled` says whether the client's side has polled
    /// since the last call.
    fn poll(&mut self, cx: &mut Context<'_>, has_polled: bool) -> Poll<()> {
        if has_polled {
            self.end();
        }
        let now = Instant::now();
        let deadline = *self.deadline.get_or_insert(now + MAX_STALL);
        self.timer.poll_at(cx, now, deadline)
    }

    fn end(&mut self) {
        self.deadline = None;
    }
}
