//! The demo upstream: a page with live streams, an LLM answer, a ticker, and a minimal MCP endpoint.

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
use futures_util::{StreamExt, stream};
use http::{StatusCode, Uri};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_stream::wrappers::IntervalStream;
use tower_sse_proxy::{
    Policy,
    intercept::{
        Interceptor, MakeInterceptor, StreamHead,
        window::{Pattern, PatternError, TextWindow, patterns},
    },
};

use crate::{
    chat::{self, Sent},
    relay::Relay,
    ticker::{self, Ticker},
};

pub type Events = Sse<stream::BoxStream<'static, Result<Event, Infallible>>>;

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
        .route("/s/chat", get(chat::stream).post(chat::stream))
        .route("/demo/sent", get(chat::sent))
        .with_state(Sent::default())
        .route("/mcp", post(mcp));
    tokio::spawn(async move { axum::serve(listener, app).await });
    origin.parse().map_err(io::Error::other)
}

/// Masks card numbers and e-mail addresses in the LLM answer of the demo upstream. Other streams are left to the other interceptors: a
/// window holds text that may be the beginning of an address, and thereby delays it.
///
/// # Errors
/// Returns an error if a pattern is invalid.
pub fn guard(policy: Policy) -> Result<Policy, PatternError> {
    let secrets = [Pattern::card_number(), Pattern::email()];
    let secrets = secrets.map(|pattern| pattern.mask("***"));
    let window = TextWindow::new(patterns(secrets)?);
    Ok(policy.intercept(ChatOnly(window)))
}

struct ChatOnly(TextWindow);

impl MakeInterceptor for ChatOnly {
    fn open(&self, head: &StreamHead<'_>) -> Option<Box<dyn Interceptor>> {
        let is_chat = head.request.uri.path() == "/s/chat";
        is_chat.then(|| self.0.open(head)).flatten()
    }
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

/// A response with an event for each item, one every `pace`.
pub fn paced<T, I>(
    items: I,
    pace: Duration,
    mut event: impl FnMut(T) -> Event + Send + 'static,
) -> Events
where
    T: Send + 'static,
    I: IntoIterator<Item = T, IntoIter: Send + 'static>,
{
    let items = IntervalStream::new(tokio::time::interval(pace)).zip(stream::iter(items));
    Sse::new(items.map(move |(_, item)| Ok(event(item))).boxed())
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
    paced(messages, Duration::from_millis(400), |message| {
        Event::default().event("message").data(message.to_string())
    })
}
