//! One `tracing` event for each event stream that does not end cleanly.

use std::sync::Arc;

use tokio::time::Instant;

use crate::error::ErrorKind;

/// How an event stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamOutcome {
    /// The upstream ended it between two blocks, or an interceptor did by its verdict.
    Completed,
    /// The upstream ended it inside a block.
    Truncated,
    Failed(ErrorKind),
    /// The response body was dropped before its end, or a recorded stream has outlived its grace period without a client.
    ClientLeft,
    /// A recorded stream has reached its maximum age.
    Expired,
    /// The task that moves a recorded stream was dropped: its runtime shuts down.
    Shutdown,
}

impl StreamOutcome {
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

/// Reports the end of one event stream, once. Dropped before that, it reports that the client left.
///
/// It says nothing of what flowed: an event's data, ids, header values, the path and the texts of errors can hold secrets.
#[derive(Debug)]
pub(crate) struct StreamReport {
    /// The events that went through the whole chain; `None` where the stream is passed on unread.
    pub(crate) events: Option<u64>,
    closed: bool,
    /// The outcome that is reported if this is dropped before the stream is closed.
    pub(crate) drop_outcome: StreamOutcome,
    opened: Instant,
    route: Option<Arc<str>>,
}

impl StreamReport {
    /// Of a stream that opens now and is read.
    pub(crate) fn new(route: Option<Arc<str>>) -> Self {
        Self {
            events: Some(0),
            closed: false,
            drop_outcome: StreamOutcome::ClientLeft,
            opened: Instant::now(),
            route,
        }
    }

    /// The same for a stream that is passed on unread.
    pub(crate) fn unread(route: Option<Arc<str>>) -> Self {
        let mut report = Self::new(route);
        report.events = None;
        report
    }

    /// Reports how the stream ended, unless that has been reported.
    pub(crate) fn close(&mut self, outcome: StreamOutcome) {
        self.close_because(outcome, None);
    }

    /// The same with a cause, which is a text of the crate's own.
    pub(crate) fn close_because(&mut self, outcome: StreamOutcome, cause: Option<&str>) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        if let Some(reason) = outcome.reason() {
            let quiet = outcome == StreamOutcome::ClientLeft;
            emit(quiet, reason, cause, self);
        }
    }
}

impl Drop for StreamReport {
    fn drop(&mut self) {
        self.close(self.drop_outcome);
    }
}

/// Reports a stream that was answered with an error instead, because interceptors could not read it.
pub(crate) fn rejected(cause: &'static str, route: Option<Arc<str>>) {
    let mut report = StreamReport::new(route);
    report.closed = true;
    emit(false, "rejected", Some(cause), &report);
}

fn emit(quiet: bool, reason: &'static str, cause: Option<&str>, report: &StreamReport) {
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
    if quiet { event!(debug) } else { event!(warn) }
}
