//! Wakes both sides that read one body.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Wake, Waker},
};

/// The waker of a body that two sides poll: the client's side and the task.
#[derive(Default)]
pub(super) struct Signal {
    /// Whether the body is pending and will wake this signal.
    is_registered: AtomicBool,
    wakers: Mutex<Wakers>,
}

#[derive(Default)]
struct Wakers {
    client: Option<Waker>,
    task: Option<Waker>,
}

impl Signal {
    /// Whether the body is pending, so that neither side has to poll it.
    pub(super) fn is_registered(&self) -> bool {
        self.is_registered.load(SeqCst)
    }

    pub(super) fn set_registered(&self, is_registered: bool) {
        self.is_registered.store(is_registered, SeqCst);
    }

    /// Sets the waker of the client's side, which waits for the body.
    pub(super) fn client_waits(&self, waker: &Waker) {
        set(&mut self.lock().client, waker);
    }

    /// Sets the waker of the task, which waits for the body or for [`wake_task`](Self::wake_task).
    pub(super) fn task_waits(&self, waker: &Waker) {
        set(&mut self.lock().task, waker);
    }

    /// Wakes the task, so that it reads the body, unless the body is pending and will wake the task.
    pub(super) fn read_on(&self) {
        if !self.is_registered() {
            self.wake_task();
        }
    }

    pub(super) fn wake_task(&self) {
        let task = self.lock().task.take();
        if let Some(task) = task {
            task.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Wakers> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn set(slot: &mut Option<Waker>, waker: &Waker) {
    match slot {
        Some(slot) => slot.clone_from(waker),
        None => *slot = Some(waker.clone()),
    }
}

/// The body calls this when it is ready again.
impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // The flag is cleared before the wakers are taken: a side that sets its waker later sees the cleared flag and polls.
        self.set_registered(false);
        let Wakers { client, task } = std::mem::take(&mut *self.lock());
        for waker in [client, task].into_iter().flatten() {
            waker.wake();
        }
    }
}
