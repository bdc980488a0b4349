//! The facts that the stream of a model API reports: model, finish reason and tokens.

use memchr::memmem;

use crate::{
    codec::{Block, Event},
    intercept::{Json, JsonValue},
    observe::{ModelFamily, ModelReport, TokenUsage, UsageStatus},
    upstream::finders::finders,
};

/// The number of events, from the first one, by which the API of a stream is recognized.
const RECOGNITION_EVENTS: u32 = 64;

/// The size of the largest data that is parsed, in bytes. Reports of tokens are small, except in the last event of the Responses API,
/// which repeats the answer.
const MAX_PARSED_BYTES: usize = 4 << 20;

/// The longest model name and finish reason that are kept, in bytes. An upstream could send more.
const MAX_TEXT: usize = 256;

/// Collects the facts that a model API reports about its stream. Most events of a known API, and all later ones of an unknown API, are not parsed.
#[derive(Debug, Default)]
pub(crate) struct ModelWatch {
    events: u32,
    report: Option<ModelReport>,
    /// The final counts of tokens have arrived.
    is_final: bool,
}

impl ModelWatch {
    /// Handles the next event of the upstream.
    pub(crate) fn observe(&mut self, event: &Event) {
        if self.is_settled() {
            return;
        }
        self.events = self.events.saturating_add(1);
        let data = event.data();
        if !data.starts_with('{') || data.len() > MAX_PARSED_BYTES {
            return;
        }
        let is_new = self.report.is_none();
        if let Some(report) = &self.report
            && !may_report(report.family, data.as_bytes())
        {
            return;
        }
        let Ok(json) = Json::parse(&*data) else {
            return;
        };
        let root = json.root();
        if is_new {
            self.report = family_of(root).map(|family| ModelReport {
                family,
                model: None,
                finish_reason: None,
                usage: TokenUsage::default(),
            });
        }
        if let Some(report) = &mut self.report {
            self.is_final |= read(report, root);
        }
    }

    /// Whether the API of the stream was recognized, or can no longer be recognized.
    pub(crate) fn knows_api(&self) -> bool {
        self.report.is_some() || self.events >= RECOGNITION_EVENTS
    }

    /// Whether the rest of the stream reports nothing: its API was not recognized in time.
    pub(crate) fn is_settled(&self) -> bool {
        self.report.is_none() && self.knows_api()
    }

    /// Whether an event of a recognized API may report something.
    pub(crate) fn may_report(&self, event: &Block) -> bool {
        let report = self.report.as_ref();
        report.is_some_and(|report| may_report(report.family, event.as_bytes()))
    }

    /// The API of the stream, if it was recognized.
    pub(crate) fn family(&self) -> Option<ModelFamily> {
        self.report.as_ref().map(|report| report.family)
    }

    /// The report at the end of the stream.
    pub(crate) fn report(&self) -> Option<ModelReport> {
        let mut report = self.report.clone()?;
        let TokenUsage { input, output, .. } = report.usage;
        report.usage.status = match (input, output) {
            (None, None) => UsageStatus::Unknown,
            _ if self.is_final => UsageStatus::Reported,
            _ => UsageStatus::Partial,
        };
        Some(report)
    }
}

/// Whether an event of this API may contain counts of tokens or a finish reason. A quote in the text of an answer is escaped, so that the
/// text does not look like a member name.
fn may_report(family: ModelFamily, data: &[u8]) -> bool {
    // The form of most events of an answer. Final counts come with a finish reason, or after it.
    let rest = data.trim_ascii_end();
    if rest.ends_with(NO_REASON) || rest.ends_with(NO_REASON_AND_USAGE) {
        return false;
    }
    let (counts, reason) = match family {
        ModelFamily::OpenAiChat => (&TOKENS, &FINISH_REASON),
        ModelFamily::OpenAiResponses => (&TOKENS, &STATUS),
        ModelFamily::Anthropic => (&TOKENS, &STOP_REASON),
        ModelFamily::Gemini => (&TOKEN_COUNT, &GEMINI_FINISH_REASON),
    };
    counts.find(data).is_some() || has_text(data, reason)
}

/// Whether a member whose name ends with `name` has a string as its value.
fn has_text(data: &[u8], name: &memmem::Finder<'_>) -> bool {
    name.find_iter(data).any(|at| {
        let rest = data[at + name.needle().len()..].iter();
        let mut rest = rest.skip_while(|byte| byte.is_ascii_whitespace() || **byte == b':');
        rest.next() == Some(&b'"')
    })
}

const NO_REASON: &[u8] = br#""finish_reason":null}]}"#;
const NO_REASON_AND_USAGE: &[u8] = br#""finish_reason":null}],"usage":null}"#;

