//! A large event does not hold its thread while it arrives: other tasks of the thread run in between.
//!
//! The tests count what happens between two turns of another task, so they do not depend on the speed of the machine.

use std::{future::poll_fn, task::Poll};

use bytes::Bytes;
use http::Request;
use tower_sse_proxy::{
    SseProxyLayer,
    codec::OversizedEvent,
    intercept::window::{Pattern, TextWindow, patterns},
    replay::Replay,
};

use super::codings::coded;
use crate::support::{Deny, Script, event_stream, respond, rest};

/// The size of a frame of the upstream.
const FRAME: usize = 64 << 10;

/// The maximum number of bytes that the layer reads from the upstream in one poll.
const BYTES_PER_POLL: usize = 256 << 10;

/// The bytes of all frames of an upstream whose next frame is always ready.
fn upstream(stream: &Bytes) -> Script {
    let frames = (0..stream.len()).step_by(FRAME);
    Script::of(frames.map(|at| stream.slice(at..stream.len().min(at + FRAME))))
}

/// What another task of the thread sees while a client reads a stream through the layer.
#[derive(Debug, Default)]
struct Observed {
    /// The number of turns of the task, until the layer drops the body of the upstream.
    turns: usize,
    /// The largest number of frames that the layer read from the upstream between two turns.
    frames: usize,
}

/// Puts the task at the end of the queue. (`tokio::task::yield_now` would let the others run until the runtime polls for I/O.)
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

/// Reads a stream through the layer. Returns what the client received, and the observations of another task.
async fn read(layer: &SseProxyLayer, coding: &str, script: Script) -> (String, Observed) {
    let taken = script.taken();
    let other = tokio::spawn(async move {
        let (mut observed, mut before) = (Observed::default(), 0);
        loop {
            let is_over = taken.is_dropped();
            let frames = taken.frames();
            observed.frames = observed.frames.max(frames - before);
            before = frames;
            if is_over {
                return observed;
            }
            observed.turns += 1;
            let_others_run().await;
        }
    });
    let mut response = event_stream(script);
    let coding = coding.parse().unwrap();
    response.headers_mut().insert("content-encoding", coding);
    let response = respond(layer, Request::new(()), response).await;
    // In a separate task: the future of a test is polled more rarely than tasks are.
    let client = tokio::spawn(rest(response.into_body()));
    let (received, failed) = client.await.unwrap();
    assert_eq!(failed, None);
    (received, other.await.unwrap())
}

/// An event of this size: JSON with one text, as model APIs send it.
fn chat(bytes: usize) -> Bytes {
    let text = "x".repeat(bytes);
    format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n")
        .into()
}

/// An event of this size with lines of `line`.
fn lines(line: &str, bytes: usize) -> Bytes {
    (line.repeat(bytes / line.len()) + "data: end\n\n").into()
}

fn window() -> TextWindow {
    let phrase = Pattern::phrase("project nightingale").mask("***");
    TextWindow::new(patterns([phrase]).unwrap()).max_held_bytes(32 << 20)
}

#[tokio::test]
async fn other_tasks_run_while_a_large_event_arrives() {
    const MIB: usize = 1 << 20;
    let layer = || SseProxyLayer::default().max_event_bytes(17 * MIB);
    let cases = [
        ("no interceptor", layer(), chat(16 * MIB)),
        (
            "interceptor",
            layer().intercept(Deny::opened),
            chat(16 * MIB),
        ),
        (
            "many lines",
            layer().intercept(Deny::opened),
            lines("a\n", 2 * MIB),
        ),
        ("window", layer().intercept(window()), chat(2 * MIB)),
        ("recorded", layer().replay(Replay::default()), chat(4 * MIB)),
    ];
    for (case, layer, event) in cases {
        let (received, observed) = read(&layer, "identity", upstream(&event)).await;
        assert!(
            received.len() >= event.len(),
            "{case}: {} bytes",
            received.len()
        );
        assert!(
            observed.frames * FRAME <= BYTES_PER_POLL,
            "{case}: {observed:?}"
        );
    }
}

#[tokio::test]
async fn other_tasks_run_while_a_too_large_event_is_skipped() {
    let layer = SseProxyLayer::default()
        .max_event_bytes(1 << 20)
        .oversized_event(OversizedEvent::Discard);
    let stream = [&chat(8 << 20)[..], b"data: next\n\n"].concat().into();
    let (received, observed) = read(&layer, "identity", upstream(&stream)).await;
    assert_eq!(received, "data: next\n\n");
    assert!(observed.frames * FRAME <= BYTES_PER_POLL, "{observed:?}");
}

#[tokio::test]
async fn other_tasks_run_while_one_compressed_frame_becomes_a_large_event() {
    const SIZE: usize = 4 << 20;
    let layer = SseProxyLayer::default().intercept(Deny::opened);
    for coding in ["gzip", "deflate", "br", "zstd"] {
        let bomb = coded(coding, &chat(SIZE)).await;
        assert!(bomb.len() <= FRAME, "{coding}: {} bytes", bomb.len());
        let (received, observed) = read(&layer, coding, Script::of([bomb])).await;
        assert!(received.len() >= SIZE);
        assert!(
            observed.turns >= SIZE / BYTES_PER_POLL,
            "{coding}: {observed:?}"
        );
    }
}
