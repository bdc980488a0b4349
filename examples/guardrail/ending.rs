//! How an API says that an answer was stopped.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use tower_sse_proxy::{
    Event,
    intercept::{Interceptor, Verdict},
};

/// The data of the event with which the window ends a stream.
pub const BLOCKED: &str = "guardrail: blocked";

/// Stands behind the window, sees what has left, and ends in its terms what has begun in them.
pub struct Ending {
    say: fn(&Told) -> Vec<Event>,
    told: Told,
}

/// What the client knows.
#[derive(Default)]
struct Told {
    first: Map<String, Value>,
    last: Map<String, Value>,
    /// The choices, content blocks or candidates that have begun and are not finished.
    open: BTreeSet<u64>,
}

impl Ending {
    /// For the API with this path.
    pub fn of(path: &str) -> Self {
        let say = match path {
            "/v1/chat/completions" => openai_chat,
            "/v1/responses" => openai_responses,
            "/v1/messages" => anthropic,
            _ => gemini,
        };
        let told = Told::default();
        Self { say, told }
    }
}

impl Interceptor for Ending {
    fn event(&mut self, event: Event) -> Verdict {
        if event.data() == BLOCKED {
            return Verdict::end((self.say)(&self.told));
        }
        if let Ok(data) = serde_json::from_str(&event.data()) {
            self.told.hear(data);
        }
        event.into()
    }
}

impl Told {
    fn hear(&mut self, data: Map<String, Value>) {
        for (parts, finished) in [("choices", "finish_reason"), ("candidates", "finishReason")] {
            let parts = data.get(parts).and_then(Value::as_array);
            for part in parts.into_iter().flatten() {
                self.mark(&part["index"], part[finished].is_null());
            }
        }
        let kind = data.get("type").and_then(Value::as_str);
        if let (Some("content_block_start" | "content_block_stop"), Some(index)) =
            (kind, data.get("index"))
        {
            self.mark(index, kind == Some("content_block_start"));
        }
        if self.first.is_empty() {
            self.first = data.clone();
        }
        self.last = data;
    }

    /// Where there can be only one, it may have no index.
    fn mark(&mut self, index: &Value, is_open: bool) {
        let index = index.as_u64().unwrap_or(0);
        if is_open {
            self.open.insert(index);
        } else {
            self.open.remove(&index);
        }
    }

    /// The last event once more, with this in it for each that is open.
    fn last_with(&self, name: &str, finished: fn(u64) -> Value) -> Event {
        let mut data = self.last.clone();
        let finished = self.open.iter().map(|&index| finished(index));
        data.insert(name.to_owned(), finished.collect());
        Event::new(Value::from(data).to_string())
    }
}

fn openai_chat(told: &Told) -> Vec<Event> {
    let finished =
        |index| json!({ "index": index, "delta": {}, "finish_reason": "content_filter" });
    vec![told.last_with("choices", finished), Event::new("[DONE]")]
}

fn openai_responses(told: &Told) -> Vec<Event> {
    let response = told.first.get("response").and_then(Value::as_object);
    let mut response = response.cloned().unwrap_or_default();
    response.insert("status".to_owned(), "incomplete".into());
    response.insert(
        "incomplete_details".to_owned(),
        json!({ "reason": "content_filter" }),
    );
    let number = told.last.get("sequence_number").and_then(Value::as_u64);
    vec![typed(
        json!({ "type": "response.incomplete", "response": response,
        "sequence_number": number.map_or(0, |number| number + 1) }),
    )]
}

fn anthropic(told: &Told) -> Vec<Event> {
    let stop = |index| typed(json!({ "type": "content_block_stop", "index": index }));
    let mut events: Vec<_> = told.open.iter().map(stop).collect();
    events.push(typed(
        json!({ "type": "message_delta", "usage": { "output_tokens": 0 },
        "delta": { "stop_reason": "refusal", "stop_sequence": null } }),
    ));
    events.push(typed(json!({ "type": "message_stop" })));
    events
}

fn gemini(told: &Told) -> Vec<Event> {
    let finished = |index| json!({ "index": index, "content": { "parts": [], "role": "model" }, "finishReason": "SAFETY" });
    vec![told.last_with("candidates", finished)]
}

/// An event whose name is its type.
fn typed(data: Value) -> Event {
    let mut event = Event::new(data.to_string());
    let name = data["type"].as_str().unwrap_or_default();
    // The names above have no line ends in them.
    let _ = event.set_event(name);
    event
}
