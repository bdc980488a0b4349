//! `Watchdog::reconnect`: the layer asks a silent upstream to continue, and the stream ends if it does not.

use std::time::Duration;

use http::StatusCode;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use tower_sse_proxy::{
    ErrorKind, SseProxyLayer, Watchdog,
    observe::{StreamOutcome, WatchdogKind},
    reconnect::{Backoff, Reconnect},
    replay::Replay,
};

use crate::support::{
    Call, Feed, Front, Origin, close, data,
    origin::{after, field, get, numbers},
    recorded, staged,
};

const GAP: Duration = Duration::from_secs(5);

/// A layer without and one with replay: the two ways to drive a stream.
fn both() -> [SseProxyLayer<Reconnect>; 2] {
    let backoff = Backoff::default().max_attempts(3);
    let layer = SseProxyLayer::default()
        .reconnect(backoff)
        .watchdog(watchdog());
    [layer.clone(), layer.replay(Replay::default())]
}

fn watchdog() -> Watchdog {
    Watchdog::default().content_gap(GAP).reconnect(true)
}

/// A client that reads to the end of its stream, and what it gets.
type Reads = JoinHandle<(String, Option<ErrorKind>)>;

/// A stream whose upstream has sent the event 0.
async fn begun(front: &Front, origin: &mut Origin) -> (Reads, Feed) {
    let (mut client, mut feed) = front.open(origin, get("/")).await;
    feed.events(0..1).await;
    assert_eq!(data(&client.event().await), ["0"]);
    (tokio::spawn(client.rest_on_paused_clock()), feed)
}

/// The next request of the layer, which continues after the event 0.
async fn continuation(origin: &mut Origin) -> Call {
    let call = origin.next_within_hours().await.unwrap();
    assert_eq!(call.header("last-event-id"), Some("up-0"));
    call
}

#[tokio::test(start_paused = true)]
async fn request_that_is_not_answered_is_silence() {
    for layer in both() {
        for breaks in [false, true] {
            let (layer, records) = recorded(layer.clone());
            let (front, mut origin) = staged(&layer);
            let (reads, mut feed) = begun(&front, &mut origin).await;
            if breaks {
                feed.cut();
            }
            let mut call = continuation(&mut origin).await;
            let since = Instant::now();
            call.canceled().await;
            assert!(since.elapsed() < GAP + Duration::from_secs(2));
            let (text, failed) = reads.await.unwrap();
            assert_eq!((&*text, failed), ("", Some(ErrorKind::Aborted)));
            assert_eq!(records.only().await.outcome, StreamOutcome::Stalled);
            let fired = vec![WatchdogKind::Gap; if breaks { 1 } else { 2 }];
            assert_eq!(records.fired(), fired);
            assert!(origin.is_idle().await);
        }
    }
}

/// The time of an answer counts as the time of an event: what is left of the limit is for the first event of the response.
#[tokio::test(start_paused = true)]
async fn late_answer_continues_the_stream() {
    for layer in both() {
        let (layer, records) = recorded(layer);
        let (front, mut origin) = staged(&layer);
        let (reads, _feed) = begun(&front, &mut origin).await;
        let call = continuation(&mut origin).await;
        sleep(GAP / 2).await;
        let mut feed = call.stream();
        sleep(GAP / 4).await;
        feed.events(1..2).await;
        feed.send("data: [DONE]\n\n").await;
        feed.end();
        let (text, failed) = reads.await.unwrap();
        assert_eq!(
            (data(&text), failed),
            (vec!["1".into(), "[DONE]".into()], None)
        );
        let record = records.only().await;
        assert_eq!(record.outcome, StreamOutcome::Completed);
        assert_eq!((record.events_out, record.reconnects), (3, 1));
    }
}

/// The answer of the upstream to each request to continue.
type AnswersWith = fn(Call);

