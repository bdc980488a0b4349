//! Where the text of an answer stands in the events of an API.

use std::borrow::Cow;

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
pub trait Extract: Send + Sync + 'static {
    /// Names the texts in this event that go on from event to event, and those that are finished.
    fn extract<'a>(&self, event: &Event, json: Option<JsonValue<'a>>, texts: &mut Texts<'a>);
}

impl<F> Extract for F
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
    pub(super) deltas: Vec<(String, JsonValue<'a>)>,
    pub(super) plain: Option<String>,
    pub(super) done: Vec<String>,
    pub(super) known: Vec<JsonValue<'a>>,
}

impl<'a> Texts<'a> {
    /// This string goes on where the last one of the same channel ended. Anything but a string is passed over.
    ///
    /// A channel is a text of its own: one choice, one content block, the arguments of one tool call.
    pub fn delta(&mut self, channel: impl Into<String>, value: JsonValue<'a>) {
        if value.raw().starts_with('"') {
            self.deltas.push((channel.into(), value));
        }
    }

    /// The event's data as it is goes on where that of the last one ended.
    pub fn plain(&mut self, channel: impl Into<String>) {
        self.plain = Some(channel.into());
    }

    /// The channel is complete, and so are those whose names begin with this one and a space: nothing of them is held
    /// back for what might come.
    pub fn done(&mut self, channel: impl Into<String>) {
        self.done.push(channel.into());
    }

    /// This value is not text: a name, an id, a number that counts. It is not judged.
    pub fn skip(&mut self, value: JsonValue<'a>) {
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
        texts.done(DATA);
    } else {
        texts.plain(DATA);
    }
}

/// The channel of a text that the events consist of.
const DATA: &str = "data";

/// OpenAI's chat completions, and what is compatible with them: the text, the refusal and the reasoning of each choice,
/// and the arguments of each tool call.
pub fn openai_chat<'a>(event: &Event, json: Option<JsonValue<'a>>, texts: &mut Texts<'a>) {
    let Some(json) = json else {
        return plain(event, None, texts);
    };
    let known = [
        "id",
        "object",
        "created",
        "model",
        "system_fingerprint",
        "obfuscation",
    ];
    if json.get("choices").is_some() {
        skip(json, &known, texts);
    }
    for (n, choice) in elements(json, "choices") {
        skip_numbers(choice, &["index"], texts);
        let channel = format!("choice {}", index(choice, n));
        let finished = choice
            .get("finish_reason")
            .is_some_and(|reason| !reason.is_null());
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
                skip(call, &["id", "type"], texts);
                skip_numbers(call, &["index"], texts);
                let channel = format!("{channel} tool {}", index(call, n));
                for (kind, input) in [("function", "arguments"), ("custom", "input")] {
                    if let Some(call) = call.get(kind) {
                        deltas(call, &["name", input], &channel, texts);
                    }
                }
            }
        }
        if finished {
            texts.done(channel);
        }
    }
}

/// OpenAI's Responses: every `response.*.delta`, by output item and content part.
pub fn openai_responses<'a>(event: &Event, json: Option<JsonValue<'a>>, texts: &mut Texts<'a>) {
    let Some(json) = json else {
        return plain(event, None, texts);
    };
    let kind = kind(json);
    let Some(kind) = kind.strip_prefix("response.") else {
        return;
    };
    skip(json, &["type", "item_id", "obfuscation"], texts);
    let Some((what, step)) = kind.rsplit_once('.') else {
        return;
    };
    let mut channel = what.to_owned();
    let parts = ["output_index", "content_index", "summary_index"];
    skip_numbers(json, &parts, texts);
    skip_numbers(json, &["sequence_number"], texts);
    for part in parts {
        if let Some(index) = json.get(part) {
            channel.push(' ');
            channel.push_str(index.raw());
        }
    }
    match step {
        "delta" => deltas(json, &["delta"], &channel, texts),
        "done" => texts.done(channel),
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
    skip(json, &["type"], texts);
    skip_numbers(json, &["index"], texts);
    let channel = format!("block {}", index(json, 0));
    match kind.as_ref() {
        "content_block_start" => {
            if let Some(block) = json.get("content_block") {
                skip(block, &["type", "id"], texts);
                deltas(block, &["text", "thinking"], &channel, texts);
            }
        }
        "content_block_delta" => {
            if let Some(delta) = json.get("delta") {
                // A signature proves what was thought: a mask would break it, and it is no text.
                skip(delta, &["type", "signature"], texts);
                deltas(
                    delta,
                    &["text", "thinking", "partial_json"],
                    &channel,
                    texts,
                );
            }
        }
        "content_block_stop" => texts.done(channel),
        _ => {}
    }
}

