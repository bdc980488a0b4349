//! The recorded streams of one layer.

use std::{iter, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    error::{Error, ErrorKind},
    log::{Ending, LogState},
    observe::{StreamControl, StreamOutcome},
    replay::{
        ClosedStreams, LogRegistry, Quota,
        key::{StreamKey, StreamOwner, closed_key},
        recorded_stream::RecordedStream,
        single_flight::Coalescer,
    },
    session::{Owner, SessionId},
    stream_id::StreamId,
};

/// The registry of streams, the upstream calls that requests share, and the closed streams.
pub(crate) struct RecordedStreams {
    pub(crate) registry: LogRegistry<RecordedStream>,
    pub(crate) coalescer: Arc<Coalescer>,
    pub(crate) closed: ClosedStreams,
}

impl RecordedStreams {
    pub(crate) fn new(quota: Quota) -> Self {
        Self {
            registry: LogRegistry::new(quota),
            coalescer: Arc::default(),
            closed: ClosedStreams::default(),
        }
    }

    /// Closes a stream with its predecessors and successors: they end now, with this outcome, and cannot be resumed. Returns false if
    /// the stream is unknown.
    pub(crate) fn close(&self, stream: StreamId, outcome: StreamOutcome) -> bool {
        let found = self.registry.find(stream);
        if let Some(stream) = &found {
            self.close_found(stream, outcome);
        }
        found.is_some()
    }

    /// The memory, in bytes, that recorded streams hold, as counted against the limit of the layer.
    pub(crate) fn log_bytes(&self) -> usize {
        self.registry.bytes()
    }

    /// The age of the oldest event in a log that a connected client has not read.
    pub(crate) fn log_lag(&self, now: Instant) -> Duration {
        let streams = self.registry.all_where(|_| true);
        let lags = streams.iter().map(|stream| stream.log.lag(now));
        lags.max().unwrap_or_default()
    }

    /// Removes all streams of a session.
    pub(crate) fn remove_all_of(&self, owner: Owner, session: Option<SessionId>) {
        self.registry.remove_all_of(&StreamOwner { owner, session });
    }

    /// Closes this stream with its predecessors and successors.
    pub(crate) fn close_found(&self, closed: &Arc<RecordedStream>, outcome: StreamOutcome) {
        let leads_here = |stream: &Arc<RecordedStream>| {
            let mut streams = iter::successors(Some(Arc::clone(stream)), |next| next.successor());
            streams.any(|stream| Arc::ptr_eq(&stream, closed))
        };
        let streams = self.registry.all_of(&closed.owner);
        let before = streams.into_iter().filter(leads_here);
        let after = iter::successors(Some(Arc::clone(closed)), |stream| stream.successor());
        for stream in before.chain(after) {
            // Closed first, then removed: so each request finds the stream either recorded or closed.
            self.closed
                .insert(&stream.owner.owner, &stream.closed_key());
            if let Some(live) = &stream.live {
                live.decide(outcome);
            }
            stream.log.abort();
            self.registry.remove(stream.id);
        }
    }

    /// Whether the stream with this key and id was closed.
    pub(crate) fn is_closed(&self, owner: &StreamOwner, key: &StreamKey, stream: StreamId) -> bool {
        let name = closed_key(owner, key, stream);
        self.closed.contains(&owner.owner, &name)
    }
}

/// The entry of a stream in the registry. Dropping it removes the stream, and ends it if it is live.
pub(super) struct Registration {
    pub(super) stream: Arc<RecordedStream>,
    pub(super) streams: Arc<RecordedStreams>,
}

impl Registration {
    /// Counts memory, in bytes, after and before a change. Returns whether a limit is exceeded after all possible evictions.
    pub(super) fn account(&self, change: (usize, usize)) -> bool {
        self.streams.registry.account(&self.stream, change)
    }
}

impl StreamControl for Registration {
    fn end(&self, outcome: StreamOutcome) {
        match outcome {
            StreamOutcome::Cancelled | StreamOutcome::Revoked => {
                self.streams.close_found(&self.stream, outcome);
            }
            // The writer sees the decided end.
            _ => self.stream.log.wake_writer(),
        }
    }

    fn clients(&self) -> usize {
        self.stream.log.readers()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let RecordedStream { id, log, .. } = &*self.stream;
        self.streams.registry.retire(*id, &self.stream);
        self.streams.coalescer.remove(&self.stream);
        // If the task was dropped, the readers must not wait for more events.
        let aborted = Arc::new(Error::new(ErrorKind::Aborted));
        if matches!(log.state(), LogState::Live) {
            log.end(LogState::Failed, Ending::Broken(aborted));
        }
    }
}
