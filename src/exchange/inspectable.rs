//! Whether interceptors read an event stream as its client will, and the rejection if they cannot.

use std::{borrow::Cow, sync::Arc};

use http::{StatusCode, response};

use crate::{
    headers::{content_encoding::ContentCoding, content_type::foreign_charset},
    observe::report::rejected,
    rejection::Rejection,
};

/// Why interceptors cannot read a stream.
pub(crate) struct Uninspectable {
    /// For diagnostics, which contain nothing that the upstream sent.
    cause: &'static str,
    /// For the client.
    text: Cow<'static, str>,
}

pub(crate) const MALFORMED_CONTENT_TYPE: Uninspectable = Uninspectable {
    cause: "malformed content type",
    text: Cow::Borrowed(
        "its `Content-Type` is malformed, and some clients read `text/event-stream` in it",
    ),
};

pub(crate) const INTERCEPTOR_PANICKED: Uninspectable = Uninspectable {
    cause: "interceptor panicked",
    text: Cow::Borrowed("an interceptor panicked when it was opened"),
};

impl Uninspectable {
    /// Reports the stream, and rejects the request with 502.
    pub(crate) fn reject(&self, route: Option<Arc<str>>) -> Rejection {
        rejected(self.cause, route);
        let text = &self.text;
        let text = format!("The upstream's event stream cannot be inspected: {text}.\n");
        Rejection::new(StatusCode::BAD_GATEWAY, text)
    }
}

/// Checks the head of an event stream.
pub(crate) fn check_inspectable(
    parts: &response::Parts,
    coding: &ContentCoding,
) -> Result<(), Uninspectable> {
    if let ContentCoding::Unsupported(coding) = coding {
        let hint = if cfg!(feature = "decompression") {
            "only gzip, deflate, br and zstd can be decoded, one at a time"
        } else {
            "decoding is not compiled in"
        };
        return Err(Uninspectable {
            cause: "content coding",
            text: format!("its content coding is `{coding}`, and {hint}").into(),
        });
    }
    if let Some(charset) = foreign_charset(&parts.headers) {
        return Err(Uninspectable {
            cause: "charset",
            text: format!("its charset is `{charset}`, not UTF-8").into(),
        });
    }
    if parts.status == StatusCode::PARTIAL_CONTENT {
        return Err(Uninspectable {
            cause: "range",
            text: "it is a range, which may cut the text that interceptors search for".into(),
        });
    }
    Ok(())
}
