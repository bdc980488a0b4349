//! The one task of a layer that checks streams at times of their own.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{Instant, timeout_at},
};

/// The longest time between two checks. A stream that has ended is found, and its memory freed, by its next check.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// The shortest time between two checks of a stream: one that is always due would keep the task from the others.
const MIN_PAUSE: Duration = Duration::from_millis(1);

/// Something that is checked at certain times.
pub(crate) trait Checked: Send + Sync {
    /// Runs the checks that are due. Returns the time of the next check, or `None` if there is none.
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
    /// Checks `checked` at this time at the latest, and then whenever it asks for it, until it is dropped. Outside of a tokio runtime
    /// nothing is checked.
    pub(crate) fn schedule(self: &Arc<Self>, at: Instant, checked: Weak<dyn Checked>) {
        let at = at.min(Instant::now() + MAX_PAUSE);
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
            let running = Running {
                housekeeper: Arc::clone(self),
                is_over: false,
            };
            runtime.spawn(running.run());
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
struct Running {
    housekeeper: Arc<Housekeeper>,
    /// The task has ended. From then on, another one may run.
    is_over: bool,
}

impl Running {
    async fn run(mut self) {
        loop {
            let now = Instant::now();
            loop {
                let Some(due) = self.housekeeper.lock().take_due(now) else {
                    break;
                };
                let Some(checked) = due.upgrade() else {
                    continue;
                };
                if let Some(at) = checked.check(now) {
                    let at = at.clamp(now + MIN_PAUSE, now + MAX_PAUSE);
                    self.housekeeper.lock().add(at, due);
                }
            }
            let next = {
                let mut queue = self.housekeeper.lock();
                let next = queue.checks.first_key_value().map(|((at, _), _)| *at);
                queue.is_running = next.is_some();
                self.is_over = next.is_none();
                next
            };
            let Some(next) = next else {
                return;
            };
            // Until the next check is due, or the queue has changed.
            let _ = timeout_at(next, self.housekeeper.changed.notified()).await;
        }
    }
}

/// The runtime may drop the task. Another runtime then gets a new task.
impl Drop for Running {
    fn drop(&mut self) {
        if !self.is_over {
            self.housekeeper.lock().is_running = false;
        }
    }
}

impl fmt::Debug for Housekeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Housekeeper").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use tokio::time::sleep;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Is checked again after this time, and counts the checks.
    struct Every(Duration, AtomicU32);

    impl Checked for Every {
        fn check(&self, now: Instant) -> Option<Instant> {
            self.1.fetch_add(1, Relaxed);
            Some(now + self.0)
        }
    }

    fn every(time: Duration) -> Arc<Every> {
        Arc::new(Every(time, AtomicU32::new(0)))
    }

    fn schedule(housekeeper: &Arc<Housekeeper>, at: Duration, checked: &Arc<Every>) {
        let weak: Weak<Every> = Arc::downgrade(checked);
        housekeeper.schedule(Instant::now() + at, weak);
    }

    #[tokio::test(start_paused = true)]
    async fn check_that_comes_earlier_than_all_others_is_in_time() {
        let housekeeper = Arc::<Housekeeper>::default();
        let (slow, fast) = (every(20 * SECOND), every(SECOND));
        schedule(&housekeeper, 20 * SECOND, &slow);
        sleep(5 * SECOND).await;
        schedule(&housekeeper, SECOND, &fast);
        sleep(SECOND + SECOND / 2).await;
        assert_eq!((slow.1.load(Relaxed), fast.1.load(Relaxed)), (0, 1));
        sleep(20 * SECOND).await;
        assert_eq!((slow.1.load(Relaxed), fast.1.load(Relaxed)), (1, 21));
    }

    #[tokio::test(start_paused = true)]
    async fn stream_that_has_ended_leaves_the_queue_long_before_its_limit() {
        let housekeeper = Arc::<Housekeeper>::default();
        for _ in 0..100 {
            let ended = every(SECOND);
            schedule(&housekeeper, 3600 * SECOND, &ended);
        }
        assert_eq!(housekeeper.lock().checks.len(), 100);
        sleep(MAX_PAUSE + SECOND).await;
        assert!(housekeeper.lock().checks.is_empty());
        assert!(!housekeeper.lock().is_running);
        // The next stream starts the task again.
        let next = every(SECOND);
        schedule(&housekeeper, SECOND, &next);
        sleep(2 * SECOND + SECOND / 2).await;
        assert_eq!(next.1.load(Relaxed), 2);
    }

    #[test]
    fn task_of_another_runtime_continues_after_the_first_one_has_ended() {
        let housekeeper = Arc::<Housekeeper>::default();
        let checked = every(Duration::from_millis(1));
        for round in 1..=2 {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(async {
                schedule(&housekeeper, Duration::ZERO, &checked);
                sleep(SECOND).await;
            });
            drop(runtime);
            assert!(!housekeeper.lock().is_running);
            assert!(checked.1.load(Relaxed) > round * 500, "{round}");
        }
    }
}
