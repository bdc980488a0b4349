//! The layer emits one `tracing` event for each event stream that does not end cleanly, and none for any other response.

use std::time::Duration;

use crate::support::{
    BOTH, SECRET, Script, Step, Upstream, event_stream, fetch, get, open, pass, proxy, reports,
    respond, rest, sse, sse_chunked,
};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use tower_sse_proxy::{
    Event, KeepAlive, SseProxyLayer,
    intercept::{MakeInterceptorExt, Verdict},
};
use tracing::Level;

/// A layer whose interceptor obeys the event's data: `end`, `fail`, `panic` and `hang` give that verdict.
fn obeying_layer() -> SseProxyLayer {
    let obey = |event: Event| match &*event.data() {
        "end" => Verdict::End(vec![event.into()]),
        "fail" => Verdict::defer(async { Err::<Event, _>(SECRET.into()) }),
        "panic" => panic!("{SECRET}"),
        "hang" => Verdict::defer(std::future::pending::<Result<Event, _>>()),
        _ => event.into(),
    };
    let obey = obey.time_limit(Duration::from_secs(1));
    SseProxyLayer::default().intercept(obey)
}

/// A layer that reads event streams and changes nothing in them.
fn reading_layer() -> SseProxyLayer {
    SseProxyLayer::default().max_event_bytes(64)
}

