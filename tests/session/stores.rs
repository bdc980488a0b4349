//! Each store of the crate passes `session::testing`, alone and wrapped in tower's middleware.

use std::{
    future::{Ready, ready},
    time::Duration,
};

use tower::{
    BoxError, ServiceBuilder, ServiceExt, buffer::BufferLayer, retry::Policy, service_fn,
    util::BoxCloneSyncService,
};
use tower_sse_proxy::session::{
    MemoryStore, SealedKey, SealedStore, Session, SessionRequest, SessionStore, testing,
};

#[tokio::test(start_paused = true)]
async fn memory_store_passes() {
    let store = MemoryStore::default();
    testing::core(store.clone()).await;
    testing::stateful(store.clone()).await;
    testing::rebinding(store.clone()).await;
    testing::idle_timeout(store, tokio::time::advance).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_store_passes_concurrent_runs() {
    let store = MemoryStore::default();
    let mut runs = Vec::new();
    for _ in 0..4 {
        runs.push(tokio::spawn(testing::core(store.clone())));
        runs.push(tokio::spawn(testing::stateful(store.clone())));
    }
    for run in runs {
        run.await.unwrap();
    }
}

#[tokio::test]
async fn memory_store_in_tower_middleware_passes() {
    let [a, b, c, d, e, f] = [(); 6].map(|()| MemoryStore::default());
    testing::stateful(boxed(timed(a))).await;
    testing::stateful(boxed(limited(b))).await;
    testing::stateful(boxed(retried(c))).await;
    testing::stateful(boxed(buffered(d))).await;
    testing::stateful(boxed(as_function(e))).await;
    testing::stateful(boxed(buffered(timed(limited(retried(as_function(f))))))).await;
    wrapped(MemoryStore::default()).await;
}

#[tokio::test]
async fn sealed_store_passes() {
    let store = SealedStore::new(SealedKey::generate());
    testing::core(store.clone()).await;
    testing::core(store.decryption_key(SealedKey::generate())).await;
}

#[tokio::test]
async fn sealed_store_in_tower_middleware_passes() {
    wrapped(SealedStore::new(SealedKey::generate())).await;
}

/// Runs the core tests with each middleware, and with all of them together.
async fn wrapped(store: impl SessionStore) {
    testing::core(boxed(timed(store.clone()))).await;
    testing::core(boxed(limited(store.clone()))).await;
    testing::core(boxed(retried(store.clone()))).await;
    testing::core(boxed(buffered(store.clone()))).await;
    testing::core(boxed(as_function(store.clone()))).await;
    testing::core(boxed(buffered(timed(limited(retried(as_function(store))))))).await;
}

/// One type for all stores, so that the compiler instantiates the requirements once. The error is the one that tower's buffer needs.
type Store = BoxCloneSyncService<SessionRequest, Option<Session>, BoxError>;

fn boxed(store: impl SessionStore) -> Store {
    BoxCloneSyncService::new(store.map_err(Into::into))
}

fn timed(store: impl SessionStore) -> impl SessionStore {
    let limit = Duration::from_secs(5);
    ServiceBuilder::new().timeout(limit).service(boxed(store))
}

fn limited(store: impl SessionStore) -> impl SessionStore {
    ServiceBuilder::new().concurrency_limit(3).service(store)
}

fn retried(store: impl SessionStore) -> impl SessionStore {
    ServiceBuilder::new().retry(Retry(2)).service(store)
}

fn buffered(store: impl SessionStore) -> impl SessionStore {
    let buffer = BufferLayer::new(8);
    ServiceBuilder::new().layer(buffer).service(boxed(store))
}

fn as_function(store: impl SessionStore) -> impl SessionStore {
    service_fn(move |request| store.clone().oneshot(request))
}

/// Retries a failed request this many times.
#[derive(Clone)]
struct Retry(usize);

impl<Res, E> Policy<SessionRequest, Res, E> for Retry {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut SessionRequest, result: &mut Result<Res, E>) -> Option<Ready<()>> {
        self.0 = self.0.checked_sub(result.is_err().then_some(1)?)?;
        Some(ready(()))
    }

    fn clone_request(&mut self, request: &SessionRequest) -> Option<SessionRequest> {
        Some(request.clone())
    }
}