/// Google's Gemini: the text of each part of each candidate.
pub fn gemini<'a>(event: &Event, json: Option<JsonValue<'a>>, texts: &mut Texts<'a>) {
    let Some(json) = json else {
        return plain(event, None, texts);
    };
    if json.get("candidates").is_some() {
        skip(json, &["responseId", "modelVersion"], texts);
        if let Some(usage) = json.get("usageMetadata") {
            let counts = [
                "promptTokenCount",
                "candidatesTokenCount",
                "thoughtsTokenCount",
                "totalTokenCount",
            ];
            skip_numbers(usage, &counts, texts);
        }
    }
    for (n, candidate) in elements(json, "candidates") {
        skip_numbers(candidate, &["index"], texts);
        let channel = format!("candidate {}", index(candidate, n));
        if let Some(content) = candidate.get("content") {
            for (_, part) in elements(content, "parts") {
                // Thoughts are a text of their own; parts follow on each other else, in whatever place they stand.
                let thought = part
                    .get("thought")
                    .is_some_and(|thought| thought.raw() == "true");
                let channel = format!("{channel}{}", if thought { " thought" } else { "" });
                skip(part, &["thoughtSignature"], texts);
                deltas(part, &["text"], &channel, texts);
            }
        }
        if candidate
            .get("finishReason")
            .is_some_and(|reason| !reason.is_null())
        {
            texts.done(channel);
        }
    }
}

/// Those members that are strings; each is a channel of its own.
fn deltas<'a>(object: JsonValue<'a>, names: &[&str], channel: &str, texts: &mut Texts<'a>) {
    for (name, value) in object.members() {
        if names.contains(&name.as_ref()) {
            texts.delta(format!("{channel} {name}"), value);
        }
    }
}

fn skip<'a>(object: JsonValue<'a>, names: &[&str], texts: &mut Texts<'a>) {
    for (name, value) in object.members() {
        if names.contains(&name.as_ref()) {
            texts.skip(value);
        }
    }
}

/// Those that are what they should be: in a string, there may be anything.
fn skip_numbers<'a>(object: JsonValue<'a>, names: &[&str], texts: &mut Texts<'a>) {
    for (name, value) in object.members() {
        if names.contains(&name.as_ref()) && value.raw().starts_with(|c: char| c.is_ascii_digit()) {
            texts.skip(value);
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

/// What the element says its index is, else its place.
fn index(object: JsonValue<'_>, place: usize) -> String {
    match object.get("index") {
        Some(index) if !index.is_null() => index.raw().to_owned(),
        _ => place.to_string(),
    }
}

/// Everything in a text that may say something: strings, and whole numbers.
///
/// What tells of the text once more, token by token, is left out: it goes when the text is masked ([`RETOLD`]).
///
/// # Errors
/// An object that has a name twice (readers disagree about which one counts), or too deep a nesting.
pub(super) fn leaves(json: &Json) -> Result<Vec<JsonValue<'_>>, Unreadable> {
    let mut leaves = Vec::new();
    collect(json.root(), 0, &mut leaves)?;
    Ok(leaves)
}

/// Members that repeat the text of their event token by token, with numbers about it.
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
            let members = value.members();
            let mut names: Vec<_> = members.iter().map(|(name, _)| name).collect();
            names.sort_unstable();
            if names.windows(2).any(|pair| pair[0] == pair[1]) {
                return Err(Unreadable("a JSON object with a name twice"));
            }
            for (name, member) in members {
                if !RETOLD.contains(&name.as_ref()) {
                    collect(member, depth + 1, into)?;
                }
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
