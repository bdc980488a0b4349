//! The report of a watchdog that has fired.

use std::sync::Arc;

use super::StreamOutcome;
use crate::stream_id::StreamId;

/// A watchdog has fired. See [`StreamObserver::watchdog`](super::StreamObserver::watchdog).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WatchdogEvent {
    /// Which limit was exceeded.
    pub kind: WatchdogKind,
    /// Whether the watchdog ends the stream. `false` if it only observes.
    pub acts: bool,
    /// The stream. `None` for a request whose response head has not arrived.
    pub stream: Option<StreamId>,
    /// The label that the policy gave the route.
    pub route: Option<Arc<str>>,
}

/// A limit that a watchdog watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WatchdogKind {
    /// The time until the head of the upstream's response.
    Head,
    /// The time from the head to the first event with content.
    First,
    /// The time between two events with content.
    Gap,
    /// The age of the stream.
    Age,
    /// The time in which the client takes nothing.
    Write,
    /// The right to read the stream has ended, by [`Watchdog::recheck`](crate::Watchdog::recheck).
    Recheck,
}

impl WatchdogKind {
    /// The outcome of a stream that ends because of this limit.
    pub(crate) fn outcome(self) -> StreamOutcome {
        match self {
            Self::Age => StreamOutcome::Expired,
            Self::Recheck => StreamOutcome::Revoked,
            Self::Head | Self::First | Self::Gap | Self::Write => StreamOutcome::Stalled,
        }
    }

    /// Returns the kind in lower case, for logs and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::First => "first",
            Self::Gap => "gap",
            Self::Age => "age",
            Self::Write => "write",
            Self::Recheck => "recheck",
        }
    }
}
