//! How many streams of a session are open.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// How many event streams of a session are open in this process, and how many of its requests wait for the service.
///
/// A store that evicts sessions gives each [`Session`](super::Session) that it answers with the same count, by a clone. The
/// layer raises it while a stream of the session is open or opening, so that the store can spare the session. The count is not part of
/// the identity of a session: all counts are equal.
#[derive(Clone, Default)]
pub struct StreamCount(Arc<AtomicUsize>);

impl StreamCount {
    /// The number of streams that are open or opening now.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts one more stream until the guard is dropped.
    pub(crate) fn open(&self) -> OpenStream {
        self.0.fetch_add(1, Ordering::Relaxed);
        OpenStream(self.clone())
    }
}

/// One open stream in a [`StreamCount`].
#[derive(Debug)]
pub(crate) struct OpenStream(StreamCount);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl PartialEq for StreamCount {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for StreamCount {}

impl fmt::Debug for StreamCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StreamCount").field(&self.get()).finish()
    }
}
