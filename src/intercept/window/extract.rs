//! Where the text of an answer stands in the events of an API.

use std::borrow::Cow;

use super::{channel::Channel, texts::Texts};
use crate::{codec::Event, intercept::JsonValue};

/// Any of the four APIs below, told apart by the shape of each event, and plain text where the data is no JSON object or
/// array: a number may be a part of a text, and so may a string.
pub fn any<'a>(event: &Event, json: Option<JsonValue<'a>>, texts: &mut Texts<'a>) {
    match json {
        Some(json) if json.raw().starts_with(['{', '[']) => {
            openai_chat(event, Some(json), texts);
            openai_responses(event, Some(json), texts);
            anthropic(event, Some(json), texts);
            gemini(event, Some(json), texts);
        }
        Some(json) if json.raw().starts_with('"') => texts.delta(DATA, json),
        _ => plain(event, json, texts),
    }
}

/// Text that is the data itself. `[DONE]`, with which many streams end, is not part of it.
pub fn plain<'a>(event: &Event, _json: Option<JsonValue<'a>>, texts: &mut Texts<'a>) {
    if event.data() == "[DONE]" {
        texts.finish(DATA);
    } else {
        texts.whole_data(DATA);
    }
}

/// The channel of a text that the events consist of.
const DATA: &str = "data";

/// OpenAI's chat completions, and what is compatible with them: the text, the refusal and the reasoning of each choice,
/// the arguments of each tool call, and the tokens of `logprobs`.
pub fn openai_chat<'a>(event: &Event, json: Option<JsonValue<'a>>, texts: &mut Texts<'a>) {
    let Some(json) = json else {
        return plain(event, None, texts);
    };
    if json.get("choices").is_some() {
        skip_numbers(json, &["created"], texts);
    }
    for (n, choice) in elements(json, "choices") {
        skip_numbers(choice, &["index"], texts);
        let channel = Channel::new("choice").indexed(choice, "index", n);
        // Completions of the old kind have the text in the choice itself.
        deltas(choice, &["text"], &channel, texts);
        if let Some(delta) = choice.get("delta") {
            deltas(
                delta,
                &["content", "refusal", "reasoning_content", "reasoning"],
                &channel,
                texts,
            );
            if let Some(call) = delta.get("function_call") {
                deltas(call, &["name", "arguments"], &channel, texts);
            }
            for (n, call) in elements(delta, "tool_calls") {
                skip_numbers(call, &["index"], texts);
                let channel = channel.child("tool").indexed(call, "index", n);
                for (kind, input) in [("function", "arguments"), ("custom", "input")] {
                    if let Some(call) = call.get(kind) {
                        deltas(call, &["name", input], &channel, texts);
                    }
                }
            }
        }
        if let Some(logprobs) = choice.get("logprobs") {
            for list in ["content", "refusal"] {
                let tokens = elements(logprobs, list).map(|(_, token)| token);
                retold(tokens, &channel.child("logprobs").child(list), texts);
            }
            for (_, token) in elements(logprobs, "tokens") {
                channel.child("logprobs").retold(token, texts);
            }
        }
        let finished = choice.get("finish_reason");
        if finished.is_some_and(|reason| !reason.is_null()) {
            channel.done(texts);
        }
    }
}

/// OpenAI's Responses: every `response.*.delta`, by output item and content part, and the tokens of `logprobs`. Some clients
/// join deltas by their place in the output, some by `item_id`: both texts are judged.
pub fn openai_responses<'a>(event: &Event, json: Option<JsonValue<'a>>, texts: &mut Texts<'a>) {
    let Some(json) = json else {
        return plain(event, None, texts);
    };
    let kind = kind(json);
    let Some(kind) = kind.strip_prefix("response.") else {
        return;
    };
    skip_numbers(
        json,
        &[
            "output_index",
            "content_index",
            "summary_index",
            "sequence_number",
        ],
        texts,
    );
    let Some((what, step)) = kind.rsplit_once('.') else {
        return;
    };
    let within = |channel: Channel| {
        let channel = channel.keyed(json.get("content_index"));
        channel.keyed(json.get("summary_index"))
    };
    let place = within(Channel::new(what).keyed(json.get("output_index")));
    let item = json.get("item_id").and_then(JsonValue::as_str);
    let item = item.map(|id| within(Channel::new(what).child("item").child(&id)));
    match step {
        "delta" => {
            deltas(json, &["delta"], &place, texts);
            if let (Some(item), Some(delta)) = (item, json.get("delta")) {
                item.retold(delta, texts);
            }
            let tokens = elements(json, "logprobs").map(|(_, token)| token);
            retold(tokens, &place.child("logprobs"), texts);
        }
        "done" => {
            place.done(texts);
            if let Some(item) = item {
                item.done(texts);
            }
        }
        _ => {}
    }
}

