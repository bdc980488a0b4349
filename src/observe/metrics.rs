//! Metrics of event streams, by the facade [`metrics`](::metrics).

mod bounded;
mod catalog;
mod gen_ai;

use std::{sync::Arc, time::Duration};

use ::metrics::{Label, counter, gauge, histogram};

use super::{
    RejectionReason, StreamInfo, StreamObserver, StreamOutcome, StreamProgress, StreamRecord,
    WatchdogEvent,
};
use catalog::*;

/// How often the counters of open streams are updated.
const INTERVAL: Duration = Duration::from_secs(1);

/// Upper bounds for the buckets of all histograms of [`Metrics`], in seconds: from a millisecond, as a session store takes, to a day, as
/// a stream may last.
pub const DURATION_BUCKETS: [f64; 22] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    300.0, 900.0, 3600.0, 7200.0, 14400.0, 43200.0, 86400.0,
];

/// An observer that counts event streams with the facade [`metrics`](https://docs.rs/metrics) 0.24.
///
/// ```
/// use tower_sse_proxy::{SseProxyLayer, observe::Metrics};
///
/// // Install a recorder first, for example that of `metrics-exporter-prometheus`, with the buckets of `DURATION_BUCKETS`.
/// let layer = SseProxyLayer::default().observe(Metrics::new());
/// ```
///
/// | metric | type | labels |
/// |---|---|---|
/// | `sse_streams_active` | gauge | |
/// | `sse_streams_opened_total` | counter | |
/// | `sse_stream_duration_seconds` | histogram | `outcome`: a [`StreamOutcome`]. Has one value for each [record](StreamRecord), also of requests that opened no stream |
/// | `sse_stream_time_to_first_event_seconds` | histogram | |
/// | `sse_events_total` | counter | `direction`, `verdict`: `in`, `received`; `out`, `forwarded`; `out`, `dropped` |
/// | `sse_bytes_total` | counter | `direction`: `in`, `out` |
/// | `sse_hold_duration_seconds` | histogram | |
/// | `sse_replay_resumes_total` | counter | `result`: `resumed`, `gap` |
/// | `sse_replay_gaps_total` | counter | `reason`: `evicted`, `unknown`, `failed` |
/// | `sse_reconnects_total` | counter | `result`: `succeeded`, `failed` |
/// | `sse_log_bytes` | gauge | none |
/// | `sse_log_lag_seconds` | histogram | none. One value a second: how far the slowest client lags behind the log that it reads |
/// | `sse_store_duration_seconds` | histogram | `op`: `lookup`, `bind`, `rebind`, `touch`, `remove`; `result`: `ok`, `failed`, `timed_out`, `panicked`, `invalid` |
/// | `sse_watchdog_fired_total` | counter | `kind`: `head`, `first`, `gap`, `age`, `write`, `recheck`; `mode`: `act`, `observe` |
/// | `sse_rejections_total` | counter | `reason`: a [`RejectionReason`]. Counts the records with the outcome `rejected` |
///
/// All but `sse_log_bytes`, `sse_log_lag_seconds` and `sse_store_duration_seconds` also have the label `route`, for streams whose policy
/// has a [label](crate::Policy::route). All other labels of this table have values of closed lists; none is an id, a path or a text of a
/// peer.
///
/// * `dropped` is the difference between the events that came and those that left, at the end of a stream: events that an interceptor
///   dropped or still held. An event that an interceptor adds lowers this number by one.
/// * Events and bytes of open streams are counted once a second, by a task of the layer. All counts of a stream are final when its
///   record is made.
///
/// # Model APIs
///
/// Streams of model APIs that the layer recognizes (see [`ModelFamily`](super::ModelFamily)) also have the client metrics of
/// OpenTelemetry's semantic conventions for generative AI 0.1.0:
///
/// | metric | type | labels |
/// |---|---|---|
/// | `gen_ai.client.inference.duration` | histogram, seconds | `error.type`: the outcome, unless `completed`; `gen_ai.response.finish_reasons` |
/// | `gen_ai.client.inference.time_to_first_chunk` | histogram, seconds | |
/// | `gen_ai.client.inference.time_per_output_chunk` | histogram, seconds | |
/// | `gen_ai.client.inference.usage.input_tokens`, `.output_tokens`, `.cache_read.input_tokens`, `.cache_write.input_tokens`, `.reasoning.output_tokens` | counters | |
///
/// All have `gen_ai.operation.name` (`chat` or `generate_content`), `gen_ai.provider.name` and, if the API names one,
/// `gen_ai.response.model`. The first chunk is the first event with [content](super::EventClass::Content).
/// `time_per_output_chunk` has one value for a stream, the [mean](StreamRecord::mean_gap) of the times between its chunks. Tokens are
/// counted as the API reports them, also in a stream that was cut.
///
/// Names of models come from the upstream. The first 256 names in the process become labels, each at most 64 bytes of printable ASCII; any
/// other model is `other`. A finish reason that no known API has is `other`, too. `gen_ai.request.model` is missing, because the layer does
/// not read requests.
///
/// # Model Context Protocol
///
/// `mcp.server.operation.duration` (histogram, seconds) has the duration of each stream that answers a `POST` with an
/// `MCP-Protocol-Version`. Its labels are `mcp.protocol.version` (a known revision, or `other`), `error.type` and, if the request has an
/// `Mcp-Method`, `mcp.method.name` (a known method, or `other`). Clients send `Mcp-Method` from revision 2026-07-28 on; the layer does not
/// read the method in the body. `mcp.client.operation.duration` is missing, because it would be the same time.
/// `mcp.server.session.duration` is missing, because the layer does not see the end of each session.
///
/// # Recorders
///
/// The recorder has to be installed before [`new`](Self::new) is called, which describes the metrics. Values go to the recorder that is
/// installed when they are recorded.
#[derive(Clone, Debug)]
pub struct Metrics(());

