//! Turns: of those who share a stream, one asks the upstream to go on, for all.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::OwnedMutexGuard;

/// Who asks the upstream to go on, of those who share a stream.
#[derive(Default)]
pub(crate) struct ResumeGate {
    one: Arc<tokio::sync::Mutex<()>>,
    /// How often the upstream was asked in vain.
    failed: AtomicU64,
}

impl ResumeGate {
    /// Waits until nobody else has a turn.
    pub(crate) async fn acquire(self: &Arc<Self>) -> ResumePermit {
        if let Ok(held) = Arc::clone(&self.one).try_lock_owned() {
            return ResumePermit::new(self, held, false, false);
        }
        let before = self.failed.load(Ordering::Relaxed);
        let held = Arc::clone(&self.one).lock_owned().await;
        let failed = self.failed.load(Ordering::Relaxed) != before;
        ResumePermit::new(self, held, true, failed)
    }
}

/// It is its holder's turn to ask the upstream to go on, until this is dropped.
#[derive(Default)]
pub(crate) struct ResumePermit {
    turns: Option<(Arc<ResumeGate>, OwnedMutexGuard<()>)>,
    /// Somebody else has had a turn before.
    pub(crate) waited: bool,
    /// In vain.
    pub(crate) failed: bool,
}

impl ResumePermit {
    fn new(turns: &Arc<ResumeGate>, held: OwnedMutexGuard<()>, waited: bool, failed: bool) -> Self {
        Self {
            turns: Some((Arc::clone(turns), held)),
            waited,
            failed,
        }
    }

    /// The upstream was asked in vain: those who have waited need not ask it again at once.
    pub(crate) fn record_failure(&self) {
        if let Some((turns, _)) = &self.turns {
            turns.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}
