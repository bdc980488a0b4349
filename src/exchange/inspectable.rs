//! How the layer treats a response by its head: passes it, reads its event stream or its JSON body, or rejects it because interceptors
//! would not read the body as its client will.

use std::{borrow::Cow, sync::Arc};

use http::{StatusCode, response};

use crate::{
    headers::{
        content_encoding::ContentCoding,
        content_type::{Declared, UTF_8, UTF_8_OR_ASCII, declared, foreign_charset, is_json},
        incremental::is_incremental,
    },
    observe::{log_panicked, log_rejected},
    policy::Policy,
    rejection::{Rejection, RejectionReason},
};

/// Why interceptors cannot read a body.
pub(crate) struct Uninspectable {
    /// For diagnostics, which contain nothing that the upstream sent.
    pub(crate) cause: &'static str,
    /// For the client.
    pub(crate) text: Cow<'static, str>,
    /// For observers.
    reason: RejectionReason,
    /// The upstream asks to forward the body as it arrives, which the layer refuses (RFC 10036).
    refuses_incremental: bool,
}

const MALFORMED_CONTENT_TYPE: Uninspectable = Uninspectable {
    cause: "malformed content type",
    text: Cow::Borrowed(
        "its `Content-Type` is malformed, and some clients read `text/event-stream` in it",
    ),
    reason: RejectionReason::Uninspectable,
    refuses_incremental: false,
};

/// Only for JSON bodies: interceptors see each event of a stream separately, but a JSON body only as a whole.
const INCREMENTAL_JSON: Uninspectable = Uninspectable {
    cause: "incremental",
    text: Cow::Borrowed(
        "it asks to be forwarded as it arrives (`Incremental: ?1`), and interceptors see it as a whole",
    ),
    reason: RejectionReason::Uninspectable,
    refuses_incremental: true,
};

pub(crate) const INTERCEPTOR_PANICKED: Uninspectable = Uninspectable {
    cause: "panic",
    text: Cow::Borrowed("an interceptor panicked when it was opened"),
    reason: RejectionReason::Interceptor,
    refuses_incremental: false,
};

/// Reports a stream with an interceptor that panicked when it was opened, and rejects the request with 502.
pub(crate) fn reject_panicked(route: Option<Arc<str>>) -> Rejection {
    log_panicked(route);
    INTERCEPTOR_PANICKED.rejection()
}

impl Uninspectable {
    /// Reports the stream, and rejects the request with 502.
    pub(crate) fn reject(&self, route: Option<Arc<str>>) -> Rejection {
        log_rejected(self.cause, route);
        self.rejection()
    }

    /// The response in place of a JSON body.
    pub(crate) fn reject_json(&self) -> Rejection {
        let rejection = json_rejection(self.json_status(), &self.text);
        if self.refuses_incremental {
            rejection.with_proxy_status("tower-sse-proxy; error=incremental_refused")
        } else {
            rejection
        }
    }

    /// The status of the response in place of a JSON body.
    pub(crate) fn json_status(&self) -> StatusCode {
        if self.refuses_incremental {
            StatusCode::NOT_IMPLEMENTED
        } else {
            StatusCode::BAD_GATEWAY
        }
    }

    fn rejection(&self) -> Rejection {
        let text = &self.text;
        let text = format!("The upstream's event stream cannot be inspected: {text}.\n");
        Rejection::new(StatusCode::BAD_GATEWAY, text).because(self.reason)
    }
}

/// The response in place of a JSON body that interceptors cannot read, or failed on.
pub(crate) fn json_rejection(status: StatusCode, why: &str) -> Rejection {
    let message = format!("The upstream's JSON body cannot be inspected: {why}.");
    Rejection::json(status, "uninspectable", &message)
}