// The ends of member names. To make a finder costs more than to use it.
finders! {
    TOKENS = "_tokens\"";
    TOKEN_COUNT = "TokenCount\"";
    FINISH_REASON = "finish_reason\"";
    STOP_REASON = "stop_reason\"";
    GEMINI_FINISH_REASON = "finishReason\"";
    STATUS = "\"status\"";
}

/// The facts that the JSON body of a model API reports. `None` for other bodies, and for very large ones.
pub(crate) fn report_of_body(body: &Event) -> Option<ModelReport> {
    let data = body.data();
    if data.len() > MAX_PARSED_BYTES {
        return None;
    }
    let json = Json::parse(&*data).ok()?;
    let root = json.root();
    // Gemini answers with an array of the events that its stream would have.
    let parts = match data.trim_start().starts_with('[') {
        true => root.elements(),
        false => vec![root],
    };
    let mut report = ModelReport {
        family: family_of_body(*parts.first()?)?,
        model: None,
        finish_reason: None,
        usage: TokenUsage::default(),
    };
    for part in parts {
        match report.family {
            ModelFamily::OpenAiChat | ModelFamily::Gemini => {
                read(&mut report, part);
            }
            ModelFamily::OpenAiResponses => {
                read_response(&mut report, part);
            }
            ModelFamily::Anthropic => {
                set_text(&mut report.model, part.get("model"));
                set_text(&mut report.finish_reason, part.get("stop_reason"));
                read_usage(&mut report.usage, part.get("usage"));
            }
        }
    }
    let TokenUsage { input, output, .. } = report.usage;
    if input.or(output).is_some() {
        report.usage.status = UsageStatus::Reported;
    }
    Some(report)
}

fn family_of_body(root: JsonValue<'_>) -> Option<ModelFamily> {
    let is = |name, value: &str| {
        let member = root.get(name).and_then(JsonValue::as_str);
        member.as_deref() == Some(value)
    };
    if is("object", "response") {
        return Some(ModelFamily::OpenAiResponses);
    }
    if is("type", "message") && root.get("content").is_some() {
        return Some(ModelFamily::Anthropic);
    }
    family_of(root).filter(|family| matches!(family, ModelFamily::OpenAiChat | ModelFamily::Gemini))
}

fn family_of(root: JsonValue<'_>) -> Option<ModelFamily> {
    if root.get("choices").is_some() {
        return Some(ModelFamily::OpenAiChat);
    }
    if root.get("candidates").is_some() || root.get("usageMetadata").is_some() {
        return Some(ModelFamily::Gemini);
    }
    let kind = root.get("type").and_then(JsonValue::as_str)?;
    match &*kind {
        kind if kind.starts_with("response.") => Some(ModelFamily::OpenAiResponses),
        "message_start"
        | "message_delta"
        | "message_stop"
        | "content_block_start"
        | "content_block_delta"
        | "content_block_stop" => Some(ModelFamily::Anthropic),
        _ => None,
    }
}

/// Reads what one event reports. Returns whether its counts of tokens are the final ones.
fn read(report: &mut ModelReport, root: JsonValue<'_>) -> bool {
    match report.family {
        ModelFamily::OpenAiChat => {
            set_text(&mut report.model, root.get("model"));
            let choices = root.get("choices").map(JsonValue::elements);
            let choices = choices.unwrap_or_default();
            for choice in &choices {
                set_text(&mut report.finish_reason, choice.get("finish_reason"));
            }
            // Some servers report running counts in every chunk. The final ones come with the last choice, or after it.
            let is_final = choices.is_empty() || report.finish_reason.is_some();
            read_usage(&mut report.usage, root.get("usage")) && is_final
        }
        ModelFamily::OpenAiResponses => {
            let Some(response) = root.get("response") else {
                return false;
            };
            let kind = root.get("type").and_then(JsonValue::as_str);
            let is_final = matches!(
                kind.as_deref(),
                Some("response.completed" | "response.incomplete" | "response.failed")
            );
            if !is_final {
                set_text(&mut report.model, response.get("model"));
                read_usage(&mut report.usage, response.get("usage"));
                return false;
            }
            read_response(report, response)
        }
        ModelFamily::Anthropic => {
            let message = root.get("message");
            set_text(
                &mut report.model,
                message.and_then(|message| message.get("model")),
            );
            let delta = root.get("delta");
            set_text(
                &mut report.finish_reason,
                delta.and_then(|delta| delta.get("stop_reason")),
            );
            let first = message.and_then(|message| message.get("usage"));
            read_usage(&mut report.usage, first);
            read_usage(&mut report.usage, root.get("usage"))
        }
        ModelFamily::Gemini => {
            set_text(&mut report.model, root.get("modelVersion"));
            let candidates = root.get("candidates");
            let mut is_last = false;
            for candidate in candidates.map(JsonValue::elements).unwrap_or_default() {
                let reason = candidate.get("finishReason");
                is_last |= reason.is_some_and(|reason| reason.as_str().is_some());
                set_text(&mut report.finish_reason, reason);
            }
            let usage = root.get("usageMetadata");
            let counts = [
                ("promptTokenCount", &mut report.usage.input),
                ("candidatesTokenCount", &mut report.usage.output),
                ("cachedContentTokenCount", &mut report.usage.cached_input),
                ("thoughtsTokenCount", &mut report.usage.reasoning_output),
            ];
            for (name, count) in counts {
                set_count(count, usage.and_then(|usage| usage.get(name)));
            }
            usage.is_some() && (is_last || report.finish_reason.is_some())
        }
    }
}

