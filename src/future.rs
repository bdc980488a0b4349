//! The response: the one place that decides how a body is treated.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{TryFuture, future::BoxFuture};
use http::{Method, Response, StatusCode, request, response};
use http_body::Body;
use pin_project_lite::pin_project;
use sync_wrapper::SyncWrapper;
use tower::BoxError;

use crate::{
    body::SseBody,
    detect::foreign_charset,
    head,
    intercept::{Chain, Head},
    mapping::{InSession, Mapped},
    policy::Policy,
    refusal::Refusal,
    upstream::{
        Pipeline, Pull,
        coding::{Coding, Plain},
    },
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

/// A call with the session looked up before it and bound after it.
type MappedCall<F> =
    BoxFuture<'static, Result<Mapped<<F as TryFuture>::Ok>, <F as TryFuture>::Error>>;

pin_project! {
    #[project = AnswerProjection]
    enum Answer<F>
    where
        F: TryFuture,
    {
        /// That of the service inside.
        Plain { #[pin] call: F },
        /// That of the service inside, in a session.
        Mapped { call: SyncWrapper<MappedCall<F>> },
        /// The layer's own.
        Refused { refusal: Option<Refusal> },
    }
}

impl<F: TryFuture> ResponseFuture<F> {
    pub(crate) fn plain(
        call: F,
        policy: Arc<Policy>,
        request: Option<Box<request::Parts>>,
        method: &Method,
    ) -> Self {
        Self {
            answer: Answer::Plain { call },
            policy,
            request,
            head_only: method == Method::HEAD,
        }
    }

    pub(crate) fn mapped(
        call: MappedCall<F>,
        policy: Arc<Policy>,
        request: Option<Box<request::Parts>>,
        method: &Method,
    ) -> Self {
        let call = SyncWrapper::new(call);
        Self {
            answer: Answer::Mapped { call },
            policy,
            request,
            head_only: method == Method::HEAD,
        }
    }

    pub(crate) fn refused(refusal: Refusal, policy: Arc<Policy>) -> Self {
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
        let (response, in_session) = match this.answer.project() {
            AnswerProjection::Plain { call } => (ready!(call.poll(cx))?, None),
            AnswerProjection::Mapped { call } => match ready!(call.get_mut().as_mut().poll(cx))? {
                Mapped::Answer(response, in_session) => (response, Some(in_session)),
                Mapped::Refused(refusal) => return Poll::Ready(Ok(refusal.into_response())),
            },
            AnswerProjection::Refused { refusal } => match refusal.take() {
                Some(refusal) => return Poll::Ready(Ok(refusal.into_response())),
                None => return Poll::Pending,
            },
        };
        let (parts, body) = response.into_parts();
        let response = if has_no_body(parts.status) || !(this.policy.detect)(&parts) {
            Response::from_parts(parts, SseBody::passed(body))
        } else {
            let request = this.request.take();
            let stream = EventStream {
                policy: this.policy,
                request,
                head_only: *this.head_only,
                in_session,
            };
            stream.answer(parts, body)
        };
        let response = response.map(|body| body.in_sessions(this.policy.sessions.clone()));
        Poll::Ready(Ok(response))
    }
}

/// Statuses that end with their head whatever it says (RFC 9110 15.2, 15.3.5, 15.4.5).
fn has_no_body(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// An upstream's event stream, and what is known of its request.
struct EventStream<'a> {
    policy: &'a Policy,
    request: Option<Box<request::Parts>>,
    head_only: bool,
    in_session: Option<Box<InSession>>,
}

impl EventStream<'_> {
    fn answer<B>(self, mut parts: response::Parts, body: B) -> Response<SseBody<B>>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let policy = self.policy;
        let coding = Coding::of(&parts.headers);
        if policy.inspects() {
            if let Some(why) = unreadable(&parts, &coding) {
                return refused(&why);
            }
        } else if let Coding::Opaque(_) = coding {
            return Response::from_parts(parts, SseBody::passed(body));
        }
        if self.head_only {
            // Whatever body the service made for it, none may leave (RFC 9110 9.3.2), and this one nobody has seen.
            head::of_event_stream(&mut parts.headers);
            return Response::from_parts(parts, SseBody::own(String::new()));
        }
        let chain = match self.request {
            Some(request) => Chain::open(&policy.intercepts, &Head::new(&request, &parts)),
            None => Ok(Chain::default()),
        };
        let Ok(mut chain) = chain else {
            return refused("an interceptor panicked when it was opened");
        };
        let lease = self.in_session.as_deref().and_then(InSession::lease);
        if let Some(translation) = self.in_session.and_then(|session| session.translation()) {
            chain.put_first(translation);
        }
        let pipeline = Pipeline::new(chain, policy.strip_comments);
        let body = Plain::new(&coding, body);
        let pull = Pull::new(body, policy.decoder(), pipeline);
        head::of_event_stream(&mut parts.headers);
        let body = SseBody::stream(pull, policy.keep_alive.clone(), lease);
        Response::from_parts(parts, body)
    }
}

/// Why interceptors could not read this stream as its client will.
fn unreadable(parts: &response::Parts, coding: &Coding) -> Option<String> {
    if let Coding::Opaque(coding) = coding {
        let hint = if cfg!(feature = "decompression") {
            "only gzip, deflate, br and zstd can be decoded, one at a time"
        } else {
            "decoding is not compiled in"
        };
        return Some(format!("its content coding is `{coding}`, and {hint}"));
    }
    if let Some(charset) = foreign_charset(&parts.headers) {
        return Some(format!("its charset is `{charset}`, not UTF-8"));
    }
    (parts.status == StatusCode::PARTIAL_CONTENT)
        .then(|| "it is a range, and what is looked for may be cut".to_owned())
}

/// A stream that may not pass unseen does not pass.
fn refused<B>(why: &str) -> Response<SseBody<B>> {
    tracing::warn!("refused an event stream of the upstream: {why}");
    let text = format!("The upstream's event stream cannot be inspected: {why}.\n");
    Refusal::new(StatusCode::BAD_GATEWAY, text).into_response()
}

impl<F: TryFuture> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
