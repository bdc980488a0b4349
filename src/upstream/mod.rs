//! The upstream's side of a stream: its body, decoded, cut into blocks and sent through the interceptors.

pub(crate) mod coding;
#[cfg_attr(not(feature = "decompression"), path = "no_decompression.rs")]
mod decompression;
mod pipeline;
mod pull;
mod translation;

pub(crate) use pipeline::{Pipeline, Sink};
pub(crate) use pull::{Pull, Step};
pub(crate) use translation::Translation;