/// Reads a response of the Responses API that has ended. Returns whether it has counts of tokens.
fn read_response(report: &mut ModelReport, response: JsonValue<'_>) -> bool {
    set_text(&mut report.model, response.get("model"));
    let incomplete = response.get("incomplete_details");
    let reason = incomplete.and_then(|details| details.get("reason"));
    set_text(
        &mut report.finish_reason,
        reason.or_else(|| response.get("status")),
    );
    read_usage(&mut report.usage, response.get("usage"))
}

/// Reads the counts of OpenAI and Anthropic. Returns whether there are any.
fn read_usage(usage: &mut TokenUsage, from: Option<JsonValue<'_>>) -> bool {
    let Some(from) = from.filter(|from| from.raw().starts_with('{')) else {
        return false;
    };
    let get = |path: &[&str]| {
        let mut value = from;
        for name in path {
            value = value.get(name)?;
        }
        Some(value)
    };
    let counts: [(&mut Option<u64>, &[&[&str]]); 5] = [
        (&mut usage.input, &[&["prompt_tokens"], &["input_tokens"]]),
        (
            &mut usage.output,
            &[&["completion_tokens"], &["output_tokens"]],
        ),
        (
            &mut usage.cached_input,
            &[
                &["prompt_tokens_details", "cached_tokens"],
                &["input_tokens_details", "cached_tokens"],
                &["cache_read_input_tokens"],
            ],
        ),
        (
            &mut usage.cache_write_input,
            &[&["cache_creation_input_tokens"]],
        ),
        (
            &mut usage.reasoning_output,
            &[
                &["completion_tokens_details", "reasoning_tokens"],
                &["output_tokens_details", "reasoning_tokens"],
            ],
        ),
    ];
    let mut any = false;
    for (count, paths) in counts {
        for path in paths {
            any |= set_count(count, get(path));
        }
    }
    any
}

/// Sets a count, if the value is one. Returns whether it is.
fn set_count(count: &mut Option<u64>, value: Option<JsonValue<'_>>) -> bool {
    let value = value.and_then(|value| value.raw().parse().ok());
    *count = value.or(*count);
    value.is_some()
}

