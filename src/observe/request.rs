//! A request that is observed.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use http::StatusCode;

use super::{
    Observers, StreamOutcome, StreamRecord, WatchdogEvent, WatchdogKind, info::StreamOrigin,
};
use crate::{rejection::RejectionReason, stream_id::StreamId};

/// A request that is observed: it may open a stream, or be answered without one.
pub(crate) struct ObservedRequest {
    pub(crate) origin: Arc<StreamOrigin>,
    /// Whether the client asks for an event stream. Only such a request has a record if no stream opens.
    pub(crate) asks_for_stream: bool,
    pub(crate) observers: Observers,
    /// The request has a record.
    is_reported: AtomicBool,
}

impl ObservedRequest {
    pub(crate) fn new(origin: StreamOrigin, asks_for_stream: bool, observers: Observers) -> Self {
        Self {
            origin: Arc::new(origin),
            asks_for_stream,
            observers,
            is_reported: AtomicBool::new(false),
        }
    }

    /// Notes that the request has opened a stream, whose record is that of the request.
    pub(crate) fn handle_opened(&self) {
        self.is_reported.store(true, Relaxed);
    }

    /// Reports that the upstream has not answered in time.
    pub(crate) fn head_limit_exceeded(&self, acts: bool) {
        let event = WatchdogEvent {
            kind: WatchdogKind::Head,
            acts,
            stream: None,
            route: self.origin.route.clone(),
        };
        self.observers.each(|observer| observer.watchdog(&event));
    }

    /// Reports how a request ended, unless it has opened a stream. The first report counts.
    pub(crate) fn report(&self, outcome: StreamOutcome, status: Option<StatusCode>) {
        self.report_end(outcome, status, None);
    }

    /// Reports that the layer answered the request itself.
    pub(crate) fn report_rejection(&self, status: StatusCode, reason: RejectionReason) {
        self.report_end(StreamOutcome::Rejected, Some(status), Some(reason));
    }

    fn report_end(
        &self,
        outcome: StreamOutcome,
        status: Option<StatusCode>,
        rejection: Option<RejectionReason>,
    ) {
        if self.is_reported.swap(true, Relaxed) {
            return;
        }
        let record = StreamRecord {
            rejection,
            ..StreamRecord::new(StreamId::random(), outcome, &self.origin, status)
        };
        self.observers.each(|observer| observer.closed(&record));
    }
}
