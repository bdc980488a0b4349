//! Which upstream requests the gateway cancels when their client disconnects, and how long the others continue.

use std::time::Duration;

use http::{Method, Request};
use tower_sse_proxy::Policy;

use crate::{
    routes::layer,
    serving::settings,
    support::{
        origin::{Front, Origin, settle},
        staged,
    },
};

const MINUTE: Duration = Duration::from_secs(60);

fn gateway() -> (Front, Origin) {
    let settings = settings(&[]);
    let upstream = "http://127.0.0.1:9".parse().unwrap();
    let listen = settings.listen.addresses[0];
    staged(&layer(Policy::default(), &settings, listen, &upstream).unwrap())
}

fn request(method: &Method, path: &str, revision: Option<&str>) -> http::request::Builder {
    let request = Request::builder().method(method).uri(path);
    let request = request.header("host", "localhost:18080");
    match revision {
        Some(revision) => request.header("mcp-protocol-version", revision),
        None => request,
    }
}

#[tokio::test(start_paused = true)]
async fn r33_disconnect_cancels_or_detaches_by_revision_and_route() {
    for (method, path, revision, detaches) in [
        (Method::GET, "/s/a", None, false),
        (Method::POST, "/v1/chat/completions", None, false),
        (Method::POST, "/v1/messages", Some("2025-11-25"), false),
        (Method::GET, "/r/a", None, true),
        (Method::POST, "/mcp", None, true),
        (Method::POST, "/mcp", Some("2025-03-26"), true),
        (Method::POST, "/mcp", Some("2025-06-18"), true),
        (Method::POST, "/m/a", Some("2025-11-25"), true),
        (Method::GET, "/mcp", Some("2025-11-25"), true),
        // A stream of revision 2024-11-05 is its session, and ends with its client.
        (Method::GET, "/mcp", None, false),
        (Method::POST, "/mcp", Some("2026-07-28"), false),
        (Method::GET, "/mcp", Some("2026-07-28"), false),
        (Method::POST, "/m/a", Some("2027-01-01"), false),
    ] {
        let (front, mut origin) = gateway();
        let request = request(&method, path, revision);
        let (mut client, mut feed) = front.open(&mut origin, request).await;
        feed.send("data: 1\n\n").await;
        while !client.event().await.contains("data: 1\n") {}
        drop(client);
        settle().await;
        let case = format!("{method} {path} {revision:?}");
        assert_eq!(!feed.is_dropped().await, detaches, "{case}");
        if !detaches {
            continue;
        }
        tokio::time::advance(MINUTE - Duration::from_secs(1)).await;
        assert!(!feed.is_dropped().await, "{case}");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(feed.is_dropped().await, "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn r33_detached_stream_ends_above_64_mib() {
    const CHUNK: usize = 1 << 19;
    let (front, mut origin) = gateway();
    let request = request(&Method::GET, "/r/a", None);
    let (client, mut feed) = front.open(&mut origin, request).await;
    drop(client);
    settle().await;
    let event = format!("data: {}\n\n", "x".repeat(CHUNK));
    let most = (64 << 20) / CHUNK;
    for sent in 0..most - 1 {
        feed.send(event.clone()).await;
        assert!(!feed.is_dropped().await, "after {sent} events");
    }
    feed.send(event.clone()).await;
    feed.send(event).await;
    assert!(feed.is_dropped().await);
}
