//! The session store of a layer, together with what each call to it needs.

use std::{sync::Arc, time::Duration};

use super::{
    AnyStore, NewSession, Owner, Session, SessionKeepAlive, SessionLease, SessionRequest,
    UpstreamKey, UpstreamSessionId,
};

/// Looks up, binds and leases sessions for one request and its response.
///
/// It is the only part of the layer's state that the code for session ids needs. A clone is cheap and uses the same store.
///
/// The errors of its methods say what happened, without the store's own error, which may contain session ids. They are for logs
/// and for the cause of a body error, not for the client.
#[derive(Clone)]
pub(crate) struct SessionBinder {
    store: AnyStore,
    keep_alive: Arc<SessionKeepAlive>,
    timeout: Duration,
}

impl SessionBinder {
    /// `timeout` limits each call to the store ([`SessionMapping::store_timeout`](super::SessionMapping::store_timeout)).
    pub(crate) fn new(
        store: AnyStore,
        keep_alive: Arc<SessionKeepAlive>,
        timeout: Duration,
    ) -> Self {
        Self {
            store,
            keep_alive,
            timeout,
        }
    }

    /// Binds an upstream session id to a client session id, and returns the session. If the same owner has bound this id of this
    /// upstream before, that is the existing session.
    ///
    /// # Errors
    /// The store failed, panicked, timed out, answered with a different session, or has no room for the session.
    ///
    /// # Cancellation
    /// If the future is dropped early, the store may have bound the session or not. The next call finds it if it did.
    pub(crate) async fn bind(
        &self,
        id: UpstreamSessionId,
        owner: Owner,
        upstream: Option<UpstreamKey>,
    ) -> Result<Session, &'static str> {
        let new = NewSession::new(id, owner).with_upstream(upstream);
        self.store.bind(new, self.timeout).await
    }

    /// Sends one request to the store.
    ///
    /// # Errors
    /// The store failed, panicked, timed out, or answered with a different session. An unknown session is no error, but `None`.
    pub(crate) async fn ask(
        &self,
        request: SessionRequest,
    ) -> Result<Option<Session>, &'static str> {
        self.store.ask(request, self.timeout).await
    }

    /// Counts a stream of the session and touches the session regularly, until the lease is dropped. With `forget`, dropping the
    /// lease also removes the session from the store.
    ///
    /// `None` if the store neither counts streams nor has an idle timeout, and `forget` is not set: then nothing is to be done.
    pub(crate) fn lease(&self, session: &Session, forget: bool) -> Option<SessionLease> {
        let Self {
            store,
            keep_alive,
            timeout,
        } = self;
        keep_alive.lease(store, session, forget, *timeout)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tokio::{sync::mpsc, time::advance};
    use tower::service_fn;

    use super::{super::MemoryStore, *};

    const TIMEOUT: Duration = Duration::from_secs(2);

    fn binder(store: impl super::super::SessionStore) -> SessionBinder {
        SessionBinder::new(AnyStore::new(store), Arc::default(), TIMEOUT)
    }

    fn upstream_id() -> UpstreamSessionId {
        UpstreamSessionId::new("upstream-1")
    }

    fn node(name: &str) -> Option<UpstreamKey> {
        Some(UpstreamKey::new(name))
    }

    #[tokio::test]
    async fn bind_returns_the_same_session_for_the_same_id_owner_and_upstream() {
        let binder = binder(MemoryStore::default());
        let session = binder.bind(upstream_id(), Owner::ANONYMOUS, node("a"));
        let session = session.await.unwrap();
        assert_eq!(session.upstream_id, upstream_id());
        assert_eq!(session.upstream, node("a"));
        assert_eq!(session.owner, Owner::ANONYMOUS);

        let again = binder.bind(upstream_id(), Owner::ANONYMOUS, node("a"));
        assert_eq!(again.await.unwrap().id, session.id);
        let elsewhere = binder.bind(upstream_id(), Owner::ANONYMOUS, node("b"));
        assert_ne!(elsewhere.await.unwrap().id, session.id);
        let other_owner = binder.bind(upstream_id(), Owner::from_bytes([1; 32]), node("a"));
        assert_ne!(other_owner.await.unwrap().id, session.id);
    }

    #[tokio::test]
    async fn ask_finds_a_bound_session_until_it_is_removed() {
        let binder = binder(MemoryStore::default());
        let session = binder.bind(upstream_id(), Owner::ANONYMOUS, None);
        let id = session.await.unwrap().id;
        let found = binder.ask(SessionRequest::Lookup(id.clone())).await;
        assert_eq!(found.unwrap().unwrap().id, id);
        let removed = binder.ask(SessionRequest::Remove(id.clone())).await;
        assert_eq!(removed.unwrap().unwrap().id, id);
        assert_eq!(binder.ask(SessionRequest::Lookup(id)).await, Ok(None));
    }

    #[tokio::test]
    async fn bind_reports_a_store_that_is_full() {
        let full = service_fn(async |_| Ok::<_, Infallible>(None));
        let error = binder(full)
            .bind(upstream_id(), Owner::ANONYMOUS, None)
            .await;
        assert!(
            error
                .unwrap_err()
                .contains("the session store did not bind a session")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_to_a_store_that_hangs_ends_at_the_timeout() {
        let hangs = service_fn(async |_| std::future::pending::<Result<_, Infallible>>().await);
        let start = tokio::time::Instant::now();
        let error = binder(hangs)
            .bind(upstream_id(), Owner::ANONYMOUS, None)
            .await;
        assert!(error.unwrap_err().contains("time limit"));
        assert_eq!(start.elapsed(), TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_touches_the_session_and_removes_it_when_dropped() {
        let (seen, mut requests) = mpsc::unbounded_channel();
        let memory = MemoryStore::default().idle_timeout(Duration::from_secs(30));
        let store = service_fn(move |request: SessionRequest| {
            let _ = seen.send(request.clone());
            tower::ServiceExt::oneshot(memory.clone(), request)
        });
        let binder = binder(store);
        let session = binder
            .bind(upstream_id(), Owner::ANONYMOUS, None)
            .await
            .unwrap();
        assert!(matches!(
            requests.recv().await,
            Some(SessionRequest::Bind(_))
        ));

        let lease = binder.lease(&session, true).unwrap();
        advance(Duration::from_secs(10)).await;
        let touched = requests.recv().await;
        assert_eq!(touched, Some(SessionRequest::Touch(session.id.clone())));
        drop(lease);
        let removed = requests.recv().await;
        assert_eq!(removed, Some(SessionRequest::Remove(session.id)));
    }

    #[tokio::test]
    async fn there_is_no_lease_if_the_store_needs_none() {
        let binder = binder(service_fn(async |_| Ok::<_, Infallible>(None)));
        let new = NewSession::new(upstream_id(), Owner::ANONYMOUS);
        let id = super::super::SessionId::random();
        let session = Session::new(id, new, std::time::SystemTime::now());
        assert!(binder.lease(&session, false).is_none());
        assert!(binder.lease(&session, true).is_some());
    }
}
