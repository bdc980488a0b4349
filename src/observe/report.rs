//! The report of the end of one stream: made exactly once.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::Span;

use super::{
    ModelReport, StreamOutcome,
    live_stream::{ClosedStream, LiveStream},
    outcome::StreamEnded,
};

/// Reports how one event stream ended, exactly once: when it is closed, or when it is dropped before that. It emits a `tracing` event
/// for each stream that does not end cleanly, and makes the record for the observers.
///
/// The report contains no data of events, no ids, no header values, no path and no text of an error, because these may hold
/// secrets.
pub(crate) struct StreamReport {
    /// The number of events that the interceptors have forwarded. `None` for a stream that is passed on untouched.
    pub(crate) events: Option<u64>,
    /// Whether the terminal event of the stream's API was forwarded.
    pub(crate) terminal_event: bool,
    /// The facts that a model API reported.
    pub(crate) model: Option<Box<ModelReport>>,
    /// The end that is reported if this is dropped before it is closed. Default: the client left.
    end: StreamEnded,
    /// Whether the end was decided. A later end then does not count.
    is_decided: bool,
    is_reported: bool,
    opened: Instant,
    route: Option<Arc<str>>,
    live: Option<Arc<LiveStream>>,
    /// The span of an observed stream. It closes with the report.
    span: Span,
}

impl StreamReport {
    /// The report of a stream that opens now and that the layer reads. `route` is the label of the route.
    pub(crate) fn new(route: Option<Arc<str>>, live: Option<Arc<LiveStream>>) -> Self {
        Self {
            events: Some(0),
            terminal_event: false,
            model: None,
            end: StreamEnded::of(StreamOutcome::ClientLeft),
            is_decided: false,
            is_reported: false,
            opened: Instant::now(),
            span: live.as_deref().map_or_else(Span::none, open_span),
            route,
            live,
        }
    }

    /// The span of the stream, disabled unless the stream is observed and a subscriber is interested.
    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    /// The report of a stream that opens now and is passed on untouched.
    pub(crate) fn untouched(route: Option<Arc<str>>, live: Option<Arc<LiveStream>>) -> Self {
        let mut report = Self::new(route, live);
        report.events = None;
        report
    }

    /// The observed stream. `None` without observers.
    pub(crate) fn live(&self) -> Option<&Arc<LiveStream>> {
        self.live.as_ref()
    }

    /// Sets the outcome that is reported if this is dropped before the end is known.
    pub(crate) fn set_drop_outcome(&mut self, outcome: StreamOutcome) {
        if !self.is_decided {
            self.end = StreamEnded::of(outcome);
        }
    }

    /// Decides how the stream ended, unless that is decided. It is reported later, when all counters are final.
    pub(crate) fn decide(&mut self, end: StreamEnded) {
        if !std::mem::replace(&mut self.is_decided, true) {
            self.end = end;
        }
    }

    /// Decides how the stream ended, unless that is decided, and reports it.
    pub(crate) fn close(mut self, end: StreamEnded) {
        self.decide(end);
    }

    fn report(&mut self) {
        if std::mem::replace(&mut self.is_reported, true) {
            return;
        }
        let mut end = self.end.clone();
        if let Some(decided) = self.live.as_ref().and_then(|live| live.settle()) {
            end = StreamEnded::of(decided);
        }
        self.span.record("outcome", end.outcome.as_str());
        if end.is_cut {
            self.span.in_scope(|| emit(&end, self));
        }
        if let Some(live) = &self.live {
            live.close(ClosedStream {
                outcome: end.outcome,
                rejection: end.rejection,
                terminal_event: self.terminal_event,
                model: self.model.take().map(|model| *model),
            });
        }
    }
}

impl Drop for StreamReport {
    fn drop(&mut self) {
        self.report();
    }
}

impl std::fmt::Debug for StreamReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamReport")
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

/// The span of an observed stream, in the span of its request.
fn open_span(live: &LiveStream) -> Span {
    tracing::info_span!(
        target: "tower_sse_proxy",
        "event_stream",
        route = live.origin.route.as_deref(),
        method = live.origin.method.as_str(),
        outcome = tracing::field::Empty,
    )
}

/// Logs a response that the layer rejected, because the interceptors cannot read its stream.
pub(crate) fn log_rejected(cause: &'static str, route: Option<Arc<str>>) {
    log_end(StreamOutcome::Rejected, cause, route);
}

/// Logs a stream with an interceptor that panicked when it was opened.
pub(crate) fn log_panicked(route: Option<Arc<str>>) {
    log_end(StreamOutcome::InterceptorFailed, "panic", route);
}

/// Logs that a client of a recorded stream was cut because it could not keep up.
pub(crate) fn log_lagged(route: Option<Arc<str>>) {
    log_end(StreamOutcome::Stalled, "slow client", route);
}

fn log_end(outcome: StreamOutcome, cause: &str, route: Option<Arc<str>>) {
    let end = StreamEnded {
        cause: Some(cause.to_owned()),
        ..StreamEnded::of(outcome)
    };
    let mut report = StreamReport::untouched(route, None);
    report.is_reported = true;
    emit(&end, &report);
}

/// Emits the `tracing` event: at the level `debug` if the client left, otherwise at `warn`.
fn emit(end: &StreamEnded, report: &StreamReport) {
    let duration = report.opened.elapsed();
    let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (route, events) = (report.route.as_deref(), report.events);
    let (reason, cause) = (end.outcome.as_str(), end.cause.as_deref());
    macro_rules! event {
        ($level:ident) => {
            tracing::$level!(
                target: "tower_sse_proxy",
                reason,
                cause,
                route,
                duration_ms,
                events,
                "event stream did not end cleanly"
            )
        };
    }
    if end.outcome == StreamOutcome::ClientLeft {
        event!(debug)
    } else {
        event!(warn)
    }
}

/// Logs that the layer did not forward a JSON body.
pub(crate) fn log_json(end: &StreamEnded, opened: Instant, route: Option<&str>) {
    let duration_ms = u64::try_from(opened.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (reason, cause) = (end.outcome.as_str(), end.cause.as_deref());
    tracing::warn!(
        target: "tower_sse_proxy",
        reason,
        cause,
        route,
        duration_ms,
        "JSON body was not forwarded"
    );
}
