//! The admin listener: metrics, the open streams, closing, taps and the drain.

use std::{collections::BTreeMap, convert::Infallible, net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, Request, State},
    middleware::{self, Next},
    response::{Html, IntoResponse, Response},
    routing::{delete, get, post},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, StatusCode, header, uri::Authority};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tower_sse_proxy::{
    Streams,
    observe::{StreamInfo, TapSide, TappedBlock},
    replay::StreamId,
    session::Owner,
    streams::CloseReason,
};

use crate::totals::{Ended, Totals};

/// The live page may load and do this: nothing but its own text and requests to this listener, and no frame around it.
const PAGE_RULES: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                          base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The state of the admin routes.
#[derive(Clone)]
pub struct Admin {
    pub streams: Streams,
    pub totals: Totals,
    /// Renders the metrics in the text format of Prometheus.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// How long a drain may take.
    pub drain: Duration,
}

/// Serves the admin routes. They exist on this listener only, and it serves nothing else.
pub async fn serve(listener: TcpListener, admin: Admin) {
    let is_loopback = listener
        .local_addr()
        .is_ok_and(|address| address.ip().is_loopback());
    if let Err(error) = axum::serve(listener, routes(admin, is_loopback)).await {
        tracing::error!("the admin listener failed: {error}");
    }
}

/// The admin routes. `is_loopback`: the listener is reachable from this machine only.
pub fn routes(admin: Admin, is_loopback: bool) -> Router {
    let check = move |request: Request, next: Next| async move {
        match is_own(request.headers(), is_loopback) {
            true => next.run(request).await,
            false => (StatusCode::FORBIDDEN, "a page of another origin\n").into_response(),
        }
    };
    Router::new()
        .route("/", get(page))
        .route("/metrics", get(metrics))
        .route("/streams", get(list).delete(close_owner))
        .route("/streams/{id}", delete(close))
        .route("/streams/{id}/tap", get(tap))
        .route("/totals", get(totals))
        .route("/drain", post(drain))
        .layer(middleware::from_fn(check))
        .with_state(admin)
}

/// Whether a request does not come from a page of another site in the browser of an operator. Such a page could send `POST /drain`; and
/// after it has bound its host name to a loopback address (DNS rebinding), it could also read the streams.
fn is_own(headers: &HeaderMap, is_loopback: bool) -> bool {
    let text = |name| headers.get(name).map(|value| value.to_str().ok());
    let Some(host) = text(header::HOST) else {
        return !headers.contains_key(header::ORIGIN);
    };
    let from_own_page = text(header::ORIGIN).is_none_or(|origin| {
        let authority = origin.and_then(|origin| origin.split_once("://"));
        authority.is_some_and(|(_, authority)| Some(authority) == host)
    });
    let is_local = host.is_some_and(|host| {
        host.parse::<Authority>().is_ok_and(|host| {
            let name = host.host().trim_matches(['[', ']']);
            name == "localhost" || name.parse::<IpAddr>().is_ok()
        })
    });
    from_own_page && (is_local || !is_loopback)
}

/// The live page.
async fn page() -> impl IntoResponse {
    let headers = [
        (header::CONTENT_SECURITY_POLICY, PAGE_RULES),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, Html(include_str!("admin.html")))
}

#[derive(Deserialize)]
struct Filter {
    owner: Option<String>,
    route: Option<String>,
}

/// A stream, as the list shows it.
#[derive(Serialize)]
struct Row {
    id: String,
    route: String,
    method: String,
    owner: String,
    state: &'static str,
    recorded: bool,
    age_ms: u64,
    idle_ms: u64,
    events: u64,
    bytes: u64,
    clients: usize,
}

impl Row {
    fn of(stream: &StreamInfo) -> Self {
        Self {
            id: stream.id.to_string(),
            route: stream.route.as_deref().unwrap_or_default().to_owned(),
            method: stream.method.to_string(),
            owner: stream.owner.to_string(),
            state: if stream.is_detached() {
                "detached"
            } else {
                "live"
            },
            recorded: stream.is_recorded,
            age_ms: millis(stream.age),
            idle_ms: millis(stream.idle),
            events: stream.events,
            bytes: stream.bytes,
            clients: stream.clients,
        }
    }
}

