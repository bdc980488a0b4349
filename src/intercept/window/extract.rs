//! Where the text of an answer stands in the events of an API.

use std::borrow::Cow;

use super::channel::Channel;
use crate::{
    codec::Event,
    intercept::{Json, JsonValue},
};

/// Finds the texts in an event.
///
/// A function `for<'a> Fn(&Event, Option<JsonValue<'a>>, &mut Texts<'a>)` is one. The value is the event's data, if that
/// is JSON.
///
/// ```
/// use tower_sse_proxy::{Event, intercept::{JsonValue, window::Texts}};
///
/// /// `{"speaker": "a", "said": "some more of wha"}`
/// fn chat<'a>(_event: &Event, json: Option<JsonValue<'a>>, texts: &mut Texts<'a>) {
///     if let Some(json) = json
///         && let Some(said) = json.get("said")
///     {
///         let speaker = json.get("speaker").map_or("", |speaker| speaker.raw());
///         texts.delta(speaker, said);
///     }
/// }
/// ```
pub trait TextExtractor: Send + Sync + 'static {
    /// Names the texts in this event that go on from event to event, and those that are finished.
    fn extract<'a>(&self, event: &Event, json: Option<JsonValue<'a>>, texts: &mut Texts<'a>);
}

impl<F> TextExtractor for F
where
    F: for<'a> Fn(&Event, Option<JsonValue<'a>>, &mut Texts<'a>) + Send + Sync + 'static,
{
    fn extract<'a>(&self, event: &Event, json: Option<JsonValue<'a>>, texts: &mut Texts<'a>) {
        self(event, json, texts);
    }
}

/// The texts that were found in an event.
///
/// Strings of the event that are not named here are judged too, each by itself: a snapshot of the whole answer at its end
/// goes through the same judge as the pieces before it.
#[derive(Debug, Default)]
pub struct Texts<'a> {
    pub(super) deltas: Vec<Delta<'a>>,
    pub(super) plain: Option<String>,
    pub(super) done: Vec<String>,
    pub(super) known: Vec<JsonValue<'a>>,
    pub(super) is_ambiguous: bool,
}

/// A string that goes on in a channel.
#[derive(Debug)]
pub(super) struct Delta<'a> {
    pub(super) channel: String,
    pub(super) value: JsonValue<'a>,
    /// Whether this channel usually has the text of another one, so that one decision does for both while they agree.
    pub(super) is_alias: bool,
}

impl<'a> Texts<'a> {
    /// This string goes on where the last one of the same channel ended. Anything but a string is passed over.
    ///
    /// A channel is a text of its own: one choice, one content block, the arguments of one tool call. A string may go on in
    /// several channels, if readers disagree about the one that it belongs to.
    pub fn delta(&mut self, channel: impl Into<String>, value: JsonValue<'a>) {
        self.push(channel.into(), value, false);
    }

    /// As [`delta`](Self::delta), in a channel that usually has the same text as another one.
    pub(super) fn alias(&mut self, channel: String, value: JsonValue<'a>) {
        self.push(channel, value, true);
    }

    fn push(&mut self, channel: String, value: JsonValue<'a>, is_alias: bool) {
        if value.raw().starts_with('"') {
            self.deltas.push(Delta {
                channel,
                value,
                is_alias,
            });
        }
    }

    /// The event's data as it is goes on where that of the last one ended.
    pub fn whole_data(&mut self, channel: impl Into<String>) {
        self.plain = Some(channel.into());
    }

    /// The channel is complete, and so are those whose names begin with this one and a space: nothing of them is held
    /// back for what might come.
    pub fn finish(&mut self, channel: impl Into<String>) {
        self.done.push(channel.into());
    }

    /// This value is not text: a number that counts, or a string whose content the upstream alone decides. It is not judged.
    ///
    /// Only the value itself is passed over, at the exact place that is named here. The extractors of this module skip
    /// numbers, and no string.
    pub fn ignore(&mut self, value: JsonValue<'a>) {
        self.known.push(value);
    }
}

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

/// The values that are judged: every string, at any depth and under any name, and every whole number.
///
/// # Errors
/// An object that has a name twice (readers disagree about which one counts), or too deep a nesting.
pub(super) fn leaves(json: &Json) -> Result<Vec<JsonValue<'_>>, Unreadable> {
    let mut leaves = Vec::new();
    collect(json.root(), 0, &mut leaves)?;
    Ok(leaves)
}

/// Members that repeat the text of their event token by token, with numbers about it. They are judged as any other; in an
/// event that a mask has changed they are emptied, for the numbers are about a text that is gone.
pub(super) const RETOLD: [&str; 2] = ["logprobs", "logprobsResult"];

/// Each level is read once for each level above it.
const DEEPEST: usize = 32;

fn collect<'a>(
    value: JsonValue<'a>,
    depth: usize,
    into: &mut Vec<JsonValue<'a>>,
) -> Result<(), Unreadable> {
    if depth > DEEPEST {
        return Err(Unreadable("JSON nested more than 32 deep"));
    }
    let raw = value.raw();
    match raw.as_bytes().first() {
        Some(b'[') => {
            for element in value.elements() {
                collect(element, depth + 1, into)?;
            }
        }
        Some(b'{') => {
            let members: Vec<_> = value.entries().collect();
            let mut names: Vec<_> = members.iter().map(|(name, _)| name.exact()).collect();
            names.sort_unstable();
            if names.windows(2).any(|pair| pair[0] == pair[1]) {
                return Err(Unreadable("a JSON object with a name twice"));
            }
            for (_, member) in members {
                collect(member, depth + 1, into)?;
            }
        }
        Some(b'"') => into.push(value),
        Some(_) if raw.bytes().all(|byte| byte.is_ascii_digit()) => into.push(value),
        _ => {}
    }
    Ok(())
}

/// An event that cannot be judged, since readers may read it differently.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable(&'static str);

impl Unreadable {
    pub(super) fn new(why: &'static str) -> Self {
        Self(why)
    }
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the event cannot be judged: {}", self.0)
    }
}

impl std::error::Error for Unreadable {}
