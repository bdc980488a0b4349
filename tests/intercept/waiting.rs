//! Events that interceptors hold back or think about: they come in time, and nothing overtakes them. Time is
//! virtual where it matters.

use std::{convert::Infallible, sync::Mutex, time::Instant as StdInstant};

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

/// Holds every event for a second, or until two are there.
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
async fn what_is_held_comes_at_its_deadline_or_with_what_it_waited_for_or_at_the_end() {
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

/// Every chunk is more than one frame can take, so there is always something else to do.
#[tokio::test(start_paused = true)]
async fn a_deadline_is_kept_while_the_upstream_never_pauses() {
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
    panic!("it is late, and still held");
}

/// Has something to say before anything else.
struct Preamble(Option<Instant>);

impl Interceptor for Preamble {
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
async fn what_is_due_when_a_stream_opens_comes_before_what_is_there() {
    let preamble = |_: &StreamHead<'_>| Some(Preamble(Some(Instant::now())));
    let (mut upstream, mut body) = open(&layer(preamble)).await;
    upstream.send_data(event("pass")).await.unwrap();
    let frame = next(&mut body).await;
    assert!(frame.starts_with(&event("first")[..]), "{frame:?}");
}

/// Waits for the test's word at every event that says `ask`.
fn asking() -> (
    impl Fn(Event) -> Verdict + Send + Sync + 'static,
    oneshot::Sender<Verdict>,
) {
    let (sender, answer) = oneshot::channel();
    let answer = Mutex::new(Some(answer));
    let ask = move |event: Event| match &*event.data() {
        "ask" => {
            let answer = answer.lock().unwrap().take().expect("asked once");
            Verdict::defer(async { Ok(answer.await?) })
        }
        _ => event.into(),
    };
    (ask, sender)
}

#[tokio::test]
async fn nothing_overtakes_a_deferred_event_and_what_came_before_it_is_sent() {
    let (ask, answer) = asking();
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
async fn nothing_overtakes_a_deferred_event_among_those_that_replace_one() {
    let split = |event: Event| event.data().split('|').map(Event::new).collect::<Vec<_>>();
    let (ask, answer) = asking();
    let layer = layer(split).intercept(ask).intercept(|event: Event| event);
    let (mut upstream, mut body) = open(&layer).await;
    upstream.send_data(event("1|ask|3")).await.unwrap();
    assert_eq!(next(&mut body).await, event("1"));
    assert!(is_silent(&mut body).await);
    answer.send(Event::new("2").into()).unwrap();
    assert_eq!(next(&mut body).await, [event("2"), event("3")].concat());
}

/// A later interceptor gives up what it held while an earlier one thinks, and that is thought about as well.
#[tokio::test(start_paused = true)]
async fn what_one_interceptor_defers_waits_behind_what_a_later_one_defers() {
    let (first, first_answer) = asking();
    let (second, second_answer) = asking();
    // What waits behind the later question is older than the answer to the earlier one, too.
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
        "the second event overtook the first one"
    );
    second_answer.send(Event::new("1").into()).unwrap();
    let all = [event("1"), event("2"), event("pass")];
    assert_eq!(next(&mut body).await, all.concat());
}

#[tokio::test(start_paused = true)]
async fn a_later_deadline_is_kept_while_an_earlier_interceptor_defers() {
    let (ask, answer) = asking();
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

/// What an earlier interceptor holds is younger than what a later one has deferred.
#[tokio::test(start_paused = true)]
async fn an_earlier_deadline_does_not_overtake_a_later_deferral() {
    let (ask, answer) = asking();
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

/// How many of 300 events that are there at once are in the first frame.
async fn first_of_many(layer: &SseProxyLayer) -> usize {
    let (mut upstream, mut body) = open(layer).await;
    let many = event("pass").repeat(300);
    upstream.send_data(many.into()).await.unwrap();
    next(&mut body).await.len() / event("pass").len()
}

#[tokio::test]
async fn what_a_slow_interceptor_lets_through_does_not_wait_for_what_it_has_not_seen() {
    let slow = |event: Event| {
        std::thread::sleep(Duration::from_millis(1));
        (event.data() != "drop").then_some(event)
    };
    let events = first_of_many(&layer(slow)).await;
    assert!(events <= 64, "{events} at once");

    // Nor where another one takes the place of each, and the chain has something left to do after it.
    let replacing = move |event: Event| {
        slow(event).map_or(Verdict::Drop, |event| Verdict::Replace(vec![event.into()]))
    };
    let events = first_of_many(&layer(replacing)).await;
    assert!(events <= 64, "{events} at once");

    // While it drops everything, others on the same thread have their turn.
    let (mut upstream, mut body) = open(&layer(slow)).await;
    upstream
        .send_data(event("drop").repeat(300).into())
        .await
        .unwrap();
    let begun = std::time::Instant::now();
    assert!(body.frame().now_or_never().is_none());
    let least = Duration::from_millis(300);
    assert!(begun.elapsed() < least, "all of it in one poll");
}
