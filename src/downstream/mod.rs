//! The downstream side of a stream: blocks become frames for one client.
//!
//! [`Stream`](stream::Stream) polls a [`Source`](source::Source), which is an upstream or the reader of a recorded stream. It
//! collects blocks in a [`FrameBuffer`](frame_buffer::FrameBuffer), merges those that are ready into few frames
//! ([`FlushPolicy`](flush_policy::FlushPolicy)), sends keep-alive comments, and delays an error until the server has sent the
//! frames before it. [`Untouched`](untouched::Untouched) is the body of an event stream that the layer passes through, and
//! [`Whole`](whole::Whole) a JSON body that it has read.

mod delayed_error;
pub(crate) mod early;
pub(crate) mod flush_policy;
pub(crate) mod frame_buffer;
pub(crate) mod keep_alive;
pub(crate) mod source;
pub(crate) mod stream;
pub(crate) mod untouched;
pub(crate) mod whole;
