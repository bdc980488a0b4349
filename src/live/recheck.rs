//! Checks again and again whether the client of a stream may still read it.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::FutureExt;
use http::{Request, StatusCode, request};
use tokio::time::{Instant, timeout};
use tower::{BoxError, ServiceExt, util::BoxCloneSyncService};
use tower_service::Service;

use super::{
    housekeeper::{Checked, Housekeeper},
    jitter::shortened,
};
use crate::observe::{LiveStream, WatchdogKind};

/// The longest time that the service may take for one check.
const MAX_TIME: Duration = Duration::from_secs(10);

/// The checks without an answer, in a row, after which a stream ends.
const MAX_FAILURES: u32 = 3;

type CheckService = BoxCloneSyncService<Request<()>, StatusCode, BoxError>;

/// The settings: the service that decides, and the time between two checks.
#[derive(Clone)]
pub(super) struct Recheck {
    service: CheckService,
    every: Duration,
}

impl Recheck {
    pub(super) fn new<S>(service: S, every: Duration) -> Self
    where
        S: Service<Request<()>, Response = StatusCode> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
    {
        let every = if every.is_zero() {
            Duration::from_secs(1)
        } else {
            every
        };
        let service = tower::util::MapErr::new(service, Into::into);
        Self {
            service: BoxCloneSyncService::new(service),
            every,
        }
    }

    /// Checks a stream until it is closed.
    pub(super) fn start(
        &self,
        live: &Arc<LiveStream>,
        client: &Arc<request::Parts>,
        acts: bool,
        housekeeper: &Arc<Housekeeper>,
    ) {
        let Some(at) = Instant::now().checked_add(shortened(self.every)) else {
            // A time that is too far away for the clock: no check.
            return;
        };
        let checked = Arc::new_cyclic(|this| CheckedStream {
            this: Weak::clone(this),
            live: Arc::downgrade(live),
            client: Arc::clone(client),
            recheck: self.clone(),
            acts,
            next: Mutex::new(at),
            is_asking: AtomicBool::new(false),
            failures: AtomicU32::new(0),
        });
        let weak: Weak<CheckedStream> = Arc::downgrade(&checked);
        live.keep(checked);
        housekeeper.schedule(at, weak);
    }
}

/// One stream that is checked.
struct CheckedStream {
    this: Weak<Self>,
    live: Weak<LiveStream>,
    client: Arc<request::Parts>,
    recheck: Recheck,
    acts: bool,
    /// The time of the next check.
    next: Mutex<Instant>,
    is_asking: AtomicBool,
    /// Checks without an answer since the last answer.
    failures: AtomicU32,
}

impl Checked for CheckedStream {
    fn check(&self, now: Instant) -> Option<Instant> {
        let live = self.live.upgrade().filter(|live| !live.is_closed())?;
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if now < *next {
            return Some(*next);
        }
        *next = now.checked_add(shortened(self.recheck.every))?;
        if !self.is_asking.swap(true, Relaxed)
            && let Some(this) = self.this.upgrade()
        {
            // A task, because the service may take long, and other checks are due.
            tokio::spawn(async move {
                let may_read = this.ask().await;
                this.is_asking.store(false, Relaxed);
                if !may_read && !live.is_closed() {
                    live.watchdog_fired(WatchdogKind::Recheck, this.acts);
                    if this.acts {
                        live.end_with(WatchdogKind::Recheck.outcome());
                    }
                }
            });
        }
        Some(*next)
    }
}

impl CheckedStream {
    /// Asks the service whether the client may still read the stream.
    async fn ask(&self) -> bool {
        // Cloned and called inside of the future, where a panic is caught.
        let answer = async {
            let request = Request::from_parts((*self.client).clone(), ());
            self.recheck.service.clone().oneshot(request).await
        };
        let answer = AssertUnwindSafe(answer).catch_unwind();
        let why = match timeout(MAX_TIME.min(self.recheck.every), answer).await {
            Ok(Ok(Ok(status))) if !status.is_informational() => {
                self.failures.store(0, Relaxed);
                return status.is_success();
            }
            Ok(Ok(Ok(status))) => format!("it returned status {status}, which is not final"),
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(_)) => "it panicked".to_owned(),
            Err(_) => "it took too long".to_owned(),
        };
        tracing::warn!("the service that checks open streams again failed: {why}");
        self.failures.fetch_add(1, Relaxed) + 1 < MAX_FAILURES
    }
}