/// How the layer treats an event stream that it does not record.
pub(crate) enum Treatment {
    /// Passes the body on untouched: no setting of the policy needs to read it, or the layer cannot read it and no setting requires it.
    PassUntouched,
    /// Reads it, after it has undone this content coding.
    Inspect(ContentCoding),
    /// Rejects the request: the policy requires that the stream is read, and the layer cannot read it.
    Reject(Uninspectable),
}

impl Treatment {
    /// Decides by the policy and the head of the response. `needs_events` is whether something other than the policy has to read the
    /// stream: a reconnect, or an observer.
    pub(crate) fn of(policy: &Policy, parts: &response::Parts, needs_events: bool) -> Self {
        let is_range = parts.status == StatusCode::PARTIAL_CONTENT;
        if policy.is_transparent() && !needs_events || is_range && !policy.guards() {
            return Self::PassUntouched;
        }
        let coding = ContentCoding::of(&parts.headers);
        if policy.inspects() {
            if let Err(why) = check_inspectable(parts, &coding) {
                return Self::Reject(why);
            }
        } else if let ContentCoding::Unsupported(_) = coding {
            return Self::PassUntouched;
        }
        Self::Inspect(coding)
    }
}

/// Whether the body of a response is an event stream. Fails if interceptors would not see a stream that some clients read: these read
/// more values of `Content-Type` as an event stream than the standard does.
pub(crate) fn has_event_stream(
    policy: &Policy,
    parts: &response::Parts,
) -> Result<bool, Uninspectable> {
    if has_no_body(parts.status) {
        return Ok(false);
    }
    let is_event_stream = (policy.detect)(parts);
    if !is_event_stream && policy.inspects() && declared(&parts.headers) == Declared::Ambiguous {
        return Err(MALFORMED_CONTENT_TYPE);
    }
    Ok(is_event_stream)
}

/// The largest body that interceptors see, in bytes, if the response is JSON that the policy lets them see. `None` for other responses.
pub(crate) fn json_limit(policy: &Policy, parts: &response::Parts) -> Option<usize> {
    policy
        .json_limit()
        .filter(|_| !has_no_body(parts.status) && is_json(&parts.headers))
}

/// Statuses of responses that never have a body, whatever their header fields say (RFC 9110 15.2, 15.3.5, 15.4.5).
fn has_no_body(status: StatusCode) -> bool {
    status.is_informational() || forbids_body(status)
}

/// Statuses of final responses that never have a body. Over HTTP/2, hyper passes one that is sent all the same.
pub(crate) fn forbids_body(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Checks whether interceptors read an event stream with this head as its client will.
pub(crate) fn check_inspectable(
    parts: &response::Parts,
    coding: &ContentCoding,
) -> Result<(), Uninspectable> {
    check(parts, coding, UTF_8)
}

/// Checks whether interceptors read a JSON body with this head as its client will.
pub(crate) fn check_json(
    parts: &response::Parts,
    coding: &ContentCoding,
) -> Result<(), Uninspectable> {
    if is_incremental(&parts.headers) {
        return Err(INCREMENTAL_JSON);
    }
    check(parts, coding, UTF_8_OR_ASCII)
}

/// `charsets` are the labels of charsets that interceptors read.
fn check(
    parts: &response::Parts,
    coding: &ContentCoding,
    charsets: &[&[u8]],
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
            reason: RejectionReason::Uninspectable,
            refuses_incremental: false,
        });
    }
    if let Some(charset) = foreign_charset(&parts.headers, charsets) {
        return Err(Uninspectable {
            cause: "charset",
            text: format!("its charset is `{charset}`, not UTF-8").into(),
            reason: RejectionReason::Uninspectable,
            refuses_incremental: false,
        });
    }
    if parts.status == StatusCode::PARTIAL_CONTENT {
        return Err(Uninspectable {
            cause: "range",
            text: "it is a range, which may cut the text that interceptors search for".into(),
            reason: RejectionReason::Uninspectable,
            refuses_incremental: false,
        });
    }
    Ok(())
}
