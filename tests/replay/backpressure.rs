//! A stream with a single reader never drops unread events: the writer applies backpressure to the upstream.

use std::{ops::Range, time::Duration};

use crate::support::{
    data,
    origin::{after, get, layer_with, layer_with_retention, numbers, settle},
    recorded, staged,
};
use tokio::time::{Instant, sleep};
use tower_sse_proxy::{
    Event,
    intercept::{Interceptor, StreamEnd, StreamHead, Verdict},
    observe::StreamOutcome,
    replay::{Replay, Retention},
};

#[tokio::test(start_paused = true)]
async fn client_that_does_not_read_stops_the_upstream_and_loses_nothing() {
    let replay = Replay::default().retention(Retention::default().events(10));
    let (front, mut origin) = staged(&layer_with(replay));
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    let fed = async {
        feed.events(0..2000).await;
        feed
    };
    let fed = tokio::spawn(fed);
    settle().await;
    assert!(
        !fed.is_finished(),
        "the layer reads from the upstream although the client does not read"
    );
    let (seen, _) = client.events(2000).await;
    assert_eq!(seen, numbers(0..2000));
}

#[tokio::test(start_paused = true)]
async fn single_reader_loses_nothing_with_any_retention() {
    for bounds in [
        Retention::default().events(0),
        Retention::default().events(1),
        Retention::default().bytes(0),
        Retention::default().bytes(1000),
        Retention::default().bytes(10_000),
        Retention::default().events(0).bytes(0),
    ] {
        let (front, mut origin) = staged(&layer_with_retention(bounds));
        let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
        let all: String = (0..600)
            .map(|number| format!("data: {number}\n\n"))
            .collect();
        feed.send(all).await;
        settle().await;
        let (seen, _) = client.events(600).await;
        assert_eq!(seen, numbers(0..600), "{bounds:?}");
        feed.end();
        assert_eq!(client.rest().await, (String::new(), None));
    }
}

/// The interceptor decides about the third event after the client has read the second one.
#[tokio::test(start_paused = true)]
async fn event_without_room_is_written_while_an_interceptor_holds_a_later_one() {
    let (decide, decided) = tokio::sync::watch::channel(0);
    let waits = move |event: Event| {
        let number: u32 = event.data()[..1].parse().unwrap();
        let mut decided = decided.clone();
        if number == 1 {
            return Verdict::from(event);
        }
        Verdict::defer(async move {
            decided.wait_for(|decided| *decided > number).await?;
            Ok(event)
        })
    };
    let layer = layer_with_retention(Retention::default().bytes(500)).intercept(waits);
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    let text = "x".repeat(400);
    feed.send([0, 1, 2].map(|n| format!("data: {n}{text}\n\n")).concat())
        .await;
    settle().await;
    decide.send_replace(1);
    for number in ["0", "1"] {
        assert!(data(&client.event().await)[0].starts_with(number));
    }
    decide.send_replace(3);
    assert!(data(&client.event().await)[0].starts_with('2'));
}

