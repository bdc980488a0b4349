//! Answers of the layer's own.

use std::borrow::Cow;

use http::{HeaderValue, Response, StatusCode, header};

use crate::body::SseBody;

/// An answer of the layer's own to a request that is not passed on, or whose answer cannot be.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    text: Cow<'static, str>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            text: text.into(),
        }
    }

    pub(crate) fn into_response<B>(self) -> Response<SseBody<B>> {
        let mut response = Response::new(SseBody::own(self.text.into_owned()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        headers.insert(header::CONTENT_TYPE, plain);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}
