//! The names of all metrics, with their descriptions.

use ::metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Defines a constant for each name, and the list of all.
macro_rules! metrics {
    ($($constant:ident = $kind:ident $unit:ident $name:literal: $help:literal;)*) => {
        $(pub(super) const $constant: &str = $name;)*

        /// Type, unit, name and description of each metric.
        pub(super) const ALL: &[(Kind, Unit, &str, &str)] =
            &[$((Kind::$kind, Unit::$unit, $name, $help),)*];
    };
}

metrics! {
    STREAMS_ACTIVE = Gauge Count "sse_streams_active": "Open event streams.";
    STREAMS_OPENED = Counter Count "sse_streams_opened_total": "Event streams that were opened.";
    STREAM_DURATION = Histogram Seconds "sse_stream_duration_seconds":
        "Duration of event streams from the arrival of the request, by outcome.";
    TIME_TO_FIRST_EVENT = Histogram Seconds "sse_stream_time_to_first_event_seconds":
        "Time from the arrival of the request to the first complete event.";
    EVENTS = Counter Count "sse_events_total": "Events that came from upstreams and left to clients.";
    BYTES = Counter Bytes "sse_bytes_total": "Bytes of event streams from upstreams and to clients.";
    HOLD_DURATION = Histogram Seconds "sse_hold_duration_seconds":
        "Time for which events waited for a deferred verdict.";
    RESUMES = Counter Count "sse_replay_resumes_total": "Requests that resumed a recorded stream.";
    GAPS = Counter Count "sse_replay_gaps_total":
        "Requests that resumed a stream after events that are not stored.";
    RECONNECTS = Counter Count "sse_reconnects_total":
        "Attempts to continue a stream whose upstream broke.";
    LOG_BYTES = Gauge Bytes "sse_log_bytes": "Memory of the logs of recorded streams.";
    LOG_LAG = Histogram Seconds "sse_log_lag_seconds":
        "Lag of the slowest client behind the log that it reads, once a second.";
    STORE_DURATION = Histogram Seconds "sse_store_duration_seconds":
        "Duration of calls to the session store.";
    WATCHDOG_FIRED = Counter Count "sse_watchdog_fired_total": "Limits that a watchdog found exceeded.";
    REJECTIONS = Counter Count "sse_rejections_total":
        "Requests for event streams that the layer answered itself, and streams that it could not read.";
    INFERENCE_DURATION = Histogram Seconds "gen_ai.client.inference.duration":
        "GenAI client inference operation duration.";
    TIME_TO_FIRST_CHUNK = Histogram Seconds "gen_ai.client.inference.time_to_first_chunk":
        "Time from the arrival of the request to the first event with content.";
    TIME_PER_OUTPUT_CHUNK = Histogram Seconds "gen_ai.client.inference.time_per_output_chunk":
        "Mean time between two arrivals of content, one value for each stream.";
    INPUT_TOKENS = Counter Count "gen_ai.client.inference.usage.input_tokens":
        "Input tokens, as reported by the API.";
    OUTPUT_TOKENS = Counter Count "gen_ai.client.inference.usage.output_tokens":
        "Output tokens, as reported by the API.";
    CACHE_READ_TOKENS = Counter Count "gen_ai.client.inference.usage.cache_read.input_tokens":
        "Input tokens that were read from a cache.";
    CACHE_WRITE_TOKENS = Counter Count "gen_ai.client.inference.usage.cache_write.input_tokens":
        "Input tokens that were written to a cache.";
    REASONING_TOKENS = Counter Count "gen_ai.client.inference.usage.reasoning.output_tokens":
        "Output tokens that were used for reasoning.";
    MCP_OPERATION_DURATION = Histogram Seconds "mcp.server.operation.duration":
        "Duration of event streams that answer a POST of the Model Context Protocol.";
}

/// Describes all metrics to the recorder.
pub(super) fn describe() {
    for (kind, unit, name, help) in ALL {
        match kind {
            Kind::Counter => describe_counter!(*name, *unit, *help),
            Kind::Gauge => describe_gauge!(*name, *unit, *help),
            Kind::Histogram => describe_histogram!(*name, *unit, *help),
        }
    }
}
