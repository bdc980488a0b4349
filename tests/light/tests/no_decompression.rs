//! Without the feature `decompression`, the layer cannot decode a compressed stream. It rejects the stream if an interceptor has
//! to read it, and forwards it unchanged otherwise.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt, service_fn};
use tower_sse_proxy::{Event, SseProxyLayer};

/// Sends a request through the layer. The service answers with a stream that claims to be gzip, and returns the request's
/// `Accept-Encoding` in `x-accept-encoding`.
async fn through(layer: SseProxyLayer) -> Response<Bytes> {
    let upstream = service_fn(|request: Request<()>| async move {
        let codings = request.headers()[header::ACCEPT_ENCODING].clone();
        Ok::<_, Infallible>(
            Response::builder()
                .header(header::CONTENT_TYPE, "text/event-stream")
                .header(header::CONTENT_ENCODING, "gzip")
                .header("x-accept-encoding", codings)
                .body(Full::<Bytes>::from("\x1f\u{8b}not decoded"))
                .unwrap(),
        )
    });
    let request = Request::builder()
        .header(header::ACCEPT_ENCODING, "gzip, br")
        .body(())
        .unwrap();
    let response = layer.layer(upstream).oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Response::from_parts(parts, body)
}

#[tokio::test]
async fn compressed_stream_is_rejected_with_an_interceptor() {
    let response = through(SseProxyLayer::default().intercept(|event: Event| event)).await;
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    let text = String::from_utf8(response.body().to_vec()).unwrap();
    assert!(
        text.contains("`gzip`") && text.contains("not compiled in"),
        "{text}"
    );
}

#[tokio::test]
async fn compressed_stream_passes_unchanged_without_interceptors() {
    let response = through(SseProxyLayer::default()).await;
    assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip");
    assert_eq!(response.headers()["x-accept-encoding"], "gzip, br");
    assert_eq!(response.body(), "\x1f\u{8b}not decoded".as_bytes());
}

#[tokio::test]
async fn request_asks_for_identity_with_an_interceptor() {
    let upstream = service_fn(|request: Request<()>| async move {
        assert_eq!(request.headers()[header::ACCEPT_ENCODING], "identity");
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    let request = Request::builder()
        .header(header::ACCEPT_ENCODING, "gzip, br")
        .body(())
        .unwrap();
    let layer = SseProxyLayer::default().intercept(|event: Event| event);
    layer.layer(upstream).oneshot(request).await.unwrap();
}
