//! An interceptor gets `StreamEnd::Truncated` if the stream of a model API ends without its terminal event.

use bytes::Bytes;
use http::{Method, Request};

use crate::support::{Note, staged, witness};
use tower_sse_proxy::{SseProxyLayer, replay::Replay};

const CHAT: &str = r#"{"choices":[{"delta":{"content":"a"}}]}"#;
const ANTHROPIC: &str = r#"{"type":"message_start","message":{}}"#;
const RESPONSES: &str = r#"{"type":"response.created","response":{}}"#;
const GEMINI: &str = r#"{"candidates":[{"content":{"parts":[{"text":"a"}]}}]}"#;
const JSON_RPC: &str = r#"{"jsonrpc":"2.0","method":"notifications/progress"}"#;

/// The end that an interceptor gets for a stream with these events and a clean end of the body.
async fn end_of(recorded: bool, method: Method, events: &[&str]) -> Note {
    let (witness, mut notes) = witness();
    let mut layer = SseProxyLayer::default().intercept(witness);
    if recorded {
        layer = layer.replay(Replay::default());
    }
    let (front, mut origin) = staged(&layer);
    let request = Request::builder().method(method);
    let (client, mut feed) = front.open(&mut origin, request).await;
    for data in events {
        feed.send(Bytes::from(format!("data: {data}\n\n"))).await;
    }
    feed.end();
    let (_, cut) = client.rest().await;
    assert_eq!(
        cut, None,
        "the client must see a clean end, as the upstream sent it"
    );
    let mut ends = notes.ends().await;
    assert_eq!(ends.len(), 1);
    ends.remove(0)
}

#[tokio::test(start_paused = true)]
async fn model_stream_without_its_terminal_event_is_truncated() {
    let stop = r#"{"type":"message_stop"}"#;
    let completed = r#"{"type":"response.completed","response":{}}"#;
    let result = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
    for recorded in [false, true] {
        for (event, terminal) in [
            (CHAT, "[DONE]"),
            (ANTHROPIC, stop),
            (RESPONSES, completed),
            (JSON_RPC, result),
        ] {
            let ends = end_of(recorded, Method::POST, &[event, event]).await;
            assert_eq!(ends, Note::Truncated, "{event}");
            let ends = end_of(recorded, Method::POST, &[event, terminal]).await;
            assert_eq!(ends, Note::Complete, "{event}");
        }
        // These have no terminal event.
        for (method, event) in [
            (Method::POST, GEMINI),
            (Method::POST, "tick"),
            (Method::GET, JSON_RPC),
        ] {
            let ends = end_of(recorded, method, &[event, event]).await;
            assert_eq!(ends, Note::Complete, "{event}");
        }
    }
}
