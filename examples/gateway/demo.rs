//! An upstream to try the gateway with: a page of live streams, an LLM-like stream, a ticker, and something like an MCP server.

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
    line::Line,
    ticker::{self, Ticker},
};

type Events = Sse<stream::BoxStream<'static, Result<Event, Infallible>>>;

/// Starts the upstream on a free port, and what its page needs in front of the gateway.
pub async fn start(gateway: SocketAddr) -> io::Result<Uri> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let origin = format!("http://{}", listener.local_addr()?);
    let line = Arc::new(Line::to(gateway).await?);
    let page = include_str!("page.html").replace("LINE_PORT", &line.address.port().to_string());
    let cut = async move || {
        tokio::spawn(async move { line.cut().await });
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

/// A page, and three commands, each of which shows a stream.
pub fn print_what_to_try(gateway: SocketAddr) {
    // Nobody may be there to read it.
    let _ = write!(
        io::stdout(),
        "Try http://{gateway}/ in a browser, or in another terminal:\n  \
         curl -N http://{gateway}/s/chat       # tokens, as an LLM streams them\n  \
         curl -N http://{gateway}/r/ticker     # events with ids, one a second\n  \
         curl -N http://{gateway}/mcp -H 'content-type: application/json' \\\n       \
         -d '{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\"}}'\n"
    );
}

/// Events, one each `pace`.
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