/// Anthropic's messages: the text, the thinking and the tool input of each content block.
pub fn anthropic<'a>(event: &Event, json: Option<JsonValue<'a>>, texts: &mut Texts<'a>) {
    let Some(json) = json else {
        return plain(event, None, texts);
    };
    let kind = kind(json);
    if !kind.starts_with("content_block_") {
        return;
    }
    skip_numbers(json, &["index"], texts);
    let channel = Channel::new("block").indexed(json, "index", 0);
    match kind.as_ref() {
        "content_block_start" => {
            if let Some(block) = json.get("content_block") {
                deltas(block, &["text", "thinking"], &channel, texts);
            }
        }
        "content_block_delta" => {
            if let Some(delta) = json.get("delta") {
                deltas(
                    delta,
                    &["text", "thinking", "partial_json"],
                    &channel,
                    texts,
                );
            }
        }
        "content_block_stop" => channel.done(texts),
        _ => {}
    }
}

/// Google's Gemini: the text of each part of each candidate, and the tokens of `logprobsResult`.
pub fn gemini<'a>(event: &Event, json: Option<JsonValue<'a>>, texts: &mut Texts<'a>) {
    let Some(json) = json else {
        return plain(event, None, texts);
    };
    if json.get("candidates").is_some()
        && let Some(usage) = json.get("usageMetadata")
    {
        let counts = [
            "promptTokenCount",
            "candidatesTokenCount",
            "thoughtsTokenCount",
            "totalTokenCount",
        ];
        skip_numbers(usage, &counts, texts);
    }
    for (n, candidate) in elements(json, "candidates") {
        skip_numbers(candidate, &["index"], texts);
        let channel = Channel::new("candidate").indexed(candidate, "index", n);
        if let Some(content) = candidate.get("content") {
            for (_, part) in elements(content, "parts") {
                // Thoughts are a text of their own; parts follow on each other else, in whatever place they stand.
                let thought = part
                    .get("thought")
                    .is_some_and(|thought| thought.raw() == "true");
                if thought {
                    deltas(part, &["text"], &channel.child("thought"), texts);
                } else {
                    deltas(part, &["text"], &channel, texts);
                }
            }
        }
        if let Some(logprobs) = candidate.get("logprobsResult") {
            let tokens = elements(logprobs, "chosenCandidates").map(|(_, token)| token);
            retold(tokens, &channel.child("logprobs"), texts);
        }
        if candidate
            .get("finishReason")
            .is_some_and(|reason| !reason.is_null())
        {
            channel.done(texts);
        }
    }
}

/// Those members that are strings; each is a channel of its own.
fn deltas<'a>(object: JsonValue<'a>, names: &[&str], channel: &Channel, texts: &mut Texts<'a>) {
    for (name, value) in object.members() {
        if names.contains(&name.as_ref()) {
            channel.child(&name).delta(value, texts);
        }
    }
}

/// The text of a channel once more, token by token.
fn retold<'a>(
    tokens: impl Iterator<Item = JsonValue<'a>>,
    channel: &Channel,
    texts: &mut Texts<'a>,
) {
    for token in tokens {
        if let Some(token) = token.get("token") {
            channel.retold(token, texts);
        }
    }
}

/// Those that are what they should be: in a string, there may be anything.
fn skip_numbers<'a>(object: JsonValue<'a>, names: &[&str], texts: &mut Texts<'a>) {
    for (name, value) in object.members() {
        if names.contains(&name.as_ref()) && value.raw().starts_with(|c: char| c.is_ascii_digit()) {
            texts.ignore(value);
        }
    }
}

fn elements<'a>(object: JsonValue<'a>, name: &str) -> impl Iterator<Item = (usize, JsonValue<'a>)> {
    let array = object
        .get(name)
        .map(JsonValue::elements)
        .unwrap_or_default();
    array.into_iter().enumerate()
}

/// What the event says it is.
fn kind(event: JsonValue<'_>) -> Cow<'_, str> {
    let kind = event.get("type").and_then(JsonValue::as_str);
    kind.unwrap_or_default()
}
