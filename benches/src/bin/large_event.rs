//! Measures how long one large event holds its thread.
//!
//! ```sh
//! cargo run --release --manifest-path benches/Cargo.toml --bin large_event
//! ```
//!
//! A client reads an event of 16 MiB, which the upstream sends in frames of 64 KiB. Another task of the thread measures the longest time
//! between two of its turns. While the event arrives, the task has a turn after every 256 KiB. The complete event passes the
//! interceptors at once, so the longest time is that of the last poll. The arguments are the number of rounds and the size in MiB.

use std::{
    convert::Infallible,
    env,
    error::Error,
    future::poll_fn,
    hint::black_box,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    Request, Response,
    body::{Body, Frame},
};
use tower::{Layer, ServiceExt, service_fn};
use tower_sse_proxy::{
    Event, Policy, SseProxyLayer,
    intercept::window::{Pattern, TextWindow, patterns},
    profile::{Mcp, OriginCheckLayer},
    replay::Replay,
    session::MemoryStore,
};
use tower_sse_proxy_benches::rounds::median;

/// The size of a frame of the upstream, in bytes.
const FRAME: usize = 64 << 10;

/// The phrase that the interceptors search. It has 28 bytes, as its replacement has.
const PHRASE: &str = "ignore previous instructions";

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let rounds = arguments.next().map_or(Ok(5), |rounds| rounds.parse())?;
    let mib = arguments
        .next()
        .map_or(Ok(16), |mib| mib.parse::<usize>())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let bytes = mib << 20;
    println!(
        "the longest time for which an event of {mib} MiB holds its thread, in ms (median of {rounds} rounds)"
    );
    println!(
        "| event | lines | {} |",
        layers(bytes)?.map(|(name, _)| name).join(" | ")
    );
    println!("|---|---|{}", "---|".repeat(layers(bytes)?.len()));
    for (name, event) in events(bytes) {
        let lines = event.iter().filter(|&&byte| byte == b'\n').count();
        print!("| {name} | {lines} |");
        for (_, layer) in layers(bytes)? {
            let longest = (0..rounds).map(|_| runtime.block_on(longest_wait(&layer, &event)));
            let mut longest: Vec<_> = longest.map(|time| time.as_secs_f64() * 1000.0).collect();
            print!(" {:.1} |", median(&mut longest));
        }
        println!();
    }
    Ok(())
}

/// Events of this size.
fn events(bytes: usize) -> [(&'static str, Bytes); 6] {
    let text = "word ".repeat(bytes / 5);
    let chat =
        format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n");
    let tool = format!(
        "data: {{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{{\"content\":[{{\"type\":\"text\",\"text\":\"{text}\"}}]}}}}\n\n"
    );
    // As many as a text window accepts.
    let number = "1".repeat(bytes / (1 << 18) - 1) + ",";
    let numbers = format!("data: [{}0.5]\n\n", number.repeat(1 << 18));
    let matches = format!(
        "data: {{\"text\":\"{}\"}}\n\n",
        format!("{PHRASE} ").repeat(bytes / (PHRASE.len() + 1))
    );
    [
        ("chat completion", chat.into()),
        ("text of matches only", matches.into()),
        ("result of an MCP tool", tool.into()),
        ("JSON of 262,144 numbers", numbers.into()),
        (
            "data of small lines",
            ("data:a\n".repeat(bytes / 7) + "\n").into(),
        ),
        (
            "fields of one letter",
            ("a\n".repeat(bytes / 2) + "data:a\n\n").into(),
        ),
    ]
}

/// Layers for events of this size.
fn layers(bytes: usize) -> Result<[(&'static str, SseProxyLayer); 5], Box<dyn Error>> {
    let limit = bytes + FRAME;
    let layer = || SseProxyLayer::default().max_event_bytes(limit);
    let phrase = Pattern::phrase(PHRASE).mask("*".repeat(PHRASE.len()));
    let window = TextWindow::new(patterns([phrase])?).max_held_bytes(2 * limit);
    let search = |event: Event| {
        black_box(event.data().rfind(PHRASE));
        event
    };
    let check = OriginCheckLayer::new(["localhost"], ["http://localhost"]);
    let mcp = Mcp::new(Policy::default().max_event_bytes(limit)).check(check);
    Ok([
        ("limit only", layer()),
        ("search in the data", layer().intercept(search)),
        ("text window", layer().intercept(window)),
        ("recorded", layer().replay(Replay::default())),
        (
            "MCP profile",
            SseProxyLayer::new(MemoryStore::default())
                .policy(move |request, _| mcp.policy(request)),
        ),
    ])
}

/// Reads the event through the layer. Returns the longest time between two turns of another task of the thread.
async fn longest_wait(layer: &SseProxyLayer, event: &Bytes) -> Duration {
    let is_over = Arc::new(AtomicBool::new(false));
    let done = Arc::clone(&is_over);
    let other = tokio::spawn(async move {
        let (mut longest, mut before) = (Duration::ZERO, Instant::now());
        while !done.load(Ordering::Relaxed) {
            let now = Instant::now();
            longest = longest.max(now - before);
            before = now;
            let_others_run().await;
        }
        longest.max(before.elapsed())
    });
    let upstream = Upstream(event.clone());
    let proxy = layer.layer(service_fn(move |_: Request<()>| {
        let body = Upstream(upstream.0.clone());
        async {
            let response = Response::builder().header("content-type", "text/event-stream");
            Ok::<_, Infallible>(response.body(body).expect("valid head"))
        }
    }));
    let request = Request::get("/").header("host", "localhost");
    let request = request.body(()).expect("valid request");
    let client = tokio::spawn(async move {
        let answer = proxy.oneshot(request).await;
        let mut body = answer.unwrap_or_else(|never| match never {}).into_body();
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.expect("response failed");
            bytes += frame.data_ref().map_or(0, Bytes::len);
        }
        bytes
    });
    let bytes = client.await.expect("the client panicked");
    assert!(bytes >= event.len(), "the client received {bytes} bytes");
    is_over.store(true, Ordering::Relaxed);
    other.await.expect("the other task panicked")
}

/// Puts the task at the end of the queue.
async fn let_others_run() {
    let mut has_yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// An upstream body whose next frame is always ready.
struct Upstream(Bytes);

impl Body for Upstream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.0.is_empty() {
            return Poll::Ready(None);
        }
        let next = self.0.len().min(FRAME);
        Poll::Ready(Some(Ok(Frame::data(self.0.split_to(next)))))
    }
}
