//! A verdict that is not known yet.

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

pub(super) struct Deferred {
    pub(super) stage: usize,
    pub(super) verdict: SyncWrapper<BoxFuture<'static, Result<Verdict, BoxError>>>,
    pub(super) known: Option<SyncWrapper<Result<Verdict, Error>>>,
    pub(super) until: Option<Instant>,
    pub(super) original: Option<Block>,
}

impl Deferred {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        if self.known.is_some() {
            return;
        }
        let verdict: Pin<&mut _> = self.verdict.get_mut().as_mut();
        let known = match catch(|| verdict.poll(cx)) {
            Ok(Poll::Pending) => return,
            Ok(Poll::Ready(Ok(verdict))) => Ok(verdict),
            Ok(Poll::Ready(Err(error))) => Err(Error::of_an_interceptor(error)),
            Err(panic) => Err(panic),
        };
        self.known = Some(SyncWrapper::new(known));
    }
}

impl fmt::Debug for Deferred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deferred")
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}
