//! A recorded stream that does not end cleanly leaves one `tracing` event, however many clients read it.

use std::time::Duration;

use crate::support::{
    Reports,
    origin::{after, get, layer_with, settle},
    reports, staged,
};
use tower_sse_proxy::{
    ErrorKind, Event, SseProxyLayer,
    intercept::Verdict,
    replay::{EventId, Replay, Retention},
};
use tracing::Level;

const LINGER: Duration = Duration::from_secs(30);

fn recorded() -> SseProxyLayer {
    layer_with(Replay::default().grace_period(LINGER)).route("/r")
}

fn only(reports: &Reports, reason: &str, events: &str) {
    let report = reports.only();
    assert_eq!(report.reason(), reason);
    assert_eq!(report.field("events"), Some(events));
    assert_eq!(report.field("route"), Some("/r"));
    let expected = if reason == "client_left" {
        Level::DEBUG
    } else {
        Level::WARN
    };
    assert_eq!(report.level, expected);
}

#[tokio::test(start_paused = true)]
async fn a_clean_end_leaves_none_nor_does_a_client_that_comes_back_to_it() {
    let reports = reports();
    let (front, mut origin) = staged(&recorded());
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..2).await;
    let (_, id) = client.events(1).await;
    // It leaves in the middle, and comes back.
    drop(client);
    let again = front.send(after(&id)).await;
    feed.end();
    assert_eq!(again.rest().await.1, None);
    let once_more = front.send(after(&id)).await;
    assert_eq!(once_more.rest().await.1, None);
    tokio::time::advance(2 * LINGER).await;
    settle().await;
    assert!(reports.take().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_come_back_in_time_leaves_one() {
    let reports = reports();
    let (front, mut origin) = staged(&recorded());
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..2).await;
    client.events(2).await;
    drop(client);
    tokio::time::advance(LINGER / 2).await;
    assert!(!feed.is_dropped().await);
    assert!(reports.take().is_empty(), "it may come back");
    tokio::time::advance(LINGER).await;
    assert!(feed.is_dropped().await);
    only(&reports, "client_left", "2");
}

#[tokio::test(start_paused = true)]
async fn a_break_leaves_one_once_the_upstream_is_not_asked_to_go_on() {
    let reports = reports();
    let (front, mut origin) = staged(&recorded());
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..1).await;
    let (_, id) = client.events(1).await;
    feed.cut();
    assert_eq!(client.rest().await.1, Some(ErrorKind::Upstream));
    assert!(reports.take().is_empty(), "a client may have it go on");
    // The client does, and the stream is whole again.
    let (mut client, mut feed) = front.open(&mut origin, after(&id)).await;
    feed.events(1..2).await;
    client.events(1).await;
    assert!(reports.take().is_empty());
    feed.cut();
    drop(client);
    settle().await;
    assert!(reports.take().is_empty());
    tokio::time::advance(2 * LINGER).await;
    settle().await;
    only(&reports, "upstream_error", "2");
}

#[tokio::test(start_paused = true)]
async fn a_failure_leaves_one_for_all_its_clients() {
    let reports = reports();
    let fail = |event: Event| match &*event.data() {
        "2" => Verdict::fail("told to"),
        _ => event.into(),
    };
    let layer = recorded().intercept(fail);
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..1).await;
    let (_, id) = client.events(1).await;
    let (second, third) = (front.send(after(&id)).await, front.send(after(&id)).await);
    feed.events(1..3).await;
    for client in [client, second, third] {
        assert_eq!(client.rest().await.1, Some(ErrorKind::InterceptorFailed));
    }
    only(&reports, "interceptor_failed", "2");
    tokio::time::advance(2 * LINGER).await;
    settle().await;
    assert!(reports.take().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_inside_an_event_leaves_one() {
    let reports = reports();
    let (front, mut origin) = staged(&recorded());
    let (client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..1).await;
    feed.send("data: half").await;
    feed.end();
    client.rest().await;
    only(&reports, "truncated", "1");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_aborted_leaves_one() {
    let reports = reports();
    let layer = recorded();
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..1).await;
    let (_, id) = client.events(1).await;
    let id: EventId = id.parse().unwrap();
    assert!(layer.abort(id.stream));
    assert_eq!(client.rest().await.1, Some(ErrorKind::Aborted));
    only(&reports, "cancelled", "1");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_reaches_its_age_leaves_one() {
    let reports = reports();
    let layer = layer_with(Replay::default().max_age(LINGER)).route("/r");
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..1).await;
    client.events(1).await;
    tokio::time::advance(LINGER).await;
    assert_eq!(client.rest().await.1, Some(ErrorKind::Aborted));
    only(&reports, "expired", "1");
}

/// The stream goes on without it.
#[tokio::test(start_paused = true)]
async fn a_client_that_cannot_keep_up_leaves_one_of_its_own() {
    let reports = reports();
    let shared = Replay::default()
        .share_by(|_: &http::request::Parts| Some("all".to_owned()))
        .retention(Retention::default().events(2));
    let (front, mut origin) = staged(&layer_with(shared).route("/f"));
    let (mut quick, mut feed) = front.open(&mut origin, get("/")).await;
    let slow = front.send(get("/")).await;
    for n in 0..9 {
        feed.events(n..n + 1).await;
        quick.events(1).await;
    }
    assert_eq!(slow.rest().await.1, Some(ErrorKind::Lagged));
    let report = reports.only();
    assert_eq!((report.reason(), report.level), ("lagged", Level::WARN));
    assert_eq!(report.field("route"), Some("/f"));
    feed.end();
    assert_eq!(quick.rest().await.1, None);
    assert!(reports.take().is_empty());
}

#[test]
fn a_runtime_that_shuts_down_leaves_one_for_each_stream() {
    let reports = reports();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let kept = runtime.block_on(async {
        let (front, mut origin) = staged(&recorded());
        let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
        feed.events(0..1).await;
        client.events(1).await;
        assert!(reports.take().is_empty());
        (front, origin, client, feed)
    });
    drop(runtime);
    only(&reports, "shutdown", "1");
    drop(kept);
    assert!(reports.take().is_empty());
}
