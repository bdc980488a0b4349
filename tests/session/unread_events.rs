//! Events that no session rule reads pass unchanged.

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use tower_sse_proxy::{SseProxyLayer, session::SessionMapping};

use crate::proxy::by_header;
use crate::support::{Script, event_stream, respond};

#[tokio::test]
async fn endpoint_event_passes_unchanged_without_an_endpoint_rule() {
    let layer = SseProxyLayer::default().sessions(SessionMapping::none().in_data("/id").unwrap());
    let stream = "event: endpoint\ndata: http://elsewhere/messages?sessionId=UP-1\n\n";
    let response = respond(&layer, Request::new(()), event_stream(Script::of([stream]))).await;
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), stream);
}

#[tokio::test]
async fn unknown_content_coding_passes_if_no_rule_reads_events() {
    let mut stream = event_stream(Script::of(["coded"]));
    stream
        .headers_mut()
        .insert("content-encoding", "compress".parse().unwrap());
    let response = respond(&by_header(), Request::new(()), stream).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-encoding"], "compress");
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "coded");
}
