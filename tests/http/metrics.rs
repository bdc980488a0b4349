//! `observe::Metrics`: its counts agree with the records of the streams.

use std::{
    future::pending,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use crate::support::{
    BOTH, Recorded, SECRET, Script, Step, Upstream, event_stream, fetch, next, open,
    origin::{after, get, settle},
    pass, proxy, recorder, respond, rest, sse_chunked, staged, through,
};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use tower::service_fn;
use tower_sse_proxy::{
    Event, SseProxyLayer, Watchdog,
    intercept::Verdict,
    observe::{Metrics, StreamOutcome, StreamRecord},
    reconnect::Backoff,
    replay::{Replay, Retention},
    session::{
        NewSession, Owner, Session, SessionId, SessionMapping, SessionRequest, UpstreamSessionId,
    },
};

type Records = Arc<Mutex<Vec<StreamRecord>>>;

/// A layer with metrics, and the records of its streams.
fn counted() -> (SseProxyLayer, Records) {
    let records = Records::default();
    let seen = Arc::clone(&records);
    let layer = SseProxyLayer::default()
        .route("/chat/{id}")
        .observe(Metrics::new())
        .on_close(move |record| seen.lock().unwrap().push(record.clone()));
    (layer, records)
}

/// Drops, forwards, blocks and panics by the data of the event.
fn obey(event: Event) -> Verdict {
    match &*event.data() {
        "drop" => Verdict::Drop,
        "block" => Verdict::block("blocked"),
        "panic" => panic!("{SECRET}"),
        "hold" => Verdict::defer(async move {
            tokio::time::sleep(Duration::from_secs(3)).await;
            Ok(event)
        }),
        _ => event.into(),
    }
}

fn assert_agrees(metrics: &Recorded, records: &Records) {
    let records = records.lock().unwrap();
    let sum = |of: fn(&StreamRecord) -> u64| records.iter().map(of).sum::<u64>() as f64;
    let count = |name, labels: &[(&str, &str)]| metrics.sum(name, labels);
    assert_eq!(metrics.sum("sse_streams_active", &[]), 0.0);
    assert_eq!(
        count("sse_streams_opened_total", &[]),
        sum(|record| record.opened.into())
    );
    for outcome in StreamOutcome::ALL {
        let expected = records.iter().filter(|record| record.outcome == outcome);
        let label = [("outcome", outcome.as_str())];
        let durations = metrics.values("sse_stream_duration_seconds", &label);
        assert_eq!(durations.len(), expected.count(), "{outcome}");
    }
    assert_eq!(
        count("sse_rejections_total", &[]),
        sum(|record| (record.outcome == StreamOutcome::Rejected).into())
    );
    for (direction, verdict, expected) in [
        ("in", "received", sum(|record| record.events_in)),
        ("out", "forwarded", sum(|record| record.events_out)),
        (
            "out",
            "dropped",
            sum(|record| record.events_in.saturating_sub(record.events_out)),
        ),
    ] {
        let labels = [("direction", direction), ("verdict", verdict)];
        assert_eq!(count("sse_events_total", &labels), expected, "{verdict}");
    }
    let bytes = |direction| count("sse_bytes_total", &[("direction", direction)]);
    assert_eq!(bytes("in"), sum(|record| record.bytes_in));
    assert_eq!(bytes("out"), sum(|record| record.bytes_out));
    assert_eq!(
        count("sse_replay_resumes_total", &[("result", "resumed")]),
        sum(|record| record.resumes)
    );
    assert_eq!(
        count("sse_reconnects_total", &[("result", "succeeded")]),
        sum(|record| record.reconnects)
    );
    let first = metrics.values("sse_stream_time_to_first_event_seconds", &[]);
    assert_eq!(
        first.len() as f64,
        sum(|record| record.time_to_first_event.is_some().into())
    );
}

#[tokio::test(start_paused = true)]
async fn sums_agree_with_the_records_of_all_streams() {
    let (metrics, _guard) = recorder();
    let (layer, records) = counted();
    let layer = layer.intercept(obey).max_event_bytes(64);
    for text in [
        "data: 1\n\n: c\n\ndata: drop\n\ndata: 2\n\n",
        "data: 1\n\ndata: block\n\n",
        "data: 1\n\ndata: panic\n\n",
        "data: 1\n\ndata: hold\n\n",
        "data: 1\n\ndata: 2\n",
        "data: 1\n\ndata: a line that is longer than what this layer allows for one event, by far\n\n",
        "\u{feff}data: 1\n\n",
        "+/v8-data: 1\n\n",
        "",
    ] {
        through(&layer, text).await;
    }
    rest(pass(&layer, Script::of(["data: 1\n\n"]).then(Step::Error)).await).await;
    let mut left = pass(&layer, Script::of(["data: 1\n\n"]).then(Step::Never)).await;
    left.frame().await.unwrap().unwrap();
    drop(left);
    let mut coded = event_stream(Script::new([]));
    let coding = "x-rot".parse().unwrap();
    coded.headers_mut().insert("content-encoding", coding);
    let answer = respond(&layer, Request::new(()), coded).await;
    assert_eq!(answer.status(), 502);
    drop(answer);

    let outcomes: Vec<_> = records.lock().unwrap().iter().map(|r| r.outcome).collect();
    assert_eq!(outcomes.len(), 12, "{outcomes:?}");
    assert_agrees(&metrics, &records);
    let reasons = metrics.labels("sse_rejections_total", "reason");
    assert_eq!(Vec::from_iter(reasons), ["uninspectable"]);
    let held = metrics.values("sse_hold_duration_seconds", &[]);
    assert_eq!(held, [3.0]);
    let routes = metrics.labels("sse_stream_duration_seconds", "route");
    assert_eq!(Vec::from_iter(routes), ["/chat/{id}"]);
}

#[tokio::test(start_paused = true)]
async fn open_stream_is_counted_within_a_second_also_if_it_falls_silent() {
    let (metrics, _guard) = recorder();
    let (layer, records) = counted();
    let (mut sender, mut body) = open(&layer).await;
    assert_eq!(metrics.sum("sse_streams_active", &[]), 1.0);
    let received = [("direction", "in"), ("verdict", "received")];
    for round in 1..=3 {
        for _ in 0..2 {
            sender.send_data("data: 1\n\n".into()).await.unwrap();
            next(&mut body).await;
        }
        tokio::time::sleep(Duration::from_millis(1001)).await;
        let events = metrics.sum("sse_events_total", &received);
        assert_eq!(events, f64::from(2 * round));
    }
    assert_eq!(
        metrics.sum("sse_bytes_total", &[("direction", "out")]),
        54.0
    );
    drop(sender);
    assert!(rest(body).await.1.is_none());
    assert_agrees(&metrics, &records);
}

#[test]
fn gauge_is_zero_after_a_panic_a_dropped_body_and_the_end_of_the_runtime() {
    let (metrics, _guard) = recorder();
    let (layer, records) = counted();
    let layer = layer.intercept(obey);
    let recorded = layer.clone().replay(Replay::default());
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap()
    };
    let first = runtime();
    first.block_on(async {
        through(&layer, "data: panic\n\n").await;
        let (_sender, body) = open(&layer).await;
        tokio::spawn(async move {
            let _body = body;
            std::future::pending::<()>().await;
        });
        let (mut sender, mut body) = open(&recorded).await;
        sender.send_data("data: 1\n\n".into()).await.unwrap();
        next(&mut body).await;
        assert_eq!(metrics.sum("sse_streams_active", &[]), 2.0);
    });
    drop(first);
    assert_agrees(&metrics, &records);

    // The layer works in another runtime, and counts there.
    runtime().block_on(async {
        let (mut sender, mut body) = open(&layer).await;
        sender.send_data("data: 1\n\n".into()).await.unwrap();
        next(&mut body).await;
        let before = metrics.sum("sse_bytes_total", &[("direction", "in")]);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let after = metrics.sum("sse_bytes_total", &[("direction", "in")]);
        assert_eq!(after - before, 9.0);
    });
    assert_agrees(&metrics, &records);
}

