//! The one place that decides how the body of an answer is treated.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use http::{Method, Response, StatusCode, request, response};
use http_body::Body;
use tower::BoxError;

use crate::{
    body::SseBody,
    exchange::{
        handle::{Behind, Outcome},
        record::Kept,
        resume::Rejoin,
        session::InSession,
    },
    headers::{
        content_encoding::ContentCoding,
        content_type::{Declared, declared, foreign_charset},
        event_stream,
    },
    intercept::{Chain, StreamHead},
    observe::report::{StreamReport, rejected},
    policy::Policy,
    reconnect::{ContentCheck, Reconnecting},
    rejection::Rejection,
    replay::on_demand::ResumeOnDemand,
    session::SessionLease,
    upstream::{
        Pipeline, ProgressStage, Pull, UpstreamProgress, body::DecodedBody, terminal::TerminalWatch,
    },
};

/// What decides, beside the answer itself.
#[derive(Clone, Copy)]
pub(crate) struct Asking<'a> {
    pub(crate) policy: &'a Arc<Policy>,
    /// The client's request, where the policy has an interest in streams.
    pub(crate) request: Option<&'a request::Parts>,
    pub(crate) head_only: bool,
}

impl Asking<'_> {
    /// The answer as the client gets it.
    pub(crate) fn answer<B>(
        self,
        response: Response<B>,
        behind: Behind<Response<B>>,
    ) -> Response<SseBody<B>>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let response = match self.keep(response, behind) {
            Outcome::Answer(response, behind) => self.stream(response, behind),
            Outcome::Kept(rejoin) => return self.kept(*rejoin),
            Outcome::Refused(refusal) => refusal.into_response(),
        };
        self.without_ids(response)
    }

    /// What is kept of a stream, as the client gets it.
    pub(crate) fn kept<B>(self, rejoin: Rejoin) -> Response<SseBody<B>> {
        let Rejoin {
            head,
            reader,
            first,
        } = rejoin;
        let body = match reader {
            // As a `GET` would have it, and no body (RFC 9110 9.3.2).
            _ if self.head_only => SseBody::own(Bytes::new()),
            Some(reader) => {
                let reader = reader.first(first).route(self.policy.route.clone());
                SseBody::kept(reader, self.policy.keep_alive.clone())
            }
            None => SseBody::own(first.unwrap_or_default()),
        };
        self.without_ids(Response::from_parts(head, body))
    }

    fn without_ids<B>(self, response: Response<SseBody<B>>) -> Response<SseBody<B>> {
        response.map(|body| body.in_sessions(self.policy.sessions.clone()))
    }

    /// Keeps the stream of an answer, if that is asked for and can be.
    pub(crate) fn keep<B>(
        self,
        response: Response<B>,
        mut behind: Behind<Response<B>>,
    ) -> Outcome<Response<B>>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let asked = behind.asked.take();
        let (mut parts, body) = response.into_parts();
        // Clients resume, and upstreams go on with, nothing but a success (WHATWG HTML 9.2.3).
        let can_be = parts.status == StatusCode::OK && !self.head_only && self.is_stream(&parts);
        let (Some(mut asked), Some(request), true) = (asked, self.request, can_be) else {
            return Outcome::Answer(Response::from_parts(parts, body), behind);
        };
        if asked.is_closed() {
            return Outcome::Refused(Rejection::closed(&request.method));
        }
        let coding = ContentCoding::of(&parts.headers);
        if let Some(why) = unreadable(&parts, &coding) {
            return Outcome::Refused(self.reject(&why));
        }
        let reader = match asked.go_on(DecodedBody::new(&coding, body)) {
            Ok(reader) => {
                event_stream::rewrite_headers(&mut parts.headers);
                reader
            }
            Err(body) => {
                let (chain, lease) = match self.open(&parts, behind.in_session) {
                    Ok(opened) => opened,
                    Err(refusal) => return Outcome::Refused(refusal),
                };
                event_stream::rewrite_headers(&mut parts.headers);
                let kept = Kept {
                    request,
                    response: &parts,
                    sessions: self.policy.sessions.as_deref(),
                    chain,
                    decoder: self.policy.decoder(),
                    strip_comments: self.policy.strip_comments,
                    watch: self.watch(),
                    report: self.report(),
                    lease,
                };
                let repeat = behind.repeat.map(|repeat| (*repeat, self.readable()));
                asked.keep(body, kept, repeat)
            }
        };
        Outcome::Kept(Box::new(Rejoin {
            head: parts,
            reader: Some(reader),
            first: None,
        }))
    }

    /// An answer of which nothing is kept.
    fn stream<B>(self, response: Response<B>, behind: Behind<Response<B>>) -> Response<SseBody<B>>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (mut parts, body) = response.into_parts();
        let policy = self.policy;
        if !self.is_stream(&parts) {
            // Some clients read more values as an event stream than the standard does, and would get this one uninspected.
            if policy.inspects()
                && !has_no_body(parts.status)
                && declared(&parts.headers) == Declared::Ambiguous
            {
                return self.reject(&MALFORMED).into_response();
            }
            return Response::from_parts(parts, SseBody::passed(body));
        }
        let is_range = parts.status == StatusCode::PARTIAL_CONTENT;
        if policy.is_transparent() && behind.repeat.is_none() || is_range && !policy.guards() {
            return self.unread(parts, body);
        }
        let coding = ContentCoding::of(&parts.headers);
        if policy.inspects() {
            if let Some(why) = unreadable(&parts, &coding) {
                return self.reject(&why).into_response();
            }
        } else if let ContentCoding::Unsupported(_) = coding {
            return self.unread(parts, body);
        }
        if self.head_only {
            // Whatever body the service made for it, none may leave (RFC 9110 9.3.2), and this one nobody has seen.
            event_stream::rewrite_headers(&mut parts.headers);
            return Response::from_parts(parts, SseBody::own(Bytes::new()));
        }
        let (mut chain, lease) = match self.open(&parts, behind.in_session) {
            Ok(opened) => opened,
            Err(refusal) => return refusal.into_response(),
        };
        // Upstreams go on with nothing but a success (WHATWG HTML 9.2.3).
        let again = behind.repeat.filter(|_| parts.status == StatusCode::OK);
        let again = again.map(|repeat| {
            let progress = Arc::<UpstreamProgress>::default();
            chain.put_first(ProgressStage::new(Arc::clone(&progress), None));
            Reconnecting::new(
                *repeat,
                progress,
                self.readable(),
                None::<ResumeOnDemand<B>>,
            )
        });
        let pipeline =
            Pipeline::new(chain, policy.strip_comments, self.report()).watched(self.watch());
        let mut pull = Pull::new(DecodedBody::new(&coding, body), policy.decoder(), pipeline)
            .only_utf8(policy.inspects());
        if let Some(again) = again {
            pull = pull.continued_by(again);
        }
        event_stream::rewrite_headers(&mut parts.headers);
        let body = SseBody::stream(pull, policy.keep_alive.clone(), lease);
        Response::from_parts(parts, body)
    }

    /// An event stream that is passed on as it is.
    fn unread<B: Body>(self, parts: response::Parts, body: B) -> Response<SseBody<B>> {
        // Of a body that is over a server asks for nothing.
        let body = if self.head_only || body.is_end_stream() {
            SseBody::passed(body)
        } else {
            SseBody::unread(body, StreamReport::unread(self.policy.route.clone()))
        };
        Response::from_parts(parts, body)
    }

    fn report(self) -> StreamReport {
        StreamReport::new(self.policy.route.clone())
    }

    /// Answers in the place of a stream that may not pass unread.
    fn reject(self, why: &Unreadable) -> Rejection {
        rejected(why.cause, self.policy.route.clone());
        let text = &why.text;
        let text = format!("The upstream's event stream cannot be inspected: {text}.\n");
        Rejection::new(StatusCode::BAD_GATEWAY, text)
    }

    /// Whether another answer can go on with a stream, and in what coding it is.
    fn readable(self) -> ContentCheck {
        let policy = Arc::clone(self.policy);
        Box::new(move |parts| {
            let coding = ContentCoding::of(&parts.headers);
            let readable = (policy.detect)(parts) && unreadable(parts, &coding).is_none();
            readable.then_some(coding)
        })
    }

    fn is_stream(self, parts: &response::Parts) -> bool {
        !has_no_body(parts.status) && (self.policy.detect)(parts)
    }

    /// What tells interceptors that the terminal event of the stream's API is missing.
    pub(crate) fn watch(self) -> Option<TerminalWatch> {
        let request = self.request.filter(|_| self.policy.inspects())?;
        Some(TerminalWatch::new(request.method == Method::POST))
    }

    /// The interceptors of a stream, and what keeps its session alive.
    fn open(
        self,
        parts: &response::Parts,
        in_session: Option<Box<InSession>>,
    ) -> Result<(Chain, Option<SessionLease>), Rejection> {
        let chain = match self.request {
            Some(request) => Chain::open(&self.policy.intercepts, &StreamHead::new(request, parts)),
            None => Ok(Chain::default()),
        };
        let Ok(mut chain) = chain else {
            return Err(self.reject(&PANICKED));
        };
        let lease = in_session.as_deref().and_then(InSession::lease);
        if let Some(translation) = in_session.and_then(|session| session.translation()) {
            chain.put_first(translation);
        }
        Ok((chain, lease))
    }
}

