//! The number of open streams of a session.

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

/// The number of event streams of a session that are open in this process, plus the number of its requests that wait for the
/// inner service.
///
/// A store that evicts sessions puts a clone of one count into each [`Session`](super::Session) that it returns for the same id. The layer
/// increases the count while a stream of the session is open or opening, so that the store can avoid evicting the session. All counts
/// are equal for `Eq`, because the count is not part of the identity of a session.
#[derive(Clone, Default)]
pub struct StreamCount(Arc<AtomicUsize>);

impl StreamCount {
    /// The number of streams that are open or opening at this moment.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Adds one to the count until the guard is dropped.
    pub(crate) fn open(&self) -> OpenStream {
        self.0.fetch_add(1, Ordering::Relaxed);
        OpenStream(self.clone())
    }

    /// Returns a handle that says later whether the store still has the session.
    pub(crate) fn in_store(&self) -> InStore {
        InStore(Arc::downgrade(&self.0))
    }
}

/// Says whether a store still has a session. After the store has dropped the session, this stays true while clones of the count exist.
#[derive(Debug)]
pub(crate) struct InStore(Weak<AtomicUsize>);

impl InStore {
    pub(crate) fn get(&self) -> bool {
        self.0.strong_count() > 0
    }
}

/// Counts one stream in a [`StreamCount`] until it is dropped.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_equal_and_debug_shows_the_number() {
        let (one, other) = (StreamCount::default(), StreamCount::default());
        let _open = one.open();
        assert!(one == other);
        assert_eq!(
            format!("{one:?} {other:?}"),
            "StreamCount(1) StreamCount(0)"
        );
    }
}
