//! HTTP/1 clients that shut down their write half after the request and still read the response (`nc -N`, some proxies).
//!
//! At first, such a client looks like one that has left: both send a FIN. Only the reaction to sent data distinguishes them. So an
//! event stream sends a comment, and the kernel of a client that has left replies with a reset. Before the head and in other bodies,
//! the gateway has nothing to send; there it waits for a limited time and then treats the client as gone.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Response, StatusCode, Version, header};
use hyper::body::{Body, Frame, SizeHint};
use tokio::{
    sync::watch,
    time::{Instant, Sleep, sleep, timeout},
};
use tower_sse_proxy::is_event_stream;

use crate::{server::WRITE_STALL, socket::Socket};

/// The time that a half-closed client may wait for a response head, and the interval of comments in a silent event stream.
const GRACE: Duration = Duration::from_millis(500);

/// The state of a connection.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// No request is in progress.
    Idle,
    /// HTTP/2 has no half-closed clients: a FIN ends the whole connection.
    Http2,
    AwaitingHead,
    EventStream,
    OtherBody,
}

/// The state that the watcher of a connection's socket shares with the connection's responses.
#[derive(Clone)]
pub struct Connection(Arc<Shared>);

struct Shared {
    phase: watch::Sender<Phase>,
    half_closed: watch::Sender<bool>,
}

impl Connection {
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            phase: watch::Sender::new(Phase::Idle),
            half_closed: watch::Sender::new(false),
        }))
    }

    /// Records the arrival of a request.
    pub fn begin(&self, version: Version) {
        self.0.phase.send_replace(match version {
            Version::HTTP_2 => Phase::Http2,
            _ => Phase::AwaitingHead,
        });
    }

    /// Wraps the body of a response. If it is an event stream, it sends comments after the client has half-closed.
    pub fn respond<B>(&self, response: Response<B>) -> Response<ProbingBody<B>> {
        if *self.0.phase.borrow() == Phase::Http2 {
            return response.map(|body| ProbingBody::new(body, None));
        }
        // If one of these applies, the layer did not read the stream, and an inserted comment would damage the body.
        let (status, headers) = (response.status(), response.headers());
        let bytes_are_counted = headers.contains_key(header::CONTENT_LENGTH)
            || headers.contains_key(header::CONTENT_ENCODING)
            || status == StatusCode::PARTIAL_CONTENT;
        let (parts, body) = response.into_parts();
        let phase = if is_event_stream(&parts) && !bytes_are_counted {
            Phase::EventStream
        } else {
            Phase::OtherBody
        };
        self.0.phase.send_replace(phase);
        let body = ProbingBody::new(body, Some((self.clone(), phase == Phase::EventStream)));
        Response::from_parts(parts, body)
    }

    /// Waits until the client has left: it has closed its side, and then it resets the connection or a time limit passes.
    pub async fn left(&self, client: &Socket) {
        client.left().await;
        self.0.half_closed.send_replace(true);
        tokio::select! {
            () = client.reset() => {}
            () = self.silent_for_too_long() => {}
        }
    }

    async fn silent_for_too_long(&self) {
        let mut phases = self.0.phase.subscribe();
        loop {
            let phase = *phases.borrow_and_update();
            let limit = match phase {
                Phase::Http2 => return,
                Phase::AwaitingHead => GRACE,
                Phase::OtherBody => WRITE_STALL,
                // The server ends an idle connection when it reads the FIN. In an event stream, comments detect that the client left.
                Phase::Idle | Phase::EventStream => Duration::MAX,
            };
            if !matches!(timeout(limit, phases.changed()).await, Ok(Ok(()))) {
                return;
            }
        }
    }
}

/// A body that sends comments while it is silent and its client has half-closed the connection.
pub struct ProbingBody<B> {
    body: B,
    /// `None` for HTTP/2.
    state: Option<ProbeState>,
}

struct ProbeState {
    connection: Connection,
    /// `None` if the body cannot contain comments.
    probe: Option<Probe>,
}

enum Probe {
    Waiting(Pin<Box<dyn Future<Output = ()> + Send>>),
    Sending(Pin<Box<Sleep>>),
}

impl<B> ProbingBody<B> {
    fn new(body: B, state: Option<(Connection, bool)>) -> Self {
        let state = state.map(|(connection, probes)| {
            let mut half_closed = connection.0.half_closed.subscribe();
            let closed = async move {
                if half_closed.wait_for(|closed| *closed).await.is_err() {
                    std::future::pending().await
                }
            };
            ProbeState {
                probe: probes.then(|| Probe::Waiting(Box::pin(closed))),
                connection,
            }
        });
        Self { body, state }
    }
}

impl Probe {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self {
                Probe::Waiting(closed) => {
                    std::task::ready!(closed.as_mut().poll(cx));
                    // The kernel may already report a reset for data that was sent before.
                    *self = Probe::Sending(Box::pin(sleep(GRACE / 10)));
                }
                Probe::Sending(pause) => {
                    std::task::ready!(pause.as_mut().poll(cx));
                    pause.as_mut().reset(Instant::now() + GRACE);
                    return Poll::Ready(());
                }
            }
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for ProbingBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        let Some(state) = &mut this.state else {
            return frame;
        };
        match frame {
            Poll::Ready(frame) => {
                // Restarts the time limit for silence.
                state.connection.0.phase.send_modify(|_| {});
                Poll::Ready(frame)
            }
            Poll::Pending => match &mut state.probe {
                Some(probe) => probe
                    .poll(cx)
                    .map(|()| Some(Ok(Frame::data(Bytes::from_static(b":\n\n"))))),
                None => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for ProbingBody<B> {
    fn drop(&mut self) {
        if let Some(state) = &self.state {
            state.connection.0.phase.send_replace(Phase::Idle);
        }
    }
}
