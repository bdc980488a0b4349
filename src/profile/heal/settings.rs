//! The settings of a layer.

use std::{sync::Arc, time::Duration};

use http::{StatusCode, request, response};
use http_body::Body;

use super::{body::HealBody, message::is_safe};
use crate::session::healed::Healed;

pub(super) struct Settings<ReqB: Body> {
    wrap: Wrap<ReqB>,
    pub(super) repeat_if: RepeatPredicate,
    pub(super) lost_when: LostPredicate,
    pub(super) on_healed: Arc<dyn Fn(&Healed) + Send + Sync>,
    pub(super) time_limit: Duration,
    pub(super) max_body_bytes: usize,
}

type Wrap<ReqB> = Arc<dyn Fn(HealBody<ReqB>) -> ReqB + Send + Sync>;
type RepeatPredicate = Arc<dyn Fn(&request::Parts, &[u8]) -> bool + Send + Sync>;
type LostPredicate = Arc<dyn Fn(&response::Parts) -> bool + Send + Sync>;

impl<ReqB: Body> Settings<ReqB> {
    pub(super) fn new(wrap: Wrap<ReqB>) -> Self {
        Self {
            wrap,
            repeat_if: Arc::new(is_safe),
            lost_when: Arc::new(|response| response.status == StatusCode::NOT_FOUND),
            on_healed: Arc::new(|_| {}),
            time_limit: Duration::from_secs(10),
            max_body_bytes: 64 << 10,
        }
    }

    /// A request body.
    pub(super) fn body(&self, body: impl Into<HealBody<ReqB>>) -> ReqB {
        (self.wrap)(body.into())
    }

    /// Whether a response means that the upstream has lost the session.
    pub(super) fn is_lost(&self, response: &response::Parts) -> bool {
        (self.lost_when)(response)
    }
}

impl<ReqB: Body> Clone for Settings<ReqB> {
    fn clone(&self) -> Self {
        Self {
            wrap: Arc::clone(&self.wrap),
            repeat_if: Arc::clone(&self.repeat_if),
            lost_when: Arc::clone(&self.lost_when),
            on_healed: Arc::clone(&self.on_healed),
            time_limit: self.time_limit,
            max_body_bytes: self.max_body_bytes,
        }
    }
}
