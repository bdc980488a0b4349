//! Who decides about a text, and what can be decided.

use std::fmt;

use futures_util::future::BoxFuture;
use tower::{BoxError, Service, util::Oneshot};

use super::{
    decision::{Decision, TextSegment},
    scan::Incremental,
};

/// Decides about passages. A function `Fn(&TextSegment) -> Decision` is one.
pub trait Judge: Send + Sync + 'static {
    /// Decides, or says when it will be decided.
    fn judge(&self, passage: TextSegment) -> Ruling;

    /// How this judge reads a text piece by piece, if it can.
    #[doc(hidden)]
    fn incremental(&self) -> Option<Incremental> {
        None
    }
}

/// A decision, or one to come.
pub enum Ruling {
    /// Decided.
    Now(Decision),
    /// An error is a failure of the interceptor.
    Later(BoxFuture<'static, Result<Decision, BoxError>>),
}

impl fmt::Debug for Ruling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ruling::Now(judgement) => f.debug_tuple("Now").field(judgement).finish(),
            Ruling::Later(_) => f.write_str("Later(..)"),
        }
    }
}

impl<F> Judge for F
where
    F: Fn(&TextSegment) -> Decision + Send + Sync + 'static,
{
    fn judge(&self, passage: TextSegment) -> Ruling {
        Ruling::Now(self(&passage))
    }
}

/// A tower service as a judge: `Service<TextSegment, Response = Decision>`, with whatever timeout, limit or retry it wears.
///
/// Its stream waits for the answer; other streams do not.
#[derive(Clone, Debug)]
pub struct JudgeService<S> {
    service: S,
}

impl<S> JudgeService<S> {
    /// Wraps a service.
    pub fn new(service: S) -> Self {
        Self { service }
    }
}

impl<S> Judge for JudgeService<S>
where
    S: Service<TextSegment, Response = Decision> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    fn judge(&self, passage: TextSegment) -> Ruling {
        let answer = Oneshot::new(self.service.clone(), passage);
        Ruling::Later(Box::pin(async move { answer.await.map_err(Into::into) }))
    }
}
