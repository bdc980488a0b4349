//! If a stream ended while its upstream could continue, it links to its successor: the stream that continues it.

use std::time::Duration;

use crate::support::{
    data,
    origin::{after, continuing_layer, get, layer_with, numbers, settle},
    staged,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tower_sse_proxy::{
    Event,
    intercept::{Interceptor, StreamEnd, StreamHead, Verdict},
    replay::Replay,
};

#[tokio::test(start_paused = true)]
async fn held_events_are_sent_if_the_stream_ends_during_a_resume_upstream() {
    let max_age = Duration::from_secs(10);
    let layer = layer_with(Replay::default().continue_after_end(true).max_age(max_age))
        .intercept(|_: &StreamHead<'_>| Some(HoldLast::default()));
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..3).await;
    feed.end();
    let (seen, id) = client.events(2).await;
    assert_eq!(seen, numbers(0..2));
    client.rest().await;
    let (again, mut feed) = tokio::join!(front.send(after(&id)), async {
        let call = origin.next().await;
        assert_eq!(call.header("last-event-id"), Some("up-2"));
        tokio::time::advance(max_age).await;
        settle().await;
        call.stream()
    });
    assert!(feed.is_dropped().await);
    let (text, _) = again.rest().await;
    assert_eq!(data(&text), ["2"]);
}

/// Holds each event until the next one, or until the end.
#[derive(Default)]
struct HoldLast(Option<Event>);

impl Interceptor for HoldLast {
    fn event(&mut self, event: Event) -> Verdict {
        self.0.replace(event).into()
    }

    fn end(&mut self, _: StreamEnd<'_>) -> Verdict {
        self.0.take().into()
    }
}

#[tokio::test(start_paused = true)]
async fn held_events_are_sent_when_the_upstream_answers_204() {
    for breaks in [false, true] {
        let layer = continuing_layer().intercept(|_: &StreamHead<'_>| Some(HoldLast::default()));
        let (front, mut origin) = staged(&layer);
        let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
        feed.events(0..3).await;
        let (seen, id) = client.events(2).await;
        assert_eq!(seen, numbers(0..2));
        if breaks {
            feed.cut()
        } else {
            feed.end()
        }
        assert_eq!(client.rest().await.1.is_some(), breaks);
        let (mut again, ()) = tokio::join!(front.send(after(&id)), async {
            let call = origin.next().await;
            assert_eq!(call.header("last-event-id"), Some("up-2"));
            call.status(StatusCode::NO_CONTENT);
        });
        assert_eq!(
            again.status, 200,
            "a client with a 204 would not read the held event"
        );
        let (seen, id) = again.events(1).await;
        assert_eq!((seen, again.rest().await.1), (numbers(2..3), None));
        assert_eq!(front.send(after(&id)).await.status, 204);
        assert!(origin.is_idle().await);
    }
}

#[tokio::test(start_paused = true)]
async fn held_events_are_followed_by_the_trailers_of_the_last_response() {
    let layer = continuing_layer().intercept(|_: &StreamHead<'_>| Some(HoldLast::default()));
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..3).await;
    let (_, id) = client.events(2).await;
    let trailers = HeaderMap::from_iter([(
        HeaderName::from_static("x-usage"),
        HeaderValue::from_static("7"),
    )]);
    feed.end_with(trailers.clone()).await;
    assert_eq!(client.trailers().await.as_ref(), Some(&trailers));
    let (mut again, ()) = tokio::join!(front.send(after(&id)), async {
        origin.next().await.status(StatusCode::NO_CONTENT);
    });
    again.events(1).await;
    assert_eq!(again.trailers().await, Some(trailers));
}

#[tokio::test(start_paused = true)]
async fn events_that_the_upstream_repeats_are_dropped_in_the_successor() {
    let (front, mut origin) = staged(&layer_with(
        Replay::default()
            .continue_after_end(true)
            .grace_period(Duration::from_secs(1)),
    ));
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..3).await;
    feed.end();
    let (_, id) = client.events(3).await;
    client.rest().await;
    tokio::time::advance(Duration::from_secs(2)).await;
    settle().await;
    let (mut again, mut feed) = front.open(&mut origin, after(&id)).await;
    feed.events(0..5).await;
    assert_eq!(again.events(2).await.0, numbers(3..5));
}

#[tokio::test(start_paused = true)]
async fn client_that_resumes_an_ended_stream_gets_its_successor() {
    /// Holds each event until the next one, and drops the last one at the end.
    struct DropLast(Option<Event>);
    impl Interceptor for DropLast {
        fn event(&mut self, event: Event) -> Verdict {
            self.0.replace(event).into()
        }
    }
    let replay = Replay::default()
        .continue_after_end(true)
        .grace_period(Duration::from_secs(1));
    let layer = layer_with(replay).intercept(|_: &StreamHead<'_>| Some(DropLast(None)));
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..3).await;
    feed.cut();
    let (_, id) = client.events(2).await;
    drop(client);
    tokio::time::advance(Duration::from_secs(2)).await;
    settle().await;
    // A successor continues the stream. No event has passed its interceptor yet.
    let (client, mut feed) = front.open(&mut origin, after(&id)).await;
    drop(client);
    let mut again = front.send(after(&id)).await;
    assert!(
        origin.is_idle().await,
        "the successor reads from the upstream already"
    );
    feed.events(2..5).await;
    let (seen, next) = again.events(2).await;
    assert_eq!(seen, numbers(2..4));
    // Clients can resume any number of times, with an id of either stream.
    assert_eq!(
        front.send(after(&id)).await.events(2).await.0,
        numbers(2..4)
    );
    feed.events(5..6).await;
    assert_eq!(front.send(after(&next)).await.events(1).await.0, ["4"]);
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn client_that_resumes_while_the_stream_ends_waits_for_held_events() {
    /// Holds each event until the next one, and releases the last one 300 ms after the end.
    #[derive(Default)]
    struct Slow(Option<Event>);
    impl Interceptor for Slow {
        fn event(&mut self, event: Event) -> Verdict {
            self.0.replace(event).into()
        }
        fn end(&mut self, _: StreamEnd<'_>) -> Verdict {
            let last = self.0.take();
            Verdict::defer(async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                Ok(last)
            })
        }
    }
    let replay = Replay::default()
        .continue_after_end(true)
        .grace_period(Duration::from_secs(1));
    let layer = layer_with(replay).intercept(|_: &StreamHead<'_>| Some(Slow::default()));
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..3).await;
    feed.end();
    let (_, id) = client.events(2).await;
    drop(client);
    tokio::time::advance(Duration::from_millis(1100)).await;
    settle().await;
    let mut again = front.send(after(&id)).await;
    assert!(origin.is_idle().await, "the held event comes first");
    let (seen, last) = again.events(1).await;
    assert_eq!((seen, again.rest().await.1), (numbers(2..3), None));
    let (mut next, mut feed) = front.open(&mut origin, after(&last)).await;
    feed.events(3..5).await;
    assert_eq!(next.events(1).await.0, ["3"]);
}

#[tokio::test(start_paused = true)]
async fn second_resume_joins_the_stream_although_the_upstream_rejects_it() {
    let (front, mut origin) = staged(&continuing_layer());
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..1).await;
    feed.end();
    let (_, id) = client.events(1).await;
    drop(client);
    settle().await;
    let (mut one, mut two, mut feed) =
        tokio::join!(front.send(after(&id)), front.send(after(&id)), async {
            let (one, two) = (origin.next().await, origin.next().await);
            let feed = one.stream();
            settle().await;
            two.status(StatusCode::CONFLICT);
            feed
        });
    assert_eq!((one.status, two.status), (200, 200));
    feed.events(1..2).await;
    assert_eq!(one.events(1).await, two.events(1).await);
}
