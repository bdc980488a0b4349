//! A recorded stream that does not end cleanly emits one `tracing` event, with any number of clients.

use std::time::Duration;

use crate::support::{
    Reports, close,
    origin::{after, get, layer_with, settle},
    reports, staged,
};
use tower_sse_proxy::{
    ErrorKind, Event, SseProxyLayer,
    intercept::Verdict,
    replay::{EventId, Replay, Retention},
};
use tracing::Level;

const GRACE_PERIOD: Duration = Duration::from_secs(30);

fn recorded() -> SseProxyLayer {
    layer_with(Replay::default().grace_period(GRACE_PERIOD)).route("/r")
}

fn assert_one(reports: &Reports, reason: &str, events: &str) {
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
async fn clean_end_is_not_reported_even_after_a_resume() {
    let reports = reports();
    let (front, mut origin) = staged(&recorded());
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..2).await;
    let (_, id) = client.events(1).await;
    // The client disconnects and resumes.
    drop(client);
    let again = front.send(after(&id)).await;
    feed.end();
    assert_eq!(again.rest().await.1, None);
    let once_more = front.send(after(&id)).await;
    assert_eq!(once_more.rest().await.1, None);
    tokio::time::advance(2 * GRACE_PERIOD).await;
    settle().await;
    assert!(reports.take().is_empty());
}

#[tokio::test(start_paused = true)]
async fn end_of_the_grace_period_is_reported() {
    let reports = reports();
    let (front, mut origin) = staged(&recorded());
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..2).await;
    client.events(2).await;
    drop(client);
    tokio::time::advance(GRACE_PERIOD / 2).await;
    assert!(!feed.is_dropped().await);
    assert!(reports.take().is_empty(), "the client may still resume");
    tokio::time::advance(GRACE_PERIOD).await;
    assert!(feed.is_dropped().await);
    assert_one(&reports, "client_left", "2");
}

#[tokio::test(start_paused = true)]
async fn broken_upstream_is_reported_when_no_client_resumes() {
    let reports = reports();
    let (front, mut origin) = staged(&recorded());
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..1).await;
    let (_, id) = client.events(1).await;
    feed.cut();
    assert_eq!(client.rest().await.1, Some(ErrorKind::Upstream));
    assert!(
        reports.take().is_empty(),
        "a client may still resume at the upstream"
    );
    // A client resumes, and the stream continues.
    let (mut client, mut feed) = front.open(&mut origin, after(&id)).await;
    feed.events(1..2).await;
    client.events(1).await;
    assert!(reports.take().is_empty());
    feed.cut();
    drop(client);
    settle().await;
    assert!(reports.take().is_empty());
    tokio::time::advance(2 * GRACE_PERIOD).await;
    settle().await;
    assert_one(&reports, "upstream_error", "2");
}

#[tokio::test(start_paused = true)]
async fn interceptor_failure_is_reported_once_for_all_clients() {
    let reports = reports();
    let fail = |event: Event| match &*event.data() {
        "2" => Verdict::fail("test"),
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
    assert_one(&reports, "interceptor_failed", "2");
    tokio::time::advance(2 * GRACE_PERIOD).await;
    settle().await;
    assert!(reports.take().is_empty());
}

#[tokio::test(start_paused = true)]
async fn end_inside_an_event_is_reported() {
    let reports = reports();
    let (front, mut origin) = staged(&recorded());
    let (client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..1).await;
    feed.send("data: half").await;
    feed.end();
    client.rest().await;
    assert_one(&reports, "truncated", "1");
}

#[tokio::test(start_paused = true)]
async fn closed_stream_is_reported() {
    let reports = reports();
    let layer = recorded();
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..1).await;
    let (_, id) = client.events(1).await;
    let id: EventId = id.parse().unwrap();
    assert!(close(&layer, id.stream()));
    assert_eq!(client.rest().await.1, Some(ErrorKind::Aborted));
    assert_one(&reports, "cancelled", "1");
}

#[tokio::test(start_paused = true)]
async fn end_at_max_age_is_reported() {
    let reports = reports();
    let layer = layer_with(Replay::default().max_age(GRACE_PERIOD)).route("/r");
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..1).await;
    client.events(1).await;
    tokio::time::advance(GRACE_PERIOD).await;
    assert_eq!(client.rest().await.1, Some(ErrorKind::Aborted));
    assert_one(&reports, "expired", "1");
}

/// The stream continues for the other client.
#[tokio::test(start_paused = true)]
async fn lagging_client_is_reported_separately() {
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
    assert_eq!((report.reason(), report.level), ("stalled", Level::WARN));
    assert_eq!(report.field("cause"), Some("slow client"));
    assert_eq!(report.field("route"), Some("/f"));
    feed.end();
    assert_eq!(quick.rest().await.1, None);
    assert!(reports.take().is_empty());
}

#[test]
fn runtime_shutdown_is_reported_for_each_stream() {
    let reports = reports();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let open_stream = runtime.block_on(async {
        let (front, mut origin) = staged(&recorded());
        let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
        feed.events(0..1).await;
        client.events(1).await;
        assert!(reports.take().is_empty());
        (front, origin, client, feed)
    });
    drop(runtime);
    assert_one(&reports, "drained", "1");
    drop(open_stream);
    assert!(reports.take().is_empty());
}
