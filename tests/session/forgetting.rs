//! The session of an `endpoint` event is removed from the store when its stream ends.

use std::{convert::Infallible, time::SystemTime};

use http::Request;
use http_body_util::BodyExt;
use tower::service_fn;
use tower_sse_proxy::{
    SseProxyLayer,
    session::{Session, SessionId, SessionMapping, SessionRequest},
};

use crate::support::{Script, Step, event_stream, respond, soon};

#[tokio::test(start_paused = true)]
async fn session_without_an_idle_timeout_is_removed_when_its_endpoint_stream_ends() {
    let (removed, mut removals) = tokio::sync::watch::channel(0);
    let store = service_fn(move |request| {
        let removed = removed.clone();
        async move {
            Ok::<_, Infallible>(match request {
                SessionRequest::Bind(new) => {
                    Some(Session::new(SessionId::random(), new, SystemTime::now()))
                }
                SessionRequest::Remove(_) => {
                    removed.send_modify(|removed| *removed += 1);
                    None
                }
                _ => None,
            })
        }
    });
    let layer = SseProxyLayer::new(store).sessions(SessionMapping::none().in_endpoint());
    let endpoint = "event: endpoint\ndata: /messages?sid=UP-1\n\n";
    let stream = event_stream(Script::new([Step::Data(endpoint.into()), Step::Never]));
    let mut body = respond(&layer, Request::new(()), stream).await.into_body();
    assert!(body.frame().await.unwrap().is_ok());
    assert_eq!(*removals.borrow(), 0);
    drop(body);
    soon(removals.wait_for(|&removed| removed == 1))
        .await
        .unwrap();
}
