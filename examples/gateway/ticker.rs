//! A stream of numbered ticks. All clients get the same ticks, and a client with `Last-Event-ID` gets the ticks that it missed.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json,
    extract::{Query, State},
    response::{
        IntoResponse,
        sse::{Event, Sse},
    },
};
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, StatusCode, Uri, header};
use serde::Deserialize;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

pub struct Ticker {
    begun: Instant,
    broken: watch::Sender<()>,
    /// The number of requests for each path and pace.
    requests: Mutex<BTreeMap<String, u32>>,
}

#[derive(Deserialize)]
pub struct Pace {
    ms: Option<u64>,
}

impl Ticker {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            begun: Instant::now(),
            broken: watch::Sender::default(),
            requests: Mutex::default(),
        })
    }

    /// The ticks after `last`, or from the next tick on without it.
    fn ticks(
        &self,
        pace: Duration,
        last: Option<u32>,
        with_ids: bool,
    ) -> impl Stream<Item = io::Result<Event>> + use<> {
        let begun = self.begun;
        let now = (begun.elapsed().as_millis() / pace.as_millis()) as u32;
        // A number in the future comes from an earlier run of the ticker.
        let first = last.filter(|last| *last <= now).unwrap_or(now) + 1;
        let ticks = stream::iter(first..).then(move |n| async move {
            sleep_until(begun + pace * n).await;
            let mut event = Event::default().data(format!("tick {n}"));
            if with_ids {
                event = event.id(n.to_string());
            }
            if n == first {
                event = event.retry(Duration::from_millis(500));
            }
            Ok(event)
        });
        let mut broken = self.broken.subscribe();
        let broken = stream::once(async move {
            let _ = broken.changed().await;
            Err(io::Error::other("broken by the demo"))
        });
        stream::select(ticks, broken)
    }
}

/// A stream with one tick every `ms` milliseconds (default 1000). Below `/s`, the events have no ids, as with most upstreams.
pub async fn stream(
    State(ticker): State<Arc<Ticker>>,
    Query(Pace { ms }): Query<Pace>,
    uri: Uri,
    headers: HeaderMap,
) -> Sse<impl Stream<Item = io::Result<Event>>> {
    let ms = ms.unwrap_or(1000).clamp(10, 10_000);
    let target = format!("{}?ms={ms}", uri.path());
    if let Ok(mut requests) = ticker.requests.lock() {
        *requests.entry(target).or_default() += 1;
    }
    let last = headers.get("last-event-id");
    let last = last.and_then(|id| id.to_str().ok()?.parse().ok());
    let with_ids = !uri.path().starts_with("/s/");
    Sse::new(ticker.ticks(Duration::from_millis(ms), last, with_ids))
}

/// The number of requests for each stream. The page also reads this from another port, to learn whether it can reach that port.
pub async fn asked(State(ticker): State<Arc<Ticker>>) -> impl IntoResponse {
    let requests = ticker.requests.lock().map(|requests| requests.clone());
    let any_origin = [(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")];
    (any_origin, Json(requests.unwrap_or_default()))
}

/// Breaks all running streams.
pub async fn break_off(State(ticker): State<Arc<Ticker>>) -> StatusCode {
    ticker.broken.send_replace(());
    StatusCode::NO_CONTENT
}
