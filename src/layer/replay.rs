//! The settings of the layer for recorded streams.

use std::sync::Arc;

use crate::{
    layer::SseProxyLayer,
    replay::{Quota, Replay},
};

impl<R> SseProxyLayer<R> {
    /// Records streams, so that clients can resume them. Off unless set. See [`Replay`].
    pub fn replay(self, replay: Replay) -> Self {
        self.with(|policy| policy.replay(replay))
    }

    /// Limits the memory of all recorded streams of this layer together, in bytes. 256 MiB unless set.
    ///
    /// The layer counts allocated memory: events with their shared buffers and bookkeeping; about 2 KiB for a stream that has ended; and
    /// for a stream without a client also 6 KiB, 16 KiB for the upstream connection, an unfinished event, and the
    /// connection's [read buffer](Self::upstream_buffer).
    ///
    /// At the limit, events are evicted in this order: events of streams of the same owner without a client, those first that have
    /// been silent longest; then events of other owners, but only as far as they hold more than this owner. Events that a connected
    /// client has not read are never evicted for another stream, and no event of its stream is evicted for a newer stream. If no
    /// event can be evicted, a new stream is still served, but its log holds only what its clients have not read yet: the layer
    /// stops reading the upstream until they have. A client that resumes such a stream gets a [gap](crate::replay::Gap).
    ///
    /// Discards the streams that are recorded so far: call it before the layer is used.
    pub fn max_replay_bytes(self, bytes: usize) -> Self {
        self.with_quota(|quota| quota.bytes = bytes)
    }

    /// Limits the memory of the recorded streams of one [owner](Self::owner), in bytes. Half of
    /// [`max_replay_bytes`](Self::max_replay_bytes) unless set, so that no owner can fill the layer. All anonymous requests have the
    /// same owner.
    pub fn max_replay_bytes_per_owner(self, bytes: usize) -> Self {
        self.with_quota(|quota| quota.bytes_per_owner = Some(bytes))
    }

    /// Limits the number of detached streams: streams that continue [without a client](Replay::grace_period). 4096 unless set.
    ///
    /// Above the limit, the oldest detached stream of the same owner ends, or, if it has no other, the stream that was just detached.
    pub fn max_detached(self, streams: usize) -> Self {
        self.with_quota(|quota| quota.detached = streams)
    }

    /// Limits the number of detached streams of one [owner](Self::owner). 256 unless set. Above the limit the oldest of them ends,
    /// as it would after its [grace period](Replay::grace_period): clients can still resume it.
    pub fn max_detached_per_owner(self, streams: usize) -> Self {
        self.with_quota(|quota| quota.detached_per_owner = streams)
    }

    fn with_quota(mut self, set: impl FnOnce(&mut Quota)) -> Self {
        Arc::make_mut(&mut self.state).set_quota(set);
        self
    }

    /// Sets the largest read buffer, in bytes, of a connection from the service to its upstream. 417,792 unless set, the default of
    /// hyper's HTTP/1 client.
    ///
    /// A detached stream keeps this buffer allocated, and the layer cannot see its size. It counts the largest burst of the stream,
    /// at most this value, against [`max_replay_bytes`](Self::max_replay_bytes).
    ///
    /// Use the value that the client is configured with (`http1_max_buf_size` of hyper). With a smaller buffer, more detached
    /// streams fit into the same memory; below 64 KiB, large events cost more system calls.
    pub fn upstream_buffer(mut self, bytes: usize) -> Self {
        Arc::make_mut(&mut self.state).read_buffer = bytes;
        self
    }

    /// Returns the memory, in bytes, that the recorded streams of this layer and its clones hold now, as counted against
    /// [`max_replay_bytes`](Self::max_replay_bytes).
    pub fn retained_bytes(&self) -> usize {
        self.state.streams.registry.bytes()
    }
}
