//! The response for each decision of the interceptors, and for bodies that they cannot read.

use std::{
    future::pending,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body::Body;
use serde_json::{Value, json};
use tower_sse_proxy::{
    ErrorKind, Event, SseProxyLayer,
    codec::Block,
    intercept::{
        BodyShape, Interceptor, MakeInterceptorExt, StreamEnd, StreamHead, Verdict,
        window::{Decision, Pattern, TextSegment, TextWindow, patterns},
    },
};

use super::{JSON, LIMIT, gzip, inspecting, passed, response, secret};
use crate::support::{
    BOTH, Deny, Note, SECRET, Script, Step, Upstream, fetch, get, proxy, reports, respond, witness,
};

fn masked(mut event: Event) -> Event {
    event.set_data(event.data().replace(SECRET, "***"));
    event
}

fn digests() -> HeaderMap {
    let fields = [("content-digest", "x"), ("x-sum", "7")];
    let fields = fields.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    fields.into_iter().collect()
}

#[tokio::test]
async fn replaced_body_has_its_own_length_and_no_validator() {
    let body = format!("[\r\n\"{SECRET}\",\r\n1.0]");
    let fields = [
        JSON,
        ("etag", "\"v1\""),
        ("content-encoding", "gzip"),
        ("content-length", "99"),
        ("accept-ranges", "bytes"),
        ("digest", "x"),
        ("content-md5", "x"),
        ("repr-digest", "x"),
        ("content-digest", "x"),
        ("last-modified", "Mon, 01 Jan 2024 00:00:00 GMT"),
        ("cache-control", "private"),
    ];
    let script = Script::of([gzip(&body).await]).then(Step::Trailers(digests()));
    let layer = inspecting().intercept(masked);
    let (head, got) = passed(&layer, response(&fields, script)).await;
    assert_eq!(head.status, 200);
    assert_eq!(got, "[\r\n\"***\",\r\n1.0]");
    let mut names: Vec<_> = head.headers.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "cache-control",
            "content-length",
            "content-type",
            "last-modified"
        ]
    );
    assert_eq!(head.headers["content-length"], got.len().to_string());

    let script = Script::of([body]).then(Step::Trailers(digests()));
    let answer = respond(&layer, Request::new(()), response(&[JSON], script)).await;
    let (mut body, mut trailers) = (answer.into_body(), None);
    assert_eq!(body.size_hint().exact(), Some(15));
    while let Some(frame) = http_body_util::BodyExt::frame(&mut body).await {
        trailers = frame.unwrap().into_trailers().ok();
    }
    let trailers = trailers.unwrap();
    assert_eq!(
        (trailers.len(), &trailers["x-sum"]),
        (1, &"7".parse().unwrap())
    );
}

#[tokio::test]
async fn client_receives_a_replaced_body_over_both_protocols() {
    let head = "HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/problem+json\r\ncontent-length: ";
    let answer = format!("{head}{}\r\n\r\n{}", secret().len(), secret());
    let upstream = Upstream::answering(answer).await;
    let proxy = proxy(inspecting().intercept(masked), upstream).await;
    for protocol in BOTH {
        let answer = get(protocol, proxy).await;
        assert_eq!(
            (answer.status, answer.header("content-length")),
            (500, Some("11"))
        );
        let (body, ended) = answer.rest().await;
        assert_eq!(body, "{\"a\":\"***\"}");
        assert!(ended.is_clean());
    }
}

/// An event that an interceptor drops, or ends the stream with.
#[tokio::test]
async fn dropped_or_blocked_body_gets_the_status_of_the_policy() {
    let window = |on_block: bool| {
        let judge = patterns([Pattern::phrase(SECRET).block()]).unwrap();
        let window = TextWindow::new(judge);
        if on_block {
            window.on_block(|| vec![Event::new("refused")])
        } else {
            window
        }
    };
    let judge = |segment: &TextSegment| match segment.text.contains(SECRET) {
        true => Decision::Block,
        false => Decision::Pass,
    };
    let asked = tower::service_fn(move |segment: TextSegment| async move {
        tokio::task::yield_now().await;
        Ok::<_, std::convert::Infallible>(judge(&segment))
    });
    let layers = [
        inspecting().intercept(Deny::opened),
        inspecting().intercept(|event: Event| Verdict::end([event])),
        inspecting().intercept(|event: Event| Verdict::defer(async { Ok(Verdict::end([event])) })),
        inspecting()
            .intercept(|_: Event| Block::comment("gone"))
            .intercept(masked),
        inspecting().intercept(|_: Event| Verdict::Hold),
        inspecting().intercept(|_: Event| Verdict::block("a secret")),
        inspecting().intercept(window(false)),
        inspecting().intercept(window(true)),
        inspecting().intercept(TextWindow::new(judge)),
        inspecting().intercept(TextWindow::new(judge).on_block(|| vec![Event::new("refused")])),
        inspecting().intercept(TextWindow::service(asked)),
        inspecting().intercept(
            TextWindow::service(asked).on_block(|| vec![Event::new("refused"), Event::new("x")]),
        ),
    ];
    let reports = reports();
    for (n, layer) in layers.into_iter().enumerate() {
        for (layer, status) in [
            (layer.clone(), 403),
            (
                layer.blocked_status(StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS),
                451,
            ),
        ] {
            let fields = [JSON, ("etag", "\"v1\""), ("set-cookie", SECRET)];
            let (head, body) = passed(&layer, response(&fields, Script::of([secret()]))).await;
            assert_eq!(head.status, status, "{n}");
            assert_eq!(head.headers["content-type"], "application/json");
            let error = json!({"type": "blocked", "message": "The response was blocked."});
            let body: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(body, json!({ "error": error }));
            assert_eq!(
                head.headers.get("etag").or(head.headers.get("set-cookie")),
                None
            );
            let report = reports.only();
            assert_eq!(
                (report.reason(), report.level),
                ("blocked", tracing::Level::WARN)
            );
        }
    }
}

