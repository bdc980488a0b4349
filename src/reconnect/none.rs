//! The replacement of the files for reconnecting in builds without the feature `reconnect`: no request is repeated.

use std::{convert::Infallible, marker::PhantomData, sync::Arc};

use http::Response;

use crate::{
    observe::LiveStream,
    upstream::{ContentCheck, Continuation, UpstreamProgress},
};

/// Never made.
pub(crate) type RetryParts<R> = (Infallible, PhantomData<fn() -> R>);

/// Never made.
pub(crate) struct RetryRequest<R>(RetryParts<R>);

impl<R> RetryRequest<R> {
    pub(crate) fn new(parts: RetryParts<R>) -> Self {
        Self(parts)
    }

    pub(crate) fn is_get(&self) -> bool {
        match self.0.0 {}
    }
}

impl<B> RetryRequest<Response<B>> {
    pub(crate) fn into_continuation<F>(
        self,
        _: Arc<UpstreamProgress>,
        _: ContentCheck,
        _: Option<Arc<LiveStream>>,
        _: Option<F>,
    ) -> impl Continuation<B> {
        self.0.0
    }
}