/// Statuses that end with their head whatever it says (RFC 9110 15.2, 15.3.5, 15.4.5).
fn has_no_body(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Why interceptors could not read a stream as its client will.
struct Unreadable {
    /// For diagnostics, which record nothing that the upstream sent.
    cause: &'static str,
    /// For the client.
    text: Cow<'static, str>,
}

const MALFORMED: Unreadable = Unreadable {
    cause: "malformed content type",
    text: Cow::Borrowed(
        "its `Content-Type` is malformed, and some clients read `text/event-stream` in it",
    ),
};

const PANICKED: Unreadable = Unreadable {
    cause: "interceptor panicked",
    text: Cow::Borrowed("an interceptor panicked when it was opened"),
};

fn unreadable(parts: &response::Parts, coding: &ContentCoding) -> Option<Unreadable> {
    if let ContentCoding::Unsupported(coding) = coding {
        let hint = if cfg!(feature = "decompression") {
            "only gzip, deflate, br and zstd can be decoded, one at a time"
        } else {
            "decoding is not compiled in"
        };
        return Some(Unreadable {
            cause: "content coding",
            text: format!("its content coding is `{coding}`, and {hint}").into(),
        });
    }
    if let Some(charset) = foreign_charset(&parts.headers) {
        return Some(Unreadable {
            cause: "charset",
            text: format!("its charset is `{charset}`, not UTF-8").into(),
        });
    }
    (parts.status == StatusCode::PARTIAL_CONTENT).then_some(Unreadable {
        cause: "range",
        text: "it is a range, and what is looked for may be cut".into(),
    })
}
