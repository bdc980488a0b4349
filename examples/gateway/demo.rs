//! The demo upstream: a page with live streams, a stream of LLM tokens, a ticker, and a minimal MCP endpoint.

use std::{
    convert::Infallible,
    io::{self, Write},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    response::{
        Html,
        sse::{Event, Sse},
    },
    routing::{get, post},
};
use futures_util::{Stream, StreamExt, stream};
use http::{StatusCode, Uri};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_stream::wrappers::IntervalStream;

use crate::{
    relay::Relay,
    ticker::{self, Ticker},
};

type Events = Sse<stream::BoxStream<'static, Result<Event, Infallible>>>;

/// Starts the upstream on a free port, and a [`Relay`] in front of the gateway for its page. Returns the upstream's origin.
pub async fn start(gateway: SocketAddr) -> io::Result<Uri> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let origin = format!("http://{}", listener.local_addr()?);
    let relay = Arc::new(Relay::start(gateway).await?);
    let page = include_str!("page.html").replace("RELAY_PORT", &relay.address.port().to_string());
    let cut = async move || {
        tokio::spawn(async move { relay.cut().await });
        StatusCode::NO_CONTENT
    };
    let app = Router::new()
        .route("/", get(async || Html(page)))
        .route("/demo/cut-clients", post(cut))
        .route("/demo/cut-upstream", post(ticker::break_off))
        .route("/demo/asked", get(ticker::asked))
        .route("/s/ticker", get(ticker::stream))
        .route("/r/ticker", get(ticker::stream))
        .route("/f/ticker", get(ticker::stream))
        .with_state(Ticker::new())
        .route("/s/chat", get(chat).post(chat))
        .route("/mcp", post(mcp));
    tokio::spawn(async move { axum::serve(listener, app).await });
    origin.parse().map_err(io::Error::other)
}

/// Prints the address of the page, and three commands that show streams.
pub fn print_commands(gateway: SocketAddr) {
    // Writing fails if stdout is closed.
    let _ = write!(
        io::stdout(),
        "Try http://{gateway}/ in a browser, or in another terminal:\n  \
         curl -N http://{gateway}/s/chat       # tokens of an LLM\n  \
         curl -N http://{gateway}/r/ticker     # events with ids, one per second\n  \
         curl -N http://{gateway}/mcp -H 'content-type: application/json' \\\n       \
         -d '{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\"}}'\n"
    );
}

/// A response with these events, one every `pace`.
fn paced(events: impl Stream<Item = Event> + Send + 'static, pace: Duration) -> Events {
    let events = IntervalStream::new(tokio::time::interval(pace)).zip(events);
    Sse::new(events.map(|(_, event)| Ok(event)).boxed())
}

async fn chat() -> Events {
    let text = "Every event of this answer went through the gateway's interceptors, one at a time.";
    let tokens = text.split_inclusive(' ').map(|token| {
        let delta = json!({ "object": "chat.completion.chunk",
                            "choices": [{ "index": 0, "delta": { "content": token } }] });
        Event::default().data(delta.to_string())
    });
    let done = [Event::default().data("[DONE]")];
    paced(stream::iter(tokens.chain(done)), Duration::from_millis(150))
}

async fn mcp(Json(request): Json<Value>) -> Events {
    let id = request["id"].clone();
    let progress = (1..=3).map(|n| {
        json!({ "jsonrpc": "2.0", "method": "notifications/progress",
                "params": { "progress": n, "total": 3 } })
    });
    let result = json!({ "jsonrpc": "2.0", "id": id,
                         "result": { "content": [{ "type": "text", "text": "done" }] } });
    let messages: Vec<Value> = progress.chain([result]).collect();
    let events = messages
        .into_iter()
        .map(|message| Event::default().event("message").data(message.to_string()));
    paced(stream::iter(events), Duration::from_millis(400))
}
