//! Keeps sessions alive while they have open streams, although no request uses them.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    time::sleep,
};

use super::{AnyStore, Session, SessionRequest, streams::OpenStream};

/// The number of touches in each idle timeout of a session.
const TOUCHES_PER_TIMEOUT: u32 = 3;

/// The minimum time between two touches, for stores with a very short idle timeout.
const MIN_INTERVAL: Duration = Duration::from_millis(10);

/// The touches of one session.
type Job = BoxFuture<'static, ()>;

/// Touches the sessions of all open streams of a layer, in one task. The task starts with the first lease, and ends
/// when the layer and all leases are dropped.
#[derive(Default)]
pub(crate) struct SessionKeepAlive {
    queue: Mutex<Option<mpsc::UnboundedSender<Job>>>,
}

impl SessionKeepAlive {
    /// Counts an open stream of the session and touches the session regularly, until the lease is dropped. With `forget`, the session is
    /// then removed from the store.
    ///
    /// `limit` is the time limit for each call to the store. A failed touch is tried again at the next interval.
    ///
    /// Returns `None` if the store neither counts streams nor has an idle timeout, and `forget` is not set. Outside of a
    /// tokio runtime, the session is neither touched nor removed.
    pub(crate) fn lease(
        &self,
        store: &AnyStore,
        session: &Session,
        forget: bool,
        limit: Duration,
    ) -> Option<SessionLease> {
        let count = session.in_use();
        let job = self.start(store, session, forget, limit);
        (count.is_some() || job.is_some()).then_some(SessionLease {
            _count: count,
            _job: job,
        })
    }

    /// Starts to touch a session. Dropping the returned sender ends the touches and, with `forget`, removes the session.
    fn start(
        &self,
        store: &AnyStore,
        session: &Session,
        forget: bool,
        limit: Duration,
    ) -> Option<oneshot::Sender<()>> {
        let interval = session
            .idle_timeout
            .map(|timeout| (timeout / TOUCHES_PER_TIMEOUT).max(MIN_INTERVAL));
        if interval.is_none() && !forget {
            return None;
        }
        let (lease, mut dropped) = oneshot::channel();
        let (store, id) = (store.clone(), session.id.clone());
        let job = async move {
            loop {
                let next_touch = async {
                    match interval {
                        Some(interval) => sleep(interval).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    _ = &mut dropped => break,
                    () = next_touch => {}
                }
                // An error is ignored: the store may work again at the next touch.
                let _ = store.ask(SessionRequest::Touch(id.clone()), limit).await;
            }
            if forget {
                let _ = store.ask(SessionRequest::Remove(id), limit).await;
            }
        };
        self.run(Box::pin(job))?;
        Some(lease)
    }

    /// Sends the job to the task, and spawns a task if there is none. Returns `None` outside of a tokio runtime.
    fn run(&self, job: Job) -> Option<()> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let job = match &*queue {
            None => job,
            Some(jobs) => match jobs.send(job) {
                Ok(()) => return Some(()),
                // The runtime of the task was shut down.
                Err(error) => error.0,
            },
        };
        let runtime = Handle::try_current().ok()?;
        let (jobs, receiver) = mpsc::unbounded_channel();
        runtime.spawn(run_jobs(receiver));
        jobs.send(job).ok()?;
        *queue = Some(jobs);
        Some(())
    }
}

/// Runs jobs until the layer is dropped and all jobs have ended.
async fn run_jobs(mut queue: mpsc::UnboundedReceiver<Job>) {
    let mut jobs = FuturesUnordered::new();
    loop {
        tokio::select! {
            job = queue.recv() => match job {
                Some(job) => jobs.push(job),
                None => break,
            },
            Some(()) = jobs.next() => {}
        }
    }
    while jobs.next().await.is_some() {}
}

/// Keeps a session alive. Dropping it ends that; see [`SessionKeepAlive::lease`].
pub(crate) struct SessionLease {
    _count: Option<OpenStream>,
    /// Ends the job when it is dropped.
    _job: Option<oneshot::Sender<()>>,
}