/// A duration in milliseconds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

async fn list(State(admin): State<Admin>, Query(filter): Query<Filter>) -> Response {
    let rows: Vec<_> = admin.streams.list().iter().map(Row::of).collect();
    let is_asked =
        |asked: &Option<String>, value: &str| asked.as_ref().is_none_or(|asked| asked == value);
    let rows: Vec<_> = rows
        .into_iter()
        .filter(|row| is_asked(&filter.owner, &row.owner) && is_asked(&filter.route, &row.route))
        .collect();
    Json(rows).into_response()
}

async fn close(State(admin): State<Admin>, Path(id): Path<String>) -> StatusCode {
    let Ok(id) = id.parse::<StreamId>() else {
        return StatusCode::NOT_FOUND;
    };
    closed(admin.streams.close(id, CloseReason::Cancelled))
}

async fn close_owner(
    State(admin): State<Admin>,
    Query(filter): Query<Filter>,
) -> (StatusCode, &'static str) {
    match filter.owner.as_deref() {
        None | Some("") => (
            StatusCode::BAD_REQUEST,
            "name the owner: DELETE /streams?owner=HASH\n",
        ),
        Some(owner) => match owner.parse::<Owner>() {
            Ok(owner) => (closed(admin.streams.close(owner, CloseReason::Revoked)), ""),
            Err(_) => (StatusCode::NOT_FOUND, ""),
        },
    }
}

fn closed(streams: usize) -> StatusCode {
    match streams {
        0 => StatusCode::NOT_FOUND,
        _ => StatusCode::NO_CONTENT,
    }
}

#[derive(Deserialize)]
struct TapQuery {
    /// `1`: events of type `tap`, with the side on which each block was seen, for the live page.
    sides: Option<u8>,
}

/// The blocks that the clients of a stream get from now on.
async fn tap(
    State(admin): State<Admin>,
    Path(id): Path<String>,
    Query(query): Query<TapQuery>,
) -> Response {
    let tap = id.parse().ok().and_then(|id| admin.streams.tap(id));
    let Some(tap) = tap else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let both_sides = query.sides == Some(1);
    let blocks = stream::unfold(tap, |mut tap| async { Some((tap.next().await?, tap)) });
    let blocks = blocks.filter_map(move |block| {
        let text = if both_sides {
            Some(with_side(&block))
        } else {
            (block.side == TapSide::Client).then_some(block.raw)
        };
        std::future::ready(text.map(Ok::<_, Infallible>))
    });
    // The comment makes the server send the head at once.
    let blocks = stream::iter([Ok(Bytes::from_static(b":\n\n"))]).chain(blocks);
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, Body::from_stream(blocks)).into_response()
}

/// A tapped block as an event whose data is JSON.
fn with_side(block: &TappedBlock) -> Bytes {
    let side = match block.side {
        TapSide::Upstream => "upstream",
        TapSide::Client => "client",
    };
    let raw = String::from_utf8_lossy(&block.raw);
    let data = serde_json::json!({ "side": side, "raw": raw, "lost": block.lost });
    format!("event: tap\ndata: {data}\n\n").into()
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    let headers = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (headers, (admin.metrics)())
}

#[derive(Deserialize)]
struct TotalsQuery {
    /// The number of the last ended stream that the asking page knows.
    after: Option<u64>,
}

/// The answer of `/totals`.
#[derive(Serialize)]
struct TotalsAnswer {
    /// How many streams have ended with each outcome.
    outcomes: BTreeMap<&'static str, u64>,
    /// The streams that have ended last, oldest first.
    ended: Vec<Ended>,
}

async fn totals(State(admin): State<Admin>, Query(query): Query<TotalsQuery>) -> impl IntoResponse {
    Json(TotalsAnswer {
        outcomes: admin.totals.by_outcome(),
        ended: admin.totals.ended_after(query.after.unwrap_or(0)),
    })
}

/// Drains the gateway, as SIGTERM does, and does not end the process.
async fn drain(State(admin): State<Admin>) -> StatusCode {
    tokio::spawn(admin.streams.drain(admin.drain));
    StatusCode::ACCEPTED
}
