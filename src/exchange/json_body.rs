//! Sends a JSON body through the interceptors, as one event, before its response leaves.

mod chain;

use std::pin::pin;

use bytes::Bytes;
use http::{Response, StatusCode, request, response};
use http_body::{Body, SizeHint};
use tokio::time::Instant;
use tower::BoxError;

use crate::{
    body::SseBody,
    codec::Event,
    error::{Error, ErrorKind},
    exchange::{
        context::RequestContext,
        inspectable::{INTERCEPTOR_PANICKED, Uninspectable, check_json, json_rejection},
    },
    headers::{content_encoding::ContentCoding, replaced_body},
    intercept::{BodyShape, Chain, Finish, StreamHead},
    observe::{InspectedJson, ModelReport, StreamEnded, StreamOutcome, log_json},
    rejection::Rejection,
    upstream::{
        json::{WholeBody, decode, encoded_limit, read_whole, text, with_line_ends},
        model_watch::report_of_body,
    },
};
use chain::{Forwarded, JsonChain};

/// What became of a JSON body.
pub(crate) enum JsonOutcome {
    /// The body is empty, or the interceptors forwarded its event with the same data.
    Unchanged(WholeBody),
    /// The interceptors forwarded other data, which is the new body.
    Replaced(Bytes, WholeBody),
    /// An interceptor dropped or blocked the event, or ended the stream.
    Blocked,
    /// The head says that interceptors cannot read the body as the client may.
    Uninspectable(Uninspectable),
    /// The body broke, is too large, or is not UTF-8; or an interceptor failed.
    Failed(ErrorKind),
}

impl JsonOutcome {
    /// The outcome if an interceptor ended with this error.
    fn of(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::Blocked => Self::Blocked,
            kind => Self::Failed(kind),
        }
    }

    /// Why the body is not forwarded, as the end of a stream. `None` if it is forwarded.
    fn refused(&self) -> Option<StreamEnded> {
        Some(match self {
            Self::Unchanged(_) | Self::Replaced(..) => return None,
            Self::Blocked => StreamEnded::of(StreamOutcome::Blocked),
            Self::Uninspectable(why) => StreamEnded {
                cause: Some(why.cause.to_owned()),
                ..StreamEnded::of(StreamOutcome::Rejected)
            },
            Self::Failed(kind) => StreamEnded::failed(*kind),
        })
    }
}

/// Opens the interceptors for the JSON body of a response with this head.
///
/// Rejects the request if one of them panics.
pub(crate) fn open(
    request: &RequestContext,
    client: &request::Parts,
    parts: &response::Parts,
) -> Result<Chain, Rejection> {
    let head = StreamHead::new(client, parts).with_shape(BodyShape::Json);
    Chain::open(&request.policy.intercepts, &head).map_err(|_| {
        let outcome = JsonOutcome::Uninspectable(INTERCEPTOR_PANICKED);
        report(request, Instant::now(), &outcome, Seen::default());
        INTERCEPTOR_PANICKED.reject_json()
    })
}

/// Reads the body of a response, lets the interceptors decide about it, and makes the response that the client gets.
///
/// `chain` is open, and `limit` is the largest body that it sees, in bytes. Dropping the future cancels the upstream, and ends the
/// interceptors with [`ClientGone`](crate::intercept::StreamEnd::ClientGone).
pub(crate) async fn inspect<B>(
    request: &RequestContext,
    limit: usize,
    chain: Chain,
    parts: response::Parts,
    body: B,
) -> Response<SseBody<B>>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let opened = Instant::now();
    let mut seen = Seen {
        status: Some(parts.status),
        ..Seen::default()
    };
    let outcome = judge(limit, chain, &parts, body, &mut seen).await;
    report(request, opened, &outcome, seen);
    respond(request, parts, outcome)
}

/// Lets the interceptors decide about a body.
async fn judge<B>(
    limit: usize,
    chain: Chain,
    parts: &response::Parts,
    body: B,
    seen: &mut Seen,
) -> JsonOutcome
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let mut chain = JsonChain::new(chain);
    let read = chain.drive_until(pin!(read(limit, parts, body))).await;
    let (body, decoded) = match read {
        Some(Ok((body, None))) => {
            let _ = chain.end(Finish::Complete).await;
            return JsonOutcome::Unchanged(body);
        }
        Some(Ok((body, Some(decoded)))) => (body, decoded),
        Some(Err(unreadable)) => {
            let (error, outcome) = unreadable.into_parts();
            let _ = chain.end(Finish::Failed(error)).await;
            return outcome;
        }
        // An interceptor has ended the stream before the body was read.
        None => {
            return match chain.end(Finish::Complete).await {
                Err(error) => JsonOutcome::of(&error),
                Ok(_) => JsonOutcome::Blocked,
            };
        }
    };
    let Decoded { bytes, event } = decoded;
    seen.bytes = bytes.len();
    seen.read_at = Some(Instant::now());
    seen.model = report_of_body(&event);
    chain.push(event.clone().into()).await;
    match chain.end(Finish::Complete).await {
        Err(error) => JsonOutcome::of(&error),
        Ok(Forwarded::Nothing) => JsonOutcome::Blocked,
        Ok(Forwarded::Several) => JsonOutcome::Failed(ErrorKind::InterceptorFailed),
        Ok(Forwarded::One(new)) => {
            if new.as_bytes() == event.as_bytes() || new.data() == event.data() {
                JsonOutcome::Unchanged(body)
            } else {
                let new = with_line_ends(&bytes, new.data().into_owned());
                JsonOutcome::Replaced(new.into(), body)
            }
        }
    }
}

