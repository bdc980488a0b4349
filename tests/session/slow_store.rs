//! A slow store, and clients that leave while it works: no response of the store reaches another request.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderName, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::time::{sleep, timeout};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_sse_proxy::{
    SseProxyLayer,
    session::{MemoryStore, Session, SessionId, SessionMapping, SessionRequest},
};

const SESSIONS: usize = 500;
const CALLS: usize = 20;

/// The maximum delay of the store. Most clients leave earlier.
const DELAY: Duration = Duration::from_millis(800);
const PATIENCE: Duration = Duration::from_millis(500);

fn up_to(most: Duration) -> Duration {
    most.mul_f64(fastrand::f64())
}

/// A store that works for a random time before and after each operation.
async fn slow(
    mut store: MemoryStore,
    request: SessionRequest,
) -> Result<Option<Session>, Infallible> {
    sleep(up_to(DELAY / 2)).await;
    let session = store.call(request).await;
    sleep(up_to(DELAY / 2)).await;
    session
}

/// An upstream with a session for each owner. Counts the requests that come with the session of another owner.
fn upstream(request: &Request<()>, wrong: &AtomicUsize) -> Response<Full<Bytes>> {
    let owner = request.headers()["authorization"].to_str().unwrap();
    let own = format!("UP-{owner}");
    let session = request.headers().get("x-session");
    if session.is_some_and(|session| *session != own) {
        wrong.fetch_add(1, Ordering::SeqCst);
    }
    let mut response = Response::new(Full::from(owner.to_owned()));
    let own = own.parse().unwrap();
    response.headers_mut().insert("x-session", own);
    response
}

#[tokio::test(start_paused = true)]
async fn r54_answers_of_a_slow_store_stay_with_their_questions() {
    let store = MemoryStore::default().max_sessions_per_owner(10);
    let calls = Arc::<AtomicUsize>::default();
    let (called, slow_store) = (Arc::clone(&calls), store.clone());
    let slow_store = service_fn(move |request| {
        called.fetch_add(1, Ordering::SeqCst);
        slow(slow_store.clone(), request)
    });
    // All requests share one connection to the store, as with a store in another process.
    let slow_store = ServiceBuilder::new().buffer(64).service(slow_store);
    let mapping = SessionMapping::header(HeaderName::from_static("x-session"));
    let layer = SseProxyLayer::new(slow_store).sessions(mapping.end_on_delete_or_404());
    let (wrong, answered) = (Arc::<AtomicUsize>::default(), AtomicUsize::new(0));
    let counted = Arc::clone(&wrong);
    let service = layer.layer(service_fn(move |request: Request<()>| {
        let response = upstream(&request, &counted);
        async { Ok::<_, Infallible>(response) }
    }));
    let (service, answered) = (&service, &answered);
    let clients = (0..SESSIONS).map(|owner| async move {
        let mut known: Option<String> = None;
        for _ in 0..CALLS {
            let deletes = known.is_some() && fastrand::u8(..8) == 0;
            let method = if deletes {
                Method::DELETE
            } else {
                Method::POST
            };
            let mut request = Request::builder().method(method);
            request = request.header("authorization", owner.to_string());
            if let Some(id) = &known {
                request = request.header("x-session", id);
            }
            let answer = service.clone().oneshot(request.body(()).unwrap());
            // The client leaves at a random moment, often while the store works.
            let patience = if fastrand::bool() {
                up_to(PATIENCE)
            } else {
                2 * DELAY
            };
            let Ok(answer) = timeout(patience, answer).await else {
                continue;
            };
            let (head, body) = answer.unwrap().into_parts();
            if head.status == StatusCode::NOT_FOUND {
                // An earlier request, which its client abandoned, has ended the session.
                known = None;
                continue;
            }
            assert_eq!(head.status, StatusCode::OK);
            let body = body.collect().await.unwrap().to_bytes();
            assert_eq!(body, owner.to_string(), "the answer to another client");
            let id = head.headers["x-session"].to_str().unwrap().to_owned();
            let known_before = known.take();
            if !deletes {
                if let Some(before) = known_before {
                    assert_eq!(before, id, "the session of another client");
                }
                known = Some(id);
            }
            answered.fetch_add(1, Ordering::SeqCst);
        }
        (owner, known)
    });
    let known = join_all(clients).await;
    assert_eq!(wrong.load(Ordering::SeqCst), 0);
    // The store answered most calls, and the clients abandoned many.
    let answered = answered.load(Ordering::SeqCst);
    let sent = SESSIONS * CALLS;
    assert!(
        answered > sent / 4 && answered < sent * 3 / 4,
        "{answered} of {sent}"
    );
    assert!(calls.load(Ordering::SeqCst) > answered);
    // Each session is in the store with its own owner and upstream id.
    for (owner, id) in known {
        let Some(id) = id else { continue };
        let lookup = SessionRequest::Lookup(SessionId::parse(&id).unwrap());
        let session = store.clone().call(lookup).await.unwrap();
        let upstream = session.map(|session| session.upstream_id.as_str().to_owned());
        assert!(upstream.is_none_or(|upstream| upstream == format!("UP-{owner}")));
    }
}