#[tokio::test(start_paused = true)]
async fn stream_without_a_clean_end_emits_one_event() {
    let reports = reports();
    let of = |text: &'static str| Script::of([text]);
    let broken = || of("data: 1\n\n").then(Step::Error);
    let long =
        "data: 1\n\ndata: a line that is longer than what this layer allows for one event\n\n";
    for (layer, script, reason, events) in [
        (SseProxyLayer::default(), broken(), "upstream_error", None),
        (reading_layer(), broken(), "upstream_error", Some("1")),
        (obeying_layer(), broken(), "upstream_error", Some("1")),
        (reading_layer(), of(long), "overflow", Some("1")),
        (
            reading_layer(),
            of("data: 1\n\ndata: 2\n"),
            "truncated",
            Some("1"),
        ),
        (
            obeying_layer(),
            of("data: 1\n\ndata: fail\n\n"),
            "interceptor_failed",
            Some("1"),
        ),
        (
            obeying_layer(),
            of("data: 1\n\ndata: panic\n\n"),
            "interceptor_failed",
            Some("1"),
        ),
        (
            obeying_layer(),
            of("data: 1\n\ndata: hang\n\n"),
            "interceptor_failed",
            Some("1"),
        ),
        (
            obeying_layer(),
            of("+/v8-data: 1\n\n"),
            "rejected",
            Some("0"),
        ),
    ] {
        let mut body = pass(&layer.route("/chat/{id}"), script).await;
        while let Some(Ok(_)) = body.frame().await {}
        drop(body);
        let report = reports.only();
        assert_eq!((report.reason(), report.level), (reason, Level::WARN));
        assert_eq!(report.field("events"), events, "{reason}");
        assert_eq!(report.field("route"), Some("/chat/{id}"));
        let duration: u64 = report.field("duration_ms").unwrap().parse().unwrap();
        assert!(duration <= 1000);
        let cause = report.field("cause");
        match (reason, cause) {
            ("rejected", cause) => assert_eq!(cause, Some("not UTF-8")),
            ("interceptor_failed", Some("panic" | "time limit")) => {}
            (_, cause) => assert_eq!(cause, None),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn duration_is_in_milliseconds_since_the_head() {
    let reports = reports();
    for layer in [SseProxyLayer::default(), reading_layer()] {
        let (_sender, body) = open(&layer).await;
        tokio::time::advance(Duration::from_millis(1234)).await;
        drop(body);
        assert_eq!(reports.only().field("duration_ms"), Some("1234"));
    }
}

#[tokio::test(start_paused = true)]
async fn clean_end_emits_no_event() {
    let reports = reports();
    let trailers: HeaderMap = [("x".parse().unwrap(), "y".parse().unwrap())]
        .into_iter()
        .collect();
    for layer in [SseProxyLayer::default(), reading_layer(), obeying_layer()] {
        for script in [
            Script::of(["data: 1\n\n"]),
            Script::of(["data: 1\n\n", ": c\n", "id: 1\n\n"]),
            Script::of(["data: 1\n\n"]).then(Step::Trailers(trailers.clone())),
            Script::new([]),
        ] {
            let mut body = pass(&layer, script).await;
            while let Some(frame) = body.frame().await {
                frame.unwrap();
            }
        }
    }
    let ended = Script::of(["data: end\n\n"]).then(Step::Never);
    assert_eq!(rest(pass(&obeying_layer(), ended).await).await.1, None);
    assert!(reports.take().is_empty());
}

#[tokio::test(start_paused = true)]
async fn client_disconnect_emits_one_debug_event() {
    let reports = reports();
    for (layer, events) in [
        (SseProxyLayer::default(), None),
        (reading_layer(), Some("2")),
        (obeying_layer(), Some("2")),
    ] {
        let script = Script::of(["data: 1\n\ndata: 2\n\n: c\n"]).then(Step::Never);
        let mut body = pass(&layer, script).await;
        assert!(body.frame().await.unwrap().is_ok());
        assert!(reports.take().is_empty());
        drop(body);
        let report = reports.only();
        assert_eq!(
            (report.reason(), report.level),
            ("client_left", Level::DEBUG)
        );
        assert_eq!(report.field("events"), events);
        assert_eq!(report.field("route"), None);
    }
    // The client leaves before it polls the body, and before it reads the end that the upstream has already sent.
    for layer in [reading_layer(), obeying_layer()] {
        drop(pass(&layer, Script::of(["data: 1\n\n"])).await);
        assert_eq!(reports.only().reason(), "client_left");
        let mut body = pass(&layer, Script::of(["data: 1\n\n"])).await;
        assert!(body.frame().await.unwrap().is_ok());
        drop(body);
        assert_eq!(reports.only().reason(), "client_left");
    }
}

/// The layer knows the failure before the client sees the cut.
#[tokio::test(start_paused = true)]
async fn client_disconnect_after_an_upstream_error_emits_no_second_event() {
    let reports = reports();
    for layer in [SseProxyLayer::default(), reading_layer(), obeying_layer()] {
        let mut body = pass(&layer, Script::of(["data: 1\n\n"]).then(Step::Error)).await;
        let frame = body.frame().await;
        assert!(
            body.frame().now_or_never().is_none(),
            "the error is delayed"
        );
        drop((frame, body));
        assert_eq!(reports.only().reason(), "upstream_error");
    }
}

#[tokio::test]
async fn rejected_stream_emits_one_event_with_a_cause() {
    let reports = reports();
    for (fields, cause) in [
        (
            &[("content-type", "text/event-stream; charset=hunter2")][..],
            "charset",
        ),
        (
            &[("content-type", "text /event-stream; x=hunter2")],
            "malformed content type",
        ),
        (
            &[
                ("content-type", "text/event-stream"),
                ("content-encoding", "hunter2"),
            ],
            "content coding",
        ),
    ] {
        let mut response = Response::builder();
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        let response = response.body(Full::<Bytes>::from("data: 1\n\n")).unwrap();
        let response = respond(&obeying_layer().route("/a"), Request::new(()), response).await;
        assert_eq!(response.status(), 502);
        drop(response);
        let report = reports.only();
        assert_eq!((report.reason(), report.level), ("rejected", Level::WARN));
        assert_eq!(report.field("cause"), Some(cause));
        assert_eq!(report.field("route"), Some("/a"));
        assert!(!format!("{report:?}").contains(SECRET), "{report:?}");
    }
}

#[tokio::test]
async fn other_responses_and_streams_without_a_body_emit_no_event() {
    let reports = reports();
    for layer in [SseProxyLayer::default(), obeying_layer()] {
        for (status, content_type) in [
            (200, "application/json"),
            (204, "text/event-stream"),
            (304, "text/event-stream"),
        ] {
            let response = Response::builder().status(status);
            let response = response.header("content-type", content_type);
            let response = response.body(Script::of(["{"]).then(Step::Error)).unwrap();
            drop(respond(&layer, Request::new(()), response).await);
        }
        let response = event_stream(Script::of(["data: 1\n\n"]));
        let request = Request::head("/").body(()).unwrap();
        drop(respond(&layer, request, response).await);
    }
    assert!(reports.take().is_empty());
}

#[tokio::test(start_paused = true)]
async fn r62_event_contains_no_text_of_requests_or_streams() {
    let reports = reports();
    let block = "id: hunter2\nevent: hunter2\ndata: hunter2\n: hunter2\nhunter2: 1\n\n";
    for end in ["data: fail\n\n", "data: panic\n\n", "data: hunter2"] {
        for layer in [SseProxyLayer::default(), reading_layer(), obeying_layer()] {
            let script = Script::of([block, end]).then(Step::Error);
            let mut response = event_stream(script);
            let secret = SECRET.parse().unwrap();
            response.headers_mut().insert("x-secret", secret);
            let request = Request::get(format!("/{SECRET}?key={SECRET}"));
            let request = request.header("authorization", SECRET).body(()).unwrap();
            let mut body = respond(&layer, request, response).await.into_body();
            while let Some(Ok(_)) = body.frame().await {}
            let report = reports.only();
            assert!(!format!("{report:?}").contains(SECRET), "{report:?}");
        }
    }
}

/// If a response has a length, the server may stop polling the body before it returns `None`.
#[tokio::test]
async fn over_sockets_only_a_broken_stream_emits_an_event() {
    let reports = reports();
    let sized = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 9\r\n\
        connection: close\r\n\r\ndata: 1\n\n";
    let empty = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 0\r\n\
        connection: close\r\n\r\n";
    let chunked = format!("{}9\r\ndata: 1\n\n\r\n0\r\n\r\n", sse_chunked());
    let layers = || {
        [
            SseProxyLayer::default(),
            reading_layer(),
            obeying_layer(),
            obeying_layer().keep_alive(KeepAlive::new(Duration::from_secs(15))),
        ]
    };
    for answer in [
        sized.into(),
        empty.into(),
        chunked.into_bytes(),
        sse("data: 1\n\n"),
    ] {
        let upstream = Upstream::answering(Bytes::from(answer)).await;
        for layer in layers() {
            let proxy = proxy(layer, upstream).await;
            for protocol in BOTH {
                assert!(get(protocol, proxy).await.rest().await.1.is_clean());
                let head = Request::head("/").body(Bytes::new()).unwrap();
                fetch(protocol, proxy, head).await;
            }
        }
    }
    crate::support::origin::settle().await;
    assert!(reports.take().is_empty());

    let cut = format!("{}9\r\ndata: 1\n\n\r\n", sse_chunked());
    let upstream = Upstream::answering(cut).await;
    for layer in layers() {
        let proxy = proxy(layer, upstream).await;
        for protocol in BOTH {
            assert!(!get(protocol, proxy).await.rest().await.1.is_clean());
            assert_eq!(reports.only().reason(), "upstream_error");
        }
    }
}

#[tokio::test]
async fn over_sockets_a_client_disconnect_emits_one_event() {
    let reports = reports();
    for layer in [SseProxyLayer::default(), reading_layer(), obeying_layer()] {
        for protocol in BOTH {
            let mut upstream = Upstream::start().await;
            let proxy = proxy(layer.clone(), upstream.address).await;
            let head = async {
                let mut exchange = upstream.next().await;
                exchange.write(sse_chunked()).await;
                exchange.chunk("data: 1\n\n").await;
                exchange
            };
            let (exchange, mut answer) = tokio::join!(head, get(protocol, proxy));
            answer.expect("data: 1\n\n").await;
            assert!(reports.take().is_empty());
            let connection = answer.leave();
            // The layer emits the event before it drops the upstream body.
            exchange.closed().await;
            assert_eq!(reports.only().reason(), "client_left");
            drop(connection);
        }
    }
}
