//! The upstream side of a stream: a response body is decoded, cut into blocks, and sent through the interceptors.
//!
//! [`Pull`] is the engine: a poll function without a task. It reads frames from a [`DecodedBody`](body::DecodedBody), feeds them
//! to the decoder, sends the blocks through the [`Pipeline`] and writes them to a [`Sink`](sink::Sink). One poll does a bounded
//! amount of work (`budget`). A body that arrives over HTTP/2 is read ahead of its client (`read_ahead`). A [`Continuation`] provides the
//! next response when one has ended, and [`UpstreamProgress`] knows the id to resume after.

pub(crate) mod body;
mod budget;
pub(crate) mod byte_order_mark;
mod classify;
mod continuation;
#[cfg_attr(not(feature = "decompression"), path = "no_decompression.rs")]
mod decompression;
mod finders;
pub(crate) mod json;
pub(crate) mod model_watch;
mod phase;
mod pipeline;
mod progress;
mod pull;
mod read_ahead;
#[cfg(feature = "sessions")]
mod session_ids;
pub(crate) mod sink;
pub(crate) mod stream_watch;
pub(crate) mod terminal;

#[cfg(any(feature = "reconnect", feature = "replay"))]
pub(crate) use continuation::UpstreamEnd;
pub(crate) use continuation::{BodyRules, ContentCheck, Continuation};
pub(crate) use pipeline::Pipeline;
#[cfg(feature = "replay")]
pub(crate) use progress::CompleteWhen;
pub(crate) use progress::{ProgressStage, UpstreamProgress};
pub(crate) use pull::{Pull, Step};
#[cfg(feature = "sessions")]
pub(crate) use session_ids::SessionStage;