#[tokio::test(start_paused = true)]
async fn reader_slower_than_retention_age_loses_nothing() {
    for age in [Duration::ZERO, Duration::from_secs(10)] {
        let (front, mut origin) = staged(&layer_with_retention(Retention::default().age(age)));
        let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
        feed.events(0..5).await;
        settle().await;
        tokio::time::advance(Duration::from_secs(60)).await;
        settle().await;
        let (seen, first) = client.events(1).await;
        assert_eq!(seen, numbers(0..1));
        feed.events(5..10).await;
        feed.send("data: [DONE]\n\n").await;
        feed.end();
        tokio::time::advance(Duration::from_secs(60)).await;
        settle().await;
        assert_eq!(client.events(9).await.0, numbers(1..10));
        assert_eq!(data(&client.rest().await.0), ["[DONE]"]);
        // The only reader has read the events, so age evicts them.
        tokio::time::advance(Duration::from_secs(20)).await;
        settle().await;
        let answer = front.send(after(&first)).await.rest().await;
        assert!(answer.0.contains("unknown"), "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn large_event_does_not_evict_unread_events() {
    let (front, mut origin) = staged(&layer_with_retention(Retention::default().bytes(10_000)));
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    for size in [4_000, 9_000, 50_000, 10, 9_000] {
        feed.send(format!("data: {}\n\n", "x".repeat(size))).await;
        settle().await;
    }
    let (seen, _) = client.events(5).await;
    let sizes: Vec<_> = seen.iter().map(String::len).collect();
    assert_eq!(sizes, [4_000, 9_000, 50_000, 10, 9_000]);
}

#[tokio::test(start_paused = true)]
async fn reader_gets_all_events_that_interceptors_release_in_one_batch() {
    for flush in [true, false] {
        let layer = layer_with_retention(Retention::default().events(100))
            .intercept(|_: &StreamHead<'_>| Some(Hold::default()));
        let (front, mut origin) = staged(&layer);
        let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
        for number in 0..500 {
            feed.send(format!("data: {number}\n\n")).await;
            settle().await;
        }
        if flush {
            feed.send("data: flush\n\n").await;
        } else {
            feed.end();
        }
        settle().await;
        assert_eq!(client.events(500).await.0, numbers(0..500), "{flush}");
    }
}

/// Holds all events until the end of the stream, or until an event `flush`.
#[derive(Default)]
struct Hold(Vec<Event>);

impl Interceptor for Hold {
    fn event(&mut self, event: Event) -> Verdict {
        let flush = event.data() == "flush";
        self.0.push(event);
        if flush {
            return Verdict::Replace(self.0.drain(..).map(Into::into).collect());
        }
        Verdict::Drop
    }

    fn end(&mut self, _: StreamEnd<'_>) -> Verdict {
        Verdict::Replace(self.0.drain(..).map(Into::into).collect())
    }
}

#[tokio::test(start_paused = true)]
async fn single_reader_gets_all_events_in_order_with_random_retention() {
    for seed in 0..100 {
        let mut chance = fastrand::Rng::with_seed(seed);
        let bounds = Retention::default()
            .events(chance.usize(..20))
            .bytes(chance.usize(..5000))
            .age(Duration::from_millis(chance.u64(..3000)));
        let layer =
            layer_with_retention(bounds).intercept(|_: &StreamHead<'_>| Some(Hold::default()));
        let (front, mut origin) = staged(&layer);
        let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
        let mut feed_chance = chance.fork();
        let feeding = tokio::spawn(async move {
            let mut number = 0;
            while number < 200 {
                let together = feed_chance.u32(1..30);
                let events = number..number + together;
                number += together;
                let filler = "x".repeat(feed_chance.usize(..30).pow(2));
                let event = |number| format!(": {filler}\ndata: {number}\n\n");
                feed.send(events.map(event).collect::<String>()).await;
                if feed_chance.u32(..5) == 0 {
                    feed.send("data: flush\n\n").await;
                }
                if feed_chance.bool() {
                    settle().await;
                }
                tokio::time::advance(Duration::from_millis(feed_chance.u64(..500))).await;
            }
            feed.send("data: [DONE]\n\n").await;
            number
        });
        let mut seen = Vec::new();
        while seen.last().is_none_or(|last| last != "[DONE]") {
            if chance.u32(..4) == 0 {
                settle().await;
            }
            seen.extend(client.events(1).await.0);
        }
        assert_eq!(client.rest().await, (String::new(), None), "seed {seed}");
        seen.pop();
        seen.retain(|data| data != "flush");
        let expected = numbers(0..feeding.await.unwrap());
        assert_eq!(seen, expected, "seed {seed}");
    }
}

fn numbered(numbers: Range<u32>) -> Verdict {
    let events = numbers.map(|number| Event::new(number.to_string()).into());
    Verdict::Replace(events.collect())
}

/// The first event becomes more events than the log has room for, and the next event is still held.
#[tokio::test(start_paused = true)]
async fn events_are_written_while_the_next_event_is_held() {
    let layer = layer_with_retention(Retention::default().events(4));
    let layer = layer.intercept(|_: Event| {
        let events = ["many", "held"].map(|data| Event::new(data).into());
        Verdict::Replace(events.into())
    });
    let layer = layer.intercept(|event: Event| {
        Verdict::defer(async move {
            if event.data() == "many" {
                sleep(Duration::from_secs(1)).await;
                return Ok(numbered(0..10));
            }
            sleep(Duration::from_secs(3600)).await;
            Ok(event.into())
        })
    });
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.send("data: 1\n\n").await;
    sleep(Duration::from_secs(2)).await;
    let before = Instant::now();
    assert_eq!(client.events(10).await.0, numbers(0..10));
    assert!(before.elapsed() < Duration::from_secs(1));
}

/// An interceptor releases more events at the end of the upstream than the log has room for, and the client does not read them.
#[tokio::test(start_paused = true)]
async fn events_released_at_the_end_are_written_at_max_age() {
    struct AtEnd;
    impl Interceptor for AtEnd {
        fn event(&mut self, event: Event) -> Verdict {
            event.into()
        }

        fn end(&mut self, _: StreamEnd<'_>) -> Verdict {
            numbered(0..10)
        }
    }
    let replay = Replay::default()
        .retention(Retention::default().events(4))
        .max_age(Duration::from_secs(100));
    let layer = layer_with(replay).intercept(|_: &StreamHead<'_>| Some(AtEnd));
    let (layer, records) = recorded(layer);
    let (front, mut origin) = staged(&layer);
    let (client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.send("data: first\n\n").await;
    feed.end();
    assert_eq!(
        records.take().await.len(),
        0,
        "the writer waits for its client"
    );
    tokio::time::advance(Duration::from_secs(101)).await;
    assert_eq!(records.only().await.outcome, StreamOutcome::Completed);
    let (text, failed) = client.rest().await;
    assert_eq!((data(&text).len(), failed), (11, None));
}

#[tokio::test(start_paused = true)]
async fn event_larger_than_the_log_waits_outside_of_the_log() {
    let layer = layer_with_retention(Retention::default().bytes(2000));
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    let large = "x".repeat(100_000);
    let small = "x".repeat(400);
    feed.send(format!(
        "data: {small}\n\ndata: {small}\n\ndata: {large}\n\n"
    ))
    .await;
    settle().await;
    let retained = layer.retained_bytes();
    assert!(retained < 4000, "{retained}");
    assert_eq!(client.events(3).await.0, [&*small, &*small, &*large]);
}
