//! Session stores that fail, hang or give wrong answers.

use std::{
    convert::Infallible,
    future::pending,
    time::{Duration, SystemTime},
};

use crate::proxy::{Proxy, by_header, header, opens_session, post, text, with_store};
use crate::support::{Script, event_stream, rest};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_sse_proxy::{
    ErrorKind, SseProxyLayer,
    session::{
        NewSession, Owner, Session, SessionId, SessionMapping, SessionRequest, UpstreamSessionId,
    },
};

#[tokio::test(start_paused = true)]
async fn faulty_store_gives_503_and_does_not_affect_other_paths() {
    let hung = Proxy::new(
        with_store(|_| pending::<Result<_, Infallible>>()),
        opens_session,
    );
    let failing = Proxy::new(
        with_store(|_| async { Err::<Option<Session>, _>("UP-1 is secret") }),
        opens_session,
    );
    let full = Proxy::new(
        with_store(|_| async { Ok::<_, Infallible>(None) }),
        opens_session,
    );
    let panicking = Proxy::new(
        with_store(|request| async move {
            panic!("request {request:?}");
            #[allow(unreachable_code, reason = "the type of the answer")]
            Ok::<_, Infallible>(None)
        }),
        opens_session,
    );
    // A store that answers with the session of another request.
    let mixing = Proxy::new(
        with_store(|request| async move {
            let session = match request {
                SessionRequest::Bind(new) => {
                    NewSession::new(UpstreamSessionId::new("UP-2"), new.owner)
                }
                _ => NewSession::new(UpstreamSessionId::new("UP-1"), Owner::ANONYMOUS),
            };
            let session = Session::new(SessionId::random(), session, SystemTime::now());
            Ok::<_, Infallible>(Some(session))
        }),
        opens_session,
    );
    for (proxy, answers_lookups) in [
        (hung, false),
        (failing, false),
        (full, true),
        (panicking, false),
        (mixing, false),
    ] {
        let begun = tokio::time::Instant::now();
        let response = proxy.send(post("/")).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(header(&response, "x-session"), None);
        assert!(!text(response).await.contains("UP-1"));
        assert!(begun.elapsed() <= Duration::from_secs(2));
        let response = proxy.send(post("/").header("x-session", "some")).await;
        let expected = if answers_lookups {
            StatusCode::NOT_FOUND
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        assert_eq!(response.status(), expected);
        assert_eq!(
            proxy.requests.count(),
            1,
            "the upstream got a second request"
        );
        assert_eq!(proxy.send(post("/free")).await.status(), StatusCode::OK);
    }
}

#[tokio::test(start_paused = true)]
async fn request_that_waits_for_the_store_holds_no_permit() {
    let upstream = ServiceBuilder::new()
        .concurrency_limit(1)
        .service(service_fn(|request: Request<()>| async move {
            Ok::<_, Infallible>(opens_session(&request))
        }));
    let mut proxy = with_store(|_| pending::<Result<_, Infallible>>()).layer(upstream);
    let waiting = post("/").header("x-session", "some").body(()).unwrap();
    let waiting = proxy.ready().await.unwrap().call(waiting);
    let mut waiting = Box::pin(waiting);
    assert!(futures_util::poll!(&mut waiting).is_pending());
    // The next request gets the only permit.
    let free = proxy.clone().oneshot(post("/free").body(()).unwrap());
    let free = crate::support::soon(free).await.unwrap();
    assert_eq!(free.status(), StatusCode::OK);
    drop(free);
    assert_eq!(
        waiting.await.unwrap().status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
}

#[tokio::test]
async fn service_of_a_session_request_is_ready_before_the_call() {
    // The mock service panics if it is called before it is ready.
    let (service, mut handle) = tower_test::mock::pair::<Request<()>, Response<Full<Bytes>>>();
    let answer = tokio::spawn(
        by_header()
            .layer(service)
            .oneshot(post("/").body(()).unwrap()),
    );
    handle.allow(1);
    let (request, respond) = handle.next_request().await.unwrap();
    respond.send_response(opens_session(&request));
    assert_eq!(answer.await.unwrap().unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn store_failure_inside_a_stream_cuts_it() {
    let layer = SseProxyLayer::new(service_fn(|_| async { Err::<Option<Session>, _>("no") }))
        .sessions(SessionMapping::none().in_endpoint());
    let stream = Script::of(["data: 1\n\nevent: endpoint\ndata: /messages\n\n"]);
    let response = crate::support::respond(
        &layer,
        Request::get("/sse").body(()).unwrap(),
        event_stream(stream),
    )
    .await;
    let (seen, failed) = rest(response.into_body()).await;
    assert_eq!((&*seen, failed), ("data: 1\n\n", Some(ErrorKind::Session)));
}
