//! The upstream's side of a stream: its body, decoded, cut into blocks and sent through the interceptors.

pub(crate) mod coding;
#[cfg_attr(not(feature = "decompression"), path = "no_decompression.rs")]
mod decompression;
mod pipeline;
mod progress;
mod pull;
mod sequel;
mod translation;

pub(crate) use pipeline::Pipeline;
pub(crate) use progress::{Entrance, Progress};
pub(crate) use pull::Pull;
pub(crate) use sequel::{Over, Sequel};
pub(crate) use translation::Translation;
