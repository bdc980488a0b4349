//! A request that is observed.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use http::StatusCode;
use tokio::time::Instant;

use super::{
    ModelReport, Observers, StreamOutcome, StreamRecord, WatchdogEvent, WatchdogKind,
    info::StreamOrigin,
};
use crate::{intercept::BodyShape, rejection::RejectionReason, stream_id::StreamId};

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

    /// Reports the JSON body that interceptors have inspected.
    pub(crate) fn report_json(&self, body: InspectedJson) {
        if self.is_reported.swap(true, Relaxed) {
            return;
        }
        let rejection = match body.outcome {
            StreamOutcome::Rejected => Some(RejectionReason::Uninspectable),
            _ => None,
        };
        let arrived = self.origin.arrived;
        let first_event = (body.bytes_in > 0).then(|| body.read_at - arrived);
        let record = StreamRecord {
            shape: BodyShape::Json,
            rejection,
            time_to_head: Some(body.head_at - arrived),
            time_to_first_event: first_event,
            time_to_first_content: first_event,
            events_in: u64::from(body.bytes_in > 0),
            events_out: u64::from(body.bytes_out > 0),
            bytes_in: body.bytes_in as u64,
            bytes_out: body.bytes_out as u64,
            model: body.model,
            ..StreamRecord::new(
                StreamId::random(),
                body.outcome,
                &self.origin,
                Some(body.status),
            )
        };
        self.observers.each(|observer| observer.closed(&record));
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

/// A JSON body that interceptors have inspected, for its record.
pub(crate) struct InspectedJson {
    pub(crate) outcome: StreamOutcome,
    /// The status that the client gets.
    pub(crate) status: StatusCode,
    /// When the head of the upstream's response arrived.
    pub(crate) head_at: Instant,
    /// When its body was complete.
    pub(crate) read_at: Instant,
    /// The bytes of the body after its content coding was undone. 0 if interceptors did not see it.
    pub(crate) bytes_in: usize,
    /// The bytes of the body that the client gets. 0 if it was not forwarded.
    pub(crate) bytes_out: usize,
    pub(crate) model: Option<ModelReport>,
}
