//! Blocks on their way to one client.

pub(crate) mod flush_policy;
pub(crate) mod frame_buffer;
pub(crate) mod keep_alive;
pub(crate) mod source;
pub(crate) mod stream;
pub(crate) mod unread;
