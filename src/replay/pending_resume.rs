//! A resume request of a client that has all recorded events, while the upstream decides whether to continue the stream.

use std::{ops::ControlFlow, sync::Arc};

use http::StatusCode;

use crate::{
    log::{CursorLookup, Reader},
    replay::{
        recorded_stream::RecordedStream, resume_gate::ResumePermit, subscription::Subscription,
    },
    stream_id::StreamId,
    upstream::body::DecodedBody,
};

/// A client at the end of a recorded stream. Its request goes to the upstream, and the response may continue the stream.
pub(crate) struct PendingResume {
    pub(crate) stream: Arc<RecordedStream>,
    /// Subscribed before the call of the upstream, so that the client misses no event that is written meanwhile.
    pub(crate) reader: Reader,
    /// The `Last-Event-ID` that the upstream gets.
    pub(crate) last_id: String,
    /// The client may be an `EventSource`, which cannot read a status.
    pub(crate) is_event_source: bool,
    /// No other client of a shared stream asks the upstream while this is held.
    pub(crate) permit: ResumePermit,
}

impl PendingResume {
    /// Handles the status of the upstream's response, or its failure (`None`).
    ///
    /// Breaks with a subscription if the client gets a stream instead of the response:
    ///
    /// * after a failure or a 5xx status, if the client may be an `EventSource`: an empty stream, at whose end it reconnects;
    /// * after 204 or 409, if the stream has advanced, and after 204 also if interceptors hold events: the events after those that the
    ///   client has.
    ///
    /// Continues if the client gets the response.
    pub(crate) fn resolve_upstream_response<B: 'static>(
        self,
        status: Option<StatusCode>,
    ) -> ControlFlow<Subscription, Self> {
        let gets_stream = match status {
            // A client does not reconnect after 204, and would miss the events that interceptors hold.
            Some(StatusCode::NO_CONTENT) => self
                .stream
                .finish_held_events::<B>(&self.reader, &self.last_id),
            // The upstream is already serving another resume request, of another client or an earlier one of this client.
            Some(StatusCode::CONFLICT) => self.has_advanced(),
            Some(status) if !status.is_server_error() => false,
            // On a status other than 200 an `EventSource` stops for good (WHATWG HTML 9.2.3). At the end of a stream it reconnects
            // after a while, when the upstream may have recovered.
            _ => {
                if self.is_event_source {
                    self.permit.record_failure();
                }
                self.is_event_source
            }
        };
        if gets_stream {
            ControlFlow::Break(self.into_empty_subscription())
        } else {
            ControlFlow::Continue(self)
        }
    }

    /// Subscribes the client at the end of the stream. It gets the events that are written later.
    pub(crate) fn into_empty_subscription(self) -> Subscription {
        Subscription::new(self.stream.id, self.stream.head(), self.reader)
    }

    /// Continues the stream with the body of the upstream's response. Returns the reader of the client and the stream that it reads: this
    /// one, or its successor if another response has opened one meanwhile.
    ///
    /// If the stream has ended, returns the body and the stream.
    pub(crate) fn resume_with<B: Send + 'static>(
        self,
        body: DecodedBody<B>,
    ) -> Result<(StreamId, Reader), (DecodedBody<B>, Arc<RecordedStream>)> {
        let Err(body) = self.stream.resume_with(body) else {
            return Ok((self.stream.id, self.reader));
        };
        if self.has_advanced() {
            return Ok((self.stream.id, self.reader));
        }
        if let Some(next) = self.stream.successor()
            && let CursorLookup::At(start) = next.log.start()
        {
            return Ok((next.id, next.subscribe(start)));
        }
        Err((body, self.stream))
    }

    fn has_advanced(&self) -> bool {
        self.stream.has_advanced_past(&self.reader, &self.last_id)
    }
}
