//! Clients of HTTP/1 that shut down their sending side once the request is sent, and still read the response (`nc -N`, some proxies).
//!
//! At first such a client looks like one that has left: both send a FIN. Only an answer to something that is written tells them
//! apart. So an event stream sends a comment, which the kernel of a client that has left answers with a reset. Before the head
//! and in other bodies there is nothing to send, and the client is waited for, but not for long.

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

/// How long a response may keep silent in which nothing can be sent, and how often a silent event stream sends a comment.
const GRACE: Duration = Duration::from_millis(500);

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// No request is being answered.
    Idle,
    /// A connection of HTTP/2 ends as a whole.
    Http2,
    AwaitingHead,
    EventStream,
    OtherBody,
}

/// One connection, as seen by its socket's watcher and by its responses.
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

    /// A request has arrived.
    pub fn begin(&self, version: Version) {
        self.0.phase.send_replace(match version {
            Version::HTTP_2 => Phase::Http2,
            _ => Phase::AwaitingHead,
        });
    }

    /// The response is on its way: its body sends comments if the client half-closes, where it can.
    pub fn respond<B>(&self, response: Response<B>) -> Response<Probing<B>> {
        if *self.0.phase.borrow() == Phase::Http2 {
            return response.map(|body| Probing::new(body, None));
        }
        // A layer that reads an event stream ends each frame between two blocks, and removes these fields.
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
        let body = Probing::new(body, Some((self.clone(), phase == Phase::EventStream)));
        Response::from_parts(parts, body)
    }

    /// Waits until the client has left.
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
                // The server ends the connection when it reads the FIN, or a comment shows that the client has left.
                Phase::Idle | Phase::EventStream => Duration::MAX,
            };
            if !matches!(timeout(limit, phases.changed()).await, Ok(Ok(()))) {
                return;
            }
        }
    }
}

/// A body that sends comments while it is silent and its client has half-closed.
pub struct Probing<B> {
    body: B,
    of: Option<Of>,
}

struct Of {
    connection: Connection,
    /// `None` where no comment can be sent.
    probe: Option<Probe>,
}

enum Probe {
    Waiting(Pin<Box<dyn Future<Output = ()> + Send>>),
    Sending(Pin<Box<Sleep>>),
}

impl<B> Probing<B> {
    fn new(body: B, of: Option<(Connection, bool)>) -> Self {
        let of = of.map(|(connection, probes)| {
            let mut half_closed = connection.0.half_closed.subscribe();
            let closed = async move {
                if half_closed.wait_for(|closed| *closed).await.is_err() {
                    std::future::pending().await
                }
            };
            Of {
                probe: probes.then(|| Probe::Waiting(Box::pin(closed))),
                connection,
            }
        });
        Self { body, of }
    }
}

impl Probe {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self {
                Probe::Waiting(closed) => {
                    std::task::ready!(closed.as_mut().poll(cx));
                    // What has just been written may have been answered already.
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

impl<B: Body<Data = Bytes> + Unpin> Body for Probing<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        let Some(of) = &mut this.of else {
            return frame;
        };
        match frame {
            Poll::Ready(frame) => {
                // Begins the time of a silence anew.
                of.connection.0.phase.send_modify(|_| {});
                Poll::Ready(frame)
            }
            Poll::Pending => match &mut of.probe {
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

impl<B> Drop for Probing<B> {
    fn drop(&mut self) {
        if let Some(of) = &self.of {
            of.connection.0.phase.send_replace(Phase::Idle);
        }
    }
}
