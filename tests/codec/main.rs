//! The codec: decoding, editing and encoding of any input in any chunks.

mod client;
mod input;
mod properties;
mod reference;
mod vectors;
