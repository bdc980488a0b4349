//! The interceptor of one stream.

use std::time::Instant;

use http::{request, response};

use super::Verdict;
use crate::{
    codec::{Block, Event},
    error::Error,
};

/// Sees every block of one stream, in order, and decides about each of them. Its fields are the state of that stream.
///
/// A function `FnMut(Event) -> impl Into<Verdict>` implements this trait.
///
/// ```
/// use std::time::{Duration, Instant};
/// use tower_sse_proxy::{Event, codec::Block, intercept::{StreamEnd, Interceptor, Verdict}};
///
/// /// Blocks a phrase, also if it is split over two events. Holds each event until the next one arrives, for at most 100 ms.
/// #[derive(Default)]
/// struct NoPhrase {
///     text: String,
///     held: Vec<Block>,
///     until: Option<Instant>,
/// }
///
/// impl Interceptor for NoPhrase {
///     fn event(&mut self, event: Event) -> Verdict {
///         let text = event.data().into_owned();
///         if format!("{}{text}", self.text).contains("my secret plan") {
///             self.held.clear(); // otherwise `end` would send it
///             return Verdict::end([Event::new(r#"{"error":"blocked"}"#)]);
///         }
///         self.text = text;
///         self.until = Some(Instant::now() + Duration::from_millis(100));
///         let older = std::mem::replace(&mut self.held, vec![event.into()]);
///         Verdict::Release(older)
///     }
///
///     // While events are held, other blocks wait behind them. Otherwise they would overtake the events.
///     fn block(&mut self, block: Block) -> Verdict {
///         if self.held.is_empty() {
///             return block.into();
///         }
///         self.held.push(block);
///         Verdict::Hold
///     }
///
///     fn deadline(&self) -> Option<Instant> {
///         self.until
///     }
///
///     fn timeout(&mut self, _now: Instant) -> Verdict {
///         self.until = None;
///         Verdict::Release(std::mem::take(&mut self.held))
///     }
///
///     fn end(&mut self, _end: StreamEnd<'_>) -> Verdict {
///         Verdict::Release(std::mem::take(&mut self.held))
///     }
/// }
/// ```
///
/// # Blocking
///
/// The layer calls the methods inside the poll of the response body. Other streams on the same thread wait until the method
/// returns. The layer limits the number of events in one poll, but not the time that an interceptor spends on one event. That
/// time should be at most linear in the size of the event, which [`max_event_bytes`](crate::Policy::max_event_bytes) limits
/// (16 MiB by default). Return [`Verdict::Defer`] for I/O and for long computations.
///
/// # Panics
///
/// The layer catches a panic and cuts the stream. Other streams are not affected.
pub trait Interceptor: Send + 'static {
    /// Decides about an event: a block that a client dispatches (WHATWG HTML section 9.2.6). A [JSON](BodyShape::Json) body is one
    /// event.
    ///
    /// If the upstream ends inside a block, the rest of the stream arrives here too.
    /// [`is_terminated`](Block::is_terminated) is then false.
    fn event(&mut self, event: Event) -> Verdict;

    /// Decides about a block without data: a comment, an id, a `retry` field, unknown fields, or a blank line. Default:
    /// forwards it.
    ///
    /// Clients dispatch none of these, but their bytes reach the client. A guard that must see every byte implements this
    /// method, and so does an interceptor that holds events: a block that it forwards meanwhile overtakes them.
    fn block(&mut self, block: Block) -> Verdict {
        Verdict::Forward(block)
    }

    /// The time at which the layer calls [`timeout`](Self::timeout), or `None` for no timeout. Default: `None`.
    ///
    /// The layer calls this after each call of another method. It compares the time with tokio's clock: in tests that pause that clock,
    /// compute deadlines from `tokio::time::Instant::now().into_std()`.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// Decides about the held blocks when the [`deadline`](Self::deadline) has passed. Default: forwards nothing.
    ///
    /// `now` is the time of tokio's clock. The layer calls this at most once in a millisecond, and not while a verdict of this
    /// or a later interceptor is deferred, because blocks stay in order.
    fn timeout(&mut self, now: Instant) -> Verdict {
        let _ = now;
        Verdict::Drop
    }

    /// Ends the stream. Default: forwards nothing.
    ///
    /// The layer calls this exactly once for each opened interceptor, also after a panic of the interceptor. The verdict may be
    /// deferred. Its blocks are the last of this interceptor and follow the last block of the upstream. If it forwards any, an
    /// unterminated block at the end of the stream is dropped, because clients would join the two. [`Verdict::Hold`] drops
    /// the held blocks.
    ///
    /// The layer ignores the verdict with [`StreamEnd::ClientGone`], after a panic, and after a [`Verdict::End`] of this
    /// interceptor. It uses the verdict after another failure of this interceptor, so that an error can be sent in the format
    /// of the API. A guard must not release events here that it has not judged.
    fn end(&mut self, end: StreamEnd<'_>) -> Verdict {
        let _ = end;
        Verdict::Drop
    }
}

