//! Secrets of requests, responses and events: in no log at any level, no metric, no record and no error of the gateway.

use std::{
    collections::BTreeSet, env, fs, net::SocketAddr, path::PathBuf, process, sync::Arc,
    time::Duration,
};

use axum::{Router, body::Body};
use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::BodyExt;
use metrics_exporter_prometheus::PrometheusBuilder;
use regex::Regex;
use tokio::net::TcpListener;
use tower::{Layer, ServiceExt, util::option_layer};
use tower_sse_proxy::{
    Streams,
    observe::{DURATION_BUCKETS, Metrics},
};
use tracing_subscriber::EnvFilter;

use crate::{
    admin::{self, Admin},
    gateway_guard, mcp, proxy,
    record_log::RecordLog,
    routes::layer,
    server::{bind, serve},
    serving::settings,
    support::{BOTH, Exchange, Log, Protocol, Read, Upstream, chunk, connect, fetch, subscribe},
    totals::Totals,
};

/// A part of every secret of a peer.
const CANARY: &str = "canary";

const VARIABLES: [(&str, &str); 14] = [
    ("SSEP_LISTEN", "127.0.0.1:0"),
    // The clients of the tests send this host.
    ("SSEP_ALLOWED_HOSTS", "test"),
    ("SSEP_DENY", "DENY"),
    ("SSEP_WINDOW_DENY", "BLOCK"),
    ("SSEP_WINDOW_MASK", "MASK"),
    ("SSEP_REWRITE_FROM", "REWRITE"),
    ("SSEP_REWRITE_TO", "rewritten"),
    ("SSEP_PANIC", "PANIC"),
    ("SSEP_HANG", "HANG"),
    ("SSEP_INTERCEPT_TIMEOUT_MS", "50"),
    ("SSEP_MAX_EVENT_BYTES", "300"),
    ("SSEP_INSPECT_JSON_BYTES", "300"),
    ("SSEP_HEAL", "1"),
    ("SSEP_DETACH_MS", "500"),
];

/// Paths of all routes.
const ROUTES: [&str; 5] = ["/s", "/r", "/f", "/m", "/mcp"];

const EVENTS: &str = "id: canary-id\nevent: canary-type\nretry: 100\n: canary-comment\ncanary-field: canary\n\
                      data: canary-data\n\n";

/// How the upstream ends its answer.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Clean,
    Trailer,
    Reset,
    /// With an invalid chunk size.
    Malformed,
    /// The answer continues until the client leaves.
    Open,
}

