//! The code of one stream.

use http::{request, response};
use tokio::time::Instant;

use super::Verdict;
use crate::{
    codec::{Block, Event},
    error::Error,
};

/// Sees every block of one stream, in order. Its fields are the state of that stream.
///
/// Everything here runs on the task that drives the stream, so it should be quick; what takes time or does
/// I/O belongs in [`Verdict::Defer`]. A panic is caught: the stream is cut, no other stream feels it.
///
/// An `FnMut(Event) -> impl Into<Verdict>` is an interceptor.
///
/// ```
/// use tokio::time::{Duration, Instant};
/// use tower_sse_proxy::{Event, codec::Block, intercept::{StreamEnd, Interceptor, Verdict}};
///
/// /// Blocks a phrase that is split over two events: holds each event until the next one, but never longer
/// /// than 100 ms.
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
///             self.held.clear(); // or `end` would still send it
///             return Verdict::end([Event::new(r#"{"error":"blocked"}"#)]);
///         }
///         self.text = text;
///         self.until = Some(Instant::now() + Duration::from_millis(100));
///         let older = std::mem::replace(&mut self.held, vec![event.into()]);
///         Verdict::Release(older)
///     }
///
///     // While something is held, everything else waits behind it, or it would overtake.
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
/// # Work inside one event
///
/// A method is called inside the poll of its stream's body, and other streams wait for the thread until it returns. The
/// layer does a bounded amount of work a poll, counted in events; what an interceptor does with one event is its own. Its
/// time should grow no faster than the event, whose size
/// [`max_event_bytes`](crate::Policy::max_event_bytes) limits: 16 MiB, unless set, may be too much for a slow one. What
/// takes long belongs into a [`Verdict::Defer`], on a thread of its own.
pub trait Interceptor: Send + 'static {
    /// An event: a block that a client dispatches. It may be the unfinished rest of a stream that ended
    /// inside a block; [`is_terminated`](Block::is_terminated) tells.
    fn event(&mut self, event: Event) -> Verdict;

    /// Any other block: comments, a bare id, a `retry`, unknown fields, a blank line. Forwarded by default, at
    /// once: an interceptor that holds events holds these too, or they overtake.
    ///
    /// Clients dispatch none of these, but they do reach the client: a guard that must see every byte looks
    /// here too.
    fn block(&mut self, block: Block) -> Verdict {
        Verdict::Forward(block)
    }

    /// When [`timeout`](Self::timeout) is to be called, while something is held back. Asked for after each
    /// call of the other methods. Times are tokio's, so that they stand still where a test pauses them.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// The [`deadline`](Self::deadline) has passed. Called at most once a millisecond, and, while a later
    /// interceptor of the chain has deferred, not before that is over: order comes first.
    fn timeout(&mut self, now: Instant) -> Verdict {
        let _ = now;
        Verdict::Drop
    }

    /// The stream is over. Called exactly once for every stream that was opened, however it ends, a panic of this
    /// interceptor included. What the verdict lets through (it may be deferred) is the last that this interceptor
    /// sends, after the upstream's last block. An unfinished rest of the stream is then dropped, since what
    /// follows it would be read as part of it. [`Verdict::Hold`] here gives up what is held.
    ///
    /// After [`Verdict::End`] of its own the verdict is ignored: the last word is said. After a failure of its
    /// own it is not, so that the failure can be told in the terms of the API; a guard must not let go here of
    /// what it holds unjudged.
    ///
    /// With [`StreamEnd::ClientGone`] nobody is left to send to: the verdict is ignored.
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
    /// The upstream ended it between two blocks, or an interceptor by [`Verdict::End`].
    Complete,
    /// The upstream ended it as if it were complete, and it is not: inside a block, whose rest has gone through the chain as an
    /// unterminated block, or without the terminal event of its API. The client sees a clean end all the same.
    ///
    /// Terminal events are `[DONE]` (OpenAI's chat completions), `response.completed`, `response.incomplete` and `response.failed`
    /// (OpenAI's Responses), `message_stop` and `error` (Anthropic), and in the answer to a `POST` the response to a JSON-RPC
    /// request (MCP). The API is recognized by the data of one of the upstream's first 64 events. Streams of other APIs
    /// (Gemini's, for one) have no terminal event and are never truncated between two blocks.
    Truncated,
    /// It broke: the upstream, a limit, or an interceptor. The client will see a cut, not an end, after
    /// whatever is still sent.
    Failed(&'a Error),
    /// The client left, or the server gave it up. The last of what was let through may not have reached it.
    ClientGone,
}

/// What is known of a stream when it opens.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct StreamHead<'a> {
    /// The request as it reached the layer, extensions included.
    pub request: &'a request::Parts,
    /// The response as it came from the upstream service.
    pub response: &'a response::Parts,
}

impl<'a> StreamHead<'a> {
    /// A head, to open an interceptor in a test.
    pub fn new(request: &'a request::Parts, response: &'a response::Parts) -> Self {
        Self { request, response }
    }
}
