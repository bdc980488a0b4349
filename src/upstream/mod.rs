//! The upstream's side of a stream: its body, decoded, cut into blocks and sent through the interceptors.

pub(crate) mod body;
mod budget;
pub(crate) mod byte_order_mark;
mod continuation;
#[cfg_attr(not(feature = "decompression"), path = "no_decompression.rs")]
mod decompression;
mod phase;
mod pipeline;
mod progress;
mod pull;
mod session_stage;
pub(crate) mod sink;
pub(crate) mod terminal;

pub(crate) use continuation::{Continuation, UpstreamEnd};
pub(crate) use pipeline::Pipeline;
pub(crate) use progress::{ProgressStage, UpstreamProgress};
pub(crate) use pull::{Pull, Step};
pub(crate) use session_stage::SessionStage;
