//! Classifies events by the conventions of model APIs and MCP.

use crate::{
    codec::Event,
    intercept::{Json, JsonValue},
    observe::EventClass,
    upstream::finders::finders,
};

/// Data above this size is content: no ping and no count of tokens is as large, and parsing it would take long.
const MAX_PARSED_BYTES: usize = 64 << 10;

/// The names of events that say only that the connection works.
const PING_NAMES: [&str; 4] = ["ping", "keepalive", "keep-alive", "heartbeat"];

/// Classifies an event. An event of no known API is [content](EventClass::Content), unless it is named `ping` or the like, or has no data.
pub(crate) fn classify(event: &Event) -> EventClass {
    let data = event.data();
    if PING_NAMES.contains(&&*event.event_type()) {
        return EventClass::Ping;
    }
    if data.trim().is_empty() {
        return EventClass::Meta;
    }
    if data == "[DONE]" {
        return EventClass::Terminal;
    }
    if data.len() > MAX_PARSED_BYTES || !data.starts_with(['{', '[']) {
        return EventClass::Content;
    }
    if is_plain_content(&data) || !may_have_class(data.as_bytes()) {
        return EventClass::Content;
    }
    match Json::parse(&*data) {
        Ok(json) => classify_json(json.root()),
        Err(_) => EventClass::Content,
    }
}

/// Whether this is content in the exact form in which an API sends it. Spares most events of an answer the parsing of JSON.
fn is_plain_content(data: &str) -> bool {
    if let Some(kind) = data.strip_prefix("{\"type\":\"") {
        let kind = kind.split('"').next().unwrap_or_default();
        return kind == "content_block_delta"
            || kind.starts_with("response.") && kind.ends_with(".delta");
    }
    [&DELTA_CONTENT, &PART_TEXT].iter().any(|name| {
        // Not the empty string.
        let at = name.find(data.as_bytes());
        let first = at.and_then(|at| data.as_bytes().get(at + name.needle().len()));
        first.is_some_and(|first| *first != b'"')
    })
}

/// Whether the class of this JSON may be another one than content: it names a member by which a class is decided.
fn may_have_class(data: &[u8]) -> bool {
    let names = [&TYPE, &JSON_RPC, &CHOICES, &CANDIDATES, &USAGE_METADATA];
    names.iter().any(|name| name.find(data).is_some())
}

finders! {
    DELTA_CONTENT = "\"delta\":{\"content\":\"";
    PART_TEXT = "\"parts\":[{\"text\":\"";
    TYPE = "\"type\"";
    JSON_RPC = "\"jsonrpc\"";
    CHOICES = "\"choices\"";
    CANDIDATES = "\"candidates\"";
    USAGE_METADATA = "\"usageMetadata\"";
}

fn classify_json(root: JsonValue<'_>) -> EventClass {
    if root.get("jsonrpc").is_some() {
        // A progress notification counts: it tells that the tool works. So does a response, because the client waits for it.
        return match text(root.get("method")).as_deref() {
            Some("ping") => EventClass::Ping,
            _ => EventClass::Content,
        };
    }
    if let Some(choices) = root.get("choices") {
        return content_if(choices.elements().into_iter().any(choice_has_content));
    }
    if let Some(candidates) = root.get("candidates") {
        let has_parts = |candidate: JsonValue<'_>| {
            let parts = candidate
                .get("content")
                .and_then(|content| content.get("parts"));
            parts.is_some_and(|parts| parts.elements().into_iter().any(has_value))
        };
        return content_if(candidates.elements().into_iter().any(has_parts));
    }
    if root.get("usageMetadata").is_some() {
        return EventClass::Meta;
    }
    match text(root.get("type")).as_deref() {
        Some("ping" | "keepalive") => EventClass::Ping,
        Some("message_stop" | "error") => EventClass::Terminal,
        Some("content_block_delta") => EventClass::Content,
        Some("message_start" | "message_delta" | "content_block_start" | "content_block_stop") => {
            EventClass::Meta
        }
        Some("response.completed" | "response.incomplete" | "response.failed") => {
            EventClass::Terminal
        }
        Some(kind) if kind.starts_with("response.") => content_if(kind.ends_with(".delta")),
        _ => EventClass::Content,
    }
}

