//! The guardrail example: masked and denied texts.

use http::{Request, Response};
use serde_json::{Value, json};

use crate::{
    guard,
    support::{Script, pass, respond, rest},
};

async fn guarded(pieces: &[&str]) -> Vec<Value> {
    let events = pieces.iter().map(|piece| {
        let data = json!({"candidates": [{"content": {"parts": [{"text": piece}]}}]});
        format!("data: {data}\n\n")
    });
    let layer = guard::layer("Project Nightingale").unwrap();
    let (out, failed) = rest(pass(&layer, Script::of(events)).await).await;
    assert_eq!(failed, None);
    let events = out
        .split_terminator("\n\n")
        .filter_map(|event| event.strip_prefix("data: "));
    events
        .map(|data| serde_json::from_str(data).unwrap())
        .collect()
}

fn joined(events: &[Value]) -> String {
    let text = |event: &Value| {
        event
            .pointer("/candidates/0/content/parts/0/text")?
            .as_str()
            .map(str::to_owned)
    };
    events.iter().filter_map(text).collect()
}

#[tokio::test]
async fn card_numbers_and_addresses_are_masked() {
    let events = guarded(&[
        "Pay with 4111 1111",
        " 1111 1111 or a",
        "sk bob@examp",
        "le.com, 12 times",
    ])
    .await;
    assert_eq!(joined(&events), "Pay with [card] or ask [e-mail], 12 times");
}

#[tokio::test]
async fn denied_phrase_ends_the_stream_with_an_event_of_the_api() {
    let events = guarded(&["About proj", "ector, and project night", "ingale: it is"]).await;
    assert_eq!(joined(&events), "About proj");
    let last = events.last().unwrap();
    assert_eq!(last["candidates"][0]["finishReason"], "SAFETY");
}

#[tokio::test]
async fn answer_without_streaming_is_masked_or_blocked() {
    let answer = |text: &str| {
        let text = text.to_owned();
        async move {
            let body = json!({"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]});
            let response = Response::builder().header("content-type", "application/json");
            let response = response.body(Script::of([body.to_string()])).unwrap();
            let layer = guard::layer("Project Nightingale").unwrap();
            let response = respond(&layer, Request::new(()), response).await;
            (
                response.status().as_u16(),
                rest(response.into_body()).await.0,
            )
        }
    };
    let (status, body) = answer("Pay with 4111 1111 1111 1111, or ask bob@example.com.").await;
    assert_eq!(status, 200);
    assert!(body.contains("Pay with [card], or ask [e-mail]."), "{body}");
    let (status, body) = answer("About project nightingale.").await;
    assert_eq!(status, 403);
    assert!(!body.contains("About"));
}
