//! What is to be done about sessions while nobody asks for them.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    time::sleep,
};

use crate::session::{AnyStore, Session, SessionRequest, streams::OpenStream};

/// A stream touches its session so many times in the time that the session may be idle.
const TOUCHES: u32 = 3;

/// But no more often than this, whatever a store makes of that time.
const SHORTEST: Duration = Duration::from_millis(10);

/// One task for all streams of a layer. It runs while there are any.
#[derive(Default)]
pub(crate) struct SessionKeepAlive {
    task: Mutex<Option<mpsc::UnboundedSender<BoxFuture<'static, ()>>>>,
}

impl SessionKeepAlive {
    /// Counts an open stream of a session and keeps the session alive until the lease is dropped. Then the session is forgotten,
    /// if told so.
    ///
    /// There is none where there is nothing to do.
    pub(crate) fn lease(
        &self,
        store: &AnyStore,
        session: &Session,
        forget: bool,
        limit: Duration,
    ) -> Option<SessionLease> {
        let counted = session.in_use();
        let task = self.touch(store, session, forget, limit);
        (counted.is_some() || task.is_some()).then_some(SessionLease {
            _counted: counted,
            _closes: task,
        })
    }

    /// Starts to touch a session. The task stops, and forgets the session if told so, when the returned sender is dropped.
    fn touch(
        &self,
        store: &AnyStore,
        session: &Session,
        forget: bool,
        limit: Duration,
    ) -> Option<oneshot::Sender<()>> {
        let interval = session
            .idle_timeout
            .map(|timeout| (timeout / TOUCHES).max(SHORTEST));
        if interval.is_none() && !forget {
            return None;
        }
        let (lease, mut closed) = oneshot::channel();
        let (store, id) = (store.clone(), session.id.clone());
        let kept = async move {
            loop {
                let pause = async {
                    match interval {
                        Some(interval) => sleep(interval).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    _ = &mut closed => break,
                    () = pause => {}
                }
                // A store that fails now may not when it is asked again.
                let _ = store.ask(SessionRequest::Touch(id.clone()), limit).await;
            }
            if forget {
                let _ = store.ask(SessionRequest::Remove(id), limit).await;
            }
        };
        self.run(Box::pin(kept))?;
        Some(lease)
    }

    fn run(&self, job: BoxFuture<'static, ()>) -> Option<()> {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        let job = match &*task {
            None => job,
            Some(running) => match running.send(job) {
                Ok(()) => return Some(()),
                // Its runtime is gone.
                Err(back) => back.0,
            },
        };
        let runtime = Handle::try_current().ok()?;
        let (jobs, queue) = mpsc::unbounded_channel();
        runtime.spawn(work(queue));
        jobs.send(job).ok()?;
        *task = Some(jobs);
        Some(())
    }
}

async fn work(mut queue: mpsc::UnboundedReceiver<BoxFuture<'static, ()>>) {
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

/// A stream's hold on its session.
pub(crate) struct SessionLease {
    _counted: Option<OpenStream>,
    _closes: Option<oneshot::Sender<()>>,
}

impl fmt::Debug for SessionKeepAlive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").finish_non_exhaustive()
    }
}

impl fmt::Debug for SessionLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").finish_non_exhaustive()
    }
}