impl Metrics {
    /// Describes all metrics to the recorder, and returns the observer.
    pub fn new() -> Self {
        describe();
        // Recorders then show these metrics before the first stream.
        gauge!(STREAMS_ACTIVE).increment(0.0);
        gauge!(LOG_BYTES).increment(0.0);
        counter!(STREAMS_OPENED).increment(0);
        Self(())
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl StreamObserver for Metrics {
    fn opened(&self, stream: &StreamInfo) {
        counter!(STREAMS_OPENED, labels(&stream.route, [])).increment(1);
        gauge!(STREAMS_ACTIVE, labels(&stream.route, [])).increment(1.0);
    }

    fn first_event(&self, stream: &StreamInfo) {
        histogram!(TIME_TO_FIRST_EVENT, labels(&stream.route, [])).record(stream.age);
    }

    fn resumed(&self, stream: &StreamInfo) {
        let labels = labels(&stream.route, [("result", "resumed")]);
        counter!(RESUMES, labels).increment(1);
    }

    fn gap(&self, stream: Option<&StreamInfo>, reason: &'static str) {
        let route = stream.and_then(|stream| stream.route.clone());
        counter!(RESUMES, labels(&route, [("result", "gap")])).increment(1);
        counter!(GAPS, labels(&route, [("reason", reason)])).increment(1);
    }

    fn reconnecting(&self, stream: &StreamInfo, succeeded: Option<bool>) {
        let result = match succeeded {
            None => return,
            Some(true) => "succeeded",
            Some(false) => "failed",
        };
        counter!(RECONNECTS, labels(&stream.route, [("result", result)])).increment(1);
    }

    fn held(&self, stream: &StreamInfo, held: Duration) {
        histogram!(HOLD_DURATION, labels(&stream.route, [])).record(held);
    }

    fn progress_interval(&self) -> Option<Duration> {
        Some(INTERVAL)
    }

    fn progress(&self, stream: &StreamInfo, moved: &StreamProgress) {
        let route = &stream.route;
        count_events(route, "in", "received", moved.events_in);
        count_events(route, "out", "forwarded", moved.events_out);
        for (direction, bytes) in [("in", moved.bytes_in), ("out", moved.bytes_out)] {
            if bytes > 0 {
                counter!(BYTES, labels(route, [("direction", direction)])).increment(bytes);
            }
        }
    }

    fn log_bytes(&self, change: i64) {
        gauge!(LOG_BYTES).increment(change as f64);
    }

    fn log_lag(&self, lag: Duration) {
        histogram!(LOG_LAG).record(lag);
    }

    fn store_called(&self, operation: &'static str, result: &'static str, duration: Duration) {
        histogram!(STORE_DURATION, "op" => operation, "result" => result).record(duration);
    }

    fn watchdog(&self, event: &WatchdogEvent) {
        let mode = if event.acts { "act" } else { "observe" };
        let labels = labels(
            &event.route,
            [("kind", event.kind.as_str()), ("mode", mode)],
        );
        counter!(WATCHDOG_FIRED, labels).increment(1);
    }

    fn closed(&self, record: &StreamRecord) {
        let route = &record.route;
        if record.opened {
            gauge!(STREAMS_ACTIVE, labels(route, [])).decrement(1.0);
            let dropped = record.events_in.saturating_sub(record.events_out);
            count_events(route, "out", "dropped", dropped);
        }
        let outcome = [("outcome", record.outcome.as_str())];
        histogram!(STREAM_DURATION, labels(route, outcome)).record(record.duration);
        if record.outcome == StreamOutcome::Rejected {
            let reason = record.rejection.unwrap_or(RejectionReason::Other);
            let labels = labels(route, [("reason", reason.as_str())]);
            counter!(REJECTIONS, labels).increment(1);
        }
        if let Some(model) = &record.model {
            gen_ai::record(record, model);
        }
        record_mcp(record);
    }
}

fn count_events(
    route: &Option<Arc<str>>,
    direction: &'static str,
    verdict: &'static str,
    events: u64,
) {
    if events > 0 {
        let labels = labels(route, [("direction", direction), ("verdict", verdict)]);
        counter!(EVENTS, labels).increment(events);
    }
}

/// The duration of an operation of the Model Context Protocol whose answer was a stream.
fn record_mcp(record: &StreamRecord) {
    let Some(version) = record.mcp_protocol_version else {
        return;
    };
    if record.opened && record.method == http::Method::POST {
        let mut labels = labels(&record.route, [("mcp.protocol.version", version)]);
        let method = record.mcp_method_name;
        labels.extend(method.map(|name| Label::from_static_parts("mcp.method.name", name)));
        labels.extend(error_type(record));
        histogram!(MCP_OPERATION_DURATION, labels).record(record.duration);
    }
}

/// The label of the route, if there is one, and others.
fn labels<const N: usize>(
    route: &Option<Arc<str>>,
    others: [(&'static str, &'static str); N],
) -> Vec<Label> {
    let mut labels = Vec::with_capacity(N + 2);
    if let Some(route) = route {
        labels.push(Label::new("route", Arc::clone(route)));
    }
    let others = others.into_iter();
    labels.extend(others.map(|(name, value)| Label::from_static_parts(name, value)));
    labels
}

/// The label `error.type` of an operation that was not completed.
fn error_type(record: &StreamRecord) -> Option<Label> {
    let failed = record.outcome != StreamOutcome::Completed;
    failed.then(|| Label::from_static_parts("error.type", record.outcome.as_str()))
}
