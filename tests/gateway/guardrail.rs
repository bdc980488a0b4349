//! The guardrail example: masked and denied texts.

use serde_json::{Value, json};

use crate::{
    guard,
    support::{Script, pass, rest},
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
