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
    call::{Behind, Outcome},
    detect::foreign_charset,
    head,
    intercept::{Chain, Head},
    keep::{Asked, Kept},
    mapping::InSession,
    policy::Policy,
    refusal::Refusal,
    resume::Rejoin,
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

/// A call with more to do before and after it.
type Called<F> = BoxFuture<'static, Result<Outcome<<F as TryFuture>::Ok>, <F as TryFuture>::Error>>;

pin_project! {
    #[project = AnswerProjection]
    enum Answer<F>
    where
        F: TryFuture,
    {
        /// That of the service inside.
        Plain { #[pin] call: F, asked: Option<Box<Asked>> },
        /// That of the service inside, in a session, or what is kept of a stream.
        Called { call: SyncWrapper<Called<F>> },
        /// The layer's own.
        Refused { refusal: Option<Refusal> },
    }
}

impl<F: TryFuture> ResponseFuture<F> {
    pub(crate) fn plain(
        call: F,
        policy: Arc<Policy>,
        request: Option<Box<request::Parts>>,
        asked: Option<Box<Asked>>,
        method: &Method,
    ) -> Self {
        Self {
            answer: Answer::Plain { call, asked },
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
        let (response, behind) = match this.answer.project() {
            AnswerProjection::Plain { call, asked } => {
                let response = ready!(call.poll(cx))?;
                let (in_session, asked) = (None, asked.take());
                (response, Behind { in_session, asked })
            }
            AnswerProjection::Called { call } => match ready!(call.get_mut().as_mut().poll(cx))? {
                Outcome::Answer(response, behind) => (response, behind),
                Outcome::Kept(rejoin) => return Poll::Ready(Ok(kept(*rejoin, this.policy))),
                Outcome::Refused(refusal) => return Poll::Ready(Ok(refusal.into_response())),
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
                behind,
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
    behind: Behind,
}

/// What is kept of a stream.
fn kept<B>(rejoin: Rejoin, policy: &Policy) -> Response<SseBody<B>> {
    let Rejoin {
        headers,
        reader,
        first,
    } = rejoin;
    let body = match reader {
        Some(reader) => SseBody::kept(reader.first(first), policy.keep_alive.clone()),
        None => SseBody::own(first.unwrap_or_default()),
    };
    let mut response = Response::new(body.in_sessions(policy.sessions.clone()));
    *response.headers_mut() = headers;
    response
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
            return Response::from_parts(parts, SseBody::own(Bytes::new()));
        }
        let body = Plain::new(&coding, body);
        // Clients resume, and upstreams go on with, nothing but a success (WHATWG HTML 9.2.3).
        let asked = self.behind.asked.filter(|_| parts.status == StatusCode::OK);
        let keep_alive = policy.keep_alive.clone();
        let (body, asked) = match asked {
            None => (body, None),
            Some(mut asked) => match asked.go_on(body) {
                Ok(reader) => {
                    head::of_event_stream(&mut parts.headers);
                    return Response::from_parts(parts, SseBody::kept(reader, keep_alive));
                }
                Err(body) => (body, Some(asked)),
            },
        };
        let chain = match &self.request {
            Some(request) => Chain::open(&policy.intercepts, &Head::new(request, &parts)),
            None => Ok(Chain::default()),
        };
        let Ok(mut chain) = chain else {
            return refused("an interceptor panicked when it was opened");
        };
        let in_session = self.behind.in_session;
        let lease = in_session.as_deref().and_then(InSession::lease);
        if let Some(translation) = in_session.and_then(|session| session.translation()) {
            chain.put_first(translation);
        }
        let body = match (asked, &self.request) {
            (Some(asked), Some(request)) => {
                let mut headers = parts.headers.clone();
                head::of_event_stream(&mut headers);
                let kept = Kept {
                    request,
                    response: &parts,
                    headers,
                    chain,
                    decoder: policy.decoder(),
                    strip_comments: policy.strip_comments,
                    lease,
                };
                SseBody::kept(asked.keep(body, kept), keep_alive)
            }
            _ => {
                let pipeline = Pipeline::new(chain, policy.strip_comments);
                let pull = Pull::new(body, policy.decoder(), pipeline);
                SseBody::stream(pull, keep_alive, lease)
            }
        };
        head::of_event_stream(&mut parts.headers);
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
