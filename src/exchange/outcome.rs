//! The result of a request, and what is left to do for a response of the service.

use crate::{
    exchange::{record::RecordingContext, session::SessionContext},
    reconnect::RetryRequest,
    rejection::Rejection,
    replay::subscription::Subscription,
};

/// What is left to do for a response of the service.
pub(crate) struct ResponseContext<R> {
    pub(crate) session: Option<Box<SessionContext>>,
    /// If an event stream is to be recorded.
    pub(crate) recording: Option<Box<RecordingContext>>,
    /// If the layer reconnects.
    pub(crate) retry: Option<Box<RetryRequest<R>>>,
}

/// The result of a request.
pub(crate) enum Outcome<R> {
    /// The service has answered.
    Respond(R, ResponseContext<R>),
    /// The client reads a recorded stream.
    Subscribe(Box<Subscription>),
    /// The layer answers itself.
    Reject(Rejection),
}
