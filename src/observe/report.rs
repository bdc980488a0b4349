//! One `tracing` event for each event stream that does not end cleanly.

use std::sync::Arc;

use tokio::time::Instant;

use crate::error::ErrorKind;

/// The outcome of an event stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamOutcome {
    /// The upstream ended the stream between two blocks, or an interceptor ended it by its verdict.
    Completed,
    /// The upstream ended the stream inside a block or without the terminal event of its API.
    Truncated,
    /// The stream failed with an error of this kind.
    Failed(ErrorKind),
    /// The response body was dropped before its end, or the grace period of a recorded stream without a client has expired.
    ClientLeft,
    /// A recorded stream has reached its maximum age.
    Expired,
    /// The driver of a recorded stream was dropped, because its runtime shuts down.
    Shutdown,
}

impl StreamOutcome {
    /// The field `reason` of the report. `None` for an outcome that is not reported.
    fn reason(self) -> Option<&'static str> {
        Some(match self {
            StreamOutcome::Completed => return None,
            StreamOutcome::Truncated => "truncated",
            StreamOutcome::ClientLeft => "client_left",
            StreamOutcome::Expired => "expired",
            StreamOutcome::Shutdown => "shutdown",
            StreamOutcome::Failed(kind) => match kind {
                ErrorKind::Upstream => "upstream_error",
                ErrorKind::EventTooLarge => "overflow",
                ErrorKind::NotUtf8 => "not_utf8",
                ErrorKind::InterceptorFailed
                | ErrorKind::InterceptorTimedOut
                | ErrorKind::InterceptorPanicked => "interceptor_failed",
                ErrorKind::Session => "session_error",
                ErrorKind::Lagged => "lagged",
                ErrorKind::Aborted => "cancelled",
            },
        })
    }
}

/// Reports the outcome of one event stream exactly once: when it is closed, or when it is dropped before that.
///
/// The report contains no data of events, no ids, no header values, no path and no text of an error, because these may hold
/// secrets.
#[derive(Debug)]
pub(crate) struct StreamReport {
    /// The number of events that the interceptors have forwarded. `None` for a stream that is passed through unread.
    pub(crate) events: Option<u64>,
    is_reported: bool,
    /// The outcome that is reported if this is dropped before it is closed. Default: [`StreamOutcome::ClientLeft`].
    pub(crate) drop_outcome: StreamOutcome,
    opened: Instant,
    route: Option<Arc<str>>,
}

impl StreamReport {
    /// The report of a stream that opens now and that the layer reads. `route` is the label of the route.
    pub(crate) fn new(route: Option<Arc<str>>) -> Self {
        Self {
            events: Some(0),
            is_reported: false,
            drop_outcome: StreamOutcome::ClientLeft,
            opened: Instant::now(),
            route,
        }
    }

    /// The report of a stream that opens now and is passed through unread.
    pub(crate) fn unread(route: Option<Arc<str>>) -> Self {
        let mut report = Self::new(route);
        report.events = None;
        report
    }

    /// Reports the outcome, unless one has been reported.
    pub(crate) fn close(&mut self, outcome: StreamOutcome) {
        self.close_with_cause(outcome, None);
    }

    /// As [`close`](Self::close), with a cause. The cause must be a text of this crate, because others may hold secrets.
    pub(crate) fn close_with_cause(&mut self, outcome: StreamOutcome, cause: Option<&str>) {
        if std::mem::replace(&mut self.is_reported, true) {
            return;
        }
        if let Some(reason) = outcome.reason() {
            let is_usual = outcome == StreamOutcome::ClientLeft;
            emit(is_usual, reason, cause, self);
        }
    }
}

impl Drop for StreamReport {
    fn drop(&mut self) {
        self.close(self.drop_outcome);
    }
}

/// Reports a stream that the layer rejected with an error status, because the interceptors cannot read it.
pub(crate) fn rejected(cause: &'static str, route: Option<Arc<str>>) {
    let mut report = StreamReport::new(route);
    report.is_reported = true;
    emit(false, "rejected", Some(cause), &report);
}

/// Emits the `tracing` event: at the level `debug` for a usual outcome, otherwise at `warn`.
fn emit(is_usual: bool, reason: &'static str, cause: Option<&str>, report: &StreamReport) {
    let duration = report.opened.elapsed();
    let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (route, events) = (report.route.as_deref(), report.events);
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
    if is_usual {
        event!(debug)
    } else {
        event!(warn)
    }
}