/// Interceptors that fail on the event.
#[tokio::test(start_paused = true)]
async fn failed_interceptor_is_answered_with_502() {
    let later = |event: Event| Verdict::defer(async { Ok(event) });
    let never = |_: Event| Verdict::defer(pending::<Result<Event, _>>());
    let fails = |_: Event| Verdict::fail("no");
    let panics = |_: Event| -> Event { panic!("on purpose") };
    let several = |event: Event| vec![event.clone(), event];
    let base = || inspecting().intercept(later).route("/x");
    let reports = reports();
    for layer in [
        base().intercept(fails),
        base().intercept(panics),
        base().intercept(never.time_limit(Duration::from_secs(5))),
        base().intercept(several),
        base().intercept(panics.fail_open()),
    ] {
        let (first, mut first_notes) = witness();
        let layer = layer.intercept(first);
        let (head, body) = passed(&layer, response(&[JSON], Script::of([secret()]))).await;
        assert_eq!(head.status, 502);
        assert!(body.contains("an interceptor failed") && !body.contains(SECRET));
        let report = reports.only();
        assert_eq!(report.reason(), "interceptor_failed");
        assert_eq!(report.field("route"), Some("/x"));
        assert_eq!(first_notes.ends().await.len(), 1);
    }
    for layer in [
        base().intercept(fails.fail_open()),
        base().intercept(never.time_limit(Duration::from_secs(5)).fail_open()),
    ] {
        let (head, body) = passed(&layer, response(&[JSON], Script::of([secret()]))).await;
        assert_eq!((head.status.as_u16(), body), (200, secret()));
    }
}

#[tokio::test]
async fn panic_on_opening_is_answered_with_502() {
    let panics = |_: &StreamHead<'_>| -> Option<Deny> { panic!("on purpose") };
    let (witness, mut notes) = witness();
    let layer = inspecting().intercept(witness).intercept(panics);
    let (head, body) = passed(&layer, response(&[JSON], Script::of([secret()]))).await;
    assert_eq!(head.status, 502);
    assert!(body.contains("JSON body cannot be inspected: an interceptor panicked"));
    assert_eq!(
        notes.until_dropped().await,
        [Note::Failed(ErrorKind::InterceptorPanicked)]
    );
}

fn utf16(text: &str) -> Bytes {
    let units = text.encode_utf16();
    units.flat_map(u16::to_le_bytes).collect::<Vec<u8>>().into()
}