impl<F, V> Interceptor for F
where
    F: FnMut(Event) -> V + Send + 'static,
    V: Into<Verdict>,
{
    fn event(&mut self, event: Event) -> Verdict {
        self(event).into()
    }
}

impl Interceptor for Box<dyn Interceptor> {
    fn event(&mut self, event: Event) -> Verdict {
        (**self).event(event)
    }

    fn block(&mut self, block: Block) -> Verdict {
        (**self).block(block)
    }

    fn deadline(&self) -> Option<Instant> {
        (**self).deadline()
    }

    fn timeout(&mut self, now: Instant) -> Verdict {
        (**self).timeout(now)
    }

    fn end(&mut self, end: StreamEnd<'_>) -> Verdict {
        (**self).end(end)
    }
}

/// How a stream ended.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum StreamEnd<'a> {
    /// The upstream ended the stream between two blocks, or an interceptor ended it by [`Verdict::End`].
    Complete,
    /// The upstream ended the stream cleanly but too early: inside a block, or without the terminal event of its API. The
    /// client sees a clean end.
    ///
    /// If the stream ended inside a block, the rest has passed through the chain as an unterminated block.
    ///
    /// Terminal events are `[DONE]` (OpenAI chat completions), `response.completed`, `response.incomplete` and
    /// `response.failed` (OpenAI Responses), `message_stop` and `error` (Anthropic), and in the answer to a `POST` the
    /// response to a JSON-RPC request (MCP). The layer recognizes the API by the data of one of the first 64 events of the
    /// upstream. Streams of other APIs, such as Gemini, have no terminal event, so an end between two blocks is complete.
    Truncated,
    /// The upstream, a limit or an interceptor failed. The client gets the blocks that are still sent, and then an aborted body.
    Failed(&'a Error),
    /// The client disconnected, or the server dropped the response body. The last forwarded blocks may not have reached the
    /// client.
    ClientGone,
}

/// The shape of the body that interceptors see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BodyShape {
    /// An event stream. Each of its events is an [`Event`].
    #[default]
    EventStream,
    /// A JSON body. The whole body is the data of one [`Event`]. See [`Policy::inspect_json`](crate::Policy::inspect_json).
    Json,
}

/// The request and the response head of a stream.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct StreamHead<'a> {
    /// The request as it reached the layer, with its extensions.
    pub request: &'a request::Parts,
    /// The response head of the upstream service.
    pub response: &'a response::Parts,
    shape: BodyShape,
}

impl<'a> StreamHead<'a> {
    /// Makes the head of an event stream, for tests of an interceptor.
    pub fn new(request: &'a request::Parts, response: &'a response::Parts) -> Self {
        Self {
            request,
            response,
            shape: BodyShape::EventStream,
        }
    }

    /// Sets the shape of the body, for tests of an interceptor.
    pub fn with_shape(mut self, shape: BodyShape) -> Self {
        self.shape = shape;
        self
    }

    /// Returns whether the interceptor will see the events of a stream, or one JSON body.
    ///
    /// ```
    /// use tower_sse_proxy::{Event, SseProxyLayer, intercept::{BodyShape, StreamHead}};
    ///
    /// // An interceptor for event streams only: JSON bodies pass without it.
    /// let layer = SseProxyLayer::default()
    ///     .inspect_json(1 << 20)
    ///     .intercept(|head: &StreamHead<'_>| {
    ///         (head.shape() == BodyShape::EventStream).then_some(|event: Event| event)
    ///     });
    /// ```
    pub fn shape(&self) -> BodyShape {
        self.shape
    }
}
