//! How long a recorded stream continues: its limits, and whether it has exceeded one.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    log::SharedLog,
    replay::detached_slots::{Detached, DetachedSlot},
    session::Owner,
};

/// How long interceptors have to release the events they hold, once a stream has to end.
const FLUSH_GRACE: Duration = Duration::from_secs(10);

/// The limits of one recorded stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// How long the upstream continues without a client.
    grace_period: Duration,
    /// How many bytes of blocks may be written to the log without a client, as `Replay::max_detached_bytes` counts them.
    max_detached_bytes: u64,
    /// When the stream ends, with clients or without.
    expires_at: Option<Instant>,
}

impl Limits {
    pub(crate) fn new(
        grace_period: Duration,
        max_detached_bytes: u64,
        max_age: Option<Duration>,
    ) -> Self {
        Self {
            grace_period,
            max_detached_bytes,
            // A time that is too far away for the clock is no limit.
            expires_at: max_age.and_then(|max_age| Instant::now().checked_add(max_age)),
        }
    }

    /// When a stream ends that has had no client since `detached_since`.
    fn deadline(&self, detached_since: Option<Instant>) -> Option<Instant> {
        let grace_end = detached_since.and_then(|since| since.checked_add(self.grace_period));
        grace_end.into_iter().chain(self.expires_at).min()
    }
}

/// How long a stream may continue.
pub(super) enum Lifetime {
    /// Within its limits.
    Limited {
        limits: Limits,
        /// The slot among the detached streams, while the stream has no client.
        slot: Option<DetachedSlot<Owner>>,
        /// The bytes that were written since the last client left.
        detached_bytes: u64,
    },
    /// A limit was exceeded at this time. The interceptors have [`FLUSH_GRACE`] to release the events they hold.
    Flushing { since: Instant },
}

impl Lifetime {
    pub(super) fn new(limits: Limits) -> Self {
        Self::Limited {
            limits,
            slot: None,
            detached_bytes: 0,
        }
    }

    pub(super) fn is_flushing(&self) -> bool {
        matches!(self, Self::Flushing { .. })
    }

    /// Gives the interceptors time to release the events they hold, and then ends the stream.
    pub(super) fn start_flushing(&mut self) {
        *self = Self::Flushing {
            since: Instant::now(),
        };
    }

    /// When the stream ends if nothing changes.
    pub(super) fn deadline(&self, detached_since: Option<Instant>) -> Option<Instant> {
        match self {
            Self::Limited { limits, .. } => limits.deadline(detached_since),
            Self::Flushing { since } => Some(*since + FLUSH_GRACE),
        }
    }

    /// Whether the stream has exceeded a limit. A stream without a client takes a slot among the detached streams, and one with a client
    /// releases it.
    pub(super) fn is_exceeded(
        &mut self,
        deadline: Option<Instant>,
        detached_since: Option<Instant>,
        detached: &Arc<Detached<Owner>>,
        owner: Owner,
        log: &Arc<SharedLog>,
    ) -> bool {
        let is_late = deadline.is_some_and(|at| at <= Instant::now());
        let Self::Limited {
            limits,
            slot,
            detached_bytes,
        } = self
        else {
            return is_late;
        };
        let Some(since) = detached_since else {
            (*slot, *detached_bytes) = (None, 0);
            return is_late;
        };
        if is_late {
            *slot = None;
            return true;
        }
        if !slot.as_ref().is_some_and(|slot| slot.is_since(since)) {
            // Releases the old slot first, so that no stream counts twice.
            *slot = None;
            *slot = Some(detached.enter(owner, log, since));
        }
        let lost_slot = slot.as_ref().is_some_and(DetachedSlot::is_ended);
        lost_slot || *detached_bytes > limits.max_detached_bytes
    }

    /// Counts bytes that were written to the log of a stream without a client. With a client, the count starts again at 0.
    pub(super) fn count(&mut self, bytes: usize, is_detached: bool) {
        if let Self::Limited { detached_bytes, .. } = self {
            *detached_bytes = if is_detached {
                *detached_bytes + bytes as u64
            } else {
                0
            };
        }
    }
}
