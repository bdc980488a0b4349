//! The early head: the response begins before a slow upstream answers.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{HeaderName, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, channel::Channel};
use tokio::time::{Instant, sleep};
use tower::{BoxError, Layer, ServiceExt, service_fn};
use tower_sse_proxy::{
    ErrorKind, SseProxyLayer, Watchdog, observe::StreamOutcome, replay::Replay,
    session::SessionMapping,
};

use crate::support::{
    event_stream,
    origin::{get, settle},
    recorded, rest, staged,
};

const EARLY: Duration = Duration::from_secs(5);

fn layers() -> [SseProxyLayer; 2] {
    let layer = SseProxyLayer::default().early_head(EARLY);
    [layer.clone(), layer.replay(Replay::default())]
}

fn asking(path: &str) -> http::request::Builder {
    get(path).header("accept", "text/event-stream")
}

#[tokio::test(start_paused = true)]
async fn comments_come_before_the_upstream_answers_and_events_after_that() {
    for layer in layers() {
        let (layer, records) = recorded(layer);
        let (front, mut origin) = staged(&layer);
        let start = Instant::now();
        let client = front.send(asking("/")).await;
        assert_eq!(start.elapsed(), EARLY);
        assert_eq!(client.status, 200);
        assert_eq!(client.headers["content-type"], "text/event-stream");
        assert_eq!(client.headers["cache-control"], "no-store, no-transform");
        let reading = tokio::spawn(client.rest_on_paused_clock());
        sleep(Duration::from_secs(55)).await;
        let mut feed = origin.next().await.stream();
        sleep(Duration::from_secs(5)).await;
        feed.send("data: 1\n\n").await;
        settle().await;
        feed.send("data: 2\n\n").await;
        feed.end();
        let (text, failed) = reading.await.unwrap();
        assert_eq!(failed, None);
        let (comments, events) = text.split_at(text.find("data").unwrap());
        // At once, and then about every 15 seconds. A recorded stream has ids.
        let comments = comments.matches(":\n\n").count();
        assert!((4..=6).contains(&comments), "{text}");
        assert!(events.contains("data: 1\n\n") && events.contains("data: 2\n\n"));
        let record = records.only().await;
        assert_eq!(record.outcome, StreamOutcome::Completed);
        assert_eq!(record.time_to_head, Some(Duration::from_secs(60)));
        assert_eq!(record.time_to_first_event, Some(Duration::from_secs(65)));
    }
}

#[tokio::test(start_paused = true)]
async fn upstream_that_answers_in_time_gets_its_own_head_to_the_client() {
    for layer in layers() {
        let (front, mut origin) = staged(&layer);
        let call = async {
            let call = origin.next().await;
            sleep(EARLY - Duration::from_secs(1)).await;
            let (_, body) = Channel::new(1);
            let mut response = event_stream(body);
            response.headers_mut().insert("x-own", "1".parse().unwrap());
            call.answer(response);
        };
        let (client, ()) = tokio::join!(front.send(asking("/")), call);
        assert_eq!(client.headers["x-own"], "1");
    }
}

