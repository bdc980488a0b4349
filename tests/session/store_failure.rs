//! A store that fails, hangs or answers wrongly.

use std::{
    convert::Infallible,
    future::pending,
    time::{Duration, SystemTime},
};

use crate::proxy::{Proxy, ask, by_header, header, opens, stored, text};
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
async fn a_store_that_does_not_keep_its_promises_is_a_503_and_nobody_elses_trouble() {
    let hung = Proxy::new(stored(|_| pending::<Result<_, Infallible>>()), opens);
    let failing = Proxy::new(
        stored(|_| async { Err::<Option<Session>, _>("UP-1 is secret") }),
        opens,
    );
    let full = Proxy::new(stored(|_| async { Ok::<_, Infallible>(None) }), opens);
    let panicking = Proxy::new(
        stored(|request| async move {
            panic!("asked for {request:?}");
            #[allow(unreachable_code, reason = "says of what type the answer would be")]
            Ok::<_, Infallible>(None)
        }),
        opens,
    );
    // Each gets what another one has asked for.
    let mixing = Proxy::new(
        stored(|request| async move {
            let whose = match request {
                SessionRequest::Bind(new) => {
                    NewSession::new(UpstreamSessionId::new("UP-2"), new.owner)
                }
                _ => NewSession::new(UpstreamSessionId::new("UP-1"), Owner::ANONYMOUS),
            };
            let session = Session::new(SessionId::random(), whose, SystemTime::now());
            Ok::<_, Infallible>(Some(session))
        }),
        opens,
    );
    for (proxy, knows) in [
        (hung, false),
        (failing, false),
        (full, true),
        (panicking, false),
        (mixing, false),
    ] {
        let begun = tokio::time::Instant::now();
        let response = proxy.send(ask("/")).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(header(&response, "x-session"), None);
        assert!(!text(response).await.contains("UP-1"));
        assert!(begun.elapsed() <= Duration::from_secs(2));
        let response = proxy.send(ask("/").header("x-session", "some")).await;
        let expected = if knows {
            StatusCode::NOT_FOUND
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        assert_eq!(response.status(), expected);
        assert_eq!(proxy.asked.count(), 1, "the upstream was asked");
        assert_eq!(proxy.send(ask("/free")).await.status(), StatusCode::OK);
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_store_holds_no_permit() {
    let upstream = ServiceBuilder::new()
        .concurrency_limit(1)
        .service(service_fn(|request: Request<()>| async move {
            Ok::<_, Infallible>(opens(&request))
        }));
    let mut proxy = stored(|_| pending::<Result<_, Infallible>>()).layer(upstream);
    let waiting = ask("/").header("x-session", "some").body(()).unwrap();
    let waiting = proxy.ready().await.unwrap().call(waiting);
    let mut waiting = Box::pin(waiting);
    assert!(futures_util::poll!(&mut waiting).is_pending());
    // The one permit there is goes to whoever asks next.
    let free = proxy.clone().oneshot(ask("/free").body(()).unwrap());
    let free = crate::support::soon(free).await.unwrap();
    assert_eq!(free.status(), StatusCode::OK);
    drop(free);
    assert_eq!(
        waiting.await.unwrap().status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
}

#[tokio::test]
async fn a_layer_in_a_session_still_needs_its_service_to_be_ready() {
    // The service inside is one that panics when it is called before it is ready.
    let (service, mut handle) = tower_test::mock::pair::<Request<()>, Response<Full<Bytes>>>();
    let answer = tokio::spawn(
        by_header()
            .layer(service)
            .oneshot(ask("/").body(()).unwrap()),
    );
    handle.allow(1);
    let (request, respond) = handle.next_request().await.unwrap();
    respond.send_response(opens(&request));
    assert_eq!(answer.await.unwrap().unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_store_that_fails_in_a_stream_cuts_it() {
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
