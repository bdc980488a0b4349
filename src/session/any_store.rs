//! A session store of any type, called with a time limit.

use std::{panic::AssertUnwindSafe, time::Duration};

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

impl Default for AnyStore {
    fn default() -> Self {
        Self::new(MemoryStore::default())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        future::pending,
        sync::{Arc, Mutex},
        time::SystemTime,
    };

    use tower::service_fn;

    use super::*;
    use crate::session::{Owner, SessionId, UpstreamSessionId};

    const LIMIT: Duration = Duration::from_secs(2);

    fn new(upstream_id: &str) -> NewSession {
        NewSession::new(UpstreamSessionId::new(upstream_id), Owner::ANONYMOUS)
    }

    fn requests() -> [SessionRequest; 5] {
        let id = SessionId::parse("a").unwrap();
        [
            SessionRequest::Lookup(id.clone()),
            SessionRequest::Bind(new("1")),
            SessionRequest::Touch(id.clone()),
            SessionRequest::Rebind(id.clone(), new("1")),
            SessionRequest::Remove(id),
        ]
    }

    type Reports = Arc<Mutex<Vec<(&'static str, &'static str, Duration)>>>;

    fn observed(store: impl SessionStore) -> (AnyStore, Reports) {
        let reports = Reports::default();
        let mut store = AnyStore::new(store);
        let seen = Arc::clone(&reports);
        store.observe(Arc::new(move |operation, result, took| {
            seen.lock().unwrap().push((operation, result, took));
        }));
        (store, reports)
    }

    #[tokio::test(start_paused = true)]
    async fn each_call_is_reported_with_its_operation_result_and_time() {
        async fn results(store: impl SessionStore) -> Vec<(&'static str, &'static str, Duration)> {
            let (store, reports) = observed(store);
            for request in requests() {
                let response = store.ask(request, LIMIT).await;
                let (_, result, _) = *reports.lock().unwrap().last().unwrap();
                assert_eq!(response.is_ok(), result == "ok");
            }
            let reports = reports.lock().unwrap();
            reports.clone()
        }
        let expected = |result, took| {
            let operations = ["lookup", "bind", "touch", "rebind", "remove"];
            operations.map(|operation| (operation, result, took))
        };
        let unknown = service_fn(|_| async { Ok::<_, Infallible>(None) });
        assert_eq!(results(unknown).await, expected("ok", Duration::ZERO));
        let hangs = service_fn(|_| pending::<Result<_, Infallible>>());
        assert_eq!(results(hangs).await, expected("timed_out", LIMIT));
        let fails = service_fn(|_| async { Err::<Option<Session>, _>("down") });
        assert_eq!(results(fails).await, expected("failed", Duration::ZERO));
        let panics = service_fn(|request: SessionRequest| async move {
            match request.operation() {
                "" => Ok::<Option<Session>, Infallible>(None),
                _ => panic!("planned"),
            }
        });
        assert_eq!(results(panics).await, expected("panicked", Duration::ZERO));
        let other = service_fn(|_| async {
            let id = SessionId::parse("b").unwrap();
            let session = Session::new(id, new("2"), SystemTime::now());
            Ok::<_, Infallible>(Some(session))
        });
        assert_eq!(results(other).await, expected("invalid", Duration::ZERO));
    }

    /// The answer to a rebind must have the id and the upstream session of the request.
    #[tokio::test]
    async fn rebound_session_with_another_id_or_upstream_session_is_invalid() {
        for (id, upstream_id, is_valid) in [("a", "1", true), ("a", "2", false), ("b", "1", false)]
        {
            let store = service_fn(move |_| async move {
                let id = SessionId::parse(id).unwrap();
                let session = Session::new(id, new(upstream_id), SystemTime::now());
                Ok::<_, Infallible>(Some(session))
            });
            let request = SessionRequest::Rebind(SessionId::parse("a").unwrap(), new("1"));
            let response = AnyStore::new(store).ask(request, LIMIT).await;
            assert_eq!(response.is_ok(), is_valid, "{id} {upstream_id}");
        }
    }
}
