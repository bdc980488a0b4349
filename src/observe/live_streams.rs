//! The open event streams of a layer.

use std::sync::Arc;

use http::StatusCode;

use super::{Observers, info::StreamOrigin, live_stream::LiveStream, open_streams::OpenStreams};
use crate::{session::SessionId, stream_id::StreamId};

/// The open event streams of a layer.
pub(crate) type LiveStreams = OpenStreams<LiveStream>;

impl LiveStreams {
    /// Lists a stream that opens now, and notifies the observers.
    pub(crate) fn open(
        self: &Arc<Self>,
        id: StreamId,
        origin: Arc<StreamOrigin>,
        session: Option<SessionId>,
        status: StatusCode,
        is_recorded: bool,
        observers: &Observers,
    ) -> Arc<LiveStream> {
        let stream = Arc::new(LiveStream::new(
            id,
            origin,
            session,
            status,
            is_recorded,
            observers.clone(),
            Arc::clone(self),
        ));
        self.insert(id, Arc::clone(&stream));
        observers.each(|observer| observer.opened(&stream.info()));
        stream
    }
}
