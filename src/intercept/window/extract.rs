//! Extractors for the events of common APIs, and for their JSON bodies without streaming.
//!
//! [`any`] is the default of a [`TextWindow`](super::TextWindow). Choose another one with
//! [`TextWindow::extract`](super::TextWindow::extract). Each extractor treats data that is not JSON as [`plain`] does.
//!
//! ```
//! use tower_sse_proxy::intercept::window::{Decision, TextSegment, TextWindow, extract};
//!
//! let window = TextWindow::new(|_: &TextSegment| Decision::Pass).extract(extract::anthropic);
//! ```

use std::borrow::Cow;

use super::{channel_name::ChannelName, texts::Texts};
use crate::{
    codec::Event,
    intercept::{BodyShape, JsonValue},
};

/// The texts of all APIs of this module. The members of each event select the API.
///
/// Data that is a JSON string, a number or no JSON at all is plain text.
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

/// The data of each event continues one text. The event `[DONE]`, which ends many streams, finishes it.
pub fn plain<'a>(event: &Event, _json: Option<JsonValue<'a>>, texts: &mut Texts<'a>) {
    if event.data() == "[DONE]" {
        texts.finish(DATA);
    } else {
        texts.whole_data(DATA);
    }
}

/// The channel of plain text.
const DATA: &str = "data";

/// The texts of OpenAI chat completions and compatible APIs: the content, refusal and reasoning of each choice, the name and
/// arguments of each tool call, and the tokens of `logprobs`.
///
/// In a JSON body, the texts of the member `message` are those of `delta` in a stream.
pub fn openai_chat<'a>(event: &Event, json: Option<JsonValue<'a>>, texts: &mut Texts<'a>) {
    let Some(json) = json else {
        return plain(event, None, texts);
    };
    if json.get("choices").is_some() {
        skip_numbers(json, &["created"], texts);
    }
    for (n, choice) in elements(json, "choices") {
        skip_numbers(choice, &["index"], texts);
        let channel = ChannelName::new("choice").indexed(choice, "index", n);
        // Legacy completions have the text in the choice.
        deltas(choice, &["text"], &channel, texts);
        let delta = choice.get("delta");
        let message = choice.get("message").filter(|_| is_whole(texts));
        for delta in delta.into_iter().chain(message) {
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
                repeat(tokens, &channel.child("logprobs").child(list), texts);
            }
            for (_, token) in elements(logprobs, "tokens") {
                channel.child("logprobs").repeat(token, texts);
            }
        }
        let finished = choice.get("finish_reason");
        if finished.is_some_and(|reason| !reason.is_null()) {
            channel.finish(texts);
        }
    }
}

/// The texts of OpenAI Responses: each `response.*.delta`, by output item and content part, and the tokens of `logprobs`.
///
/// Some clients join deltas by their index in the output, others by `item_id`. The judge sees both texts.
///
/// In a JSON body, the texts of each item in `output` are those of its deltas in a stream.
pub fn openai_responses<'a>(event: &Event, json: Option<JsonValue<'a>>, texts: &mut Texts<'a>) {
    let Some(json) = json else {
        return plain(event, None, texts);
    };
    if is_whole(texts) {
        return openai_response(json, texts);
    }
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
    let Some((subject, step)) = kind.rsplit_once('.') else {
        return;
    };
    let within = |channel: ChannelName| {
        let channel = channel.keyed(json.get("content_index"));
        channel.keyed(json.get("summary_index"))
    };
    let by_index = within(ChannelName::new(subject).keyed(json.get("output_index")));
    let item = json.get("item_id").and_then(JsonValue::as_str);
    let by_id = item.map(|id| within(ChannelName::new(subject).child("item").child(&id)));
    match step {
        "delta" => {
            deltas(json, &["delta"], &by_index, texts);
            if let (Some(by_id), Some(delta)) = (by_id, json.get("delta")) {
                by_id.repeat(delta, texts);
            }
            let tokens = elements(json, "logprobs").map(|(_, token)| token);
            repeat(tokens, &by_index.child("logprobs"), texts);
        }
        "done" => {
            by_index.finish(texts);
            if let Some(by_id) = by_id {
                by_id.finish(texts);
            }
        }
        _ => {}
    }
}

