//! The result of a request, and the stages that a response of the service still has to pass.

use std::sync::Arc;

use crate::{
    exchange::{RecordingContext, session::SessionContext},
    observe::StreamSlot,
    reconnect::RetryRequest,
    rejection::Rejection,
    replay::Subscription,
};

/// The stages that a response of the service still has to pass.
pub(crate) struct ResponseContext<R> {
    pub(crate) session: Option<Box<SessionContext>>,
    /// If an event stream is to be recorded.
    pub(crate) recording: Option<Box<RecordingContext>>,
    /// The place of the stream, if the number of streams is limited and the request asked for one.
    pub(crate) slot: Option<Arc<StreamSlot>>,
    /// If the layer reconnects.
    pub(crate) retry: Option<Box<RetryRequest<R>>>,
}

/// The result of a request.
pub(crate) enum Outcome<R> {
    /// The service has responded.
    Respond(R, ResponseContext<R>),
    /// The client reads a recorded stream.
    Subscribe(Box<Subscription>),
    /// The layer makes the response itself.
    Reject(Rejection),
}