#[tokio::test]
async fn client_that_disconnects_from_a_server_is_counted() {
    for protocol in BOTH {
        let (metrics, _guard) = recorder();
        let (layer, records) = counted();
        let mut upstream = Upstream::start().await;
        let address = proxy(layer.intercept(obey), upstream.address).await;
        let request = Request::get("/").header("accept", "text/event-stream");
        let request = request.body(Bytes::new()).unwrap();
        let (mut answer, mut exchange) = tokio::join!(fetch(protocol, address, request), async {
            let mut exchange = upstream.next().await;
            exchange.write(sse_chunked()).await;
            exchange.chunk("data: 1\n\n").await;
            exchange
        });
        answer.read().await;
        assert_eq!(metrics.sum("sse_streams_active", &[]), 1.0);
        drop(answer);
        exchange.wire.rest().await;
        settle().await;
        assert_eq!(
            records.lock().unwrap()[0].outcome,
            StreamOutcome::ClientLeft
        );
        assert_agrees(&metrics, &records);
    }
}

#[tokio::test(start_paused = true)]
async fn memory_of_logs_is_a_gauge_that_returns_to_zero() {
    let (metrics, _guard) = recorder();
    let (layer, _) = counted();
    let layer = layer.replay(Replay::default().grace_period(Duration::from_secs(5)));
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..10).await;
    client.events(10).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let bytes = metrics.sum("sse_log_bytes", &[]);
    assert_eq!(bytes, layer.streams().retained_bytes() as f64);
    assert!(bytes > 0.0);
    feed.end();
    client.rest().await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(layer.streams().retained_bytes(), 0);
    assert_eq!(metrics.sum("sse_log_bytes", &[]), 0.0);
}