/// The texts of a whole response, in the channels of the deltas that a stream would have.
fn openai_response<'a>(response: JsonValue<'a>, texts: &mut Texts<'a>) {
    for (n, item) in elements(response, "output") {
        let kind = kind(item);
        for name in ["arguments", "input", "code"] {
            if let Some(text) = item.get(name) {
                let channel = output_channel(&format!("{kind}_{name}"), n, None, None);
                channel.child("delta").delta(text, texts);
            }
        }
        for (m, part) in elements(item, "content") {
            let channel = output_channel(&self::kind(part), n, Some(m), None);
            for name in ["text", "refusal"] {
                if let Some(text) = part.get(name) {
                    channel.child("delta").delta(text, texts);
                }
            }
            let tokens = elements(part, "logprobs").map(|(_, token)| token);
            repeat(tokens, &channel.child("logprobs"), texts);
        }
        for (m, part) in elements(item, "summary") {
            if let Some(text) = part.get("text") {
                let channel = output_channel("reasoning_summary_text", n, None, Some(m));
                channel.child("delta").delta(text, texts);
            }
        }
    }
}

/// The channel of a text in the output of a response: of the item at `item` and, in that, of a part of its content or summary.
fn output_channel(
    subject: &str,
    item: usize,
    content: Option<usize>,
    summary: Option<usize>,
) -> ChannelName {
    let places = [Some(item), content, summary];
    places
        .into_iter()
        .fold(ChannelName::new(subject), ChannelName::at)
}

/// The texts of Anthropic messages: the text, the thinking and the tool input of each content block.
///
/// In a JSON body, these are the blocks in `content`. A tool input is JSON there, and its strings are complete texts.
pub fn anthropic<'a>(event: &Event, json: Option<JsonValue<'a>>, texts: &mut Texts<'a>) {
    let Some(json) = json else {
        return plain(event, None, texts);
    };
    if is_whole(texts) {
        for (n, block) in elements(json, "content") {
            let channel = ChannelName::new("block").at(Some(n));
            deltas(block, &["text", "thinking"], &channel, texts);
        }
        return;
    }
    let kind = kind(json);
    if !kind.starts_with("content_block_") {
        return;
    }
    skip_numbers(json, &["index"], texts);
    let channel = ChannelName::new("block").indexed(json, "index", 0);
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
        "content_block_stop" => channel.finish(texts),
        _ => {}
    }
}

/// The texts of Google's Gemini API: the text and the thoughts of each candidate, and the tokens of `logprobsResult`.
///
/// A JSON body may be an array of the events that a stream would have. Their texts continue each other, as in the stream.
pub fn gemini<'a>(event: &Event, json: Option<JsonValue<'a>>, texts: &mut Texts<'a>) {
    let Some(json) = json else {
        return plain(event, None, texts);
    };
    if is_whole(texts) {
        for json in json.elements() {
            gemini_response(json, texts);
        }
    }
    gemini_response(json, texts);
}

fn gemini_response<'a>(json: JsonValue<'a>, texts: &mut Texts<'a>) {
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
        let channel = ChannelName::new("candidate").indexed(candidate, "index", n);
        if let Some(content) = candidate.get("content") {
            for (_, part) in elements(content, "parts") {
                // Thoughts are a separate text. All other parts continue one text, whatever their index is.
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
            repeat(tokens, &channel.child("logprobs"), texts);
        }
        if candidate
            .get("finishReason")
            .is_some_and(|reason| !reason.is_null())
        {
            channel.finish(texts);
        }
    }
}

/// Whether the event is a whole JSON body.
fn is_whole(texts: &Texts<'_>) -> bool {
    texts.shape() == BodyShape::Json
}

/// Appends each of these members, if it is a string, to the channel of its name.
fn deltas<'a>(object: JsonValue<'a>, names: &[&str], channel: &ChannelName, texts: &mut Texts<'a>) {
    for (name, value) in object.members() {
        if names.contains(&name.as_ref()) {
            channel.child(&name).delta(value, texts);
        }
    }
}

/// Appends the tokens to a channel that repeats the text of another channel.
fn repeat<'a>(
    tokens: impl Iterator<Item = JsonValue<'a>>,
    channel: &ChannelName,
    texts: &mut Texts<'a>,
) {
    for token in tokens {
        if let Some(token) = token.get("token") {
            channel.repeat(token, texts);
        }
    }
}

/// Ignores each of these members if it is a number. A string in its place may contain any text, so the judge sees it.
fn skip_numbers<'a>(object: JsonValue<'a>, names: &[&str], texts: &mut Texts<'a>) {
    for (name, value) in object.members() {
        if names.contains(&name.as_ref()) && value.raw().starts_with(|c: char| c.is_ascii_digit()) {
            texts.ignore(value);
        }
    }
}

/// The elements of a member that is an array, each with its index.
fn elements<'a>(object: JsonValue<'a>, name: &str) -> impl Iterator<Item = (usize, JsonValue<'a>)> {
    let array = object
        .get(name)
        .map(JsonValue::elements)
        .unwrap_or_default();
    array.into_iter().enumerate()
}

/// The member `type` of an event.
fn kind(event: JsonValue<'_>) -> Cow<'_, str> {
    let kind = event.get("type").and_then(JsonValue::as_str);
    kind.unwrap_or_default()
}
