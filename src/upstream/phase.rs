//! The phases of a stream that more than one upstream response may deliver.

/// The phase of a stream: what the next block of the upstream means.
///
/// An upstream that is asked to continue a stream should send only events that follow the `Last-Event-ID` of the request. Some
/// upstreams start from the beginning instead. The phase decides which blocks of a continuation are duplicates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// Every block is new: the response is the first one, or a continuation that is past its duplicates.
    #[default]
    Forwarding,
    /// A continuation has begun, and no block with an id has arrived. Blocks are new until an id says otherwise.
    AwaitingFirstId,
    /// The continuation repeats events that the interceptors have seen, up to the last id.
    SkippingDuplicates,
    /// A response has ended, and the interceptors stay open for a continuation.
    AwaitingContinuation,
    /// A response has ended, and the interceptors do not wait for a continuation.
    Ended,
}

/// An input of the [transition function](Phase::next).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// A complete block with an id arrived.
    Id {
        /// How the block compares with the remembered events.
        recollection: Recollection,
        /// Whether the id is the last one that the interceptors have seen.
        is_last: bool,
    },
    /// The response ended, and the upstream can be asked for a continuation.
    Suspend,
    /// The wait for a continuation is over, or there was none.
    End,
    /// The upstream has sent the head of a continuation.
    Continue,
}

/// How a block with an id compares with the events that are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recollection {
    /// No remembered event has this id.
    Unknown,
    /// The remembered event with this id has the same bytes.
    Same,
    /// The remembered event with this id has other bytes: the upstream uses its ids for other events.
    Different,
}

impl Phase {
    /// The transition function: the phase after `input`.
    #[must_use]
    pub(super) fn next(self, input: Input) -> Self {
        match (self, input) {
            (_, Input::Continue) => Self::AwaitingFirstId,
            (_, Input::Suspend) => Self::AwaitingContinuation,
            (_, Input::End) => Self::Ended,
            (
                Self::AwaitingFirstId | Self::SkippingDuplicates,
                Input::Id {
                    recollection,
                    is_last,
                },
            ) => {
                if self.is_duplicate(recollection) && !is_last {
                    Self::SkippingDuplicates
                } else {
                    Self::Forwarding
                }
            }
            (Self::Forwarding | Self::AwaitingContinuation | Self::Ended, Input::Id { .. }) => self,
        }
    }

    /// Whether a block with an id is a duplicate.
    ///
    /// Only a remembered event starts a run of duplicates. The run ends at the last id, or at an event that is known to differ. An
    /// unknown id does not end it, because most events of a long stream are no longer remembered.
    pub(super) fn is_duplicate(self, recollection: Recollection) -> bool {
        match self {
            Self::AwaitingFirstId => recollection == Recollection::Same,
            Self::SkippingDuplicates => recollection != Recollection::Different,
            Self::Forwarding | Self::AwaitingContinuation | Self::Ended => false,
        }
    }

    /// Whether duplicates may arrive, so that ids have to be compared with the remembered events.
    pub(super) fn compares_ids(self) -> bool {
        matches!(self, Self::AwaitingFirstId | Self::SkippingDuplicates)
    }
}

#[cfg(test)]
mod tests {
    use super::{Input::*, Phase::*, Recollection::*, *};

    const PHASES: [Phase; 5] = [
        Forwarding,
        AwaitingFirstId,
        SkippingDuplicates,
        AwaitingContinuation,
        Ended,
    ];

    fn id(recollection: Recollection, is_last: bool) -> Input {
        Id {
            recollection,
            is_last,
        }
    }

    #[test]
    fn transition_table() {
        // For each input, the next phases of: Forwarding, AwaitingFirstId, SkippingDuplicates, AwaitingContinuation, Ended.
        #[rustfmt::skip]
        let table = [
            (id(Unknown, false),   [Forwarding, Forwarding, SkippingDuplicates, AwaitingContinuation, Ended]),
            (id(Unknown, true),    [Forwarding, Forwarding, Forwarding, AwaitingContinuation, Ended]),
            (id(Same, false),      [Forwarding, SkippingDuplicates, SkippingDuplicates, AwaitingContinuation, Ended]),
            (id(Same, true),       [Forwarding, Forwarding, Forwarding, AwaitingContinuation, Ended]),
            (id(Different, false), [Forwarding, Forwarding, Forwarding, AwaitingContinuation, Ended]),
            (id(Different, true),  [Forwarding, Forwarding, Forwarding, AwaitingContinuation, Ended]),
            (Suspend,              [AwaitingContinuation; 5]),
            (End,                  [Ended; 5]),
            (Continue,             [AwaitingFirstId; 5]),
        ];
        for (input, expected) in table {
            assert_eq!(PHASES.map(|phase| phase.next(input)), expected, "{input:?}");
        }
    }

    #[test]
    fn duplicates_by_phase() {
        let duplicates = |recollection| PHASES.map(|phase| phase.is_duplicate(recollection));
        assert_eq!(duplicates(Unknown), [false, false, true, false, false]);
        assert_eq!(duplicates(Same), [false, true, true, false, false]);
        assert_eq!(duplicates(Different), [false; 5]);
    }

    #[test]
    fn ids_are_compared_where_a_duplicate_is_possible() {
        for phase in PHASES {
            let may_be_duplicate = [Unknown, Same, Different].map(|seen| phase.is_duplicate(seen));
            assert_eq!(
                phase.compares_ids(),
                may_be_duplicate.contains(&true),
                "{phase:?}"
            );
        }
    }
}
