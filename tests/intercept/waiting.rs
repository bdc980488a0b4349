//! Events that interceptors hold or defer: they are sent by their deadline, and no later block overtakes them. Tests of
//! deadlines use a virtual clock.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant as StdInstant,
};

use crate::support::{event, is_silent, layer, next, open, pass};
use futures_util::{FutureExt, StreamExt, stream};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::{
    sync::oneshot,
    time::{Duration, Instant, advance},
};
use tower_sse_proxy::{
    Event, SseProxyLayer,
    intercept::{Interceptor, StreamEnd, StreamHead, Verdict},
};

const SECOND: Duration = Duration::from_secs(1);

/// Holds an event until the next one arrives, or for at most one second.
#[derive(Default)]
struct Pairs(Option<(Event, Instant)>);

impl Pairs {
    fn opened(_: &StreamHead<'_>) -> Option<Self> {
        Some(Self::default())
    }
}

impl Interceptor for Pairs {
    fn event(&mut self, event: Event) -> Verdict {
        if matches!(&*event.data(), "pass" | "ask") {
            return event.into();
        }
        match self.0.take() {
            Some((first, _)) => vec![first, event].into(),
            None => {
                self.0 = Some((event, Instant::now() + SECOND));
                Verdict::Hold
            }
        }
    }

    fn deadline(&self) -> Option<StdInstant> {
        self.0.as_ref().map(|(_, until)| until.into_std())
    }

    fn timeout(&mut self, now: StdInstant) -> Verdict {
        assert!(self.deadline().unwrap() <= now);
        self.0.take().map(|(event, _)| event).into()
    }

    fn end(&mut self, _: StreamEnd<'_>) -> Verdict {
        self.0.take().map(|(event, _)| event).into()
    }
}

#[tokio::test(start_paused = true)]
async fn held_event_is_sent_at_its_deadline_or_with_the_next_or_at_the_end() {
    let (mut upstream, mut body) = open(&layer(Pairs::opened)).await;
    let begun = Instant::now();
    upstream.send_data(event("1")).await.unwrap();
    assert_eq!(next(&mut body).await, event("1"));
    let waited = begun.elapsed();
    assert!(
        waited >= SECOND && waited < SECOND + Duration::from_millis(5),
        "{waited:?}"
    );

    upstream.send_data(event("2")).await.unwrap();
    assert!(is_silent(&mut body).await);
    upstream.send_data(event("3")).await.unwrap();
    assert_eq!(next(&mut body).await, [event("2"), event("3")].concat());

    upstream.send_data(event("4")).await.unwrap();
    assert!(is_silent(&mut body).await);
    drop(upstream);
    assert_eq!(next(&mut body).await, event("4"));
    assert!(begun.elapsed() < 2 * SECOND);
}

/// Each chunk exceeds the size limit of a frame, so the layer always has more input to process.
#[tokio::test(start_paused = true)]
async fn deadline_is_met_while_the_upstream_never_pauses() {
    let first = stream::iter([event("held")]);
    let more = stream::repeat_with(|| event("pass").repeat(5000).into());
    let events = first.chain(more);
    let frames = events.map(|event| Ok::<_, Infallible>(Frame::data(event)));
    let mut body = pass(&layer(Pairs::opened), StreamBody::new(frames)).await;
    body.frame().await.unwrap().unwrap();
    advance(2 * SECOND).await;
    for _ in 0..10 {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        if memchr::memmem::find(&frame, b"held").is_some() {
            return;
        }
    }
    panic!("the event is still held after its deadline");
}

/// Adds an event in `timeout`, with a deadline at the open of the stream.
struct AddsFirst(Option<Instant>);

impl Interceptor for AddsFirst {
    fn event(&mut self, event: Event) -> Verdict {
        event.into()
    }

    fn deadline(&self) -> Option<StdInstant> {
        self.0.map(Instant::into_std)
    }

    fn timeout(&mut self, _: StdInstant) -> Verdict {
        self.0 = None;
        Event::new("first").into()
    }
}

#[tokio::test(start_paused = true)]
async fn interceptor_deadline_at_open_precedes_ready_events() {
    let adds_first = |_: &StreamHead<'_>| Some(AddsFirst(Some(Instant::now())));
    let (mut upstream, mut body) = open(&layer(adds_first)).await;
    upstream.send_data(event("pass")).await.unwrap();
    let frame = next(&mut body).await;
    assert!(frame.starts_with(&event("first")[..]), "{frame:?}");
}

