//! All recorded streams of one layer.

use std::{iter, sync::Arc};

use crate::{
    log::StreamId,
    replay::{
        ClosedStreams, LogRegistry, Quota,
        coalesce::Coalescer,
        key::{StreamKey, StreamOwner, closed_key},
        recorded_stream::RecordedStream,
    },
};

/// The registry that finds streams, the calls that requests share, and the streams that were closed.
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

    /// Closes a stream: it ends now and can be resumed no more, and so do its predecessors and successors. Returns false if there is
    /// no such stream.
    pub(crate) fn close(&self, stream: StreamId) -> bool {
        let found = self.registry.find(stream);
        if let Some(stream) = &found {
            self.close_found(stream);
        }
        found.is_some()
    }

    pub(crate) fn close_found(&self, closed: &Arc<RecordedStream>) {
        let leads_here = |stream: &Arc<RecordedStream>| {
            let mut streams = iter::successors(Some(Arc::clone(stream)), |next| next.successor());
            streams.any(|stream| Arc::ptr_eq(&stream, closed))
        };
        let streams = self.registry.all_of(&closed.owner);
        let before = streams.into_iter().filter(leads_here);
        let after = iter::successors(Some(Arc::clone(closed)), |stream| stream.successor());
        for stream in before.chain(after) {
            // In this order, no request finds the stream neither recorded nor closed.
            self.closed
                .insert(&stream.owner.owner, &stream.closed_key());
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