/// The answers of the upstream: its name, which is the last segment of the path; header fields; chunks of the body; its end.
fn answers() -> Vec<(&'static str, &'static str, Vec<String>, End)> {
    let sse = "content-type: text/event-stream\r\n";
    let json = "content-type: application/json\r\n";
    let large = "canary ".repeat(50);
    let event = |data: &str| format!("data: {data}\n\n");
    let events = |data: &str| vec![EVENTS.to_owned(), event(data)];
    let body = |text: &str| vec![format!(r#"{{"secret":"canary {text}"}}"#)];
    let all = || vec![EVENTS.to_owned()];
    vec![
        ("clean", sse, events("[DONE]"), End::Clean),
        ("open", sse, events("endless canary"), End::Open),
        ("reset", sse, events("broken canary"), End::Reset),
        ("cut", sse, vec!["data: canary\n\n".into()], End::Reset),
        ("malformed", sse, events("broken canary"), End::Malformed),
        ("trailer", sse, all(), End::Trailer),
        (
            "unfinished",
            sse,
            vec![EVENTS.into(), "data: canary".into()],
            End::Clean,
        ),
        ("denied", sse, events("DENY canary"), End::Clean),
        (
            "blocked",
            sse,
            vec![event("canary BLO"), event("CK canary")],
            End::Clean,
        ),
        ("masked", sse, events("canary MASK canary"), End::Clean),
        ("rewritten", sse, events("REWRITE canary"), End::Clean),
        ("panics", sse, events("PANIC canary"), End::Clean),
        ("hangs", sse, events("HANG canary"), End::Clean),
        ("large", sse, events(&large), End::Clean),
        (
            "ambiguous",
            sse,
            events(r#"{"a":"canary","a":"canary"}"#),
            End::Clean,
        ),
        (
            "text",
            sse,
            events(r#"{"choices":[{"delta":{"content":"canary"}}]}"#),
            End::Clean,
        ),
        (
            "endpoint",
            sse,
            vec!["event: endpoint\ndata: /canary?a=canary\n\n".into()],
            End::Clean,
        ),
        (
            "elsewhere",
            sse,
            vec!["event: endpoint\ndata: http://canary.example/\n\n".into()],
            End::Clean,
        ),
        ("utf-7", sse, vec!["+/v8-canary\n\n".into()], End::Clean),
        (
            "charset",
            "content-type: text/event-stream; charset=unknown\r\n",
            all(),
            End::Clean,
        ),
        (
            "type",
            "content-type: text /event-stream; x=canary\r\n",
            all(),
            End::Clean,
        ),
        (
            "coding",
            "content-type: text/event-stream\r\ncontent-encoding: unknown\r\n",
            all(),
            End::Clean,
        ),
        (
            "gzip",
            "content-type: text/event-stream\r\ncontent-encoding: gzip\r\n",
            all(),
            End::Clean,
        ),
        (
            "session",
            "content-type: text/event-stream\r\nmcp-session-id: canary canary\r\n",
            all(),
            End::Clean,
        ),
        ("json", json, body(""), End::Clean),
        ("json-denied", json, body("DENY"), End::Clean),
        ("json-blocked", json, body("BLOCK"), End::Clean),
        ("json-panics", json, body("PANIC"), End::Clean),
        ("json-large", json, body(&large), End::Clean),
        (
            "json-malformed",
            json,
            vec![r#"{"a":"canary","a":"canary"}"#.into()],
            End::Clean,
        ),
        ("json-reset", json, body(""), End::Reset),
        (
            "other",
            "content-type: canary/canary\r\n",
            body(""),
            End::Reset,
        ),
    ]
}

/// Answers by the last segment of the path. The session of a request is lost at `lost`.
async fn answer(mut exchange: Exchange) {
    exchange.body().await;
    let target = exchange.head.split(' ').nth(1).unwrap();
    let path = target.split('?').next().unwrap();
    let name = path.rsplit('/').next().unwrap().to_owned();
    let wire = &mut exchange.wire;
    if name == "lost" {
        let lost = "HTTP/1.1 404 canary-reason\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        return drop(wire.try_write(lost).await);
    }
    let answers = answers();
    let answer = answers.iter().find(|answer| answer.0 == name);
    let Some((_, head, body, end)) = answer else {
        return drop(wire.try_write("this is no HTTP: canary\r\n\r\n").await);
    };
    let session = match head.contains("mcp-session-id") {
        true => "",
        false => "mcp-session-id: canary-session\r\n",
    };
    let head = format!(
        "HTTP/1.1 200 canary-reason\r\n{head}{session}transfer-encoding: chunked\r\nconnection: close\r\n\
         set-cookie: sid=canary-cookie\r\nx-canary: canary-head\r\ntrailer: x-canary-trailer\r\n\r\n"
    );
    let _ = wire.try_write(head).await;
    for part in body {
        let _ = wire.try_write(chunk(part.as_bytes())).await;
    }
    match end {
        End::Clean => drop(wire.try_write("0\r\n\r\n").await),
        End::Trailer => drop(
            wire.try_write("0\r\nx-canary-trailer: canary\r\n\r\n")
                .await,
        ),
        End::Malformed => drop(wire.try_write("canary\r\n").await),
        End::Reset => exchange.wire.reset(),
        End::Open => drop(exchange.closed().await),
    }
}

/// The gateway, with its logs, metrics and records.
struct Gateway {
    address: SocketAddr,
    admin: Router,
    streams: Streams,
    records: PathBuf,
}

impl Gateway {
    /// Starts the gateway as its `main` does.
    fn start(upstream: SocketAddr, metrics: Arc<dyn Fn() -> String + Send + Sync>) -> Self {
        let settings = settings(&VARIABLES);
        let upstream = format!("http://{upstream}").parse().unwrap();
        let listener = bind(&settings.listen, "SSEP_LISTEN").unwrap();
        let address = listener.local_addr().unwrap();
        let policy = gateway_guard::policy(&settings).unwrap();
        let records = env::temp_dir().join(format!("records-{}-{address}", process::id()));
        let totals = Totals::default();
        let layer = layer(policy, &settings, address, &upstream).unwrap();
        let layer = layer.observe(Metrics::new()).observe(totals.clone());
        let record_log = RecordLog::open(records.to_str().unwrap(), Some("node".into()));
        let layer = layer.observe(record_log.unwrap());
        let streams = layer.streams();
        let admin = Admin {
            streams: streams.clone(),
            totals,
            metrics,
            drain: Duration::from_secs(1),
        };
        let heal = option_layer(mcp::healing(&settings));
        let service = layer.layer(heal.layer(proxy::Upstream::new(&upstream).unwrap()));
        let open = streams.clone();
        tokio::spawn(async move { serve(listener, service, open, &settings).await });
        Self {
            address,
            admin: admin::routes(admin, true),
            streams,
            records,
        }
    }

    /// Returns the response of an admin route.
    async fn shown(&self, path: &str) -> String {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = self.admin.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    }
}

/// The secrets that the gateway itself has made: session ids and event ids.
#[derive(Default)]
struct Made(BTreeSet<String>);

impl Made {
    fn add(&mut self, headers: &HeaderMap, body: &str) {
        let session = headers.get("mcp-session-id");
        self.0
            .extend(session.map(|id| id.to_str().unwrap().to_owned()));
        let ids = Regex::new(r"[0-9a-f]{32}(\.[0-9]+\.[0-9]+|[0-9a-f]{16})").unwrap();
        self.0
            .extend(ids.find_iter(body).map(|id| id.as_str().to_owned()));
    }

    /// The last id of an event.
    fn event(&self) -> Option<&String> {
        self.0.iter().rfind(|id| id.contains('.'))
    }

    fn session(&self) -> Option<&String> {
        self.0.iter().rfind(|id| !id.contains('.'))
    }
}

fn request(method: Method, path: &str) -> http::request::Builder {
    Request::builder()
        .method(method)
        .uri(format!("{path}?key=canary-query"))
        .header("accept", "text/event-stream, application/json")
        .header("authorization", "Bearer canary-token")
        .header("cookie", "sid=canary-cookie")
        .header("x-api-key", "canary-key")
        .header("x-canary", "canary-header")
        .header("user-agent", "canary/1")
        .header("referer", "http://canary.example/canary")
}

/// Sends a request, and reads the response up to its end or to a text that only endless ones have. Then the client leaves.
async fn send(
    gateway: &Gateway,
    protocol: Protocol,
    made: &mut Made,
    request: http::request::Builder,
) -> String {
    let body =
        Bytes::from_static(br#"{"id":"canary-call","method":"initialize","params":"canary"}"#);
    let mut answer = fetch(protocol, gateway.address, request.body(body).unwrap()).await;
    let mut text = String::new();
    while let Read::Data(data) = answer.read().await {
        text += &String::from_utf8_lossy(&data);
        // The gateway connects to a broken upstream again and again.
        if text.contains("endless") || text.contains("broken") {
            break;
        }
    }
    if answer.status >= 400 {
        assert!(!text.contains(CANARY), "{}: {text}", answer.status);
    }
    made.add(&answer.headers, &text);
    text
}

#[tokio::test]
async fn r62_no_secret_is_in_logs_metrics_records_or_errors() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new("trace"))
        .with_writer(log.clone())
        .finish();
    let _log = subscribe(subscriber);
    let recorder = PrometheusBuilder::new().set_buckets(&DURATION_BUCKETS);
    let recorder = recorder.unwrap().build_recorder();
    let exporter = recorder.handle();
    // Leaked, because the guard borrows it.
    let _metrics = metrics::set_default_local_recorder(Box::leak(Box::new(recorder)));
    let metrics: Arc<dyn Fn() -> String + Send + Sync> = Arc::new(move || exporter.render());

    let mut upstream = Upstream::start().await;
    let gateway = Gateway::start(upstream.address, Arc::clone(&metrics));
    tokio::spawn(async move {
        loop {
            tokio::spawn(answer(upstream.received().await));
        }
    });
    let mut made = Made::default();
    let mut texts = String::new();
    let protocols = BOTH.into_iter().cycle();
    for (route, protocol) in ROUTES.into_iter().zip(protocols) {
        for (name, ..) in answers() {
            for method in [Method::GET, Method::POST] {
                let path = format!("{route}/canary-path/{name}");
                texts += &send(&gateway, protocol, &mut made, request(method, &path)).await;
            }
        }
        let path = format!("{route}/canary-path/clean");
        let again = || request(Method::GET, &path);
        let event = made.event().cloned().unwrap_or_default();
        for request in [
            again().header("last-event-id", "canary-id"),
            again().header("last-event-id", &event),
            again()
                .header("last-event-id", &event)
                .header("last-event-id", "canary-id"),
            again().header("mcp-session-id", "canary-session"),
            again().header("origin", "http://canary.example"),
            again().header("mcp-protocol-version", "canary"),
            request(Method::OPTIONS, "/canary/no-http"),
        ] {
            send(&gateway, protocol, &mut made, request).await;
        }
        if let Some(session) = made.session().cloned() {
            for (method, name) in [
                (Method::POST, "lost"),
                (Method::POST, "clean"),
                (Method::DELETE, "lost"),
            ] {
                let path = format!("{route}/canary-path/{name}");
                let request = request(method, &path).header("mcp-session-id", &session);
                send(&gateway, protocol, &mut made, request).await;
            }
        }
    }

    // Malformed requests, and one with an unknown method.
    for malformed in [
        "canary canary\r\n\r\n",
        "GET /canary HTTP/9.9\r\n\r\n",
        "GET /s/canary/clean HTTP/1.1\r\nhost: test\r\ncanary\r\n\r\n",
        "GET /s/canary/clean HTTP/1.1\r\nhost: test\r\nx-canary: canary\r\ncontent-length: canary\r\n\r\n",
        "POST /s/canary/clean HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\ncanary\r\n",
        "XSECRET /r/canary/clean HTTP/1.1\r\nhost: test\r\nx-canary: canary\r\n\r\n",
    ] {
        let mut client = connect(gateway.address).await;
        client.write(malformed).await;
        client.finish().await;
        client.rest().await;
    }
    let dead = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let without_upstream = Gateway::start(dead, metrics);
    for route in ROUTES {
        let request = request(Method::GET, &format!("{route}/canary"));
        send(&without_upstream, Protocol::Http1, &mut made, request).await;
    }

    let mut shown = vec![
        gateway.shown("/streams").await,
        gateway.shown("/metrics").await,
        gateway.shown("/totals").await,
    ];
    assert!(
        !shown[1].contains("XSECRET"),
        "the labels of metrics are bounded"
    );
    for gateway in [&gateway, &without_upstream] {
        gateway.streams.drain(Duration::ZERO).await;
        shown.push(fs::read_to_string(&gateway.records).unwrap());
        fs::remove_file(&gateway.records).unwrap();
    }
    let log = log.text();
    // The secrets have passed, and there is what could have shown them.
    for secret in [
        "canary-id",
        "canary-type",
        "canary-data",
        "canary-comment",
        "canary-field",
    ] {
        assert!(texts.contains(secret), "{secret}");
    }
    assert!(made.0.len() > 50);
    assert!(log.contains("TRACE hyper") && log.contains(" WARN tower_sse_proxy"));
    assert!(shown[1].contains("sse_streams_opened_total"));
    assert!(shown[3].lines().count() > 100);
    shown.push(log);
    for text in &shown {
        for secret in made.0.iter().map(String::as_str).chain([CANARY]) {
            let mut lines = text.split('\n');
            assert!(
                !text.contains(secret),
                "{secret} in {:?}",
                lines.find(|line| line.contains(secret))
            );
        }
    }
}
