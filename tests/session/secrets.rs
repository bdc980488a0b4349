//! Session ids, credentials and data appear in no log at any level, no `Debug` output and no error.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderName, Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt, service_fn};
use tower_sse_proxy::{
    SseProxyLayer,
    profile::{Mcp, OriginCheckLayer},
    session::{MemoryStore, Session, SessionMapping},
};
use tracing_subscriber::EnvFilter;

use crate::support::{Log, subscribe};

const CANARIES: [&str; 4] = ["UP-canary", "token-canary", "data-canary", "store-canary"];

fn stream(_: &Request<()>) -> Response<Full<Bytes>> {
    let stream = concat!(
        "event: endpoint\ndata: /messages?sessionId=UP-canary-1\n\n",
        "data: {\"id\": \"UP-canary-2\", \"text\": \"data-canary\"}\n\n",
        "event: endpoint\ndata: http://elsewhere.example/UP-canary-3\n\n",
    );
    let response = Response::builder().header("content-type", "text/event-stream");
    let response = response.header("mcp-session-id", "UP-canary");
    response.body(stream.into()).unwrap()
}

#[tokio::test]
async fn r62_no_secret_is_in_logs_debug_output_or_errors() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new("trace"))
        .with_writer(log.clone())
        .finish();
    let _log = subscribe(subscriber);
    tracing::trace!("the log works");

    let rules = || Mcp::sessions().in_data("/id").unwrap();
    let mcp = Mcp::with_sessions(tower_sse_proxy::Policy::default(), rules())
        .check(OriginCheckLayer::new(["here"], ["http://here"]));
    let shown = format!("{mcp:?} {:?}", rules());
    let good =
        SseProxyLayer::new(MemoryStore::default()).policy(move |request, _| mcp.policy(request));
    let failing = service_fn(|_| async { Err::<Option<Session>, _>("store-canary") });
    let failing = SseProxyLayer::new(failing).sessions(rules());
    let mut outputs = vec![shown, format!("{good:?}")];
    let mut ids = Vec::new();
    for layer in [
        good,
        failing,
        SseProxyLayer::default().sessions(SessionMapping::header(HeaderName::from_static(
            "mcp-session-id",
        ))),
    ] {
        let mut id = None;
        for _ in 0..2 {
            let upstream =
                service_fn(
                    |request: Request<()>| async move { Ok::<_, Infallible>(stream(&request)) },
                );
            let mut request = Request::get("/sse")
                .header("host", "here")
                .header("authorization", "token-canary");
            if let Some(id) = &id {
                request = request.header("mcp-session-id", id);
            }
            let service = layer.layer(upstream);
            outputs.push(format!("{service:?}"));
            let response = service.oneshot(request.body(()).unwrap()).await.unwrap();
            id = response.headers().get("mcp-session-id").cloned();
            ids.extend(id.as_ref().map(|id| id.to_str().unwrap().to_owned()));
            let mut body = response.into_body();
            outputs.push(format!("{body:?}"));
            while let Some(frame) = body.frame().await {
                if let Err(error) = frame {
                    let source = std::error::Error::source(&error).map(ToString::to_string);
                    outputs.push(format!("{error} {error:?} {source:?}"));
                }
            }
        }
    }
    let log = log.text();
    assert!(log.contains("the log works"));
    // The log says why a stream was cut or a request was rejected.
    for why in [
        "the upstream's endpoint is of another origin",
        "the session store failed",
    ] {
        assert!(log.contains(why), "`{why}` is not in the log: {log}");
    }
    assert!(!ids.is_empty());
    outputs.push(log);
    for text in outputs {
        for canary in CANARIES {
            assert!(!text.contains(canary), "{canary} in {text}");
        }
        for id in &ids {
            assert!(!text.contains(id.as_str()), "an id in {text}");
        }
    }
}
