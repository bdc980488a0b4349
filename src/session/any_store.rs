//! A session store of any type, called with a time limit.

use std::{fmt, panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use tokio::time::Instant;
use tower::{BoxError, ServiceExt, util::BoxCloneSyncService};

use super::{MemoryStore, NewSession, ObserveStore, Session, SessionRequest, SessionStore};

/// A boxed [`SessionStore`]. A clone calls the same store.
#[derive(Clone)]
pub(crate) struct AnyStore {
    store: BoxCloneSyncService<SessionRequest, Option<Session>, BoxError>,
    observe: Option<ObserveStore>,
}

impl AnyStore {
    pub(crate) fn new(store: impl SessionStore) -> Self {
        Self {
            store: BoxCloneSyncService::new(store.map_err(Into::into)),
            observe: None,
        }
    }

    /// Sets the function that gets a report of each call, in place of the previous function.
    pub(crate) fn observe(&mut self, observe: ObserveStore) {
        self.observe = Some(observe);
    }

    /// Sends one request to the store, with a time limit.
    ///
    /// # Errors
    /// The kind of failure, as a text for logs. It does not contain the store's own error, which may contain session ids.
    ///
    /// # Panics
    /// Never. A panic of the store is an error.
    pub(crate) async fn ask(
        &self,
        request: SessionRequest,
        limit: Duration,
    ) -> Result<Option<Session>, &'static str> {
        let operation = request.operation();
        let start = self.observe.as_ref().map(|_| Instant::now());
        let response = self.call(request, limit).await;
        if let (Some(observe), Some(start)) = (&self.observe, start) {
            let result = response.as_ref().err().map_or("ok", StoreFailure::as_str);
            observe(operation, result, start.elapsed());
        }
        response.map_err(|failure| failure.text())
    }

    async fn call(
        &self,
        request: SessionRequest,
        limit: Duration,
    ) -> Result<Option<Session>, StoreFailure> {
        let sent = request.clone();
        // The keep-alive task calls the store for all sessions: a panic must not end it.
        let response = async { self.store.clone().oneshot(request).await };
        let response = AssertUnwindSafe(response).catch_unwind();
        let Ok(response) = tokio::time::timeout(limit, response).await else {
            return Err(StoreFailure::TimedOut);
        };
        let response = response.map_err(|_| StoreFailure::Panicked)?;
        match response.map_err(|_| StoreFailure::Failed)? {
            Some(session) if !session.answers(&sent) => Err(StoreFailure::Invalid),
            response => Ok(response),
        }
    }

    /// Binds a session.
    ///
    /// # Errors
    /// Those of [`ask`](Self::ask), and `None` from the store.
    pub(crate) async fn bind(
        &self,
        new: NewSession,
        limit: Duration,
    ) -> Result<Session, &'static str> {
        let bound = self.ask(SessionRequest::Bind(new), limit).await?;
        bound.ok_or("the session store did not bind a session: it is full, or the upstream session id is too long")
    }
}

/// How a call to a store failed.
#[derive(Clone, Copy)]
enum StoreFailure {
    TimedOut,
    Panicked,
    Failed,
    /// The store answered with another session.
    Invalid,
}

impl StoreFailure {
    /// The label of the failure.
    fn as_str(&self) -> &'static str {
        match self {
            Self::TimedOut => "timed_out",
            Self::Panicked => "panicked",
            Self::Failed => "failed",
            Self::Invalid => "invalid",
        }
    }

    /// The text for logs.
    fn text(self) -> &'static str {
        match self {
            Self::TimedOut => "the session store took longer than its time limit",
            Self::Panicked => "the session store panicked",
            Self::Failed => "the session store failed",
            Self::Invalid => "the session store returned a different session than requested",
        }
    }
}

impl SessionRequest {
    /// The label of the request.
    fn operation(&self) -> &'static str {
        match self {
            Self::Lookup(_) => "lookup",
            Self::Bind(_) => "bind",
            Self::Touch(_) => "touch",
            Self::Rebind(_, _) => "rebind",
            Self::Remove(_) => "remove",
        }
    }
}

impl fmt::Debug for AnyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnyStore").finish_non_exhaustive()
    }
}

impl Default for AnyStore {
    fn default() -> Self {
        Self::new(MemoryStore::default())
    }
}
