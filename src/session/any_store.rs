//! A session store of any type, called with a time limit.

use std::{fmt, panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use tower::{BoxError, ServiceExt, util::BoxCloneSyncService};

use super::{MemoryStore, NewSession, Session, SessionRequest, SessionStore};

/// A boxed [`SessionStore`]. A clone calls the same store.
#[derive(Clone)]
pub(crate) struct AnyStore(BoxCloneSyncService<SessionRequest, Option<Session>, BoxError>);

impl AnyStore {
    pub(crate) fn new(store: impl SessionStore) -> Self {
        Self(BoxCloneSyncService::new(store.map_err(Into::into)))
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
        let sent = request.clone();
        // The keep-alive task calls the store for all sessions: a panic must not end it.
        let response = async { self.0.clone().oneshot(request).await };
        let response = AssertUnwindSafe(response).catch_unwind();
        let Ok(response) = tokio::time::timeout(limit, response).await else {
            return Err("the session store took longer than its time limit");
        };
        let response = response.map_err(|_| "the session store panicked")?;
        match response.map_err(|_| "the session store failed")? {
            Some(session) if !session.answers(&sent) => {
                Err("the session store returned a different session than requested")
            }
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