/// Sets a text, if the value is one.
fn set_text(text: &mut Option<String>, value: Option<JsonValue<'_>>) {
    if let Some(new) = value.and_then(JsonValue::as_str)
        && !new.is_empty()
    {
        let kept = new.char_indices().take_while(|(at, _)| *at < MAX_TEXT);
        *text = Some(kept.map(|(_, letter)| letter).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(events: &[&str]) -> Option<ModelReport> {
        let mut watch = ModelWatch::default();
        for data in events {
            watch.observe(&Event::new(data));
        }
        watch.report()
    }

    #[test]
    fn openai_reports_tokens_in_its_last_chunk() {
        let chunk = r#"{"model":"gpt","choices":[{"delta":{"content":"\"_tokens\""},"finish_reason":null}],"usage":null}"#;
        let stop = r#"{"model":"gpt","choices":[{"delta":{},"finish_reason": "stop"}]}"#;
        let usage = r#"{"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":8},"completion_tokens_details":{"reasoning_tokens":3}}}"#;
        let all = report(&[chunk, chunk, stop, usage, "[DONE]"]).unwrap();
        assert_eq!(all.family, ModelFamily::OpenAiChat);
        assert_eq!(all.model.as_deref(), Some("gpt"));
        assert_eq!(all.finish_reason.as_deref(), Some("stop"));
        let expected = TokenUsage {
            status: UsageStatus::Reported,
            input: Some(12),
            output: Some(4),
            cached_input: Some(8),
            cache_write_input: None,
            reasoning_output: Some(3),
        };
        assert_eq!(all.usage, expected);
        assert_eq!(report(&[chunk, stop]).unwrap().usage, TokenUsage::default());
    }

    #[test]
    fn running_counts_of_a_stream_that_is_cut_are_partial() {
        let chunk = r#"{"choices":[{"delta":{"content":"a"},"finish_reason":null}],"usage":{"prompt_tokens":5,"completion_tokens":2}}"#;
        let cut = report(&[chunk, chunk]).unwrap().usage;
        assert_eq!((cut.status, cut.output), (UsageStatus::Partial, Some(2)));
        let last = r#"{"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":3}}"#;
        let all = report(&[chunk, last]).unwrap().usage;
        assert_eq!((all.status, all.output), (UsageStatus::Reported, Some(3)));
    }

    #[test]
    fn anthropic_reports_tokens_at_both_ends() {
        let start = r#"{"type":"message_start","message":{"model":"claude","usage":{"input_tokens":25,"output_tokens":1,"cache_read_input_tokens":5,"cache_creation_input_tokens":7}}}"#;
        let text = r#"{"type":"content_block_delta","delta":{"text":"hi"}}"#;
        let end = r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":15}}"#;
        let cut = report(&[start, text]).unwrap();
        assert_eq!(
            (cut.usage.status, cut.usage.input, cut.usage.output),
            (UsageStatus::Partial, Some(25), Some(1))
        );
        let all = report(&[start, text, end]).unwrap();
        assert_eq!(all.finish_reason.as_deref(), Some("end_turn"));
        assert_eq!(all.usage.status, UsageStatus::Reported);
        assert_eq!((all.usage.input, all.usage.output), (Some(25), Some(15)));
        assert_eq!(
            (all.usage.cached_input, all.usage.cache_write_input),
            (Some(5), Some(7))
        );
    }

    #[test]
    fn responses_and_gemini_report_tokens_in_their_last_event() {
        let created = r#"{"type":"response.created","response":{"model":"gpt","usage":null,"status":"in_progress"}}"#;
        let done = r#"{"type":"response.completed","response":{"model":"gpt","status":"completed","usage":{"input_tokens":3,"output_tokens":9}}}"#;
        let all = report(&[created, done]).unwrap();
        assert_eq!(all.finish_reason.as_deref(), Some("completed"));
        assert_eq!(all.usage.status, UsageStatus::Reported);
        assert_eq!((all.usage.input, all.usage.output), (Some(3), Some(9)));
        assert_eq!(report(&[created]).unwrap().usage, TokenUsage::default());

        let part = r#"{"candidates":[{"content":{"parts":[{"text":"hi"}]}}],"usageMetadata":{"promptTokenCount":2},"modelVersion":"gemini"}"#;
        let last = r#"{"candidates":[{"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":2,"candidatesTokenCount":6}}"#;
        let cut = report(&[part]).unwrap();
        assert_eq!(cut.usage.status, UsageStatus::Partial);
        let all = report(&[part, last]).unwrap();
        assert_eq!(all.model.as_deref(), Some("gemini"));
        assert_eq!(all.usage.status, UsageStatus::Reported);
        assert_eq!((all.usage.input, all.usage.output), (Some(2), Some(6)));
    }

    #[test]
    fn other_streams_report_nothing() {
        assert_eq!(report(&["tick", r#"{"n":1}"#, ""]), None);
        let mut events = vec!["tick"; RECOGNITION_EVENTS as usize];
        events.push(r#"{"choices":[]}"#);
        assert_eq!(report(&events), None);
    }

    #[test]
    fn json_bodies_report_as_streams_do() {
        for (body, family, model, reason, output) in [
            (
                r#"{"object":"chat.completion","model":"gpt","choices":[{"message":{"content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":5}}"#,
                ModelFamily::OpenAiChat,
                "gpt",
                "stop",
                5,
            ),
            (
                r#"{"object":"response","model":"gpt","status":"completed","output":[],"usage":{"input_tokens":3,"output_tokens":9}}"#,
                ModelFamily::OpenAiResponses,
                "gpt",
                "completed",
                9,
            ),
            (
                r#"{"type":"message","model":"claude","content":[],"stop_reason":"end_turn","usage":{"input_tokens":3,"output_tokens":7}}"#,
                ModelFamily::Anthropic,
                "claude",
                "end_turn",
                7,
            ),
            (
                r#"[{"candidates":[{"finishReason":"STOP"}],"modelVersion":"gemini","usageMetadata":{"promptTokenCount":3,"candidatesTokenCount":6}}]"#,
                ModelFamily::Gemini,
                "gemini",
                "STOP",
                6,
            ),
        ] {
            let report = report_of_body(&Event::new(body)).expect(body);
            assert_eq!(report.family, family);
            assert_eq!(report.model.as_deref(), Some(model));
            assert_eq!(report.finish_reason.as_deref(), Some(reason));
            let usage = report.usage;
            assert_eq!(
                (usage.status, usage.input, usage.output),
                (UsageStatus::Reported, Some(3), Some(output))
            );
        }
        for other in [
            "{}",
            "[]",
            "1",
            r#"{"jsonrpc":"2.0","result":{}}"#,
            "not json",
        ] {
            assert_eq!(report_of_body(&Event::new(other)), None, "{other}");
        }
    }
}
