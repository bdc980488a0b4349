//! Reports the progress of open streams, and the memory of logs, to the observers at regular intervals.

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{
            AtomicBool, AtomicI64,
            Ordering::{Relaxed, SeqCst},
        },
    },
};

use tokio::time::Instant;

use crate::{
    live::{Checked, Housekeeper},
    observe::{LiveStreams, Observers, StreamObserver},
    replay::RecordedStreams,
};

/// Reports the progress of the open streams of a layer, while there are any, and the memory of its logs, while they hold any.
///
/// The streams only count: a report in the poll that moves events would cost more, and would miss the events before a silence.
pub(crate) struct ProgressReports {
    live: Arc<LiveStreams>,
    recorded: Arc<RecordedStreams>,
    observers: Observers,
    is_scheduled: AtomicBool,
    /// The memory of the logs that was last reported to the observers.
    log_bytes: AtomicI64,
}

impl ProgressReports {
    pub(crate) fn new(
        live: &Arc<LiveStreams>,
        recorded: &Arc<RecordedStreams>,
        observers: &Observers,
    ) -> Self {
        Self {
            live: Arc::clone(live),
            recorded: Arc::clone(recorded),
            observers: observers.clone(),
            is_scheduled: AtomicBool::new(false),
            log_bytes: AtomicI64::new(0),
        }
    }

    /// Starts the reports, if an observer wants them. Called after each stream that has opened.
    pub(crate) fn start(self: &Arc<Self>, housekeeper: &Arc<Housekeeper>) {
        let Some(interval) = self.observers.progress_interval() else {
            return;
        };
        if self.is_scheduled.swap(true, SeqCst) {
            housekeeper.resume();
            return;
        }
        let this: Weak<Self> = Arc::downgrade(self);
        housekeeper.schedule(Instant::now() + interval, this);
    }

    fn report_log_bytes(&self, bytes: i64) {
        let change = bytes - self.log_bytes.swap(bytes, Relaxed);
        if change != 0 {
            self.each_observer(|observer| observer.log_bytes(change));
        }
    }

    /// Calls each observer that wants reports.
    fn each_observer(&self, report: impl Fn(&dyn StreamObserver)) {
        self.observers.each(|observer| {
            if observer.progress_interval().is_some() {
                report(observer);
            }
        });
    }
}

impl Checked for ProgressReports {
    fn check(&self, now: Instant) -> Option<Instant> {
        let interval = self.observers.progress_interval()?;
        for stream in self.live.all() {
            stream.report_progress();
        }
        let log_bytes = i64::try_from(self.recorded.log_bytes()).unwrap_or(i64::MAX);
        self.report_log_bytes(log_bytes);
        if log_bytes > 0 {
            let lag = self.recorded.log_lag(now);
            self.each_observer(|observer| observer.log_lag(lag));
        }
        if log_bytes == 0 && self.live.len() == 0 {
            self.is_scheduled.store(false, SeqCst);
            // A stream that opened before the flag was cleared has not scheduled a check, so this one continues.
            if self.live.len() == 0 || self.is_scheduled.swap(true, SeqCst) {
                return None;
            }
        }
        Some(now + interval)
    }
}

impl Drop for ProgressReports {
    fn drop(&mut self) {
        self.report_log_bytes(0);
    }
}

impl fmt::Debug for ProgressReports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProgressReports").finish_non_exhaustive()
    }
}
