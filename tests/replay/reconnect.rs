//! Reconnect: if the upstream connection breaks, the layer resumes at the upstream, and the client sees one stream.

use std::time::Duration;

use crate::support::{Call, Client, Front, Note, Origin, data, recorded, staged, witness};
use http::{Method, Request, StatusCode};
use tokio::time::{Instant, advance};
use tower_sse_proxy::{
    ErrorKind, Event, KeepAlive, SseProxyLayer, Watchdog,
    intercept::{Interceptor, StreamHead, Verdict},
    observe::{StreamOutcome, WatchdogKind},
    reconnect::{Attempt, Backoff, Reconnect},
    replay::Replay,
};

fn layer() -> SseProxyLayer<Reconnect> {
    SseProxyLayer::default().reconnect(Backoff::default())
}

fn get() -> http::request::Builder {
    Request::get("/")
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// A layer without and one with replay: the two ways to drive a stream.
fn both() -> [SseProxyLayer<Reconnect>; 2] {
    [layer(), layer().replay(Replay::default())]
}

/// Polls the client until the upstream gets the next request. Panics if the client gets `number` events before.
async fn while_reading(
    client: &mut Client,
    number: usize,
    origin: &mut Origin,
) -> (Vec<String>, Call) {
    let read = async {
        let mut seen = Vec::new();
        for _ in 0..number {
            seen.extend(data(&client.event().await));
        }
        seen
    };
    // The client must be polled, because its body drives the upstream.
    let call = async { origin.next().await };
    tokio::pin!(read, call);
    tokio::select! {
        _ = &mut read => panic!("the client got events before the request"),
        call = &mut call => (Vec::new(), call),
    }
}

#[tokio::test(start_paused = true)]
async fn r40_broken_upstream_is_resumed_after_the_last_id() {
    for layer in both() {
        let (witness, mut notes) = witness();
        let (front, mut origin) = staged(&layer.intercept(witness));
        let (mut client, mut feed) = front
            .open(&mut origin, get().header("x-other", "unchanged"))
            .await;
        let mut upto = 0;
        for round in 0..10 {
            feed.events(upto..upto + 3).await;
            let mut seen = Vec::new();
            for _ in 0..3 {
                seen.extend(data(&client.event().await));
            }
            assert_eq!(seen, numbers(upto..upto + 3));
            upto += 3;
            // The unfinished event is dropped, because the upstream sends it again.
            feed.send(format!("id: up-{upto}\ndata: {upto}")).await;
            feed.cut();
            let (_, call) = while_reading(&mut client, 1, &mut origin).await;
            assert_eq!(
                call.header("last-event-id"),
                Some(&*format!("up-{}", upto - 1)),
                "{round}"
            );
            assert_eq!(call.header("x-other"), Some("unchanged"));
            assert_eq!(call.request.extensions().get(), Some(&Attempt(1)));
            feed = call.stream();
        }
        feed.send("data: [DONE]\n\n").await;
        feed.end();
        assert_eq!(data(&client.rest().await.0), ["[DONE]"]);
        let mut seen = notes.until_dropped().await;
        assert_eq!(
            seen.pop(),
            Some(Note::Complete),
            "one stream for the interceptors"
        );
        assert_eq!(seen.len(), 31);
        assert!(origin.is_idle().await);
    }
}

#[tokio::test(start_paused = true)]
async fn silent_upstream_is_asked_to_continue_before_the_stream_ends() {
    let limit = Duration::from_secs(5);
    let watchdog = Watchdog::default().content_gap(limit).reconnect(true);
    for layer in both() {
        let (layer, records) = recorded(layer.watchdog(watchdog.clone()));
        let (front, mut origin) = staged(&layer);
        let (mut client, mut feed) = front.open(&mut origin, get()).await;
        for number in 0..3 {
            feed.events(number..number + 1).await;
            assert_eq!(data(&client.event().await), numbers(number..number + 1));
            // The unfinished event is dropped.
            feed.send("data: half").await;
            let since = Instant::now();
            let (_, call) = while_reading(&mut client, 1, &mut origin).await;
            assert!(since.elapsed() >= limit);
            let last = format!("up-{number}");
            assert_eq!(call.header("last-event-id"), Some(&*last));
            assert!(feed.is_dropped().await);
            feed = call.stream();
        }
        // The second silence, without content since the first one.
        let (rest, failed) = client.rest_on_paused_clock().await;
        assert_eq!((data(&rest), failed), (vec![], Some(ErrorKind::Aborted)));
        let record = records.only().await;
        assert_eq!(record.outcome, StreamOutcome::Stalled);
        assert_eq!((record.events_out, record.reconnects), (3, 3));
        assert_eq!(records.fired(), [WatchdogKind::Gap; 4]);
        assert!(origin.is_idle().await);
    }
}

#[tokio::test(start_paused = true)]
async fn silent_upstream_that_gave_no_id_ends_the_stream() {
    let watchdog = Watchdog::default()
        .content_gap(Duration::from_secs(60))
        .reconnect(true);
    for layer in both() {
        let (layer, records) = recorded(layer.watchdog(watchdog.clone()));
        let (front, mut origin) = staged(&layer);
        let (mut client, mut feed) = front.open(&mut origin, get()).await;
        feed.send("data: 0\n\n").await;
        client.event().await;
        let (_, failed) = client.rest_on_paused_clock().await;
        assert_eq!(failed, Some(ErrorKind::Aborted));
        assert_eq!(records.only().await.outcome, StreamOutcome::Stalled);
        assert!(origin.is_idle().await);
    }
}

#[tokio::test(start_paused = true)]
async fn r40_any_number_of_repeated_events_is_dropped() {
    for layer in both() {
        let (front, mut origin) = staged(&layer);
        let (mut client, mut feed) = front.open(&mut origin, get()).await;
        // The layer remembers fewer ids than these. It recognizes the repeats by the first id of the stream.
        for from in (0..2000).step_by(100) {
            feed.events(from..from + 100).await;
            for _ in 0..100 {
                client.event().await;
            }
        }
        feed.cut();
        let (_, call) = while_reading(&mut client, 1, &mut origin).await;
        let mut feed = call.stream();
        let read = async {
            let mut seen = Vec::new();
            for _ in 0..2 {
                seen.extend(data(&client.event().await));
            }
            seen
        };
        let sent = async {
            feed.events(0..2002).await;
        };
        let (seen, ()) = tokio::join!(read, sent);
        assert_eq!(seen, numbers(2000..2002));
    }
}

#[tokio::test(start_paused = true)]
async fn stream_without_ids_is_cut_without_a_reconnect() {
    for layer in both() {
        let (front, mut origin) = staged(&layer);
        let (client, mut feed) = front.open(&mut origin, get()).await;
        feed.send("data: 0\n\n").await;
        feed.cut();
        let (seen, cut) = client.rest().await;
        assert_eq!(
            (data(&seen), cut),
            (numbers(0..1), Some(ErrorKind::Upstream))
        );
        assert!(origin.is_idle().await);
    }
}

#[tokio::test(start_paused = true)]
async fn r40_request_with_other_method_or_body_is_not_repeated() {
    for layer in both() {
        let (front, mut origin) = staged(&layer);
        for request in [
            Request::post("/"),
            get().header("content-length", "3"),
            get().header("transfer-encoding", "chunked"),
        ] {
            let (client, mut feed) = front.open(&mut origin, request).await;
            feed.events(0..1).await;
            feed.cut();
            assert_eq!(client.rest().await.1, Some(ErrorKind::Upstream));
        }
        assert!(origin.is_idle().await);
    }
}

#[tokio::test(start_paused = true)]
async fn resume_with_get_continues_the_stream_of_a_post() {
    let rules = Reconnect::default().resume_with_get(|request| request.method == Method::POST);
    let (front, mut origin) = staged(&SseProxyLayer::default().reconnect(rules));
    let request = Request::post("/")
        .header("content-length", "0")
        .header("content-type", "application/json");
    let (mut client, mut feed) = front.open(&mut origin, request).await;
    feed.events(0..1).await;
    client.event().await;
    feed.cut();
    let (_, call) = while_reading(&mut client, 1, &mut origin).await;
    assert_eq!(call.request.method(), Method::GET);
    assert_eq!(call.header("last-event-id"), Some("up-0"));
    assert_eq!(
        (call.header("content-type"), call.header("content-length")),
        (None, None)
    );
}

/// Answers each request with this status until there are no more. Returns the times of the requests.
async fn failing(origin: &mut Origin, status: StatusCode) -> Vec<Duration> {
    let begun = Instant::now();
    let mut times = Vec::new();
    while let Some(call) = origin.next_within_hours().await {
        times.push(begun.elapsed());
        call.status(status);
    }
    times
}

async fn broken(front: &Front, origin: &mut Origin, before: &str) -> Client {
    let (client, mut feed) = front.open(origin, get()).await;
    feed.send(format!("{before}id: 7\ndata: 7\n\n")).await;
    feed.cut();
    client
}

#[tokio::test(start_paused = true)]
async fn r40_delays_grow_exponentially_up_to_max_attempts() {
    let backoff = Backoff::default()
        .initial(Duration::from_millis(500))
        .max_delay(Duration::from_secs(4))
        .max_attempts(6);
    let (front, mut origin) = staged(&SseProxyLayer::default().reconnect(backoff));
    let client = broken(&front, &mut origin, "").await;
    let ((seen, cut), times) =
        tokio::join!(client.rest(), failing(&mut origin, StatusCode::BAD_GATEWAY));
    assert_eq!(
        (&*seen, cut),
        ("id: 7\ndata: 7\n\n", Some(ErrorKind::Upstream))
    );
    assert_eq!(times.len(), 6);
    let mut before = Duration::ZERO;
    for (at, most) in times.into_iter().zip([1, 2, 4, 8, 8, 8]) {
        assert!(
            at - before <= Duration::from_millis(most * 500 + 10),
            "{at:?}"
        );
        before = at;
    }
}

#[tokio::test(start_paused = true)]
async fn r40_retry_field_of_the_upstream_is_the_minimum_delay() {
    let (front, mut origin) =
        staged(&SseProxyLayer::default().reconnect(Backoff::default().max_attempts(3)));
    let client = broken(&front, &mut origin, "retry: 1000\n").await;
    let (_, times) = tokio::join!(
        client.rest(),
        failing(&mut origin, StatusCode::SERVICE_UNAVAILABLE)
    );
    assert_eq!(times.len(), 3);
    let mut before = Duration::ZERO;
    for at in times {
        assert!(at - before >= Duration::from_secs(1), "{at:?}");
        before = at;
    }
}

#[tokio::test(start_paused = true)]
async fn r40_status_204_ends_the_stream_and_other_answers_cut_it() {
    for (status, cut) in [
        (StatusCode::NO_CONTENT, None),
        (StatusCode::NOT_FOUND, Some(ErrorKind::Upstream)),
        (StatusCode::OK, Some(ErrorKind::Upstream)),
        (StatusCode::FOUND, Some(ErrorKind::Upstream)),
    ] {
        for layer in [
            layer(),
            layer().replay(Replay::default().grace_period(Duration::ZERO)),
        ] {
            let (front, mut origin) = staged(&layer);
            let client = broken(&front, &mut origin, "").await;
            let ((_, ended), times) = tokio::join!(client.rest(), failing(&mut origin, status));
            assert_eq!((ended, times.len()), (cut, 1), "{status}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn stream_ended_by_204_gives_204_to_resuming_clients() {
    let (front, mut origin) = staged(&layer().replay(Replay::default()));
    let (mut client, mut feed) = front.open(&mut origin, get()).await;
    feed.events(0..1).await;
    let (_, id) = client.events(1).await;
    feed.cut();
    let ((_, ended), ()) = tokio::join!(client.rest(), async {
        origin.next().await.status(StatusCode::NO_CONTENT);
    });
    assert_eq!(ended, None);
    let again = front.send(get().header("last-event-id", id)).await;
    assert_eq!(again.status, 204);
    assert!(origin.is_idle().await);
}

/// Two upstreams with a hundred streams break at the same time: one with a `retry` field, one without.
#[tokio::test(start_paused = true)]
async fn r40_streams_that_break_together_do_not_reconnect_together() {
    const STREAMS: usize = 100;
    for layer in both() {
        for (retry, window) in [("", 3000), ("retry: 2000\n", 2000)] {
            let (front, mut origin) = staged(&layer);
            let mut streams = Vec::new();
            for _ in 0..STREAMS {
                let (client, mut feed) = front.open(&mut origin, get()).await;
                feed.send(format!("{retry}id: 7\ndata: 7\n\n")).await;
                streams.push((tokio::spawn(client.rest_on_paused_clock()), feed));
            }
            crate::support::origin::settle().await;
            let begun = Instant::now();
            streams.iter_mut().for_each(|(_, feed)| feed.cut());
            let mut times = Vec::new();
            for _ in 0..STREAMS {
                let call = origin.next().await;
                times.push(begun.elapsed().as_millis() as usize);
                call.status(StatusCode::NO_CONTENT);
            }
            let spread = times[STREAMS - 1] - times[0];
            assert!(spread > window / 2, "{times:?}");
            let most = times.iter().map(|from| {
                let together = times
                    .iter()
                    .filter(|at| (*from..from + window / 10).contains(at));
                together.count()
            });
            let most = most.max().unwrap();
            assert!(
                most <= STREAMS / 3,
                "{most} requests within {} ms: {times:?}",
                window / 10
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn event_resets_the_number_of_attempts_and_a_head_does_not() {
    let backoff = Backoff::default()
        .initial(Duration::from_secs(1))
        .max_attempts(3);
    let (front, mut origin) = staged(&SseProxyLayer::default().reconnect(backoff));
    let (client, mut feed) = front.open(&mut origin, get()).await;
    feed.events(0..1).await;
    feed.cut();
    let upstream = async {
        let mut attempts = Vec::new();
        for round in 1.. {
            let Some(call) = origin.next_within_hours().await else {
                break;
            };
            attempts.push(call.request.extensions().get::<Attempt>().unwrap().0);
            let mut feed = call.stream();
            if round == 2 {
                // The second answer brings an event. All others break after the head.
                feed.events(1..2).await;
            }
            feed.cut();
        }
        attempts
    };
    let ((_, cut), attempts) = tokio::join!(client.rest(), upstream);
    assert_eq!(cut, Some(ErrorKind::Upstream));
    assert_eq!(attempts, [1, 2, 1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn interceptor_does_not_get_held_events_again() {
    struct Pairs(Option<Event>);
    impl Interceptor for Pairs {
        fn event(&mut self, event: Event) -> Verdict {
            match self.0.take() {
                Some(first) => Verdict::Release(vec![first.into(), event.into()]),
                None => {
                    self.0 = Some(event);
                    Verdict::Hold
                }
            }
        }
    }
    for layer in both() {
        let layer = layer.intercept(|_: &StreamHead<'_>| Some(Pairs(None)));
        let (front, mut origin) = staged(&layer);
        let (mut client, mut feed) = front.open(&mut origin, get()).await;
        feed.events(0..3).await;
        client.event().await;
        client.event().await;
        feed.cut();
        let (_, call) = while_reading(&mut client, 1, &mut origin).await;
        assert_eq!(
            call.header("last-event-id"),
            Some("up-2"),
            "the third event is held"
        );
        let mut feed = call.stream();
        feed.events(3..4).await;
        assert_eq!(data(&client.event().await), ["2"]);
        assert_eq!(data(&client.event().await), ["3"]);
    }
}

#[tokio::test(start_paused = true)]
async fn keep_alive_comments_are_sent_during_a_reconnect() {
    let keep_alive = KeepAlive::new(Duration::from_millis(100)).immediate(false);
    let (front, mut origin) = staged(&layer().keep_alive(keep_alive));
    let mut client = broken(&front, &mut origin, "retry: 1000\n").await;
    while !client.event().await.ends_with("id: 7\ndata: 7\n\n") {}
    for _ in 0..5 {
        assert_eq!(client.event().await, ":\n\n");
    }
    let (_, call) = while_reading(&mut client, 100, &mut origin).await;
    let mut feed = call.stream();
    feed.send("id: 8\ndata: 8\n\n").await;
    loop {
        match &*client.event().await {
            ":\n\n" => {}
            event => break assert_eq!(event, "id: 8\ndata: 8\n\n"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn client_disconnect_stops_the_attempts() {
    let (front, mut origin) = staged(&layer());
    let client = broken(&front, &mut origin, "").await;
    drop(client);
    advance(Duration::from_secs(1000)).await;
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn client_that_resumes_during_a_reconnect_gets_the_next_events() {
    let (front, mut origin) = staged(&layer().replay(Replay::default()));
    let (mut client, mut feed) = front.open(&mut origin, get()).await;
    feed.events(0..2).await;
    let (_, id) = client.events(1).await;
    feed.cut();
    drop(client);
    let mut again = front.send(get().header("last-event-id", id)).await;
    assert_eq!(again.events(1).await.0, ["1"]);
    let call = origin.next().await;
    assert_eq!(call.header("last-event-id"), Some("up-1"));
    let mut feed = call.stream();
    feed.events(2..3).await;
    assert_eq!(again.events(1).await.0, ["2"]);
}

#[tokio::test(start_paused = true)]
async fn clean_end_causes_no_reconnect() {
    let (front, mut origin) = staged(&layer());
    let (client, mut feed) = front.open(&mut origin, get()).await;
    feed.events(0..1).await;
    feed.end();
    assert_eq!(client.rest().await.1, None);
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn request_without_an_event_stream_response_is_not_repeated() {
    for layer in both() {
        let (front, mut origin) = staged(&layer);
        let upstream = async {
            origin.next().await.status(StatusCode::BAD_GATEWAY);
        };
        let (client, ()) = tokio::join!(front.send(get()), upstream);
        assert_eq!(client.status, 502);
        assert!(origin.is_idle().await);
    }
}
