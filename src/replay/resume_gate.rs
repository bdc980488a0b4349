//! The gate of a shared stream: one client at a time asks the upstream to continue it, for all.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::OwnedMutexGuard;

/// Lets one client at a time ask the upstream to continue a shared stream.
#[derive(Default)]
pub(crate) struct ResumeGate {
    lock: Arc<tokio::sync::Mutex<()>>,
    /// The number of requests that failed.
    failures: AtomicU64,
}

impl ResumeGate {
    /// Waits until no other client holds a permit.
    pub(crate) async fn acquire(self: &Arc<Self>) -> ResumePermit {
        if let Ok(guard) = Arc::clone(&self.lock).try_lock_owned() {
            return ResumePermit::new(self, guard, false, false);
        }
        let before = self.failures.load(Ordering::Relaxed);
        let guard = Arc::clone(&self.lock).lock_owned().await;
        let failed = self.failures.load(Ordering::Relaxed) != before;
        ResumePermit::new(self, guard, true, failed)
    }
}

/// The permit to ask the upstream. Dropping it admits the next client. The default permit belongs to no gate.
#[derive(Default)]
pub(crate) struct ResumePermit {
    gate: Option<(Arc<ResumeGate>, OwnedMutexGuard<()>)>,
    /// The client had to wait, because another client held the permit.
    pub(crate) waited: bool,
    /// A request of another client failed during the wait.
    pub(crate) failed: bool,
}

impl ResumePermit {
    fn new(gate: &Arc<ResumeGate>, guard: OwnedMutexGuard<()>, waited: bool, failed: bool) -> Self {
        Self {
            gate: Some((Arc::clone(gate), guard)),
            waited,
            failed,
        }
    }

    /// Records that the request failed: clients that have waited need not repeat it at once.
    pub(crate) fn record_failure(&self) {
        if let Some((gate, _)) = &self.gate {
            gate.failures.fetch_add(1, Ordering::Relaxed);
        }
    }
}
