//! The recorded streams that operators see, and close after their end.

use crate::streams::{Select, Streams};

impl Streams {
    /// Returns the memory, in bytes, that recorded streams hold now, as counted against
    /// [`max_replay_bytes`](crate::SseProxyLayer::max_replay_bytes).
    pub fn retained_bytes(&self) -> usize {
        self.recorded.log_bytes()
    }

    /// Drops recorded streams that have ended.
    pub(super) fn close_ended(&self, select: &Select) -> usize {
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
        // Streams that were just closed have left the registry.
        found
            .iter()
            .filter(|stream| self.recorded.close(stream.id))
            .count()
    }
}
