//! Deferred verdicts.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use sync_wrapper::SyncWrapper;
use tokio::time::Instant;
use tower::BoxError;

use crate::{
    codec::Block,
    error::Error,
    intercept::{Verdict, catch},
};

/// A verdict that is not ready, or not applied yet.
pub(super) struct Deferred {
    pub(super) stage: usize,
    pub(super) future: SyncWrapper<BoxFuture<'static, Result<Verdict, BoxError>>>,
    /// The output of the future.
    pub(super) result: Option<SyncWrapper<Result<Verdict, Error>>>,
    /// When the time limit is exceeded.
    pub(super) deadline: Option<Instant>,
    /// A copy of the block that the verdict is about, if it is needed.
    pub(super) original: Option<Block>,
}

impl Deferred {
    /// Polls the future, unless the result exists.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        if self.result.is_some() {
            return;
        }
        let future: Pin<&mut _> = self.future.get_mut().as_mut();
        let result = match catch(|| future.poll(cx)) {
            Ok(Poll::Pending) => return,
            Ok(Poll::Ready(Ok(verdict))) => Ok(verdict),
            Ok(Poll::Ready(Err(error))) => Err(Error::of_an_interceptor(error)),
            Err(panic) => Err(panic),
        };
        self.result = Some(SyncWrapper::new(result));
    }
}

impl fmt::Debug for Deferred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deferred")
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}
