//! The crate without features reads and edits event streams, and leaves sessions, event ids and broken streams to others.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, channel::Channel};
use tower::{Layer, ServiceExt, service_fn};
use tower_sse_proxy::{ErrorKind, Event, Policy, SseProxyLayer, intercept::Json};

fn event_stream<B>(body: B) -> Response<B> {
    Response::builder()
        .header(header::CONTENT_TYPE, "text/event-stream")
        .body(body)
        .unwrap()
}

async fn text_through(layer: SseProxyLayer, request: Request<()>) -> (StatusCode, String) {
    let upstream = service_fn(|request: Request<()>| async move {
        let last = request.headers().get("last-event-id");
        let last = last.map_or("none", |id| id.to_str().unwrap());
        let text = format!(": comment\n\ndata: {{\"last\":\"{last}\"}}\n\nid: 7\ndata: [DONE]\n\n");
        Ok::<_, Infallible>(event_stream(Full::<Bytes>::from(text)))
    });
    let response = layer.layer(upstream).oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn interceptors_edit_events() {
    let layer = SseProxyLayer::default().intercept(|mut event: Event| {
        if let Ok(mut json) = Json::parse(event.data())
            && json.set_str("/last", "edited").is_ok()
        {
            event.set_data(json);
        }
        event
    });
    let (_, text) = text_through(layer, Request::new(())).await;
    assert_eq!(
        text,
        ": comment\n\ndata: {\"last\":\"edited\"}\n\nid: 7\ndata: [DONE]\n\n"
    );
}

#[tokio::test]
async fn last_event_id_is_the_upstreams() {
    // It has the form of an id that the layer gives to recorded streams.
    let id = "0123456789abcdef0123456789abcdef.0.1";
    let request = Request::builder().header("last-event-id", id);
    let layer = SseProxyLayer::default().intercept(|event: Event| event);
    let (status, text) = text_through(layer, request.body(()).unwrap()).await;
    assert_eq!(status, StatusCode::OK);
    assert!(text.contains(&format!("{{\"last\":\"{id}\"}}")), "{text}");
}

#[tokio::test]
async fn policy_rejects_a_request() {
    let closed = Arc::new(Policy::reject(StatusCode::FORBIDDEN, "closed\n"));
    let layer = SseProxyLayer::default().policy(move |_, _| Arc::clone(&closed));
    let answer = text_through(layer, Request::new(())).await;
    assert_eq!(answer, (StatusCode::FORBIDDEN, "closed\n".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn broken_stream_ends_with_an_error() {
    let upstream = service_fn(|_: Request<()>| async {
        let (mut feed, body) = Channel::<Bytes, std::io::Error>::new(2);
        feed.try_send(Frame::data("id: 1\ndata: 1\n\n".into()))
            .unwrap();
        feed.abort(std::io::ErrorKind::ConnectionReset.into());
        Ok::<_, Infallible>(event_stream(body))
    });
    let layer = SseProxyLayer::default().intercept(|event: Event| event);
    let response = layer.layer(upstream).oneshot(Request::new(())).await;
    let mut body = response.unwrap().into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "id: 1\ndata: 1\n\n");
    drop(first);
    let error = body.frame().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Upstream);
    assert!(body.frame().await.is_none());
}
