//! Answers of the layer's own.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header, response};

/// An answer of the layer's own to a request that is not passed on, or whose answer cannot be.
#[derive(Clone, Debug)]
pub(crate) struct Rejection {
    status: StatusCode,
    text: Cow<'static, str>,
    retry: bool,
}

/// The longest `Retry-After` of a refusal, in seconds. Each is random up to it, so that clients do not come back together.
const RETRY_AFTER: u32 = 10;

impl Rejection {
    pub(crate) fn new(status: StatusCode, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            text: text.into(),
            retry: false,
        }
    }

    /// Tells a client that it has all of a stream. An `EventSource` comes back no more (WHATWG HTML 9.2.3).
    pub(crate) fn no_content() -> Self {
        Self::new(StatusCode::NO_CONTENT, "")
    }

    /// Tells a client that its stream was closed.
    pub(crate) fn closed(method: &Method) -> Self {
        match *method {
            Method::GET | Method::HEAD => Self::no_content(),
            _ => Self::new(StatusCode::GONE, "the stream was closed\n"),
        }
    }

    /// A refusal that says when to try again (RFC 9110 10.2.3).
    pub(crate) fn retry_later(mut self) -> Self {
        self.retry = true;
        self
    }

    /// The head and the body of the response.
    pub(crate) fn into_parts(self) -> (response::Parts, Bytes) {
        let (mut head, ()) = Response::new(()).into_parts();
        head.status = self.status;
        let headers = &mut head.headers;
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        headers.insert(header::CONTENT_TYPE, plain);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.retry {
            let seconds = fastrand::u32(1..=RETRY_AFTER);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        (head, self.text.into_owned().into())
    }
}
