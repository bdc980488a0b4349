//! Reconnect: an upstream that breaks off is asked to go on, and its client does not notice.

use std::time::Duration;

use crate::support::{Call, Client, Front, Note, Origin, data, staged, witness};
use http::{Method, Request, StatusCode};
use tokio::time::{Instant, advance};
use tower_sse_proxy::{
    ErrorKind, Event, KeepAlive, SseProxyLayer,
    intercept::{Interceptor, StreamHead, Verdict},
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

/// Both ways to drive a stream.
fn both() -> [SseProxyLayer<Reconnect>; 2] {
    [layer(), layer().replay(Replay::default())]
}

/// Reads events while the upstream is asked again.
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
    // The client goes on waiting: its body is what drives the upstream.
    let call = async { origin.next().await };
    tokio::pin!(read, call);
    tokio::select! {
        _ = &mut read => panic!("there was no more to read"),
        call = &mut call => (Vec::new(), call),
    }
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_breaks_off_is_asked_to_go_on_after_the_last_id() {
    for layer in both() {
        let (witness, mut notes) = witness();
        let (front, mut origin) = staged(&layer.intercept(witness));
        let (mut client, mut feed) = front
            .open(&mut origin, get().header("x-other", "kept"))
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
            // What is unfinished is dropped, and sent again by the upstream.
            feed.send(format!("id: up-{upto}\ndata: {upto}")).await;
            feed.cut();
            let (_, call) = while_reading(&mut client, 1, &mut origin).await;
            assert_eq!(
                call.header("last-event-id"),
                Some(&*format!("up-{}", upto - 1)),
                "{round}"
            );
            assert_eq!(call.header("x-other"), Some("kept"));
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
async fn what_comes_again_is_not_sent_on_again_however_much_it_is() {
    for layer in both() {
        let (front, mut origin) = staged(&layer);
        let (mut client, mut feed) = front.open(&mut origin, get()).await;
        // More than are remembered: then the first one tells.
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
async fn a_stream_without_ids_is_cut_and_not_asked_for_again() {
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
async fn what_is_not_safe_to_repeat_is_not_repeated() {
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
async fn the_stream_of_a_post_may_be_gone_on_with_by_a_get() {
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

/// Answers with this status until it is asked no more, and tells when it was asked.
async fn failing(origin: &mut Origin, status: StatusCode) -> Vec<Duration> {
    let begun = Instant::now();
    let mut asked = Vec::new();
    while let Some(call) = origin.next_within_hours().await {
        asked.push(begun.elapsed());
        call.status(status);
    }
    asked
}

async fn broken(front: &Front, origin: &mut Origin, before: &str) -> Client {
    let (client, mut feed) = front.open(origin, get()).await;
    feed.send(format!("{before}id: 7\ndata: 7\n\n")).await;
    feed.cut();
    client
}

#[tokio::test(start_paused = true)]
async fn attempts_grow_apart_and_come_to_an_end() {
    let backoff = Backoff::default()
        .initial(Duration::from_millis(500))
        .max_delay(Duration::from_secs(4))
        .max_attempts(6);
    let (front, mut origin) = staged(&SseProxyLayer::default().reconnect(backoff));
    let client = broken(&front, &mut origin, "").await;
    let ((seen, cut), asked) =
        tokio::join!(client.rest(), failing(&mut origin, StatusCode::BAD_GATEWAY));
    assert_eq!(
        (&*seen, cut),
        ("id: 7\ndata: 7\n\n", Some(ErrorKind::Upstream))
    );
    assert_eq!(asked.len(), 6);
    let mut before = Duration::ZERO;
    for (at, most) in asked.into_iter().zip([1, 2, 4, 8, 8, 8]) {
        assert!(
            at - before <= Duration::from_millis(most * 500 + 10),
            "{at:?}"
        );
        before = at;
    }
}

#[tokio::test(start_paused = true)]
async fn the_upstreams_retry_is_the_least_that_is_waited() {
    let (front, mut origin) =
        staged(&SseProxyLayer::default().reconnect(Backoff::default().max_attempts(3)));
    let client = broken(&front, &mut origin, "retry: 1000\n").await;
    let (_, asked) = tokio::join!(
        client.rest(),
        failing(&mut origin, StatusCode::SERVICE_UNAVAILABLE)
    );
    assert_eq!(asked.len(), 3);
    let mut before = Duration::ZERO;
    for at in asked {
        assert!(at - before >= Duration::from_secs(1), "{at:?}");
        before = at;
    }
}

#[tokio::test(start_paused = true)]
async fn a_204_ends_the_stream_and_any_other_answer_cuts_it() {
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
            let ((_, ended), asked) = tokio::join!(client.rest(), failing(&mut origin, status));
            assert_eq!((ended, asked.len()), (cut, 1), "{status}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_ended_by_a_204_is_not_begun_anew_by_who_comes_back() {
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

#[tokio::test(start_paused = true)]
async fn attempts_are_counted_anew_after_an_event_and_not_after_a_head() {
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
                // It goes on once, and then accepts and breaks off.
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
async fn what_an_interceptor_holds_is_not_fed_to_it_again() {
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
            "the third is held"
        );
        let mut feed = call.stream();
        feed.events(3..4).await;
        assert_eq!(data(&client.event().await), ["2"]);
        assert_eq!(data(&client.event().await), ["3"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_is_kept_alive_while_the_upstream_is_waited_for() {
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
async fn a_client_that_leaves_ends_the_attempts() {
    let (front, mut origin) = staged(&layer());
    let client = broken(&front, &mut origin, "").await;
    drop(client);
    advance(Duration::from_secs(1000)).await;
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_while_the_upstream_is_asked_again_waits_with_it() {
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
async fn an_end_is_an_end() {
    let (front, mut origin) = staged(&layer());
    let (client, mut feed) = front.open(&mut origin, get()).await;
    feed.events(0..1).await;
    feed.end();
    assert_eq!(client.rest().await.1, None);
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_fails_before_there_is_a_stream_is_not_repeated() {
    for layer in both() {
        let (front, mut origin) = staged(&layer);
        let asked = async {
            origin.next().await.status(StatusCode::BAD_GATEWAY);
        };
        let (client, ()) = tokio::join!(front.send(get()), asked);
        assert_eq!(client.status, 502);
        assert!(origin.is_idle().await);
    }
}