/// Has a deadline that stays in the past, and counts its timeouts.
struct AlwaysDue(Instant, Arc<AtomicUsize>);

impl Interceptor for AlwaysDue {
    fn event(&mut self, event: Event) -> Verdict {
        event.into()
    }

    fn deadline(&self) -> Option<StdInstant> {
        Some(self.0.into_std())
    }

    fn timeout(&mut self, _: StdInstant) -> Verdict {
        // Fails the test instead of an endless loop.
        assert!(self.1.fetch_add(1, Ordering::Relaxed) < 1000);
        Verdict::Hold
    }
}

#[tokio::test(start_paused = true)]
async fn deadline_that_stays_in_the_past_is_handled_once_a_millisecond() {
    let timeouts = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&timeouts);
    let due = move |_: &StreamHead<'_>| Some(AlwaysDue(Instant::now(), Arc::clone(&counter)));
    let (_upstream, mut body) = open(&layer(due)).await;
    let frame = tokio::time::timeout(Duration::from_millis(100), next(&mut body)).await;
    assert!(frame.is_err(), "no event exists");
    let timeouts = timeouts.load(Ordering::Relaxed);
    assert!(
        (40..=101).contains(&timeouts),
        "{timeouts} timeouts in 100 ms"
    );
}

/// An interceptor that defers the event `ask` until the test sends the verdict.
fn deferring() -> (
    impl Fn(Event) -> Verdict + Send + Sync + 'static,
    oneshot::Sender<Verdict>,
) {
    let (sender, answer) = oneshot::channel();
    let answer = Mutex::new(Some(answer));
    let defer = move |event: Event| match &*event.data() {
        "ask" => {
            let answer = answer
                .lock()
                .unwrap()
                .take()
                .expect("only one event `ask` per test");
            Verdict::defer(async { Ok(answer.await?) })
        }
        _ => event.into(),
    };
    (defer, sender)
}

#[tokio::test]
async fn r30_deferred_event_is_not_overtaken_and_earlier_events_are_sent() {
    let (ask, answer) = deferring();
    let (mut upstream, mut body) = open(&layer(ask)).await;
    upstream
        .send_data("data: 1\n\ndata: ask\n\ndata: 2\n\n: c\n".into())
        .await
        .unwrap();
    assert_eq!(next(&mut body).await, event("1"));
    upstream.send_data(event("3")).await.unwrap();
    assert!(is_silent(&mut body).await);
    let verdict = vec![Event::new("a"), Event::new("b")].into();
    answer.send(verdict).unwrap();
    assert_eq!(
        next(&mut body).await,
        "data: a\n\ndata: b\n\ndata: 2\n\n: c\ndata: 3\n\n"
    );
}

#[tokio::test]
async fn r30_deferred_replacement_is_not_overtaken_by_its_successors() {
    let split = |event: Event| event.data().split('|').map(Event::new).collect::<Vec<_>>();
    let (ask, answer) = deferring();
    let layer = layer(split).intercept(ask).intercept(|event: Event| event);
    let (mut upstream, mut body) = open(&layer).await;
    upstream.send_data(event("1|ask|3")).await.unwrap();
    assert_eq!(next(&mut body).await, event("1"));
    assert!(is_silent(&mut body).await);
    answer.send(Event::new("2").into()).unwrap();
    assert_eq!(next(&mut body).await, [event("2"), event("3")].concat());
}

/// A later interceptor releases a held event while an earlier one defers, and the released event is deferred too.
#[tokio::test(start_paused = true)]
async fn deferral_of_an_earlier_interceptor_waits_for_that_of_a_later_one() {
    let (first, first_answer) = deferring();
    let (second, second_answer) = deferring();
    // Events behind the later deferral are older than the event that the earlier one defers.
    let rename = |event: Event| match &*event.data() {
        "held" => vec![Event::new("ask"), Event::new("2")],
        _ => vec![event],
    };
    let layer = layer(first)
        .intercept(Pairs::opened)
        .intercept(rename)
        .intercept(second);
    let (mut upstream, mut body) = open(&layer).await;
    let text = [event("held"), event("ask")].concat();
    upstream.send_data(text.into()).await.unwrap();
    assert!(is_silent(&mut body).await);
    advance(2 * SECOND).await;
    assert!(is_silent(&mut body).await);
    first_answer.send(Event::new("pass").into()).unwrap();
    assert!(
        is_silent(&mut body).await,
        "the second event overtook the first event"
    );
    second_answer.send(Event::new("1").into()).unwrap();
    let all = [event("1"), event("2"), event("pass")];
    assert_eq!(next(&mut body).await, all.concat());
}