#[tokio::test(start_paused = true)]
async fn lag_of_the_slowest_client_is_measured_once_a_second() {
    let (metrics, _guard) = recorder();
    let (layer, _) = counted();
    let replay = Replay::default().share_by(|request| Some(request.uri.path().to_owned()));
    let (front, mut origin) = staged(&layer.replay(replay));
    let (mut fast, mut feed) = front.open(&mut origin, get("/")).await;
    let mut slow = front.send(get("/")).await;
    feed.events(0..1).await;
    fast.events(1).await;
    slow.events(1).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(metrics.values("sse_log_lag_seconds", &[]), [0.0, 0.0]);
    feed.events(1..10).await;
    fast.events(9).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(metrics.values("sse_log_lag_seconds", &[])[2..], [0.5, 1.5]);
    slow.events(9).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(metrics.values("sse_log_lag_seconds", &[])[4..], [0.0]);
}

#[tokio::test(start_paused = true)]
async fn logs_of_a_dropped_layer_are_no_longer_counted() {
    let (metrics, _guard) = recorder();
    let (layer, _) = counted();
    let (front, mut origin) = staged(&layer.replay(Replay::default()));
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..10).await;
    client.events(10).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(metrics.sum("sse_log_bytes", &[]) > 0.0);
    drop((front, origin));
    assert_eq!(metrics.sum("sse_log_bytes", &[]), 0.0);
}

#[tokio::test(start_paused = true)]
async fn resumes_and_gaps_are_counted_by_result_and_reason() {
    let (metrics, _guard) = recorder();
    let (layer, records) = counted();
    let replay = Replay::default().retention(Retention::default().events(3));
    let (front, mut origin) = staged(&layer.replay(replay));
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..2).await;
    let (_, id) = client.events(2).await;
    drop(client);
    drop(front.send(after(&id)).await);
    feed.events(2..10).await;
    settle().await;
    drop(front.send(after(&id)).await);
    drop(
        front
            .send(after("0123456789abcdef0123456789abcdef.0.7"))
            .await,
    );
    feed.cut();
    settle().await;
    let count = |labels: &[(&str, &str)]| metrics.sum("sse_replay_gaps_total", labels);
    assert_eq!(count(&[("reason", "evicted")]), 1.0);
    assert_eq!(count(&[("reason", "unknown")]), 1.0);
    let gaps = metrics.sum("sse_replay_resumes_total", &[("result", "gap")]);
    assert_eq!(gaps, 2.0);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_agrees(&metrics, &records);
}

#[tokio::test(start_paused = true)]
async fn limits_and_policies_are_counted_by_the_reason_of_the_rejection() {
    let (metrics, _guard) = recorder();
    let (layer, records) = counted();
    let sessions = SessionMapping::header("x-session".parse().unwrap());
    let layer = layer.max_streams(1).sessions(sessions);
    let streams = layer.streams();
    let (front, mut origin) = staged(&layer);
    let stream = || get("/").header("accept", "text/event-stream");
    let (first, _feed) = front.open(&mut origin, stream()).await;
    assert_eq!(front.send(stream()).await.status, 503);
    let unknown = stream().header("x-session", "none");
    assert_eq!(front.send(unknown).await.status, 404);
    // Not a request for a stream.
    assert_eq!(
        front
            .send(get("/").header("x-session", "none"))
            .await
            .status,
        404
    );
    drop(first);
    streams.drain(Duration::from_secs(1)).await;
    assert_eq!(front.send(stream()).await.status, 503);
    for reason in ["limit", "session", "draining"] {
        let label = [("reason", reason)];
        assert_eq!(metrics.sum("sse_rejections_total", &label), 1.0, "{reason}");
    }
    let lookups = [("op", "lookup"), ("result", "ok")];
    let lookups = metrics.values("sse_store_duration_seconds", &lookups);
    assert_eq!(lookups.len(), 2);
    assert_agrees(&metrics, &records);
}

