//! What is looked for, and what each API says in place of what is blocked.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tower_sse_proxy::{
    Event, SseProxyLayer,
    intercept::{
        Head, Intercept,
        window::{Judgement, Passage, Window},
    },
};

use crate::cards;

/// No letter waits longer than this for what may come after it.
const TIME: Duration = Duration::from_millis(250);

/// The guardrail, as a layer.
pub fn layer(phrase: &str) -> SseProxyLayer {
    let phrase: Arc<str> = phrase.to_lowercase().into();
    SseProxyLayer::default().intercept(move |head: &Head<'_>| {
        let (looked_for, path) = (Arc::clone(&phrase), head.request.uri.path().to_owned());
        Window::new(move |passage: &Passage| judge(passage, &looked_for))
            .overlap(cards::LONGEST.max(phrase.len()))
            .time(TIME)
            .on_block(move || refusal(&path))
            .open(head)
    })
}

fn judge(passage: &Passage, phrase: &str) -> Judgement {
    if passage.text.to_lowercase().contains(phrase) {
        return Judgement::Block;
    }
    Judgement::mask(cards::find(&passage.text), "[card]")
}

/// How an API says that an answer was stopped.
fn refusal(path: &str) -> Vec<Event> {
    match path {
        "/v1/chat/completions" => {
            let choice = json!({ "index": 0, "delta": {}, "finish_reason": "content_filter" });
            let last = json!({ "id": "chatcmpl-blocked", "object": "chat.completion.chunk", "created": 0, "model": "guardrail",
                "choices": [choice] });
            vec![Event::new(last.to_string()), Event::new("[DONE]")]
        }
        "/v1/responses" => vec![typed(json!({
            "type": "response.incomplete", "sequence_number": 0,
            "response": { "id": "resp_blocked", "object": "response", "created_at": 0, "model": "guardrail",
                "status": "incomplete", "incomplete_details": { "reason": "content_filter" }, "output": [],
                "parallel_tool_calls": true, "tool_choice": "auto", "tools": [] },
        }))],
        "/v1/messages" => vec![
            typed(json!({ "type": "content_block_stop", "index": 0 })),
            typed(json!({ "type": "message_delta", "delta": { "stop_reason": "refusal", "stop_sequence": null },
                "usage": { "output_tokens": 0 } })),
            typed(json!({ "type": "message_stop" })),
        ],
        _ => vec![Event::new(
            json!({ "candidates": [{ "index": 0, "content": { "parts": [], "role": "model" }, "finishReason": "SAFETY" }] })
                .to_string(),
        )],
    }
}

/// An event whose name is its type.
fn typed(data: Value) -> Event {
    let mut event = Event::new(data.to_string());
    let name = data["type"].as_str().unwrap_or_default();
    // The names above have no line ends in them.
    let _ = event.set_event(name);
    event
}