fn content_if(is_content: bool) -> EventClass {
    if is_content {
        EventClass::Content
    } else {
        EventClass::Meta
    }
}

/// Whether a choice of a chat completion, or of a completion, carries more than the role.
fn choice_has_content(choice: JsonValue<'_>) -> bool {
    let delta = choice.get("delta").or_else(|| choice.get("message"));
    let members = delta.map(JsonValue::members).unwrap_or_default();
    let mut said = members.into_iter().filter(|(name, _)| name != "role");
    said.any(|(_, value)| has_value(value)) || choice.get("text").is_some_and(has_value)
}

/// Whether a value is neither null nor empty.
fn has_value(value: JsonValue<'_>) -> bool {
    !matches!(value.raw(), "null" | "\"\"" | "[]" | "{}")
}

fn text(value: Option<JsonValue<'_>>) -> Option<std::borrow::Cow<'_, str>> {
    value.and_then(JsonValue::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use EventClass::*;

    fn class(data: &str) -> EventClass {
        classify(&Event::new(data))
    }

    #[test]
    fn events_of_each_api_are_classified() {
        for (data, expected) in [
            (
                r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#,
                Meta,
            ),
            (r#"{"choices":[{"delta":{"content":"hi"}}]}"#, Content),
            (
                r#"{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}"#,
                Content,
            ),
            (r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#, Meta),
            (r#"{"choices":[{"index":0,"text":"hi"}]}"#, Content),
            (r#"{"choices":[],"usage":{"prompt_tokens":1}}"#, Meta),
            ("[DONE]", Terminal),
            (r#"{"type":"response.created","response":{}}"#, Meta),
            (
                r#"{"type":"response.output_text.delta","delta":"hi"}"#,
                Content,
            ),
            (r#"{"type":"response.completed","response":{}}"#, Terminal),
            (r#"{"type":"message_start","message":{}}"#, Meta),
            (
                r#"{"type":"content_block_delta","delta":{"text":"hi"}}"#,
                Content,
            ),
            (r#"{"type": "ping"}"#, Ping),
            (r#"{"type":"message_stop"}"#, Terminal),
            (r#"{"type":"error","error":{}}"#, Terminal),
            (
                r#"{"candidates":[{"content":{"parts":[{"text":"hi"}]}}]}"#,
                Content,
            ),
            (
                r#"{"candidates":[{"content":{"role":"model"},"finishReason":"STOP"}]}"#,
                Meta,
            ),
            (r#"{"usageMetadata":{"promptTokenCount":1}}"#, Meta),
            // In the form of the API, and with blanks.
            (r#"{"choices":[{"delta":{"content":""}}]}"#, Meta),
            (r#"{"choices": [{"delta": {"content": "hi"}}]}"#, Content),
            (
                r#"{"type":"response.output_item.added","item":{"type":"x.delta"}}"#,
                Meta,
            ),
            (r#"{"type":"content_block_start","content_block":{}}"#, Meta),
            (r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, Ping),
            (
                r#"{"jsonrpc":"2.0","method":"notifications/progress"}"#,
                Content,
            ),
            (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, Content),
            ("tick", Content),
            (r#"{"n":1}"#, Content),
            ("{not json", Content),
            ("", Meta),
        ] {
            assert_eq!(class(data), expected, "{data}");
        }
    }

    #[test]
    fn name_ping_and_large_data_need_no_parsing() {
        let mut event = Event::new(r#"{"choices":[{"delta":{"content":"hi"}}]}"#);
        event.set_event("ping").unwrap();
        assert_eq!(classify(&event), Ping);
        let large = format!(
            r#"{{"type":"ping","pad":"{}"}}"#,
            "x".repeat(MAX_PARSED_BYTES)
        );
        assert_eq!(class(&large), Content);
    }
}