/// What the client gets and the outcome, if the upstream falls silent or breaks, and then answers so.
async fn ending(
    layer: &SseProxyLayer<Reconnect>,
    breaks: bool,
    answer: AnswersWith,
) -> (String, Option<ErrorKind>, StreamOutcome) {
    let (layer, records) = recorded(layer.clone());
    let (front, mut origin) = staged(&layer);
    let (reads, mut feed) = begun(&front, &mut origin).await;
    if breaks {
        feed.cut();
    }
    let answers = tokio::spawn(async move {
        answer(continuation(&mut origin).await);
        while let Some(call) = origin.next_within_hours().await {
            answer(call);
        }
    });
    let (text, failed) = reads.await.unwrap();
    let outcome = records.next_on_paused_clock().await.outcome;
    assert_eq!(records.take().await.len(), 0);
    answers.abort();
    (text, failed, outcome)
}

#[tokio::test(start_paused = true)]
async fn silent_upstream_that_does_not_continue_ends_the_stream_as_a_broken_one() {
    let not_found: AnswersWith = |call| call.status(StatusCode::NOT_FOUND);
    let failing: AnswersWith = |call| call.status(StatusCode::INTERNAL_SERVER_ERROR);
    let other_type: AnswersWith = |call| call.status(StatusCode::OK);
    let complete: AnswersWith = |call| call.status(StatusCode::NO_CONTENT);
    for layer in both() {
        for answer in [not_found, failing, other_type, complete] {
            let silent = ending(&layer, false, answer).await;
            assert_eq!(silent, ending(&layer, true, answer).await);
        }
        let (_, failed, outcome) = ending(&layer, false, complete).await;
        assert_eq!((failed, outcome), (None, StreamOutcome::Completed));
    }
}

#[tokio::test(start_paused = true)]
async fn client_that_leaves_meanwhile_cancels_the_request() {
    let [layer, _] = both();
    let (layer, records) = recorded(layer);
    let (front, mut origin) = staged(&layer);
    let (reads, _feed) = begun(&front, &mut origin).await;
    let mut call = continuation(&mut origin).await;
    reads.abort();
    call.canceled().await;
    assert_eq!(records.only().await.outcome, StreamOutcome::ClientLeft);
    assert_eq!(layer.streams().list().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn stream_that_is_closed_meanwhile_ends_at_once() {
    for layer in both() {
        let (layer, records) = recorded(layer);
        let (front, mut origin) = staged(&layer);
        let (reads, _feed) = begun(&front, &mut origin).await;
        let mut call = continuation(&mut origin).await;
        let id = layer.streams().list()[0].id;
        assert!(close(&layer, id));
        call.canceled().await;
        assert_eq!(reads.await.unwrap().1, Some(ErrorKind::Aborted));
        assert_eq!(records.only().await.outcome, StreamOutcome::Cancelled);
        assert!(origin.is_idle().await);
    }
}

#[tokio::test(start_paused = true)]
async fn age_is_limited_while_the_layer_waits_to_reconnect() {
    let age = Duration::from_secs(20);
    for layer in both() {
        let (layer, records) = recorded(layer.watchdog(watchdog().max_age(age)));
        let (front, mut origin) = staged(&layer);
        let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
        let since = Instant::now();
        feed.send("retry: 100000\nid: up-0\ndata: 0\n\n").await;
        client.event().await;
        let (_, failed) = client.rest_on_paused_clock().await;
        assert_eq!(failed, Some(ErrorKind::Aborted));
        assert!(since.elapsed() <= age + Duration::from_secs(1));
        assert_eq!(records.only().await.outcome, StreamOutcome::Expired);
        assert!(origin.is_idle().await);
    }
}

#[tokio::test(start_paused = true)]
async fn all_clients_of_a_recorded_stream_get_its_continuation() {
    let [_, layer] = both();
    let (layer, records) = recorded(layer);
    let (front, mut origin) = staged(&layer);
    let (mut first, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..1).await;
    let id = field(&first.event().await, "id").unwrap();
    let second = front.send(after(&id)).await;
    let reads = [first, second].map(|client| tokio::spawn(client.rest_on_paused_clock()));
    let mut feed = continuation(&mut origin).await.stream();
    feed.events(0..4).await;
    feed.send("data: [DONE]\n\n").await;
    feed.end();
    let mut expected = numbers(1..4);
    expected.push("[DONE]".into());
    for reads in reads {
        let (text, failed) = reads.await.unwrap();
        assert_eq!((data(&text), failed), (expected.clone(), None));
    }
    assert_eq!(records.only().await.outcome, StreamOutcome::Completed);
    assert!(origin.is_idle().await);
}
