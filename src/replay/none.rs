//! The replacement of the folder in builds without the feature `replay`: no stream is recorded.

use std::time::Duration;

use tokio::time::Instant;

use crate::session::{Owner, SessionId};

/// Never made.
#[derive(Debug)]
pub(crate) enum Replay {}

/// Never made.
pub(crate) enum Subscription {}

#[derive(Clone, Copy, Default)]
pub(crate) struct Quota(());

pub(crate) struct RecordedStreams;

impl RecordedStreams {
    pub(crate) fn new(_: Quota) -> Self {
        Self
    }

    pub(crate) fn log_bytes(&self) -> usize {
        0
    }

    pub(crate) fn log_lag(&self, _: Instant) -> Duration {
        Duration::ZERO
    }

    pub(crate) fn remove_all_of(&self, _: Owner, _: Option<SessionId>) {}
}
