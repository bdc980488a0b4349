//! The list of the open streams of a layer, with its limits.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::sync::Notify;

use super::admission::{Admission, StreamLimits};
use crate::stream_id::StreamId;

/// The open event streams of a layer, by their id. `T` is the type of one stream.
pub(crate) struct OpenStreams<T> {
    is_listed: AtomicBool,
    admission: Arc<Admission>,
    /// The bytes that the open streams hold in buffers.
    buffered: AtomicUsize,
    max_buffered: Option<usize>,
    /// Notified when a stream has closed or lost a client.
    changed: Notify,
    open: Mutex<HashMap<StreamId, Arc<T>>>,
}

impl<T> OpenStreams<T> {
    /// An empty list with these limits.
    pub(crate) fn with_limits(limits: StreamLimits) -> Self {
        Self {
            admission: Arc::new(Admission::new(limits)),
            max_buffered: limits.buffered_bytes,
            ..Self::default()
        }
    }

    /// The bytes that the open streams hold in buffers.
    pub(crate) fn buffered(&self) -> usize {
        self.buffered.load(Relaxed)
    }

    /// Changes the number of bytes that one stream holds in buffers. Returns whether all streams together now exceed the limit.
    pub(super) fn set_buffered(&self, before: usize, now: usize) -> bool {
        if now <= before {
            self.buffered.fetch_sub(before - now, Relaxed);
            return false;
        }
        let all = self.buffered.fetch_add(now - before, Relaxed) + (now - before);
        self.max_buffered.is_some_and(|most| all > most)
    }

    /// Admits or refuses new streams.
    pub(crate) fn admission(&self) -> &Arc<Admission> {
        &self.admission
    }

    /// Resolves when a stream has closed, or may have lost a client, after this call.
    pub(crate) fn changed(&self) -> impl Future<Output = ()> + '_ {
        let mut changed = Box::pin(self.changed.notified());
        changed.as_mut().enable();
        changed
    }

    /// Notes that a stream may have lost a client.
    pub(crate) fn notify_changed(&self) {
        self.changed.notify_waiters();
    }

    /// Lists the streams that open from now on.
    pub(crate) fn start(&self) {
        self.is_listed.store(true, Relaxed);
    }

    /// Whether streams are listed.
    pub(crate) fn is_listed(&self) -> bool {
        self.is_listed.load(Relaxed)
    }

    pub(super) fn insert(&self, id: StreamId, stream: Arc<T>) {
        self.lock().insert(id, stream);
    }

    /// All open streams.
    pub(crate) fn all(&self) -> Vec<Arc<T>> {
        self.lock().values().map(Arc::clone).collect()
    }

    /// The open stream with this id.
    pub(crate) fn find(&self, id: StreamId) -> Option<Arc<T>> {
        self.lock().get(&id).map(Arc::clone)
    }

    /// The number of open streams.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    pub(super) fn remove(&self, id: StreamId) {
        let removed = self.lock().remove(&id);
        // Outside of the lock: the last reference may run user code.
        drop(removed);
        self.notify_changed();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StreamId, Arc<T>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Default for OpenStreams<T> {
    fn default() -> Self {
        Self {
            is_listed: AtomicBool::new(false),
            admission: Arc::default(),
            buffered: AtomicUsize::new(0),
            max_buffered: None,
            changed: Notify::new(),
            open: Mutex::default(),
        }
    }
}
