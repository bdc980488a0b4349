//! Limits of reconnecting: minimum delay, number of attempts for each stream, and logs of failures.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::time::Instant;
use tower::{BoxError, Layer, ServiceExt, service_fn};
use tower_sse_proxy::{ErrorKind, SseProxyLayer, reconnect::Backoff, replay::Replay};
use tracing_subscriber::fmt::MakeWriter;

use crate::support::{FedBody, Origin, event_stream, origin::get, staged};

const FLOOR: Duration = Duration::from_millis(100);

/// Answers each request with `blocks` and breaks the stream, until there are no more requests. Returns their times.
async fn breaking(origin: &mut Origin, blocks: impl Fn(u32) -> String) -> Vec<Duration> {
    let begun = Instant::now();
    let mut times = Vec::new();
    for round in 0.. {
        let Some(call) = origin.next_within_hours().await else {
            break;
        };
        times.push(begun.elapsed());
        let mut feed = call.stream();
        feed.send(blocks(round)).await;
        feed.cut();
    }
    times
}

fn shortest(times: &[Duration]) -> Duration {
    let pauses = times.windows(2).map(|two| two[1] - two[0]);
    pauses.min().expect("two attempts")
}

#[tokio::test(start_paused = true)]
async fn attempts_are_100_ms_apart_with_any_retry_field() {
    for retry in ["", "retry: 0\n", "retry: 1\n", "retry: 99\n"] {
        for backoff in [
            Backoff::default(),
            Backoff::default().initial(Duration::ZERO),
            Backoff::default().max_delay(Duration::ZERO),
        ] {
            let backoff = backoff.max_total_attempts(50);
            for replay in [false, true] {
                let mut layer = SseProxyLayer::default();
                if replay {
                    layer = layer.replay(Replay::default());
                }
                let (front, mut origin) = staged(&layer.reconnect(backoff));
                let blocks = |round| format!("{retry}id: {round}\ndata: {round}\n\n");
                let read = async { front.send(get("/")).await.rest_on_paused_clock().await };
                let (_, times) = tokio::join!(read, breaking(&mut origin, blocks));
                assert_eq!(times.len(), 51);
                assert!(shortest(&times) >= FLOOR, "{retry:?} {backoff:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn failed_attempts_are_100_ms_apart_and_their_delays_grow() {
    fastrand::seed(1);
    let (front, mut origin) = staged(&SseProxyLayer::default().reconnect(Backoff::default()));
    let upstream = async {
        let begun = Instant::now();
        let mut feed = origin.next().await.stream();
        feed.send("retry: 0\nid: 1\ndata: 1\n\n").await;
        feed.cut();
        let mut times = vec![begun.elapsed()];
        while let Some(call) = origin.next_within_hours().await {
            times.push(begun.elapsed());
            call.status(StatusCode::BAD_GATEWAY);
        }
        times
    };
    let read = async { front.send(get("/")).await.rest_on_paused_clock().await };
    let ((_, cut), times) = tokio::join!(read, upstream);
    assert_eq!((cut, times.len()), (Some(ErrorKind::Upstream), 11));
    assert!(shortest(&times) >= FLOOR, "{times:?}");
    // The maximum delay grows, although `retry` is 0.
    assert!(times[10] > 15 * FLOOR, "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn max_total_attempts_limits_attempts_that_bring_events() {
    for (backoff, attempts) in [
        (Backoff::default(), 1000),
        (Backoff::default().max_total_attempts(7), 7),
        (Backoff::default().max_total_attempts(0), 0),
    ] {
        for replay in [false, true] {
            let mut layer = SseProxyLayer::default();
            if replay {
                layer = layer.replay(Replay::default());
            }
            let (front, mut origin) = staged(&layer.reconnect(backoff));
            let blocks = |round| format!("id: {round}\ndata: {round}\n\n");
            let read = async { front.send(get("/")).await.rest_on_paused_clock().await };
            let ((text, cut), times) = tokio::join!(read, breaking(&mut origin, blocks));
            assert_eq!(times.len(), attempts + 1);
            assert_eq!(crate::support::data(&text).len(), attempts + 1);
            assert_eq!(cut, Some(ErrorKind::Upstream));
        }
    }
}

/// Collects the log output.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(text);
        Ok(text.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;
    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// An error whose message contains the request URL, like the errors of some HTTP clients.
#[derive(Debug)]
struct ConnectError(io::Error);

impl std::fmt::Display for ConnectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cannot connect to http://upstream/?key=key-canary")
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

#[tokio::test(start_paused = true)]
async fn failures_are_logged_with_their_cause_and_without_data_of_requests() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_writer(log.clone());
    let subscriber = subscriber.with_max_level(tracing::Level::TRACE).finish();
    let _log = crate::support::subscribe(subscriber);
    let calls = Arc::new(Mutex::new(0));
    let upstream = service_fn(move |_: Request<String>| {
        let mut calls = calls.lock().unwrap();
        *calls += 1;
        let answer = match *calls {
            1 => {
                let (mut feed, body) = FedBody::new(4);
                let event = Bytes::from("id: id-canary\ndata: data-canary\n\n");
                feed.try_send(http_body::Frame::data(event)).unwrap();
                tokio::spawn(async {
                    let reset = io::Error::from(io::ErrorKind::ConnectionReset);
                    feed.abort(BoxError::from(reset));
                });
                Ok(event_stream(body))
            }
            2 => Err(ConnectError(io::ErrorKind::ConnectionRefused.into())),
            3 => {
                let mut response = Response::new(FedBody::new(1).1);
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                Ok(response)
            }
            _ => Ok(Response::new(FedBody::new(1).1)),
        };
        async { answer }
    });
    let proxy = SseProxyLayer::default()
        .reconnect(Backoff::default())
        .layer(upstream);
    let request = Request::get("/?token=query-canary")
        .header("authorization", "header-canary")
        .body(String::new());
    let response = proxy.oneshot(request.unwrap()).await.unwrap();
    assert!(response.into_body().collect().await.is_err());
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for cause in [
        "connection reset",
        "connection refused",
        "503",
        "not an event stream",
    ] {
        assert!(log.contains(cause), "{cause}: {log}");
    }
    assert!(!log.contains("canary"), "{log}");
}
