//! Rejections: responses that the layer creates instead of calling or forwarding the service.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header, response};
use serde_json::json;

/// Why the layer answered a request for an event stream itself, or cut a stream that interceptors cannot read.
///
/// The list is closed, so that it can be a label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectionReason {
    /// The layer serves as many streams as it may.
    Limit,
    /// The owner has as many streams as it may.
    LimitPerOwner,
    /// The layer is drained.
    Draining,
    /// Interceptors cannot read the response as its client would.
    Uninspectable,
    /// An interceptor panicked when it was opened.
    Interceptor,
    /// The owner has no such session, or a session id is malformed.
    Session,
    /// The session store failed.
    SessionStore,
    /// The stream cannot be resumed, or cannot be resumed without a gap.
    Resume,
    /// The service of `Replay::authorize` did not allow the request.
    Unauthorized,
    /// The policy rejects the request. See [`Policy::reject`](crate::Policy::reject).
    Policy,
    /// Any other reason.
    Other,
}

impl RejectionReason {
    /// Returns the reason in snake case, for logs and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::LimitPerOwner => "limit_per_owner",
            Self::Draining => "draining",
            Self::Uninspectable => "uninspectable",
            Self::Interceptor => "interceptor",
            Self::Session => "session",
            Self::SessionStore => "session_store",
            Self::Resume => "resume",
            Self::Unauthorized => "unauthorized",
            Self::Policy => "policy",
            Self::Other => "other",
        }
    }
}

/// A response of the layer to a request that it does not forward, or in place of a response that it cannot forward.
#[derive(Clone, Debug)]
pub(crate) struct Rejection {
    status: StatusCode,
    text: Cow<'static, str>,
    content_type: &'static str,
    retry: bool,
    reason: RejectionReason,
    proxy_status: Option<&'static str>,
}

/// The longest `Retry-After`, in seconds. Each value is random in `1..=RETRY_AFTER`, so that clients do not retry at the same time.
const RETRY_AFTER: u32 = 10;

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

impl Rejection {
    /// A plain text response with this status.
    pub(crate) fn new(status: StatusCode, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            text: text.into(),
            content_type: "text/plain; charset=utf-8",
            retry: false,
            reason: RejectionReason::Other,
            proxy_status: None,
        }
    }

    /// A response with an error object, in place of a JSON body. The SDKs of model APIs show the message to their users.
    pub(crate) fn json(status: StatusCode, kind: &str, message: &str) -> Self {
        let error = json!({ "error": { "type": kind, "message": message } });
        Self {
            content_type: "application/json",
            ..Self::new(status, error.to_string())
        }
    }

    /// Sets the reason, for observers. [`Other`](RejectionReason::Other) unless set.
    pub(crate) fn because(mut self, reason: RejectionReason) -> Self {
        self.reason = reason;
        self
    }

    /// Why the request is rejected.
    pub(crate) fn reason(&self) -> RejectionReason {
        self.reason
    }

    /// Status 204: the client has received all of the stream. An `EventSource` does not reconnect after it (WHATWG HTML 9.2.3).
    pub(crate) fn no_content() -> Self {
        Self::new(StatusCode::NO_CONTENT, "")
    }

    /// The stream of the request was closed: status 204 for `GET` and `HEAD`, so that an `EventSource` does not reconnect, else
    /// 410.
    pub(crate) fn closed(method: &Method) -> Self {
        match *method {
            Method::GET | Method::HEAD => Self::no_content(),
            _ => Self::new(StatusCode::GONE, "the stream was closed\n")
                .because(RejectionReason::Resume),
        }
    }

    /// The status of the response.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// Adds a random `Retry-After` of at most 10 seconds (RFC 9110 10.2.3).
    pub(crate) fn retry_later(mut self) -> Self {
        self.retry = true;
        self
    }

    /// Adds the field `Proxy-Status` with this value (RFC 9209).
    pub(crate) fn with_proxy_status(mut self, value: &'static str) -> Self {
        self.proxy_status = Some(value);
        self
    }

    /// The head and the body of the response.
    pub(crate) fn into_parts(self) -> (response::Parts, Bytes) {
        let (mut head, ()) = Response::new(()).into_parts();
        head.status = self.status;
        let headers = &mut head.headers;
        let content_type = HeaderValue::from_static(self.content_type);
        headers.insert(header::CONTENT_TYPE, content_type);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(value) = self.proxy_status {
            headers.insert(PROXY_STATUS, HeaderValue::from_static(value));
        }
        if self.retry {
            let seconds = fastrand::u32(1..=RETRY_AFTER);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        (head, self.text.into_owned().into())
    }
}
