//! What operators see of recorded streams and do with them: observers, watchdogs, rechecks, closing and draining.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Request, StatusCode};
use tokio::time::sleep;
use tower::service_fn;
use tower_sse_proxy::{
    ErrorKind, Event, Watchdog,
    intercept::Verdict,
    observe::{StreamInfo, StreamObserver, StreamOutcome, WatchdogKind},
    replay::{Replay, Retention},
    streams::{CloseReason, Select},
};

use crate::support::{
    data,
    origin::{after, get, layer_with, layer_with_retention, recording_layer, settle},
    recorded, staged,
};

/// The reports that an observer has got, for all streams together.
#[derive(Clone, Debug, Default, PartialEq)]
struct Seen {
    held: Vec<Duration>,
    log_bytes: i64,
    lags: Vec<Duration>,
}

#[derive(Clone, Default)]
struct Observer(Arc<Mutex<Seen>>);

impl Observer {
    fn seen(&self) -> Seen {
        self.0.lock().unwrap().clone()
    }
}

impl StreamObserver for Observer {
    fn progress_interval(&self) -> Option<Duration> {
        Some(Duration::from_secs(1))
    }

    fn held(&self, _: &StreamInfo, held: Duration) {
        self.0.lock().unwrap().held.push(held);
    }

    fn log_bytes(&self, change: i64) {
        self.0.lock().unwrap().log_bytes += change;
    }

    fn log_lag(&self, lag: Duration) {
        self.0.lock().unwrap().lags.push(lag);
    }
}

#[tokio::test(start_paused = true)]
async fn log_bytes_and_lag_are_reported_each_interval() {
    let observer = Observer::default();
    let layer = recording_layer().observe(observer.clone());
    let streams = layer.streams();
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..100).await;
    sleep(Duration::from_millis(2500)).await;
    let seen = observer.seen();
    assert!(seen.log_bytes > 2000, "{seen:?}");
    assert_eq!(seen.log_bytes, streams.retained_bytes() as i64);
    assert_eq!(seen.lags, [1, 2].map(Duration::from_secs));
    client.events(100).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(observer.seen().lags[2], Duration::ZERO);
}

/// Holds `data: hold` for 3 seconds.
fn hold(event: Event) -> Verdict {
    if event.data() != "hold" {
        return event.into();
    }
    Verdict::defer(async {
        sleep(Duration::from_secs(3)).await;
        Ok(event)
    })
}

#[tokio::test(start_paused = true)]
async fn held_time_is_reported_once_for_each_held_event() {
    let observer = Observer::default();
    let layer = recording_layer().intercept(hold).observe(observer.clone());
    let (layer, records) = recorded(layer);
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    for data in ["a", "hold", "b", "hold"] {
        feed.send(format!("data: {data}\n\n")).await;
        assert_eq!(client.events(1).await.0, [data]);
        sleep(Duration::from_secs(10)).await;
    }
    feed.end();
    assert_eq!(client.rest().await.1, None);
    assert_eq!(observer.seen().held, [Duration::from_secs(3); 2]);
    assert_eq!(records.only().await.held_max, Duration::from_secs(3));
}

/// The writer does not read the upstream while it waits for its client, so the upstream is not silent.
#[tokio::test(start_paused = true)]
async fn watchdog_excuses_the_time_in_which_the_log_is_full() {
    for layer in [
        layer_with_retention(Retention::default().events(1)),
        recording_layer().max_replay_bytes(0),
    ] {
        let watchdog = Watchdog::default().content_gap(Duration::from_secs(5));
        let (layer, records) = recorded(layer.watchdog(watchdog));
        let (front, mut origin) = staged(&layer);
        let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
        // There is no room for the second event.
        for number in 0..2 {
            feed.events(number..number + 1).await;
            settle().await;
        }
        sleep(Duration::from_secs(60)).await;
        assert_eq!(records.fired(), []);
        client.events(2).await;
        sleep(Duration::from_secs(6)).await;
        assert_eq!(records.fired(), [WatchdogKind::Gap]);
        assert_eq!(records.only().await.outcome, StreamOutcome::Stalled);
    }
}

#[tokio::test(start_paused = true)]
async fn silent_stream_ends_with_the_error_of_its_api_when_a_watchdog_fires() {
    let watchdog = Watchdog::default().first_content(Duration::from_secs(5));
    let (layer, records) = recorded(recording_layer().watchdog(watchdog));
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.send("data: {\"type\":\"message_start\",\"message\":{}}\n\n")
        .await;
    client.event().await;
    let (text, failed) = client.rest_on_paused_clock().await;
    assert!(text.contains("event: error\n"), "{text}");
    assert_eq!(failed, Some(ErrorKind::Aborted));
    assert_eq!(records.only().await.outcome, StreamOutcome::Stalled);
}

#[tokio::test(start_paused = true)]
async fn drained_stream_ends_with_a_retry_field_and_can_be_resumed() {
    let (layer, records) = recorded(recording_layer());
    let streams = layer.streams();
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..2).await;
    let (_, first) = client.events(1).await;
    client.events(1).await;
    // The upstream is silent, so that the writer has to be woken.
    streams.drain(Duration::ZERO).await;
    let (text, failed) = client.rest().await;
    assert!(text.starts_with("retry: "), "{text}");
    assert_eq!(failed, Some(ErrorKind::Aborted));
    assert_eq!(records.only().await.outcome, StreamOutcome::Drained);
    let (text, _) = front.send(after(&first)).await.rest().await;
    assert_eq!(data(&text), ["1"]);
}

#[tokio::test(start_paused = true)]
async fn revoked_stream_cannot_be_resumed() {
    let forbid = service_fn(|_: Request<()>| async {
        Ok::<_, std::convert::Infallible>(StatusCode::FORBIDDEN)
    });
    let watchdog = Watchdog::default().recheck(forbid, Duration::from_secs(60));
    let (layer, records) = recorded(recording_layer().watchdog(watchdog));
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..2).await;
    let (_, first) = client.events(1).await;
    let record = records.next_on_paused_clock().await;
    assert_eq!(record.outcome, StreamOutcome::Revoked);
    assert!(feed.is_dropped().await);
    let resumed = front.send(after(&first)).await;
    assert_eq!(resumed.status, 204);
    assert!(origin.is_idle().await);
}

/// The end of the upstream body and the decision to close the stream come together.
#[tokio::test(start_paused = true)]
async fn stream_that_is_closed_at_its_end_is_cut() {
    let layer = recording_layer();
    let streams = layer.streams();
    let closes = move |event: Event| -> Verdict {
        if event.data() == "last" {
            streams.close(Select::All, CloseReason::Stalled);
        }
        event.into()
    };
    let (layer, records) = recorded(layer.intercept(closes));
    let (front, mut origin) = staged(&layer);
    let (client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.send("data: last\n\n").await;
    feed.end();
    assert_eq!(client.rest().await.1, Some(ErrorKind::Aborted));
    assert_eq!(records.only().await.outcome, StreamOutcome::Stalled);
}

#[tokio::test(start_paused = true)]
async fn clients_of_one_stream_count_as_one_against_max_streams() {
    let replay = Replay::default().share_by(|request| Some(request.uri.path().to_owned()));
    let (front, mut origin) = staged(&layer_with(replay).max_streams(1));
    let asking = |path| get(path).header("accept", "text/event-stream");
    let (_first, _feed) = front.open(&mut origin, asking("/")).await;
    assert_eq!(front.send(asking("/")).await.status, 200);
    assert_eq!(front.send(asking("/other")).await.status, 503);
    assert!(origin.is_idle().await);
}