#[tokio::test(start_paused = true)]
async fn deadline_of_a_later_interceptor_is_met_during_an_earlier_deferral() {
    let (ask, answer) = deferring();
    let (mut upstream, mut body) = open(&layer(ask).intercept(Pairs::opened)).await;
    upstream
        .send_data("data: 1\n\ndata: ask\n\n".into())
        .await
        .unwrap();
    let begun = Instant::now();
    assert_eq!(next(&mut body).await, event("1"));
    assert!(begun.elapsed() >= SECOND && begun.elapsed() < 2 * SECOND);
    answer.send(Event::new("2").into()).unwrap();
    assert_eq!(next(&mut body).await, event("2"));
}

/// The event that the earlier interceptor holds is younger than the event that the later one defers.
#[tokio::test(start_paused = true)]
async fn deadline_of_an_earlier_interceptor_does_not_overtake_a_deferral() {
    let (ask, answer) = deferring();
    let (mut upstream, mut body) = open(&layer(Pairs::opened).intercept(ask)).await;
    let text = [event("pass"), event("held"), event("ask")].concat();
    upstream.send_data(text.into()).await.unwrap();
    assert_eq!(next(&mut body).await, event("pass"));
    advance(10 * SECOND).await;
    assert!(is_silent(&mut body).await);
    answer.send(Event::new("answer").into()).unwrap();
    let mut out = next(&mut body).await.to_vec();
    while out.len() < event("answer").len() + event("held").len() {
        out.extend_from_slice(&next(&mut body).await);
    }
    assert_eq!(out, [event("answer"), event("held")].concat());
}

/// Sends 300 events at once, and returns how many of them are in the first frame.
async fn first_of_many(layer: &SseProxyLayer) -> usize {
    let (mut upstream, mut body) = open(layer).await;
    let many = event("pass").repeat(300);
    upstream.send_data(many.into()).await.unwrap();
    next(&mut body).await.len() / event("pass").len()
}

#[tokio::test]
async fn output_of_a_slow_interceptor_does_not_wait_for_its_backlog() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let slow = move |event: Event| {
        counted.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(1));
        (event.data() != "drop").then_some(event)
    };
    let events = first_of_many(&layer(slow.clone())).await;
    assert!(events <= 64, "{events} events in the first frame");

    // The same with an interceptor that replaces each event, so that the chain has more work after each call.
    let also_slow = slow.clone();
    let replacing = move |event: Event| {
        also_slow(event).map_or(Verdict::Drop, |event| Verdict::Replace(vec![event.into()]))
    };
    let events = first_of_many(&layer(replacing)).await;
    assert!(events <= 64, "{events} events in the first frame");

    // An interceptor that drops everything must yield to other tasks on the same thread.
    let (mut upstream, mut body) = open(&layer(slow)).await;
    upstream
        .send_data(event("drop").repeat(300).into())
        .await
        .unwrap();
    calls.store(0, Ordering::Relaxed);
    assert!(body.frame().now_or_never().is_none());
    let calls = calls.load(Ordering::Relaxed);
    assert!(calls <= 64, "one poll processed {calls} events");
}

#[tokio::test(start_paused = true)]
async fn blocks_that_wait_for_a_deferred_verdict_are_buffered_bytes() {
    let (answer, answered) = oneshot::channel::<()>();
    let answered = answered.shared();
    let layer = layer(|event: Event| {
        // The second one waits in the chain for the verdict on the first one.
        Verdict::Replace(vec![event.clone().into(), event.into()])
    });
    let layer = layer.intercept(move |event: Event| {
        let answered = answered.clone();
        Verdict::defer(async move {
            let _ = answered.await;
            Ok(event)
        })
    });
    let layer = layer.on_close(|_| {});
    let streams = layer.streams();
    let (mut sender, mut body) = open(&layer).await;
    let text = format!("data: {}\n\n", "x".repeat(10_000));
    sender.send_data(text.into()).await.unwrap();
    assert!(is_silent(&mut body).await);
    let waiting = streams.buffered_bytes();
    assert!((10_000..30_000).contains(&waiting), "{waiting}");
    answer.send(()).unwrap();
    next(&mut body).await;
}
