//! Closing streams.

use tower_sse_proxy::{SseProxyLayer, replay::StreamId, streams::CloseReason};

/// Closes a recorded stream. Returns whether there was one.
pub fn close<R>(layer: &SseProxyLayer<R>, stream: StreamId) -> bool {
    layer.streams().close(stream, CloseReason::Cancelled) > 0
}
