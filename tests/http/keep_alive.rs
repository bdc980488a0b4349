//! Keep-alive comments: sent while the stream is silent, and only between blocks. The clock is virtual: it advances when all
//! tasks are idle.

use std::{convert::Infallible, future::pending};

use crate::support::{Note, Script, Step, pass, witness};
use bytes::Bytes;
use http_body_util::{
    BodyExt,
    channel::{Channel, Sender},
};
use tokio::time::{Duration, Instant, sleep, timeout};
use tower_sse_proxy::{
    Event, KeepAlive, SseBody, SseProxyLayer,
    intercept::{Interceptor, StreamEnd, StreamHead, Verdict},
};

const INTERVAL: Duration = Duration::from_secs(10);

fn layer() -> SseProxyLayer {
    SseProxyLayer::default().keep_alive(KeepAlive::new(INTERVAL))
}

async fn open(layer: &SseProxyLayer) -> (Sender<Bytes>, SseBody<Channel<Bytes>>) {
    let (sender, body) = Channel::<Bytes, Infallible>::new(8);
    (sender, pass(layer, body).await)
}

/// Reads the next frame. Returns it and the time until it arrived.
async fn next(body: &mut SseBody<Channel<Bytes>>) -> (Bytes, Duration) {
    let begun = Instant::now();
    let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
    (frame, begun.elapsed())
}

/// Whether `after` is a valid jittered interval. The timer rounds up to the next millisecond.
fn is_due(after: Duration) -> bool {
    after >= INTERVAL.mul_f64(0.9) && after <= INTERVAL + Duration::from_millis(1)
}

#[tokio::test(start_paused = true)]
async fn first_comment_is_immediate_and_later_ones_follow_silence() {
    let (_upstream, mut body) = open(&layer()).await;
    assert_eq!(next(&mut body).await, (":\n\n".into(), Duration::ZERO));
    let mut times = Vec::new();
    for _ in 0..50 {
        let (frame, after) = next(&mut body).await;
        assert_eq!(frame, ":\n\n");
        assert!(is_due(after), "{after:?}");
        times.push(after);
    }
    // Jitter: streams that were opened together send their comments at different times.
    assert!(
        times
            .iter()
            .max()
            .unwrap()
            .abs_diff(*times.iter().min().unwrap())
            > INTERVAL / 50
    );
}