/// The facts about a body for its record.
#[derive(Default)]
struct Seen {
    /// The status of the upstream.
    status: Option<StatusCode>,
    /// The bytes of the body after its content coding was undone.
    bytes: usize,
    read_at: Option<Instant>,
    model: Option<ModelReport>,
}

/// A body without its content coding, and the event that interceptors see.
struct Decoded {
    bytes: Bytes,
    event: Event,
}

/// Why interceptors do not see a body.
enum Unreadable {
    ByHead(Uninspectable),
    ByBody(Error),
}

impl Unreadable {
    /// The error with which the interceptors end, and the outcome.
    fn into_parts(self) -> (Error, JsonOutcome) {
        match self {
            Self::ByHead(why) => {
                let error = Error::with_source(ErrorKind::Upstream, &*why.text);
                (error, JsonOutcome::Uninspectable(why))
            }
            Self::ByBody(error) => {
                let kind = error.kind();
                (error, JsonOutcome::Failed(kind))
            }
        }
    }
}

/// Reads and decodes a body. `None` in place of the decoded body if it is empty.
async fn read<B>(
    limit: usize,
    parts: &response::Parts,
    body: B,
) -> Result<(WholeBody, Option<Decoded>), Unreadable>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let coding = ContentCoding::of(&parts.headers);
    let checked = check_json(parts, &coding);
    // A head that cannot be inspected does not matter to an empty body.
    let encoded = match checked {
        Ok(()) => encoded_limit(&coding, limit),
        Err(_) => 0,
    };
    let body = match (read_whole(body, encoded).await, checked) {
        (Err(error), Err(why)) if error.kind() == ErrorKind::EventTooLarge => {
            return Err(Unreadable::ByHead(why));
        }
        (read, _) => read.map_err(Unreadable::ByBody)?,
    };
    if body.bytes.is_empty() {
        return Ok((body, None));
    }
    let bytes = decode(&coding, &body.bytes, limit).await;
    let bytes = bytes.map_err(Unreadable::ByBody)?;
    let event = Event::new(text(&bytes).map_err(Unreadable::ByBody)?);
    let decoded = (!bytes.is_empty()).then_some(Decoded { bytes, event });
    Ok((body, decoded))
}

/// The response for each outcome.
fn respond<B>(
    request: &RequestContext,
    mut parts: response::Parts,
    outcome: JsonOutcome,
) -> Response<SseBody<B>> {
    match outcome {
        JsonOutcome::Unchanged(body) => {
            let body = SseBody::whole(body.bytes, body.trailers, body.size_hint);
            Response::from_parts(parts, body)
        }
        JsonOutcome::Replaced(new, mut body) => {
            replaced_body::rewrite_headers(&mut parts.headers, new.len());
            if let Some(trailers) = &mut body.trailers {
                replaced_body::remove_digests(trailers);
            }
            let size_hint = SizeHint::with_exact(new.len() as u64);
            Response::from_parts(parts, SseBody::whole(new, body.trailers, size_hint))
        }
        JsonOutcome::Blocked => {
            let status = request.policy.blocked_status;
            SseBody::rejection(Rejection::json(
                status,
                "blocked",
                "The response was blocked.",
            ))
        }
        JsonOutcome::Uninspectable(why) => SseBody::rejection(why.reject_json()),
        JsonOutcome::Failed(kind) => {
            let why = match kind {
                ErrorKind::EventTooLarge => "it is larger than the limit",
                ErrorKind::NotUtf8 => "it is not UTF-8",
                ErrorKind::Upstream => "it is incomplete, or not in its content coding",
                _ => "an interceptor failed",
            };
            SseBody::rejection(json_rejection(StatusCode::BAD_GATEWAY, why))
        }
    }
}

/// Logs a body that is not forwarded, and reports each body to the observers. An empty one is not reported if it is forwarded.
fn report(request: &RequestContext, opened: Instant, outcome: &JsonOutcome, seen: Seen) {
    let refused = outcome.refused();
    if let Some(end) = &refused {
        log_json(end, opened, request.policy.route.as_deref());
    }
    let Some(observed) = &request.observed else {
        return;
    };
    let (ended, status, bytes_out) = match (outcome, &refused) {
        (_, Some(end)) => {
            let status = match outcome {
                JsonOutcome::Blocked => request.policy.blocked_status,
                JsonOutcome::Uninspectable(why) => why.json_status(),
                _ => StatusCode::BAD_GATEWAY,
            };
            (end.outcome, status, 0)
        }
        (JsonOutcome::Replaced(new, _), None) => {
            let status = seen.status.unwrap_or_default();
            (StreamOutcome::Completed, status, new.len())
        }
        (_, None) if seen.bytes == 0 => return,
        (_, None) => {
            let status = seen.status.unwrap_or_default();
            (StreamOutcome::Completed, status, seen.bytes)
        }
    };
    observed.report_json(InspectedJson {
        outcome: ended,
        status,
        head_at: opened,
        read_at: seen.read_at.unwrap_or(opened),
        bytes_in: seen.bytes,
        bytes_out,
        model: seen.model,
    });
}