#[tokio::test(start_paused = true)]
async fn calls_to_the_session_store_are_counted_by_operation_and_result() {
    let (metrics, _guard) = recorder();
    let store = service_fn(|request: SessionRequest| async move {
        match request {
            SessionRequest::Lookup(id) if id.as_str() == "hang" => pending().await,
            SessionRequest::Lookup(id) if id.as_str() == "panic" => panic!("{SECRET}"),
            SessionRequest::Lookup(id) if id.as_str() == "other" => {
                let new = NewSession::new(UpstreamSessionId::new("up"), Owner::ANONYMOUS);
                let session = Session::new(SessionId::random(), new, SystemTime::now());
                Ok(Some(session))
            }
            SessionRequest::Lookup(id) if id.as_str() == "none" => Ok(None),
            _ => Err(SECRET),
        }
    });
    let sessions = SessionMapping::header("x-session".parse().unwrap());
    let layer = SseProxyLayer::new(store)
        .observe(Metrics::new())
        .sessions(sessions);
    for id in ["hang", "panic", "other", "none", "fail"] {
        let request = Request::post("/").header("x-session", id).body(()).unwrap();
        let body = event_stream(Script::new([]));
        let status = respond(&layer, request, body).await.status();
        assert_eq!(status, if id == "none" { 404 } else { 503 });
    }
    for (result, duration) in [
        ("timed_out", 2.0),
        ("panicked", 0.0),
        ("invalid", 0.0),
        ("ok", 0.0),
        ("failed", 0.0),
    ] {
        let labels = [("op", "lookup"), ("result", result)];
        let values = metrics.values("sse_store_duration_seconds", &labels);
        assert_eq!(values.len(), 1, "{result}");
        assert!((values[0] - duration).abs() < 0.01, "{result}");
    }
}

#[tokio::test(start_paused = true)]
async fn reconnects_are_counted_by_result() {
    let (metrics, _guard) = recorder();
    let (layer, records) = counted();
    let (front, mut origin) = staged(&layer.reconnect(Backoff::default()));
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..1).await;
    client.events(1).await;
    feed.cut();
    let upstream = async {
        origin.next().await.status(StatusCode::BAD_GATEWAY);
        let mut feed = origin.next().await.stream();
        feed.events(1..2).await;
        feed.end();
    };
    tokio::join!(upstream, client.rest_on_paused_clock());
    for result in ["failed", "succeeded"] {
        let label = [("result", result)];
        assert_eq!(metrics.sum("sse_reconnects_total", &label), 1.0, "{result}");
    }
    assert_agrees(&metrics, &records);
}

#[tokio::test(start_paused = true)]
async fn watchdogs_are_counted_by_kind_and_mode() {
    let (metrics, _guard) = recorder();
    for (observes, mode) in [(true, "observe"), (false, "act")] {
        let (layer, records) = counted();
        let watchdog = Watchdog::default()
            .content_gap(Duration::from_secs(10))
            .observe_only(observes);
        let (mut sender, mut body) = open(&layer.watchdog(watchdog)).await;
        sender.send_data("data: 1\n\n".into()).await.unwrap();
        next(&mut body).await;
        let silence = tokio::time::timeout(Duration::from_secs(30), body.frame());
        assert_eq!(silence.await.is_err(), observes);
        drop((sender, body));
        let labels = [("kind", "gap"), ("mode", mode)];
        assert_eq!(metrics.sum("sse_watchdog_fired_total", &labels), 1.0);
        drop(records);
    }
}

/// A chat completion whose second chunk with content comes two seconds after the first one.
async fn chat(layer: &SseProxyLayer, model: &str, reason: &str) {
    let (mut sender, body) = open(layer).await;
    let feed = async {
        for (pause, text) in [
            (
                1,
                r#"{"model":"MODEL","choices":[{"delta":{"content":"a"}}]}"#,
            ),
            (
                2,
                r#"{"choices":[{"delta":{"content":"b"},"finish_reason":"REASON"}]}"#,
            ),
            (
                0,
                r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":4}}"#,
            ),
            (0, "[DONE]"),
        ] {
            tokio::time::sleep(Duration::from_secs(pause)).await;
            let text = text.replace("MODEL", model).replace("REASON", reason);
            let event = format!("data: {text}\n\n");
            sender.send_data(event.into()).await.unwrap();
        }
        drop(sender);
    };
    let ((), (_, error)) = tokio::join!(feed, rest(body));
    assert_eq!(error, None);
}

