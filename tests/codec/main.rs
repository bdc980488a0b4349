//! The codec: decoding, editing and encoding of any input in any chunks.

#[path = "../support/cases.rs"]
mod cases;
mod client;
mod input;
mod properties;
mod reference;
mod vectors;
