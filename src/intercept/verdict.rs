//! What an interceptor decides.

use std::{fmt, future::Future};

use futures_util::future::BoxFuture;
use tower::BoxError;

use crate::codec::{Block, Event};

/// What becomes of a block.
///
/// Blocks that a verdict lets through go on to the next interceptor of the chain. An [`Event`], a [`Block`],
/// an `Option` of them (`None` drops) and a `Vec` of them (replaces) convert into a verdict.
///
/// ```
/// use tower_sse_proxy::{Event, intercept::Verdict};
///
/// fn upper(mut event: Event) -> Verdict {
///     event.set_data(event.data().to_uppercase());
///     event.into()
/// }
///
/// fn only_deltas(event: Event) -> Option<Event> {
///     (event.event_type() == "delta").then_some(event)
/// }
///
/// fn ask_somebody(event: Event) -> Verdict {
///     Verdict::defer(async move {
///         tokio::task::yield_now().await;
///         Ok(event)
///     })
/// }
/// ```
#[non_exhaustive]
pub enum Verdict {
    /// The block goes on, edited or not. A new event in its place has no id unless you set one;
    /// [`Replace`](Self::Replace) carries the old id over.
    Forward(Block),
    /// These go on in its place, in this order; none at all is like [`Drop`](Self::Drop). If the block had
    /// an id and none of these has one, the last event among them gets it: a client that is cut off in between
    /// then asks for all of them again.
    Replace(Vec<Block>),
    /// Nothing goes on. The block's id goes with it.
    Drop,
    /// Nothing goes on yet: the interceptor keeps the block and gives it up in a later verdict
    /// ([`Release`](Self::Release)), in [`timeout`](super::Interceptor::timeout) or in [`end`](super::Interceptor::end).
    /// It keeps the buffer that it came in with it, unless it is [detached](Block::into_owned).
    Hold,
    /// These go on: blocks that were [held](Self::Hold), with or without the one that is asked about, which is held if it is
    /// not among them. No id moves.
    Release(Vec<Block>),
    /// These go on, and then the stream ends as if the upstream had ended it there: cleanly. The upstream is
    /// let go, and nothing more is taken from the interceptor, nor from those before it. (To make the end look like the failure that it is, see [`Verdict::fail`].)
    End(Vec<Block>),
    /// The verdict is not known yet. Until it is, nothing after this block is looked at or sent; what came
    /// before is sent. An error, or running out of the interceptor's
    /// [time limit](super::MakeInterceptorExt::time_limit), is a failure of the interceptor.
    ///
    /// The future is dropped when the stream ends for another reason, at any await point.
    Defer(BoxFuture<'static, Result<Verdict, BoxError>>),
}

impl Verdict {
    /// [`Defer`](Self::Defer)s to a future.
    pub fn defer<F, V>(future: F) -> Self
    where
        F: Future<Output = Result<V, BoxError>> + Send + 'static,
        V: Into<Verdict>,
    {
        Verdict::Defer(Box::pin(async move { future.await.map(Into::into) }))
    }

    /// [`End`](Self::End)s the stream with these. (With none: `Verdict::End(vec![])`.)
    pub fn end<T: Into<Block>>(blocks: impl IntoIterator<Item = T>) -> Self {
        Verdict::End(blocks.into_iter().map(Into::into).collect())
    }

    /// The interceptor cannot judge this block. It fails, and what that means is up to its
    /// [failure mode](super::MakeInterceptorExt::fail_open): by default the stream is cut, visibly.
    pub fn fail(error: impl Into<BoxError>) -> Self {
        let error = error.into();
        Verdict::Defer(Box::pin(std::future::ready(Err(error))))
    }
}

impl From<Event> for Verdict {
    fn from(event: Event) -> Self {
        Verdict::Forward(event.into())
    }
}

impl From<Block> for Verdict {
    fn from(block: Block) -> Self {
        Verdict::Forward(block)
    }
}

impl<T: Into<Block>> From<Option<T>> for Verdict {
    fn from(block: Option<T>) -> Self {
        block.map_or(Verdict::Drop, |block| Verdict::Forward(block.into()))
    }
}

impl<T: Into<Block>> From<Vec<T>> for Verdict {
    fn from(blocks: Vec<T>) -> Self {
        Verdict::Replace(blocks.into_iter().map(Into::into).collect())
    }
}

/// Names the decision, never the text.
impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Forward(block) => f.debug_tuple("Forward").field(block).finish(),
            Verdict::Replace(blocks) => f.debug_tuple("Replace").field(blocks).finish(),
            Verdict::Drop => f.write_str("Drop"),
            Verdict::Hold => f.write_str("Hold"),
            Verdict::Release(blocks) => f.debug_tuple("Release").field(blocks).finish(),
            Verdict::End(blocks) => f.debug_tuple("End").field(blocks).finish(),
            Verdict::Defer(_) => f.write_str("Defer(..)"),
        }
    }
}