#[tokio::test(start_paused = true)]
async fn stream_of_a_model_api_has_the_client_metrics_of_opentelemetry() {
    let (metrics, _guard) = recorder();
    let (layer, _) = counted();
    chat(&layer, "gpt-test", "stop").await;
    let labels = [
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", "openai"),
        ("gen_ai.response.model", "gpt-test"),
    ];
    let values = |name: &str| metrics.values(&format!("gen_ai.client.inference.{name}"), &labels);
    assert_eq!(values("duration"), [3.0]);
    assert_eq!(values("time_to_first_chunk"), [1.0]);
    assert_eq!(values("time_per_output_chunk"), [2.0]);
    assert_eq!(values("usage.input_tokens"), [7.0]);
    assert_eq!(values("usage.output_tokens"), [4.0]);
    assert_eq!(values("usage.reasoning.output_tokens"), [0.0; 0]);
    let finished = [("gen_ai.response.finish_reasons", "stop")];
    let duration = "gen_ai.client.inference.duration";
    assert_eq!(metrics.values(duration, &finished).len(), 1);
    assert!(metrics.labels(duration, "error.type").is_empty());
}

#[tokio::test(start_paused = true)]
async fn r62_labels_have_no_text_of_peers_but_short_names_of_models() {
    let (metrics, _guard) = recorder();
    let (layer, _) = counted();
    let long = "m".repeat(65);
    chat(&layer, &long, SECRET).await;
    let sessions = SessionMapping::header("x-session".parse().unwrap());
    let layer = layer.intercept(obey).sessions(sessions);
    let request = Request::post(format!("/{SECRET}"))
        .header("authorization", SECRET)
        .header("x-session", SECRET)
        .header("mcp-protocol-version", SECRET)
        .header("accept", "text/event-stream");
    let body = Script::of([format!("event: {SECRET}\ndata: panic\nid: {SECRET}\n\n")]);
    let response = respond(&layer, request.body(()).unwrap(), event_stream(body)).await;
    rest(response.into_body()).await;
    let all = metrics.all_labels();
    assert!(all.contains("other"), "{all:?}");
    assert!(
        !all.iter()
            .any(|label| label.contains(SECRET) || *label == long)
    );
}

#[tokio::test(start_paused = true)]
async fn answer_to_a_post_of_mcp_is_an_operation_with_its_revision() {
    let (metrics, _guard) = recorder();
    let (layer, _) = counted();
    for (method, version) in [("POST", "2025-06-18"), ("GET", "2025-06-18"), ("POST", "1")] {
        let request = Request::builder().method(method);
        let request = request.header("mcp-protocol-version", version);
        let body = Script::of(["data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n"]);
        let response = respond(&layer, request.body(()).unwrap(), event_stream(body)).await;
        rest(response.into_body()).await;
    }
    let values = |version| {
        let label = [("mcp.protocol.version", version)];
        let values = metrics.values("mcp.server.operation.duration", &label);
        values.len()
    };
    assert_eq!((values("2025-06-18"), values("other")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn operation_of_mcp_has_the_method_that_the_request_names() {
    let (metrics, _guard) = recorder();
    let (layer, records) = counted();
    for method in [Some("tools/call"), Some("my/method"), None] {
        let mut request = Request::post("/").header("mcp-protocol-version", "2026-07-28");
        if let Some(method) = method {
            request = request.header("mcp-method", method);
        }
        let body = Script::of(["data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n"]);
        let response = respond(&layer, request.body(()).unwrap(), event_stream(body)).await;
        rest(response.into_body()).await;
    }
    let methods = metrics.labels("mcp.server.operation.duration", "mcp.method.name");
    assert_eq!(Vec::from_iter(methods), ["other", "tools/call"]);
    let records = records.lock().unwrap();
    let names: Vec<_> = records
        .iter()
        .map(|record| record.mcp_method_name)
        .collect();
    assert_eq!(names, [Some("tools/call"), Some("other"), None]);
}

#[tokio::test(start_paused = true)]
async fn other_responses_are_not_counted() {
    let (metrics, _guard) = recorder();
    let (layer, _) = counted();
    let json = Response::new(Script::of(["{}"]));
    rest(respond(&layer, Request::new(()), json).await.into_body()).await;
    assert_eq!(metrics.sum("sse_streams_opened_total", &[]), 0.0);
    assert!(
        metrics
            .values("sse_stream_duration_seconds", &[])
            .is_empty()
    );
}

#[test]
fn all_metrics_are_described_and_in_the_guide() {
    let (metrics, _guard) = recorder();
    Metrics::new();
    let guide = include_str!("../../docs/operating.md");
    for name in metrics.described() {
        assert!(guide.contains(&format!("`{name}`")), "{name}");
    }
    assert!(metrics.names().is_subset(&metrics.described()));
}
