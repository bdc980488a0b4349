//! Slow interceptors with state: events keep their order, streams do not mix, and the upstream waits.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::channel::Channel;
use tokio::time::{Instant, sleep};
use tower::BoxError;
use tower_sse_proxy::{
    Event,
    codec::Block,
    intercept::{StreamHead, Verdict},
};

use crate::support::{Open, data, event, layer, next, pass, rest, soon};

/// The time that a slow interceptor takes for an event.
const PAUSE: Duration = Duration::from_millis(50);

/// The verdict of the test's interceptors about event `number` of a stream: each numbers the events of its stream, and passes, drops, edits,
/// doubles or replaces them, or ends the stream.
fn decide(number: usize, event: Event) -> Verdict {
    let text = event.data().into_owned();
    match number % 6 {
        _ if text == "end" => Verdict::End(vec![Event::new("last").into()]),
        0 => event.into(),
        1 => Verdict::Drop,
        2 => Event::new(format!("{number}:{text}")).into(),
        3 => vec![event, Event::new("twice")].into(),
        4 => Verdict::Replace(vec![]),
        _ => vec![
            Event::new("before").into_block(),
            Block::comment("between"),
            event.into_block(),
        ]
        .into(),
    }
}

/// The data that a client gets for the events `0..count` of a stream, and then the event `end`.
fn expected(stream: usize, count: usize) -> Vec<String> {
    let events = (0..count).flat_map(|number| {
        let text = format!("{stream}-{number}");
        match number % 6 {
            0 => vec![text],
            2 => vec![format!("{number}:{text}")],
            3 => vec![text, "twice".into()],
            5 => vec!["before".into(), text],
            _ => vec![],
        }
    });
    events.chain(["last".into()]).collect()
}

#[tokio::test(start_paused = true)]
async fn r30_slow_interceptors_with_state_keep_the_order_of_each_stream() {
    const EVENTS: usize = 120;
    // The interceptor defers every third event, so the next events could overtake it.
    let decides = |_: &StreamHead<'_>| {
        let mut number = 0;
        Some(move |event: Event| {
            let this = number;
            number += 1;
            if this % 3 > 0 {
                return decide(this, event);
            }
            Verdict::defer(async move {
                sleep(PAUSE).await;
                Ok::<_, BoxError>(decide(this, event))
            })
        })
    };
    let passes = |event: Event| Verdict::defer(async { Ok::<_, BoxError>(event) });
    let layer = layer(passes).intercept(decides).intercept(passes);
    let streams = (0..5).map(|stream| {
        let layer = layer.clone();
        async move {
            let (mut upstream, body) = Channel::<Bytes, Infallible>::new(EVENTS + 2);
            let body = pass(&layer, body).await;
            for number in 0..EVENTS {
                let event = event(&format!("{stream}-{number}"));
                upstream.send_data(event).await.unwrap();
            }
            // The upstream has more, but the interceptor ends the stream.
            for text in ["end", "never"] {
                upstream.send_data(event(text)).await.unwrap();
            }
            let (text, failed) = soon(rest(body)).await;
            assert_eq!((data(&text), failed), (expected(stream, EVENTS), None));
        }
    });
    join_all(streams).await;
}

#[tokio::test(start_paused = true)]
async fn r30_upstream_waits_while_an_interceptor_waits() {
    let calls = Arc::<AtomicUsize>::default();
    let called = Arc::clone(&calls);
    let slow = move |event: Event| {
        called.fetch_add(1, Ordering::SeqCst);
        Verdict::defer(async {
            sleep(PAUSE).await;
            Ok::<_, BoxError>(event)
        })
    };
    let (mut upstream, body) = Channel::new(1);
    let mut body: Open = pass(&layer(slow), body).await;
    let sent = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&sent);
    tokio::spawn(async move {
        for number in 0..1000 {
            if upstream
                .send_data(event(&number.to_string()))
                .await
                .is_err()
            {
                break;
            }
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    let begun = Instant::now();
    for number in 0_usize..20 {
        assert_eq!(next(&mut body).await, event(&number.to_string()));
        assert_eq!(
            begun.elapsed().as_millis() / PAUSE.as_millis(),
            number as u128 + 1
        );
        assert!(calls.load(Ordering::SeqCst) <= number + 2);
        // In addition to the events that have passed: one waits in the interceptor, one is in the channel, and one has left the channel.
        let sent = sent.load(Ordering::SeqCst);
        assert!(sent <= number + 4, "{sent} events were taken for {number}");
    }
}
