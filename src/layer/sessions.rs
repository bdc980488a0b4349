//! The settings of the layer for sessions.

use std::sync::Arc;

use crate::{
    layer::SseProxyLayer,
    session::{AnyStore, SessionMapping, SessionStore},
};

impl SseProxyLayer {
    /// Creates a layer that keeps [sessions](Self::sessions) in this store. [`default`](Self::default) uses a
    /// [`MemoryStore`](crate::session::MemoryStore).
    pub fn new(store: impl SessionStore) -> Self {
        let mut layer = Self::default();
        Arc::make_mut(&mut layer.state).store = AnyStore::new(store);
        layer
    }
}

impl<R> SseProxyLayer<R> {
    /// Maps client session ids to upstream session ids. Off unless set. See [`session`](crate::session).
    pub fn sessions(self, sessions: SessionMapping) -> Self {
        self.with(|policy| policy.sessions(sessions))
    }
}
