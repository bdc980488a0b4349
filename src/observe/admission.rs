//! Admission: how many streams a layer serves at once, in total and for each owner.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use crate::{rejection::RejectionReason, session::Owner};

/// The limits on streams that are open at the same time. A stream counts while it has a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StreamLimits {
    pub(crate) streams: Option<usize>,
    pub(crate) streams_per_owner: Option<usize>,
    /// The bytes that all streams may hold in buffers.
    pub(crate) buffered_bytes: Option<usize>,
}

/// Counts the streams that have a client, and refuses those above the limits.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    limits: StreamLimits,
    is_draining: AtomicBool,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    streams: usize,
    by_owner: HashMap<Owner, usize>,
}

/// Why a stream is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The layer has reached its limit.
    Streams,
    /// The owner has reached its limit.
    StreamsOfOwner,
    /// The layer is drained.
    Draining,
}

impl Refused {
    /// The text of the response.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Streams => "too many event streams are open\n",
            Self::StreamsOfOwner => "too many event streams of this client are open\n",
            Self::Draining => "the server is shutting down\n",
        }
    }

    /// The reason for observers.
    pub(crate) fn reason(self) -> RejectionReason {
        match self {
            Self::Streams => RejectionReason::Limit,
            Self::StreamsOfOwner => RejectionReason::LimitPerOwner,
            Self::Draining => RejectionReason::Draining,
        }
    }
}

/// The slot of one stream within the limits. [Releasing](Self::release) or dropping it lets another stream open.
#[derive(Debug)]
pub(crate) struct StreamSlot {
    admission: Arc<Admission>,
    owner: Owner,
    is_released: AtomicBool,
}

impl Admission {
    pub(crate) fn new(limits: StreamLimits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Whether a limit on the number of streams, or a drain, may refuse a stream.
    pub(crate) fn is_limited(&self) -> bool {
        let StreamLimits {
            streams,
            streams_per_owner,
            ..
        } = self.limits;
        streams.is_some() || streams_per_owner.is_some() || self.is_draining()
    }

    /// Whether there is any limit on open streams.
    pub(crate) fn has_limits(&self) -> bool {
        self.limits != StreamLimits::default() || self.is_draining()
    }

    /// Refuses all streams from now on.
    pub(crate) fn start_draining(&self) {
        self.is_draining.store(true, Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Relaxed)
    }

    /// Returns a slot for a stream of this owner, or the reason why the stream is refused.
    pub(crate) fn admit(self: &Arc<Self>, owner: Owner) -> Result<Arc<StreamSlot>, Refused> {
        if self.is_draining() {
            return Err(Refused::Draining);
        }
        let mut counts = self.lock();
        let is_below = |count: usize, limit: Option<usize>| limit.is_none_or(|limit| count < limit);
        if !is_below(counts.streams, self.limits.streams) {
            return Err(Refused::Streams);
        }
        let of_owner = counts.by_owner.get(&owner).copied().unwrap_or(0);
        if !is_below(of_owner, self.limits.streams_per_owner) {
            return Err(Refused::StreamsOfOwner);
        }
        counts.streams += 1;
        *counts.by_owner.entry(owner).or_default() += 1;
        drop(counts);
        Ok(Arc::new(StreamSlot {
            admission: Arc::clone(self),
            owner,
            is_released: AtomicBool::new(false),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StreamSlot {
    /// Frees the slot. Later calls do nothing.
    pub(super) fn release(&self) {
        if self.is_released.swap(true, Relaxed) {
            return;
        }
        let mut counts = self.admission.lock();
        counts.streams -= 1;
        if let Entry::Occupied(mut of_owner) = counts.by_owner.entry(self.owner) {
            *of_owner.get_mut() -= 1;
            if *of_owner.get() == 0 {
                of_owner.remove();
            }
        }
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: Owner = Owner::ANONYMOUS;

    #[test]
    fn streams_above_a_limit_are_refused_until_a_place_is_free() {
        let bob = Owner::from_bytes([1; 32]);
        let admission = Arc::new(Admission::new(StreamLimits {
            streams: Some(3),
            streams_per_owner: Some(2),
            buffered_bytes: None,
        }));
        let first = admission.admit(ALICE).unwrap();
        let second = admission.admit(ALICE).unwrap();
        assert_eq!(admission.admit(ALICE).unwrap_err(), Refused::StreamsOfOwner);
        let third = admission.admit(bob).unwrap();
        assert_eq!(admission.admit(bob).unwrap_err(), Refused::Streams);
        drop(first);
        let again = admission.admit(ALICE).unwrap();
        drop((second, third, again));
        assert_eq!(admission.lock().streams, 0);
        assert!(admission.lock().by_owner.is_empty());
        admission.start_draining();
        assert_eq!(admission.admit(ALICE).unwrap_err(), Refused::Draining);
    }
}