#[tokio::test(start_paused = true)]
async fn answer_that_is_no_stream_becomes_an_error_event_and_a_cut() {
    let message = "The upstream did not answer with a stream.";
    let corpus = [
        (
            "/v1/chat/completions",
            format!(
                r#"data: {{"error":{{"message":"{message}","type":"server_error","param":null,"code":null}}}}"#
            ),
        ),
        (
            "/v1/responses",
            format!(
                "event: error\ndata: {{\"type\":\"error\",\"code\":\"server_error\",\"message\":\"{message}\",\"param\":null}}"
            ),
        ),
        (
            "/v1/messages",
            format!(
                "event: error\ndata: {{\"type\":\"error\",\"error\":{{\"type\":\"api_error\",\"message\":\"{message}\"}}}}"
            ),
        ),
        (
            "/other",
            format!(
                "event: error\ndata: {{\"error\":{{\"message\":\"{message}\",\"type\":\"server_error\",\"param\":null,\"code\":null}}}}"
            ),
        ),
    ];
    for layer in layers() {
        let (layer, records) = recorded(layer.max_streams(1));
        let streams = layer.streams();
        for (path, error) in &corpus {
            for status in [200, 201, 429, 500] {
                let (front, mut origin) = staged(&layer);
                let client = front.send(asking(path).method(Method::POST)).await;
                let reading = tokio::spawn(client.rest_on_paused_clock());
                let call = origin.next().await;
                if status == 201 {
                    // An event stream, but the client cannot get its status.
                    let (_feed, body) = Channel::new(1);
                    let mut response = event_stream(body);
                    *response.status_mut() = StatusCode::CREATED;
                    call.answer(response);
                } else {
                    call.status(StatusCode::from_u16(status).unwrap());
                }
                let (text, failed) = reading.await.unwrap();
                assert_eq!(failed, Some(ErrorKind::Upstream));
                let text = text.trim_start_matches(":\n\n");
                assert_eq!(text, format!("{error}\n\n"));
                let record = records.only().await;
                assert_eq!(record.outcome, StreamOutcome::UpstreamError, "{status}");
                assert_eq!(streams.count(), 0);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn failed_service_becomes_an_error_event_and_a_cut() {
    for layer in layers() {
        let (layer, records) = recorded(layer);
        let service = service_fn(|_: Request<()>| async {
            sleep(EARLY * 2).await;
            Err::<Response<Channel<Bytes, BoxError>>, _>("refused")
        });
        let response = layer.layer(service).oneshot(asking("/").body(()).unwrap());
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        let (text, failed) = rest(response.into_body()).await;
        assert_eq!(failed, Some(ErrorKind::Upstream));
        assert!(text.contains("event: error\n"), "{text}");
        assert_eq!(records.only().await.outcome, StreamOutcome::UpstreamError);
    }
}

#[tokio::test(start_paused = true)]
async fn head_limit_of_the_watchdog_holds_behind_an_early_head() {
    for layer in layers() {
        let limit = Duration::from_secs(60);
        let layer = layer.watchdog(Watchdog::default().head(limit));
        let (layer, records) = recorded(layer);
        let (front, mut origin) = staged(&layer);
        let start = Instant::now();
        let client = front.send(asking("/")).await;
        let mut call = origin.next().await;
        let (text, failed) = client.rest_on_paused_clock().await;
        assert!(start.elapsed() >= limit && start.elapsed() < limit + EARLY);
        assert_eq!(failed, Some(ErrorKind::Upstream));
        assert!(text.contains("event: error\n"), "{text}");
        call.canceled().await;
        let record = records.only().await;
        assert_eq!(record.outcome, StreamOutcome::Stalled);
        // The status that the client got.
        assert_eq!(record.status, Some(http::StatusCode::OK));
    }
}

#[tokio::test(start_paused = true)]
async fn client_that_leaves_before_the_head_cancels_the_call_and_has_no_record() {
    for layer in layers() {
        let (layer, records) = recorded(layer.max_streams(1));
        let (front, mut origin) = staged(&layer);
        for _ in 0..3 {
            let client = front.send(asking("/")).await;
            assert_eq!(client.status, 200);
            let mut call = origin.next().await;
            drop(client);
            call.canceled().await;
            assert!(records.take().await.is_empty());
        }
    }
}

/// The session id is in the head of the response.
#[tokio::test(start_paused = true)]
async fn request_that_may_open_a_session_has_no_early_head() {
    let layer = SseProxyLayer::default().early_head(EARLY);
    let sessions = SessionMapping::header(HeaderName::from_static("mcp-session-id"));
    let (front, mut origin) = staged(&layer.sessions(sessions));
    let (start, late) = (Instant::now(), EARLY * 2);
    let call = async {
        let call = origin.next().await;
        sleep(late).await;
        let (_, body) = Channel::new(1);
        let mut response = event_stream(body);
        let session = "upstream".parse().unwrap();
        response.headers_mut().insert("mcp-session-id", session);
        call.answer(response);
    };
    let (client, ()) = tokio::join!(front.send(asking("/").method(Method::POST)), call);
    assert_eq!(start.elapsed(), late);
    let session = client.headers["mcp-session-id"].clone();
    // A request of the session has one.
    let start = Instant::now();
    let request = asking("/").header("mcp-session-id", session);
    assert_eq!(front.send(request).await.status, 200);
    assert_eq!(start.elapsed(), EARLY);
}

#[tokio::test(start_paused = true)]
async fn other_requests_have_no_early_head() {
    for layer in layers() {
        for request in [
            get("/"),
            get("/").header("accept", "*/*"),
            asking("/").method(Method::HEAD),
            asking("/").method(Method::PUT),
        ] {
            let service = service_fn(|_: Request<()>| async {
                sleep(EARLY * 2).await;
                let (_, body) = Channel::<Bytes, BoxError>::new(1);
                Ok::<_, Infallible>(Response::new(body))
            });
            let start = Instant::now();
            let response = layer.layer(service).oneshot(request.body(()).unwrap());
            let body = response.await.unwrap().into_body();
            assert_eq!(start.elapsed(), EARLY * 2);
            drop(body.boxed_unsync());
        }
    }
}
