//! Ends a blocked response with the events that its API uses for a stopped response.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use tower_sse_proxy::{
    Event,
    intercept::{Interceptor, Verdict},
};

/// The data of the event that the window sends when it blocks a stream.
pub const BLOCKED: &str = "guardrail: blocked";

/// An interceptor after the window. It records the state of the response, and replaces the event [`BLOCKED`] by the end events of the
/// API.
pub struct Ending {
    end_events: fn(&ClientState) -> Vec<Event>,
    state: ClientState,
}

/// The state of the response at the client.
#[derive(Default)]
struct ClientState {
    first: Map<String, Value>,
    last: Map<String, Value>,
    /// The indexes of choices, content blocks or candidates that have begun and are not finished.
    open: BTreeSet<u64>,
}

impl Ending {
    /// The interceptor for the API at this path.
    pub fn of(path: &str) -> Self {
        let end_events = match path {
            "/v1/chat/completions" => openai_chat,
            "/v1/responses" => openai_responses,
            "/v1/messages" => anthropic,
            _ => gemini,
        };
        let state = ClientState::default();
        Self { end_events, state }
    }
}

impl Interceptor for Ending {
    fn event(&mut self, event: Event) -> Verdict {
        if event.data() == BLOCKED {
            return Verdict::end((self.end_events)(&self.state));
        }
        if let Ok(data) = serde_json::from_str(&event.data()) {
            self.state.update(data);
        }
        event.into()
    }
}

impl ClientState {
    fn update(&mut self, data: Map<String, Value>) {
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

    /// Marks an index as open or finished. An API with a single candidate may omit the index.
    fn mark(&mut self, index: &Value, is_open: bool) {
        let index = index.as_u64().unwrap_or(0);
        if is_open {
            self.open.insert(index);
        } else {
            self.open.remove(&index);
        }
    }

    /// A copy of the last event with the member `name` replaced by `finished` for each open index.
    fn last_with(&self, name: &str, finished: fn(u64) -> Value) -> Event {
        let mut data = self.last.clone();
        let finished = self.open.iter().map(|&index| finished(index));
        data.insert(name.to_owned(), finished.collect());
        Event::new(Value::from(data).to_string())
    }
}

fn openai_chat(state: &ClientState) -> Vec<Event> {
    let finished =
        |index| json!({ "index": index, "delta": {}, "finish_reason": "content_filter" });
    vec![state.last_with("choices", finished), Event::new("[DONE]")]
}

fn openai_responses(state: &ClientState) -> Vec<Event> {
    let response = state.first.get("response").and_then(Value::as_object);
    let mut response = response.cloned().unwrap_or_default();
    response.insert("status".to_owned(), "incomplete".into());
    response.insert(
        "incomplete_details".to_owned(),
        json!({ "reason": "content_filter" }),
    );
    let number = state.last.get("sequence_number").and_then(Value::as_u64);
    vec![typed(
        json!({ "type": "response.incomplete", "response": response,
        "sequence_number": number.map_or(0, |number| number + 1) }),
    )]
}

fn anthropic(state: &ClientState) -> Vec<Event> {
    let stop = |index| typed(json!({ "type": "content_block_stop", "index": index }));
    let mut events: Vec<_> = state.open.iter().map(stop).collect();
    events.push(typed(
        json!({ "type": "message_delta", "usage": { "output_tokens": 0 },
        "delta": { "stop_reason": "refusal", "stop_sequence": null } }),
    ));
    events.push(typed(json!({ "type": "message_stop" })));
    events
}

fn gemini(state: &ClientState) -> Vec<Event> {
    let finished = |index| json!({ "index": index, "content": { "parts": [], "role": "model" }, "finishReason": "SAFETY" });
    vec![state.last_with("candidates", finished)]
}

/// An event with the `type` of its data as its name.
fn typed(data: Value) -> Event {
    let mut event = Event::new(data.to_string());
    let name = data["type"].as_str().unwrap_or_default();
    // The names in this file contain no line ends.
    let _ = event.set_event(name);
    event
}
