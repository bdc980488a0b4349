//! The decision of an interceptor on a block.

use std::{
    fmt,
    future::{Future, ready},
    pin::Pin,
};

use tower::BoxError;

use crate::{
    codec::{Block, Event},
    error::{Error, ErrorKind},
};

/// The decision of an [`Interceptor`](super::Interceptor) on a block.
///
/// Blocks that a verdict forwards reach the next interceptor of the chain, and after the last one the client.
///
/// These types convert into a verdict: an [`Event`] or [`Block`] forwards, an `Option` of them forwards or drops, a `Vec` of
/// them replaces.
///
/// ```
/// use tower_sse_proxy::{Event, intercept::Verdict};
/// # async fn lookup(text: &str) -> Result<String, std::io::Error> { Ok(text.into()) }
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
/// fn translate(mut event: Event) -> Verdict {
///     Verdict::defer(async move {
///         let text = lookup(&event.data()).await?;
///         event.set_data(text);
///         Ok(event)
///     })
/// }
/// ```
#[non_exhaustive]
pub enum Verdict {
    /// Forwards the block, edited or not. A new event in place of the block has no id unless you set one;
    /// [`Replace`](Self::Replace) copies the id.
    Forward(Block),
    /// Forwards these blocks in place of the block, in this order. An empty list drops the block.
    ///
    /// If the block had an id and none of these has one, the last event of the list gets it. A client that loses its
    /// connection before that event then asks for all of them again.
    Replace(Vec<Block>),
    /// Drops the block, together with its id.
    Drop,
    /// Forwards nothing now. The interceptor stores the block and forwards it by a later verdict:
    /// [`Release`](Self::Release), or the verdict of [`timeout`](super::Interceptor::timeout) or
    /// [`end`](super::Interceptor::end).
    ///
    /// A stored block keeps the buffer of its chunk allocated; [`into_owned`](Block::into_owned) copies it out.
    Hold,
    /// Forwards blocks that were [held](Self::Hold), in this order. The current block is held unless it is in the list. The
    /// ids of the blocks do not change.
    Release(Vec<Block>),
    /// Forwards these blocks, and then ends the stream cleanly, as if the upstream had ended it there.
    ///
    /// The layer drops the upstream. It no longer calls `event` and `block` of this and of earlier interceptors. To cut the
    /// stream instead, see [`Verdict::block`].
    End(Vec<Block>),
    /// Waits for the verdict. Until it is ready, later blocks wait; earlier blocks are sent.
    ///
    /// An error is a failure of the interceptor, and so is a future that exceeds the
    /// [time limit](super::MakeInterceptorExt::time_limit). The layer polls the future on the task of the stream, and drops
    /// it when the stream ends for another reason, at any await point. A panic in it cuts the stream.
    Defer(Pin<Box<dyn Future<Output = Result<Verdict, BoxError>> + Send>>),
}

impl Verdict {
    /// [Defers](Self::Defer) to a future with an output that converts into a verdict.
    pub fn defer<F, V>(future: F) -> Self
    where
        F: Future<Output = Result<V, BoxError>> + Send + 'static,
        V: Into<Verdict>,
    {
        Verdict::Defer(Box::pin(async move { future.await.map(Into::into) }))
    }

    /// [Ends](Self::End) the stream with these blocks. To end it without any, write `Verdict::End(vec![])`.
    pub fn end<T: Into<Block>>(blocks: impl IntoIterator<Item = T>) -> Self {
        Verdict::End(blocks.into_iter().map(Into::into).collect())
    }

    /// Cuts the stream, because the interceptor does not allow it to continue.
    ///
    /// The body ends with an [`Error`](crate::Error) of the kind [`Blocked`](crate::ErrorKind::Blocked) whose source is `reason`.
    /// [`fail_open`](super::MakeInterceptorExt::fail_open) does not apply: the block never passes. Use [`Verdict::end`] to end the stream
    /// with events of your own instead.
    ///
    /// ```
    /// use tower_sse_proxy::{Event, intercept::Verdict};
    ///
    /// fn no_secrets(event: Event) -> Verdict {
    ///     if event.data().contains("secret") { Verdict::block("a secret") } else { event.into() }
    /// }
    /// ```
    pub fn block(reason: impl Into<BoxError>) -> Self {
        Verdict::fail(Error::with_source(ErrorKind::Blocked, reason))
    }

    /// Reports that the interceptor failed on this block.
    ///
    /// By default the stream is cut: the body ends with an [`Error`](crate::Error) whose source is `error`. With
    /// [`fail_open`](super::MakeInterceptorExt::fail_open) the block passes unchanged.
    pub fn fail(error: impl Into<BoxError>) -> Self {
        Verdict::Defer(Box::pin(ready(Err(error.into()))))
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

/// Shows the variant and the sizes of the blocks, never their text.
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