#[tokio::test(start_paused = true)]
async fn first_comment_can_wait_for_the_interval() {
    let keep_alive = KeepAlive::new(INTERVAL).immediate(false);
    let (_upstream, mut body) = open(&SseProxyLayer::default().keep_alive(keep_alive)).await;
    let (frame, after) = next(&mut body).await;
    assert_eq!(frame, ":\n\n");
    assert!(is_due(after), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn each_event_delays_the_next_comment() {
    let (mut upstream, mut body) = open(&layer()).await;
    next(&mut body).await;
    let busy = tokio::spawn(async move {
        for _ in 0..20 {
            sleep(INTERVAL.mul_f64(0.8)).await;
            upstream.send_data("data: x\n\n".into()).await.unwrap();
        }
        upstream
    });
    for _ in 0..20 {
        assert_eq!(next(&mut body).await.0, "data: x\n\n");
    }
    let (frame, after) = next(&mut body).await;
    assert_eq!(frame, ":\n\n");
    assert!(is_due(after), "{after:?}");
    drop(busy);
}

/// Events that an interceptor drops do not reach the client, so the client sees silence.
#[tokio::test(start_paused = true)]
async fn dropped_events_do_not_delay_the_comment() {
    let layer = layer().intercept(|_: Event| Verdict::Drop);
    let (mut upstream, mut body) = open(&layer).await;
    next(&mut body).await;
    tokio::spawn(async move {
        loop {
            sleep(INTERVAL / 3).await;
            upstream.send_data("data: x\n\n".into()).await.unwrap();
        }
    });
    for _ in 0..5 {
        let (frame, after) = next(&mut body).await;
        assert_eq!(frame, ":\n\n");
        assert!(is_due(after), "{after:?}");
    }
}

/// The upstream always has more events to drop, so no poll reaches the end of the backlog.
#[tokio::test]
async fn backlog_of_dropped_events_does_not_delay_the_comment() {
    let keep_alive = KeepAlive::new(Duration::from_millis(10)).immediate(false);
    let slow = |_: Event| {
        std::thread::sleep(Duration::from_micros(50));
        Verdict::Drop
    };
    let layer = SseProxyLayer::default().keep_alive(keep_alive);
    let (mut upstream, mut body) = open(&layer.intercept(slow)).await;
    tokio::spawn(async move {
        let chunk = Bytes::from("data: x\n\n".repeat(1000));
        while upstream.send_data(chunk.clone()).await.is_ok() {}
    });
    let frame = timeout(20 * Duration::from_secs(1), next(&mut body)).await;
    assert_eq!(frame.unwrap().0, ":\n\n");
}

/// In a task without cooperative budget, every tokio resource returns `Pending`, timers too.
#[tokio::test(start_paused = true)]
async fn comment_is_sent_when_the_coop_budget_is_exhausted() {
    let layer = SseProxyLayer::default().keep_alive(KeepAlive::new(INTERVAL).immediate(false));
    let (_upstream, mut body) = open(&layer).await;
    while tokio::task::coop::has_budget_remaining() {
        tokio::task::coop::consume_budget().await;
    }
    let (frame, after) = timeout(2 * INTERVAL, next(&mut body)).await.unwrap();
    assert_eq!(frame, ":\n\n");
    assert!(is_due(after), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn comment_is_never_sent_inside_an_event() {
    for text in [
        "data: 1\nid: 2\n\n",
        "data: 1\r\n\r\n",
        "data: 1\r\r",
        "\u{feff}data: 1\n\n",
    ] {
        for cut in 0..text.len() {
            let (mut upstream, mut body) = open(&layer()).await;
            next(&mut body).await;
            upstream
                .send_data(Bytes::copy_from_slice(&text.as_bytes()[..cut]))
                .await
                .unwrap();
            let mut out = Vec::new();
            while !out.ends_with(b":\n\n") {
                out.extend_from_slice(&next(&mut body).await.0);
            }
            upstream
                .send_data(Bytes::copy_from_slice(&text.as_bytes()[cut..]))
                .await
                .unwrap();
            drop(upstream);
            out.extend_from_slice(&body.collect().await.unwrap().to_bytes());
            let out = String::from_utf8(out).unwrap();
            // The byte order mark is removed, because the first comment precedes it.
            let whole = text.trim_start_matches('\u{feff}');
            let (first, second) = (format!("{whole}:\n\n"), format!(":\n\n{whole}"));
            // The CR ended the event. An LF that arrives later is one more blank line.
            let late = format!("{}:\n\n\n", whole.trim_end_matches('\n'));
            assert!(
                out == first || out == second || out == late,
                "{out:?} for {text:?} at {cut}"
            );
        }
    }
}

/// Defers its verdict at the end of the stream, and then adds nothing.
struct SlowEnd;

impl Interceptor for SlowEnd {
    fn event(&mut self, event: Event) -> Verdict {
        event.into()
    }

    fn end(&mut self, _: StreamEnd<'_>) -> Verdict {
        Verdict::defer(async {
            sleep(5 * INTERVAL).await;
            Ok(Verdict::Drop)
        })
    }
}

/// A client would read a comment after an unfinished event as a part of that event.
#[tokio::test(start_paused = true)]
async fn no_comment_is_sent_after_an_unfinished_event() {
    for rest in ["data: half", "data: half\n", "id: 1\r"] {
        let layer = layer().intercept(|_: &StreamHead<'_>| Some(SlowEnd));
        let (mut upstream, body) = open(&layer).await;
        upstream.send_data(rest.into()).await.unwrap();
        drop(upstream);
        let out = body.collect().await.unwrap().to_bytes();
        let comments = out.strip_suffix(rest.as_bytes()).unwrap();
        assert!(comments.len() >= 5 * b":\n\n".len(), "{out:?}");
        assert!(comments.chunks(3).all(|c| c == b":\n\n"), "{out:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn comments_continue_during_a_deferral_and_bypass_interceptors() {
    let (witness, mut notes) = witness();
    let layer = layer()
        .intercept(|_: Event| Verdict::defer(pending::<Result<Event, _>>()))
        .intercept(witness);
    let (mut upstream, mut body) = open(&layer).await;
    next(&mut body).await;
    upstream.send_data("data: x\n\n".into()).await.unwrap();
    for _ in 0..3 {
        let (frame, after) = next(&mut body).await;
        assert_eq!(frame, ":\n\n");
        assert!(is_due(after), "{after:?}");
    }
    drop(body);
    assert_eq!(notes.until_dropped().await, [Note::ClientGone]);
}

#[tokio::test(start_paused = true)]
async fn comment_text_is_configurable() {
    for (text, comment) in [
        ("still here", ": still here\n\n"),
        ("two\nlines", ": two\n: lines\n\n"),
        (
            "no\r\n\r\ndata: injection",
            ": no\n: \n: data: injection\n\n",
        ),
    ] {
        let keep_alive = KeepAlive::new(INTERVAL).text(text);
        let (_upstream, mut body) = open(&SseProxyLayer::default().keep_alive(keep_alive)).await;
        assert_eq!(next(&mut body).await.0, comment);
        assert_eq!(next(&mut body).await.0, comment);
    }
}

#[tokio::test(start_paused = true)]
async fn no_comment_is_sent_after_the_end_or_instead_of_a_ready_event() {
    let script = Script::of(["data: 1\n\n"]);
    let out = pass(&layer(), script)
        .await
        .collect()
        .await
        .unwrap()
        .to_bytes();
    assert!(out == "data: 1\n\n" || out == ":\n\ndata: 1\n\n", "{out:?}");

    let script = Script::new([Step::Data("data: 1\n\n".into()), Step::Error]);
    let mut body = pass(&layer(), script).await;
    while let Some(Ok(_)) = body.frame().await {}
    assert!(body.frame().await.is_none());
}
