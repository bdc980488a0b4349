//! The response future.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;
use sync_wrapper::SyncWrapper;
use tower::BoxError;

use crate::{
    body::SseBody,
    exchange::{
        context::RequestContext,
        outcome::{Outcome, ResponseContext},
        respond::{Answer, LaterResponse, respond},
    },
    rejection::Rejection,
};

pin_project! {
    /// The response future of [`SseProxy`](crate::SseProxy).
    ///
    /// `F` is the future of the inner service, `B` its response body, and `E` its error. Dropping this future cancels the call to
    /// the inner service, unless other requests [share](crate::replay::Replay::share_by) the call.
    pub struct ResponseFuture<F, B, E> {
        #[pin]
        state: State<F, B, E>,
    }
}

type Handled<B, E> = Pin<Box<dyn Future<Output = Result<Response<SseBody<B>>, E>> + Send>>;

pin_project! {
    #[project = StateProjection]
    enum State<F, B, E> {
        /// The service was called at once.
        Direct { #[pin] call: F, context: Option<(RequestContext, ResponseContext<Response<B>>)> },
        /// The interceptors decide about a JSON body.
        Later { response: LaterResponse<B> },
        /// Sessions or replay come before the call.
        Handled { call: SyncWrapper<Handled<B, E>> },
        Rejected { rejection: Option<Rejection> },
    }
}

impl<F, B, E> ResponseFuture<F, B, E> {
    pub(crate) fn direct(
        call: F,
        request: RequestContext,
        response: ResponseContext<Response<B>>,
    ) -> Self {
        let context = Some((request, response));
        Self {
            state: State::Direct { call, context },
        }
    }

    pub(crate) fn handled(call: Handled<B, E>) -> Self {
        let call = SyncWrapper::new(call);
        Self {
            state: State::Handled { call },
        }
    }

    pub(crate) fn rejected(rejection: Rejection) -> Self {
        let rejection = Some(rejection);
        Self {
            state: State::Rejected { rejection },
        }
    }
}

impl<F, B, E> Future for ResponseFuture<F, B, E>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<SseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        if let StateProjection::Direct { call, context } = state.as_mut().project() {
            let response = ready!(call.poll(cx));
            let Some((request, context)) = context.take() else {
                // Polled after it was ready.
                return Poll::Pending;
            };
            let answer = match response {
                Ok(response) => respond(&request, Outcome::Respond(response, context)),
                Err(error) => {
                    request.report_failure(None);
                    return Poll::Ready(Err(error));
                }
            };
            match answer {
                Answer::Ready(response) => return Poll::Ready(Ok(response)),
                Answer::Later(response) => state.set(State::Later { response }),
            }
        }
        let response = match state.project() {
            StateProjection::Direct { .. } => None,
            StateProjection::Later { response } => {
                Some(ready!(response.get_mut().as_mut().poll(cx)))
            }
            StateProjection::Handled { call } => Some(ready!(call.get_mut().as_mut().poll(cx))?),
            StateProjection::Rejected { rejection } => rejection.take().map(SseBody::rejection),
        };
        match response {
            Some(response) => Poll::Ready(Ok(response)),
            // Polled after it was ready.
            None => Poll::Pending,
        }
    }
}

impl<F, B, E> fmt::Debug for ResponseFuture<F, B, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
