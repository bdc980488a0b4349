//! The one task of a layer that checks streams at times of their own.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{Instant, timeout_at},
};

/// Something that is checked at certain times.
pub(crate) trait Checked: Send + Sync {
    /// Checks what is due. Returns the time of the next check, or `None` if there is none.
    fn check(&self, now: Instant) -> Option<Instant>;
}

/// Checks streams at their deadlines. Its task runs as long as there is something to check.
#[derive(Default)]
pub(crate) struct Housekeeper {
    queue: Mutex<Queue>,
    changed: Notify,
}

#[derive(Default)]
struct Queue {
    checks: BTreeMap<(Instant, u64), Weak<dyn Checked>>,
    /// Tells checks at the same time apart.
    count: u64,
    is_running: bool,
}

impl Housekeeper {
    /// Checks `checked` at this time, and then whenever it asks for it, until it is dropped. Outside of a tokio runtime nothing is
    /// checked.
    pub(crate) fn schedule(self: &Arc<Self>, at: Instant, checked: Weak<dyn Checked>) {
        let mut queue = self.lock();
        let is_first = queue.add(at, checked);
        if !queue.is_running {
            self.run(queue);
        } else if is_first {
            drop(queue);
            self.changed.notify_one();
        }
    }

    /// Continues the checks that are scheduled, if the runtime of the task has ended.
    pub(crate) fn resume(self: &Arc<Self>) {
        let queue = self.lock();
        if !queue.is_running && !queue.checks.is_empty() {
            self.run(queue);
        }
    }

    fn run(self: &Arc<Self>, mut queue: MutexGuard<'_, Queue>) {
        if let Ok(runtime) = Handle::try_current() {
            queue.is_running = true;
            drop(queue);
            runtime.spawn(Running(Arc::clone(self)).run());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Adds a check. Returns whether it is the next one.
    fn add(&mut self, at: Instant, checked: Weak<dyn Checked>) -> bool {
        self.count += 1;
        let key = (at, self.count);
        self.checks.insert(key, checked);
        self.checks
            .first_key_value()
            .is_some_and(|(first, _)| *first == key)
    }

    /// Takes a check that is due.
    fn take_due(&mut self, now: Instant) -> Option<Weak<dyn Checked>> {
        let first = self.checks.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}

/// The task.
struct Running(Arc<Housekeeper>);

impl Running {
    async fn run(self) {
        loop {
            let now = Instant::now();
            loop {
                let Some(due) = self.0.lock().take_due(now) else {
                    break;
                };
                let Some(checked) = due.upgrade() else {
                    continue;
                };
                if let Some(at) = checked.check(now) {
                    // A check that stays due would keep the task from its other checks.
                    let at = at.max(now + std::time::Duration::from_millis(1));
                    self.0.lock().add(at, due);
                }
            }
            let next = {
                let mut queue = self.0.lock();
                let next = queue.checks.first_key_value().map(|((at, _), _)| *at);
                queue.is_running = next.is_some();
                next
            };
            let Some(next) = next else {
                return;
            };
            // Until the next check is due, or the queue has changed.
            let _ = timeout_at(next, self.0.changed.notified()).await;
        }
    }
}

/// The runtime may drop the task. Another runtime then gets a task of its own.
impl Drop for Running {
    fn drop(&mut self) {
        self.0.lock().is_running = false;
    }
}

impl fmt::Debug for Housekeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Housekeeper").finish_non_exhaustive()
    }
}
