//! The response, on its way.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{TryFuture, future::BoxFuture};
use http::{Method, Response, request};
use http_body::Body;
use pin_project_lite::pin_project;
use sync_wrapper::SyncWrapper;
use tower::BoxError;

use crate::{
    body::SseBody,
    exchange::{
        handle::{Behind, Outcome},
        respond::Asking,
    },
    policy::Policy,
    rejection::Rejection,
};

pin_project! {
    /// The future of [`SseProxy`](crate::SseProxy). Dropping it drops the call to the service inside.
    pub struct ResponseFuture<F>
    where
        F: TryFuture,
    {
        #[pin]
        answer: Answer<F>,
        policy: Arc<Policy>,
        request: Option<Box<request::Parts>>,
        head_only: bool,
    }
}

/// A call with more to do before and after it.
type Called<F> = BoxFuture<'static, Result<Outcome<<F as TryFuture>::Ok>, <F as TryFuture>::Error>>;

pin_project! {
    #[project = AnswerProjection]
    enum Answer<F>
    where
        F: TryFuture,
    {
        /// That of the service inside.
        Plain { #[pin] call: F, behind: Option<Behind<F::Ok>> },
        /// That of the service inside, in a session, or what is kept of a stream.
        Called { call: SyncWrapper<Called<F>> },
        /// The layer's own.
        Refused { refusal: Option<Rejection> },
    }
}

impl<F: TryFuture> ResponseFuture<F> {
    pub(crate) fn plain(
        call: F,
        policy: Arc<Policy>,
        request: Option<Box<request::Parts>>,
        behind: Behind<F::Ok>,
        method: &Method,
    ) -> Self {
        let behind = Some(behind);
        Self {
            answer: Answer::Plain { call, behind },
            policy,
            request,
            head_only: method == Method::HEAD,
        }
    }

    pub(crate) fn called(
        call: Called<F>,
        policy: Arc<Policy>,
        request: Option<Box<request::Parts>>,
        method: &Method,
    ) -> Self {
        let call = SyncWrapper::new(call);
        Self {
            answer: Answer::Called { call },
            policy,
            request,
            head_only: method == Method::HEAD,
        }
    }

    pub(crate) fn refused(refusal: Rejection, policy: Arc<Policy>) -> Self {
        let refusal = Some(refusal);
        Self {
            answer: Answer::Refused { refusal },
            policy,
            request: None,
            head_only: false,
        }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<SseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let asking = Asking {
            policy: this.policy,
            request: this.request.as_deref(),
            head_only: *this.head_only,
        };
        let (response, behind) = match this.answer.project() {
            AnswerProjection::Plain { call, behind } => {
                let response = ready!(call.poll(cx))?;
                match behind.take() {
                    Some(behind) => (response, behind),
                    None => return Poll::Pending,
                }
            }
            AnswerProjection::Called { call } => match ready!(call.get_mut().as_mut().poll(cx))? {
                Outcome::Answer(response, behind) => (response, behind),
                Outcome::Kept(rejoin) => return Poll::Ready(Ok(asking.kept(*rejoin))),
                Outcome::Refused(refusal) => return Poll::Ready(Ok(refusal.into_response())),
            },
            AnswerProjection::Refused { refusal } => match refusal.take() {
                Some(refusal) => return Poll::Ready(Ok(refusal.into_response())),
                None => return Poll::Pending,
            },
        };
        Poll::Ready(Ok(asking.answer(response, behind)))
    }
}

impl<F: TryFuture> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
