//! The recorded streams that operators see, and close after their end.

use crate::{
    observe::StreamOutcome,
    stream_id::StreamId,
    streams::{Select, Streams},
};

impl Streams {
    /// Returns the memory, in bytes, that recorded streams hold now, as counted against
    /// [`max_replay_bytes`](crate::SseProxyLayer::max_replay_bytes).
    pub fn retained_bytes(&self) -> usize {
        self.recorded.log_bytes()
    }

    /// Closes recorded streams, open or not. Returns their ids.
    pub(super) fn close_recorded(&self, select: &Select, outcome: StreamOutcome) -> Vec<StreamId> {
        let found = match select {
            Select::Stream(id) => self.recorded.registry.find(*id).into_iter().collect(),
            Select::Session(session) => self
                .recorded
                .registry
                .all_where(|stream| stream.owner.session.as_ref() == Some(session)),
            Select::Owner(owner) => self
                .recorded
                .registry
                .all_where(|stream| stream.owner.owner == *owner),
            Select::All => self.recorded.registry.all_where(|_| true),
        };
        let ids = found.iter().map(|stream| stream.id);
        ids.filter(|id| self.recorded.close(*id, outcome)).collect()
    }
}