/// A body that interceptors cannot read as its client may.
#[tokio::test]
async fn unreadable_body_is_answered_with_502() {
    use ErrorKind::{EventTooLarge, NotUtf8, Upstream};
    let large = format!("\"{}\"", "x".repeat(LIMIT - 1));
    let fits = &large[1..];
    assert_eq!(fits.len(), LIMIT);
    let plain = |text: &str| Script::of([text.to_owned()]);
    let chunks = |text: &str| {
        let steps = text.as_bytes().chunks(100);
        Script::new(
            steps.flat_map(|bytes| [Step::Later, Step::Data(Bytes::copy_from_slice(bytes))]),
        )
    };
    let coded = |coding| [JSON, ("content-encoding", coding)];
    let typed = |mime| [("content-type", mime), ("x", "y")];
    let half = gzip(secret()).await;
    let half = half.slice(..half.len() - 9);
    let mut cases = vec![
        (response(&[JSON], plain(&large)), EventTooLarge),
        (response(&[JSON], chunks(&large)), EventTooLarge),
        (
            response(&coded("gzip"), Script::of([gzip(&large).await])),
            EventTooLarge,
        ),
        (response(&coded("x-new"), plain(&secret())), Upstream),
        (response(&coded("gzip, gzip"), plain(&secret())), Upstream),
        (response(&coded("gzip"), plain(&secret())), Upstream),
        (response(&coded("gzip"), Script::of([half])), Upstream),
        (
            response(&typed("application/json; charset=utf-16"), plain(&secret())),
            Upstream,
        ),
        (
            response(&typed("a/b+json; charset=\"latin1\""), plain(&secret())),
            Upstream,
        ),
        (response(&[JSON], Script::of([utf16(&secret())])), NotUtf8),
        (
            response(
                &[JSON],
                Script::of([utf16(&format!("\u{feff}{}", secret()))]),
            ),
            NotUtf8,
        ),
        (
            response(&[JSON], Script::of([&b"{\"a\":\"\xffhunter2\"}"[..]])),
            NotUtf8,
        ),
        (
            response(&[JSON], plain(&secret()).then(Step::Error)),
            Upstream,
        ),
    ];
    let (mut part, status) = (
        response(&[JSON], plain(&secret())),
        StatusCode::PARTIAL_CONTENT,
    );
    *part.status_mut() = status;
    cases.push((part, Upstream));
    for (n, (response, kind)) in cases.into_iter().enumerate() {
        let reports = reports();
        let (witness, mut notes) = witness();
        let layer = inspecting().intercept(witness);
        let (head, body) = passed(&layer, response).await;
        assert_eq!(head.status, 502, "{n}");
        let error: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(error["error"]["type"], "uninspectable");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(
            message.starts_with("The upstream's JSON body cannot be inspected: "),
            "{body}"
        );
        assert!(!body.contains(SECRET) && body.len() < 300);
        assert_eq!(notes.until_dropped().await, [Note::Failed(kind)], "{n}");
        let reason = reports.only().reason().to_owned();
        assert!(
            ["overflow", "upstream_error", "rejected"].contains(&&*reason),
            "{reason}"
        );
    }
    for body in [plain(fits), chunks(fits)] {
        let layer = inspecting().intercept(|event: Event| event);
        let (head, body) = passed(&layer, response(&[JSON], body)).await;
        assert_eq!((head.status.as_u16(), body.as_str()), (200, fits));
    }
}

/// RFC 10036.
#[tokio::test]
async fn body_that_asks_to_be_forwarded_as_it_arrives_is_refused() {
    let fields = |value| [JSON, ("incremental", value)];
    for (value, status) in [("?1", 501), ("?1;x", 501), ("?0", 200), ("yes", 200)] {
        let reports = reports();
        let (sender, records) = std::sync::mpsc::channel();
        let layer = inspecting()
            .intercept(|event: Event| event)
            .on_close(move |record| sender.send(record.status).unwrap());
        let script = Script::of(["{}"]);
        let taken = script.taken();
        let (head, body) = passed(&layer, response(&fields(value), script)).await;
        assert_eq!(head.status, status, "{value}");
        assert_eq!(records.try_iter().collect::<Vec<_>>(), [Some(head.status)]);
        if status == 501 {
            assert_eq!(
                head.headers["proxy-status"],
                "tower-sse-proxy; error=incremental_refused"
            );
            assert!(body.contains("`Incremental: ?1`"), "{body}");
            assert_eq!(reports.only().reason(), "rejected");
            assert_eq!(taken.frames(), 0);
        } else {
            assert!(!head.headers.contains_key("proxy-status"));
        }
    }
    // No interceptor reads the JSON body.
    for layer in [inspecting(), SseProxyLayer::default().intercept(masked)] {
        let (head, body) = passed(&layer, response(&fields("?1"), Script::of(["{}"]))).await;
        assert_eq!((head.status.as_u16(), body.as_str()), (200, "{}"));
        assert_eq!(head.headers["incremental"], "?1");
    }
}

/// The layer does not read, nor keep, much more than the limit.
#[tokio::test]
async fn body_is_read_up_to_the_limit_only() {
    let layer = inspecting().intercept(|event: Event| event);
    let endless = Script::of((0..10_000).map(|_| "y".repeat(100)));
    let empty_member = gzip("").await;
    let members = Script::of((0..10_000).map(|_| empty_member.clone()));
    for (fields, script) in [
        (vec![JSON], endless),
        (vec![JSON, ("content-encoding", "gzip")], members),
    ] {
        let taken = script.taken();
        // Without a size hint.
        let body =
            http_body_util::StreamBody::new(http_body_util::BodyExt::into_data_stream(script));
        let body = futures_util::TryStreamExt::map_ok(body, http_body::Frame::data);
        let body = http_body_util::StreamBody::new(body);
        let answer = respond(&layer, Request::new(()), response(&fields, body)).await;
        assert_eq!(answer.status(), 502);
        assert!(taken.frames() < 200, "{}", taken.frames());
        assert!(taken.is_dropped());
    }
}

