//! A session store of any type, called with a time limit.

use std::{fmt, panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use tower::{BoxError, ServiceExt, util::BoxCloneSyncService};

use super::{MemoryStore, NewSession, Session, SessionRequest, SessionStore};

/// A store, whichever it is.
#[derive(Clone)]
pub(crate) struct AnyStore(BoxCloneSyncService<SessionRequest, Option<Session>, BoxError>);

impl AnyStore {
    pub(crate) fn new(store: impl SessionStore) -> Self {
        Self(BoxCloneSyncService::new(store.map_err(Into::into)))
    }

    /// Asks once, for so long. The error says what happened, not what the store says of it: that may tell of ids.
    pub(crate) async fn ask(
        &self,
        request: SessionRequest,
        limit: Duration,
    ) -> Result<Option<Session>, &'static str> {
        let asked = request.clone();
        // Other streams and requests share the task that asks.
        let answer = async { self.0.clone().oneshot(request).await };
        let answer = AssertUnwindSafe(answer).catch_unwind();
        let Ok(answer) = tokio::time::timeout(limit, answer).await else {
            return Err("the session store took longer than its time limit");
        };
        let answer = answer.map_err(|_| "the session store panicked")?;
        match answer.map_err(|_| "the session store failed")? {
            Some(session) if !session.answers(&asked) => {
                Err("the session store answered with another session")
            }
            answer => Ok(answer),
        }
    }

    /// Binds a session, as [`ask`](Self::ask) does.
    pub(crate) async fn bind(
        &self,
        new: NewSession,
        limit: Duration,
    ) -> Result<Session, &'static str> {
        let bound = self.ask(SessionRequest::Bind(new), limit).await?;
        bound.ok_or("the session store did not bind a session: it is full, or what the upstream calls it is too long")
    }
}

impl fmt::Debug for AnyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionStore").finish_non_exhaustive()
    }
}

impl Default for AnyStore {
    fn default() -> Self {
        Self::new(MemoryStore::default())
    }
}
