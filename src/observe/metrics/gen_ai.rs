//! The client metrics of OpenTelemetry's semantic conventions for generative AI.

use ::metrics::{Label, counter, histogram};

use super::{
    bounded::{BoundedNames, OTHER},
    catalog::*,
    error_type, labels,
};
use crate::observe::{ModelFamily, ModelReport, StreamRecord};

/// The names of models in the process.
static MODELS: BoundedNames<256> = BoundedNames::new();

/// The most tokens that are counted for one stream: an upstream could report any number, and a counter never falls.
const MAX_TOKENS: u64 = 1 << 32;

/// The finish reasons of the APIs that the layer knows.
const FINISH_REASONS: [&str; 23] = [
    // OpenAI
    "stop",
    "length",
    "tool_calls",
    "content_filter",
    "function_call",
    "completed",
    "incomplete",
    "failed",
    "max_output_tokens",
    // Anthropic
    "end_turn",
    "max_tokens",
    "stop_sequence",
    "tool_use",
    "pause_turn",
    "refusal",
    // Gemini
    "STOP",
    "MAX_TOKENS",
    "SAFETY",
    "RECITATION",
    "BLOCKLIST",
    "PROHIBITED_CONTENT",
    "SPII",
    "MALFORMED_FUNCTION_CALL",
];

/// Records a stream of a model API at its end.
pub(super) fn record(record: &StreamRecord, model: &ModelReport) {
    let labels = model_labels(record, model);
    let mut duration = labels.clone();
    duration.extend(error_type(record));
    duration.extend(finish_reason(model));
    histogram!(INFERENCE_DURATION, duration).record(record.duration);
    if let Some(time) = record.time_to_first_content {
        histogram!(TIME_TO_FIRST_CHUNK, labels.clone()).record(time);
    }
    if let Some(time) = record.mean_gap {
        histogram!(TIME_PER_OUTPUT_CHUNK, labels.clone()).record(time);
    }
    let usage = &model.usage;
    for (name, tokens) in [
        (INPUT_TOKENS, usage.input),
        (OUTPUT_TOKENS, usage.output),
        (CACHE_READ_TOKENS, usage.cached_input),
        (CACHE_WRITE_TOKENS, usage.cache_write_input),
        (REASONING_TOKENS, usage.reasoning_output),
    ] {
        if let Some(tokens) = tokens {
            counter!(name, labels.clone()).increment(tokens.min(MAX_TOKENS));
        }
    }
}

fn model_labels(record: &StreamRecord, model: &ModelReport) -> Vec<Label> {
    let operation = match model.family {
        ModelFamily::Gemini => "generate_content",
        _ => "chat",
    };
    let mut labels = labels(
        &record.route,
        [
            ("gen_ai.operation.name", operation),
            ("gen_ai.provider.name", model.family.provider()),
        ],
    );
    if let Some(name) = &model.model {
        labels.push(Label::new("gen_ai.response.model", MODELS.label(name)));
    }
    labels
}

fn finish_reason(model: &ModelReport) -> Option<Label> {
    let reason = model.finish_reason.as_deref()?;
    let known = FINISH_REASONS.into_iter().find(|known| *known == reason);
    let reason = known.unwrap_or(OTHER);
    Some(Label::from_static_parts(
        "gen_ai.response.finish_reasons",
        reason,
    ))
}