#[tokio::test]
async fn cut_connection_of_the_upstream_is_answered_with_502() {
    for answer in [
        "content-length: 900\r\n\r\n{\"a\":1}",
        "transfer-encoding: chunked\r\n\r\n7\r\n{\"a\":1}\r\n",
    ] {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
        let upstream = Upstream::answering(format!("{head}{answer}")).await;
        let proxy = proxy(inspecting().intercept(|event: Event| event), upstream).await;
        for protocol in BOTH {
            let (body, ended) = {
                let answer = get(protocol, proxy).await;
                assert_eq!(answer.status, 502);
                answer.rest().await
            };
            assert!(ended.is_clean() && memchr::memmem::find(&body, b"\"a\"").is_none());
        }
    }
}

/// Holds the event until the end.
#[derive(Default)]
struct HoldToEnd(Vec<Block>);

impl Interceptor for HoldToEnd {
    fn event(&mut self, event: Event) -> Verdict {
        self.0.push(event.into());
        Verdict::Hold
    }

    fn end(&mut self, end: StreamEnd<'_>) -> Verdict {
        assert!(matches!(end, StreamEnd::Complete));
        Verdict::Release(std::mem::take(&mut self.0))
    }
}

#[tokio::test]
async fn event_that_is_held_to_the_end_passes_the_later_interceptors() {
    let layer = inspecting()
        .intercept(|_: &StreamHead<'_>| Some(HoldToEnd::default()))
        .intercept(masked);
    let (head, body) = passed(&layer, response(&[JSON], Script::of([secret()]))).await;
    assert_eq!((head.status.as_u16(), &*body), (200, "{\"a\":\"***\"}"));
}

/// Ends the stream when its time is over.
struct EndAt(Instant);

impl Interceptor for EndAt {
    fn event(&mut self, event: Event) -> Verdict {
        event.into()
    }

    fn deadline(&self) -> Option<Instant> {
        Some(self.0)
    }

    fn timeout(&mut self, _now: Instant) -> Verdict {
        Verdict::End(vec![])
    }
}

#[tokio::test(start_paused = true)]
async fn timeout_of_an_interceptor_applies_while_the_body_arrives() {
    let layer = inspecting().intercept(|_: &StreamHead<'_>| {
        let now = tokio::time::Instant::now().into_std();
        Some(EndAt(now + Duration::from_secs(60)))
    });
    let script = Script::of(["{"]).then(Step::Never);
    let taken = script.taken();
    let (head, _) = passed(&layer, response(&[JSON], script)).await;
    assert_eq!(head.status, 403);
    assert!(taken.is_dropped());
}

#[tokio::test]
async fn interceptors_are_opened_with_the_shape_and_both_heads() {
    let layer = SseProxyLayer::default()
        .inspect_json(LIMIT)
        .intercept(|head: &StreamHead<'_>| {
            let shape = head.shape();
            let note = format!("{shape:?} {} {}", head.request.method, head.response.status);
            Some(move |mut event: Event| {
                event.set_data(&note);
                event
            })
        });
    let mut json = response(&[JSON], Script::of(["{}"]));
    *json.status_mut() = StatusCode::IM_A_TEAPOT;
    let request = Request::builder().method(Method::PUT).body(()).unwrap();
    let answer = respond(&layer, request, json).await;
    assert_eq!(answer.status(), 418);
    let body = http_body_util::BodyExt::collect(answer.into_body())
        .await
        .unwrap();
    assert_eq!(body.to_bytes(), "Json PUT 418 I'm a teapot");

    let stream = crate::support::event_stream(Script::of(["data: 1\n\n"]));
    let (_, body) = passed(&layer, stream).await;
    assert_eq!(body, "data: EventStream GET 200 OK\n\n");
    assert_eq!(BodyShape::default(), BodyShape::EventStream);
}

/// A client that names only codings that the layer cannot decode would otherwise get 502.
#[tokio::test]
async fn accept_encoding_of_a_request_for_json_is_narrowed() {
    let mut upstream = Upstream::start().await;
    let proxy = proxy(
        inspecting().intercept(|event: Event| event),
        upstream.address,
    )
    .await;
    let request = Request::get("/").header("accept", "application/json");
    let request = request.header("accept-encoding", "x-new, gzip;q=0.5, *");
    let client = fetch(BOTH[0], proxy, request.body(Bytes::new()).unwrap());
    let upstream = async {
        let mut exchange = upstream.next().await;
        exchange.write("HTTP/1.1 204 No Content\r\n\r\n").await;
        exchange.head
    };
    let (_, head) = tokio::join!(client, upstream);
    assert!(head.contains("accept-encoding: gzip;q=0.5\r\n"), "{head}");
}
