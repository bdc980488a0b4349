//! Watchdogs in virtual time: with the limits that docs/operating.md recommends, no healthy stream ends, and each dead one ends within a
//! second of its limit.

use std::{convert::Infallible, future::pending, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{
    BodyExt,
    channel::{Channel, Sender},
};
use tokio::{task::JoinHandle, time::Instant};
use tower::{BoxError, Layer, ServiceExt, service_fn};
use tower_sse_proxy::{
    ErrorKind, Event, SseBody, SseProxyLayer, Watchdog,
    intercept::Verdict,
    observe::{EventClass, StreamOutcome, WatchdogKind},
    replay::Replay,
};

use crate::support::{event_stream, recorded, respond, rest};

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const HEAD: Duration = seconds(60);
const FIRST_CONTENT: Duration = seconds(900);
const CONTENT_GAP: Duration = seconds(300);
const WRITE_STALL: Duration = seconds(60);
const MAX_AGE: Duration = seconds(4 * 3600);

/// The limits that docs/operating.md recommends.
fn recommended() -> Watchdog {
    Watchdog::default()
        .head(HEAD)
        .first_content(FIRST_CONTENT)
        .content_gap(CONTENT_GAP)
        .write_stall(WRITE_STALL)
        .max_age(MAX_AGE)
}

fn layers() -> [SseProxyLayer; 2] {
    [
        SseProxyLayer::default(),
        SseProxyLayer::default().replay(Replay::default()),
    ]
}

/// A stream that an upstream feeds.
async fn open(
    layer: &SseProxyLayer,
    method: Method,
) -> (Sender<Bytes, BoxError>, SseBody<Channel<Bytes, BoxError>>) {
    let (feed, body) = Channel::new(64);
    let request = Request::builder().method(method).body(()).unwrap();
    let response = respond(layer, request, event_stream(body)).await;
    (feed, response.into_body())
}

type Read = JoinHandle<(String, Option<ErrorKind>)>;

/// Reads the body to its end, with a pause after each frame.
fn read(mut body: SseBody<Channel<Bytes, BoxError>>, pause: Duration) -> Read {
    tokio::spawn(async move {
        let mut all = String::new();
        loop {
            match body.frame().await {
                Some(Ok(frame)) => {
                    all += std::str::from_utf8(&frame.into_data().unwrap()).unwrap();
                }
                Some(Err(error)) => return (all, Some(error.kind())),
                None => return (all, None),
            }
            tokio::time::sleep(pause).await;
        }
    })
}

#[derive(Clone, Debug)]
enum Act {
    Send(&'static str),
    Wait(Duration),
}

use Act::{Send, Wait};

async fn play(feed: &mut Sender<Bytes, BoxError>, acts: &[Act]) {
    for act in acts {
        match act {
            Send(text) => {
                let _ = feed.send_data(Bytes::from_static(text.as_bytes())).await;
            }
            Wait(time) => tokio::time::sleep(*time).await,
        }
    }
}

/// `acts`, `times` times.
fn repeat(times: usize, acts: &[Act]) -> Vec<Act> {
    acts.iter()
        .cloned()
        .cycle()
        .take(times * acts.len())
        .collect()
}

const ROLE: &str = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\n";
const TOKEN: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";
const PING: &str = "event: ping\ndata: {\"type\":\"ping\"}\n\n";
const PROGRESS: &str = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}\n\n";
const RESULT: &str = "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n";

/// Defers events with `slow` in their data for 400 s, and those with `pause` for 300 ms.
fn slow_interceptor(event: Event) -> Verdict {
    let pause = if event.data().contains("slow") {
        seconds(400)
    } else if event.data().contains("pause") {
        Duration::from_millis(300)
    } else {
        return event.into();
    };
    Verdict::defer(async move {
        tokio::time::sleep(pause).await;
        Ok::<_, BoxError>(event)
    })
}

#[tokio::test(start_paused = true)]
async fn r27_healthy_slow_streams_are_left_alone() {
    let none = Duration::ZERO;
    let corpus: Vec<(&str, Method, Duration, Vec<Act>)> = vec![
        (
            "pings for 800 s before the first token",
            Method::POST,
            none,
            [
                vec![Send(ROLE)],
                repeat(53, &[Wait(seconds(15)), Send(PING)]),
                vec![Send(TOKEN), Send(DONE)],
            ]
            .concat(),
        ),
        (
            "comments for 800 s before the first token",
            Method::POST,
            none,
            [
                repeat(80, &[Wait(seconds(10)), Send(": wait\n\n")]),
                vec![Send(TOKEN), Send(DONE)],
            ]
            .concat(),
        ),
        (
            "silence for 800 s before the first token",
            Method::POST,
            none,
            vec![Wait(seconds(800)), Send(TOKEN), Send(DONE)],
        ),
        (
            "a tool of ten minutes with progress notifications",
            Method::POST,
            none,
            [
                repeat(20, &[Wait(seconds(30)), Send(PROGRESS)]),
                vec![Send(RESULT)],
            ]
            .concat(),
        ),
        (
            "a tool of two hours that reports progress every four minutes",
            Method::POST,
            none,
            [
                repeat(30, &[Wait(seconds(240)), Send(PROGRESS)]),
                vec![Send(RESULT)],
            ]
            .concat(),
        ),
        (
            "three hours of tokens",
            Method::POST,
            none,
            [
                repeat(180, &[Wait(seconds(60)), Send(TOKEN)]),
                vec![Send(DONE)],
            ]
            .concat(),
        ),
        (
            "gaps just below the limit, with pings",
            Method::GET,
            none,
            repeat(
                10,
                &[
                    Send("data: tick\n\n"),
                    Wait(seconds(150)),
                    Send(PING),
                    Wait(seconds(149)),
                ],
            ),
        ),
        (
            "an event in two halves, with a gap between them",
            Method::GET,
            none,
            vec![Send("data: 1\n\ndata: 2"), Wait(seconds(250)), Send("\n\n")],
        ),
        (
            "a client that takes a frame every 50 s",
            Method::GET,
            seconds(50),
            repeat(30, &[Send("data: tick\n\n"), Wait(seconds(20))]),
        ),
        (
            "a client that takes pings every 50 s",
            Method::GET,
            seconds(50),
            [
                repeat(50, &[Send(PING), Wait(seconds(5))]),
                vec![Send("data: tick\n\n")],
            ]
            .concat(),
        ),
        (
            "an interceptor that takes longer than a gap may be",
            Method::GET,
            none,
            repeat(
                3,
                &[
                    Send("data: slow\n\n"),
                    Wait(seconds(200)),
                    Send("data: tick\n\n"),
                    Wait(seconds(400)),
                ],
            ),
        ),
    ];
    for layer in layers() {
        for (name, method, pace, acts) in &corpus {
            let layer = layer
                .clone()
                .watchdog(recommended())
                .intercept(slow_interceptor);
            let (layer, records) = recorded(layer);
            let (mut feed, body) = open(&layer, method.clone()).await;
            let reading = read(body, *pace);
            play(&mut feed, acts).await;
            drop(feed);
            let (text, failed) = reading.await.unwrap();
            assert_eq!(failed, None, "{name}");
            assert!(!text.contains("error"), "{name}: {text}");
            assert_eq!(records.fired(), [], "{name}");
            assert_eq!(
                records.only().await.outcome,
                StreamOutcome::Completed,
                "{name}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn r27_dead_streams_end_within_a_second_of_their_limit() {
    let (first, gap) = (WatchdogKind::First, WatchdogKind::Gap);
    // The data of the upstream, then the limit that ends the stream, and the time.
    let corpus: Vec<(&str, Vec<Act>, WatchdogKind, Duration)> = vec![
        ("silent after the head", vec![], first, FIRST_CONTENT),
        (
            "pings only",
            repeat(200, &[Wait(seconds(10)), Send(PING)]),
            first,
            FIRST_CONTENT,
        ),
        (
            "comments only",
            repeat(200, &[Wait(seconds(10)), Send(": c\n\n")]),
            first,
            FIRST_CONTENT,
        ),
        (
            "events without content only",
            repeat(200, &[Wait(seconds(10)), Send(ROLE)]),
            first,
            FIRST_CONTENT,
        ),
        (
            "half an event",
            vec![Send("data: {\"choices\"")],
            first,
            FIRST_CONTENT,
        ),
        (
            "half an event, byte by byte",
            repeat(2000, &[Send("data: {\"choices\"\n"), Wait(seconds(1))]),
            first,
            FIRST_CONTENT,
        ),
        ("silent after a token", vec![Send(TOKEN)], gap, CONTENT_GAP),
        (
            "pings after a token",
            [
                vec![Wait(seconds(1)), Send(TOKEN)],
                repeat(200, &[Wait(seconds(10)), Send(PING)]),
            ]
            .concat(),
            gap,
            seconds(1) + CONTENT_GAP,
        ),
        (
            "half an event after a token",
            vec![Send(TOKEN), Wait(seconds(100)), Send("data: half")],
            gap,
            CONTENT_GAP,
        ),
        (
            "silent after a late token",
            vec![
                Wait(seconds(600)),
                Send(TOKEN),
                Wait(seconds(200)),
                Send(TOKEN),
            ],
            gap,
            seconds(800) + CONTENT_GAP,
        ),
        (
            "silent while an interceptor works, and after that",
            vec![Send("data: slow\n\n")],
            gap,
            seconds(400) + CONTENT_GAP,
        ),
        (
            "an interceptor works for a moment when the limit is exceeded",
            vec![
                Send("data: 1\n\n"),
                Wait(Duration::from_millis(299_900)),
                Send("event: ping\ndata: pause\n\n"),
            ],
            gap,
            CONTENT_GAP + Duration::from_millis(300),
        ),
    ];
    for layer in layers() {
        for (name, acts, kind, at) in &corpus {
            let layer = layer
                .clone()
                .watchdog(recommended())
                .intercept(slow_interceptor);
            let (layer, records) = recorded(layer);
            let streams = layer.streams();
            let (mut feed, body) = open(&layer, Method::GET).await;
            let reading = read(body, Duration::ZERO);
            let playing = async {
                play(&mut feed, acts).await;
                pending::<()>().await;
            };
            let record = tokio::select! {
                record = records.next_on_paused_clock() => record,
                () = playing => unreachable!(),
            };
            assert_eq!(record.outcome, StreamOutcome::Stalled, "{name}");
            let late = record.duration.checked_sub(*at);
            assert!(
                late.is_some_and(|late| late <= seconds(1)),
                "{name}: {:?}",
                record.duration
            );
            assert_eq!(records.fired(), [*kind], "{name}");
            assert!(feed.send_data(Bytes::new()).await.is_err(), "{name}");
            assert_eq!(reading.await.unwrap().1, Some(ErrorKind::Aborted), "{name}");
            assert_eq!(streams.count(), 0, "{name}");
        }
    }
}

/// The server stops polling the body, or never polls it: an HTTP/2 server does not poll while the flow control window is closed.
#[tokio::test(start_paused = true)]
async fn r37_client_that_takes_nothing_is_found_while_the_upstream_sends() {
    for takes in [0, 1, 3] {
        let (layer, records) = recorded(SseProxyLayer::default().watchdog(recommended()));
        let (mut feed, mut body) = open(&layer, Method::GET).await;
        for _ in 0..takes {
            feed.send_data("data: 1\n\n".into()).await.unwrap();
            body.frame().await.unwrap().unwrap();
            tokio::time::sleep(seconds(20)).await;
            assert!(body.frame().now_or_never().is_none());
        }
        feed.send_data("data: 2\n\n".into()).await.unwrap();
        if takes > 0 {
            body.frame().await.unwrap().unwrap();
        }
        let start = Instant::now();
        let record = records.next_on_paused_clock().await;
        assert_eq!(record.outcome, StreamOutcome::Stalled);
        let late = start.elapsed() - WRITE_STALL;
        assert!(late <= seconds(1), "{late:?}");
        assert_eq!(records.fired(), [WatchdogKind::Write]);
        assert!(feed.send_data(Bytes::new()).await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn request_without_a_head_gets_504() {
    for layer in layers() {
        for acts in [true, false] {
            let watchdog = recommended().observe_only(!acts);
            let (layer, records) = recorded(layer.clone().watchdog(watchdog));
            let service = service_fn(|_: Request<()>| async {
                tokio::time::sleep(seconds(100)).await;
                let (_, body) = Channel::<Bytes, BoxError>::new(1);
                Ok::<_, Infallible>(Response::new(body))
            });
            let request = Request::get("/").header("accept", "text/event-stream");
            let start = Instant::now();
            let response = layer.layer(service).oneshot(request.body(()).unwrap());
            let response = response.await.unwrap();
            assert_eq!(records.fired(), [WatchdogKind::Head]);
            if acts {
                assert_eq!(start.elapsed(), HEAD);
                assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
                let record = records.only().await;
                assert_eq!(record.outcome, StreamOutcome::Stalled);
                assert_eq!(record.status, Some(StatusCode::GATEWAY_TIMEOUT));
            } else {
                assert_eq!(response.status(), StatusCode::OK);
                assert!(records.take().await.is_empty());
            }
            // Any other request may take longer.
            let other = layer
                .layer(service)
                .oneshot(Request::new(()))
                .await
                .unwrap();
            assert_eq!(other.status(), StatusCode::OK);
            assert_eq!(records.fired(), []);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn watchdog_that_observes_reports_each_silence_once_and_ends_nothing() {
    for layer in layers() {
        let watchdog = recommended().observe_only(true);
        let (layer, records) = recorded(layer.watchdog(watchdog));
        let (mut feed, body) = open(&layer, Method::GET).await;
        let reading = read(body, Duration::ZERO);
        let acts = [
            Wait(seconds(2000)),
            Send("data: 1\n\n"),
            Wait(seconds(2000)),
            Send("data: 2\n\n"),
            Wait(seconds(100)),
            Send("data: 3\n\n"),
            Wait(seconds(400)),
        ];
        play(&mut feed, &acts).await;
        drop(feed);
        assert_eq!(reading.await.unwrap().1, None);
        let (first, gap) = (WatchdogKind::First, WatchdogKind::Gap);
        assert_eq!(records.fired(), [first, gap, gap]);
        assert_eq!(records.only().await.outcome, StreamOutcome::Completed);
    }
}

#[tokio::test(start_paused = true)]
async fn error_event_of_the_api_comes_before_the_cut() {
    let silent = "The stream was silent for too long.";
    let corpus = [
        (
            TOKEN,
            format!(
                r#"data: {{"error":{{"message":"{silent}","type":"server_error","param":null,"code":null}}}}"#
            ),
        ),
        (
            "data: {\"type\":\"response.created\",\"response\":{}}\n\n",
            format!(
                "event: error\ndata: {{\"type\":\"error\",\"code\":\"server_error\",\"message\":\"{silent}\",\"param\":null}}"
            ),
        ),
        (
            "data: {\"type\":\"message_start\",\"message\":{}}\n\n",
            format!(
                "event: error\ndata: {{\"type\":\"error\",\"error\":{{\"type\":\"api_error\",\"message\":\"{silent}\"}}}}"
            ),
        ),
        (
            "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"a\"}]}}]}\n\n",
            format!(
                r#"data: {{"error":{{"code":503,"message":"{silent}","status":"UNAVAILABLE"}}}}"#
            ),
        ),
    ];
    for layer in layers() {
        for (begins, error) in &corpus {
            let layer = layer.clone().watchdog(recommended());
            let (mut feed, body) = open(&layer, Method::POST).await;
            feed.send_data((*begins).into()).await.unwrap();
            // The rest of an event never arrives.
            feed.send_data("data: half".into()).await.unwrap();
            let (text, failed) = rest(body).await;
            assert_eq!(failed, Some(ErrorKind::Aborted));
            let blocks: Vec<_> = text.split_terminator("\n\n").collect();
            let (last, before) = blocks.split_last().unwrap();
            assert!(last.ends_with(&**error), "{last}");
            assert!(!text.contains("half"));
            assert_eq!(before.len(), 1, "{text}");
        }
    }
    // After the terminal event, and in an unknown API, there is only the cut.
    for layer in layers() {
        for begins in [format!("{TOKEN}{DONE}"), "data: tick\n\n".to_owned()] {
            let layer = layer.clone().watchdog(recommended());
            let (mut feed, body) = open(&layer, Method::POST).await;
            feed.send_data(begins.into()).await.unwrap();
            let (text, failed) = rest(body).await;
            assert_eq!(failed, Some(ErrorKind::Aborted));
            assert!(!text.contains("error"), "{text}");
            drop(feed);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn stream_expires_when_the_application_says_so() {
    for layer in layers() {
        let watchdog = Watchdog::default().expires_in(|request| {
            let time = request.headers.get("x-time")?.to_str().ok()?;
            Some(seconds(time.parse().ok()?))
        });
        let (layer, records) = recorded(layer.watchdog(watchdog));
        for time in [100, 5000] {
            let (mut feed, body) = Channel::<Bytes, BoxError>::new(8);
            let request = Request::get("/").header("x-time", time.to_string());
            let request = request.body(()).unwrap();
            let body = respond(&layer, request, event_stream(body))
                .await
                .into_body();
            let reading = read(body, Duration::ZERO);
            feed.send_data("data: 1\n\n".into()).await.unwrap();
            let record = records.next_on_paused_clock().await;
            assert_eq!(record.outcome, StreamOutcome::Expired);
            let late = record.duration - seconds(time);
            assert!(late <= seconds(1), "{late:?}");
            assert_eq!(records.fired(), [WatchdogKind::Age]);
            assert_eq!(reading.await.unwrap().1, Some(ErrorKind::Aborted));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn maximum_age_is_shortened_by_up_to_a_tenth() {
    for layer in layers() {
        let watchdog = Watchdog::default().max_age(seconds(1000));
        let (layer, records) = recorded(layer.watchdog(watchdog));
        let mut open_streams = Vec::new();
        for _ in 0..200 {
            let (feed, body) = open(&layer, Method::GET).await;
            open_streams.push((feed, read(body, Duration::ZERO)));
        }
        let mut ages = Vec::new();
        for _ in 0..200 {
            let record = records.next_on_paused_clock().await;
            assert_eq!(record.outcome, StreamOutcome::Expired);
            ages.push(record.duration);
        }
        ages.sort();
        assert!(
            ages[0] >= seconds(900) && ages[199] <= seconds(1001),
            "{ages:?}"
        );
        assert!(ages[199] - ages[0] > seconds(80), "{ages:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn application_may_classify_events() {
    for layer in layers() {
        let classify = |event: &Event| match &*event.data() {
            "tick" => EventClass::Ping,
            _ => EventClass::Content,
        };
        let (layer, records) = recorded(layer.watchdog(recommended().classify(classify)));
        let (mut feed, body) = open(&layer, Method::GET).await;
        let reading = read(body, Duration::ZERO);
        let acts = [
            vec![Send("data: 1\n\n")],
            repeat(100, &[Wait(seconds(10)), Send("data: tick\n\n")]),
        ];
        play(&mut feed, &acts.concat()).await;
        let record = records.only().await;
        assert_eq!(record.outcome, StreamOutcome::Stalled);
        assert!(record.duration - CONTENT_GAP <= seconds(1));
        reading.await.unwrap();
    }
}

/// Time in which the server does not poll the body does not count as silence of the upstream.
#[tokio::test(start_paused = true)]
async fn body_that_is_not_asked_for_is_no_silence_of_the_upstream() {
    let watchdog = Watchdog::default().first_content(seconds(10));
    let (layer, records) = recorded(SseProxyLayer::default().watchdog(watchdog));
    let (mut feed, body) = open(&layer, Method::GET).await;
    play(&mut feed, &[Send(TOKEN), Send(DONE)]).await;
    drop(feed);
    tokio::time::sleep(seconds(60)).await;
    let (text, failed) = read(body, Duration::ZERO).await.unwrap();
    assert_eq!((text, failed), ([TOKEN, DONE].concat(), None));
    assert!(records.fired().is_empty());
}
