//! Interceptors that fail, panic or take too long: their stream is cut unless they fail open, and no other
//! stream feels it. Time is virtual.

use std::{
    convert::Infallible,
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::support::{Script, Step, event_stream, layer, pass, respond, rest, through};
use bytes::Bytes;
use futures_util::FutureExt;
use http::Request;
use http_body_util::{BodyExt, channel::Channel};
use tokio::time::{Duration, Instant, sleep, timeout};
use tower::{ServiceBuilder, service_fn};
use tower_sse_proxy::{
    ErrorKind, Event, KeepAlive, SseProxyLayer,
    codec::Block,
    intercept::{
        Interceptor, MakeInterceptor, MakeInterceptorExt, ServiceInterceptor, StreamEnd,
        StreamHead, Verdict, event_fn,
    },
};

const SECOND: Duration = Duration::from_secs(1);

fn failing(event: Event) -> Verdict {
    match &*event.data() {
        "fail" => Verdict::fail("told to"),
        "panic" => panic!("told to"),
        "panic later" => Verdict::defer(async move {
            assert!(event.data().is_empty(), "told to");
            Ok(event)
        }),
        "slow" => Verdict::defer(async move {
            sleep(SECOND).await;
            Ok(event)
        }),
        _ => event.into(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_cuts_the_stream_unless_it_fails_open() {
    let limited = || failing.time_limit(SECOND / 2);
    let closed = || SseProxyLayer::default().intercept(limited());
    let open = || SseProxyLayer::default().intercept(limited().fail_open());
    let other_order = failing.fail_open().time_limit(SECOND / 2);
    let other_order = SseProxyLayer::default().intercept(other_order);
    let unlimited = SseProxyLayer::default().intercept(failing);
    let failed = Some(ErrorKind::InterceptorFailed);
    let late = Some(ErrorKind::InterceptorTimedOut);
    let panicked = Some(ErrorKind::InterceptorPanicked);
    for (layer, culprit, passes, error) in [
        (closed(), "fail", false, failed),
        (closed(), "slow", false, late),
        (closed(), "panic", false, panicked),
        (closed(), "panic later", false, panicked),
        (open(), "fail", true, None),
        (open(), "slow", true, None),
        (open(), "panic", false, panicked),
        (open(), "panic later", false, panicked),
        (other_order.clone(), "fail", true, None),
        (other_order, "slow", true, None),
        (unlimited, "slow", true, None),
    ] {
        let text: &str = format!("data: 1\n\nid: 5\ndata: {culprit}\n\ndata: 2\n\n").leak();
        let out = if passes { text } else { "data: 1\n\n" };
        assert_eq!(
            through(&layer, text).await,
            (out.into(), error),
            "{culprit}"
        );
    }
}

/// Panics in one of its methods.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Panics {
    Open,
    Event,
    Block,
    Deadline,
    Timeout,
    End,
}

struct Panicking(Panics);

impl Panicking {
    fn at(&self, here: Panics) {
        assert!(self.0 != here, "told to");
    }
}

impl Interceptor for Panicking {
    fn event(&mut self, event: Event) -> Verdict {
        self.at(Panics::Event);
        event.into()
    }

    fn block(&mut self, block: Block) -> Verdict {
        self.at(Panics::Block);
        block.into()
    }

    fn deadline(&self) -> Option<std::time::Instant> {
        self.at(Panics::Deadline);
        (self.0 == Panics::Timeout).then(|| tokio::time::Instant::now().into_std())
    }

    fn timeout(&mut self, _: std::time::Instant) -> Verdict {
        self.at(Panics::Timeout);
        Verdict::Drop
    }

    fn end(&mut self, _: StreamEnd<'_>) -> Verdict {
        self.at(Panics::End);
        Verdict::Drop
    }
}

/// Only a request to `/panic` gets the one that panics.
fn panicking(at: Panics) -> SseProxyLayer {
    layer(move |head: &StreamHead<'_>| {
        let panics = head.request.uri.path() == "/panic";
        assert!(!(panics && at == Panics::Open), "told to");
        panics.then_some(Panicking(at))
    })
}

#[tokio::test(start_paused = true)]
async fn a_panic_cuts_its_stream_and_no_other_one() {
    use Panics::*;
    for at in [Open, Event, Block, Deadline, Timeout, End] {
        let layer = panicking(at);
        let (upstream, other) = Channel::<Bytes, Infallible>::new(64);
        let request = |path| Request::get(path).body(()).unwrap();
        let other = respond(&layer, request("/other"), event_stream(other))
            .await
            .into_body();

        let script = Script::of([": c\ndata: 1\n\n"]).then(Step::Later);
        let response = respond(&layer, request("/panic"), event_stream(script)).await;
        if at == Open {
            assert_eq!(response.status(), 502);
            let (out, failed) = rest(response.into_body()).await;
            assert!(!out.contains("data: 1") && failed.is_none());
        } else {
            let (_, failed) = rest(response.into_body()).await;
            assert_eq!(failed, Some(ErrorKind::InterceptorPanicked), "{at:?}");
        }

        let mut upstream = upstream;
        upstream.send_data(": c\ndata: 1\n\n".into()).await.unwrap();
        drop(upstream);
        assert_eq!(
            rest(other).await,
            (": c\ndata: 1\n\n".into(), None),
            "{at:?}"
        );
    }
}

/// Holds what it gets, and then panics when it is asked until when.
struct Forgetful(bool);

impl Interceptor for Forgetful {
    fn event(&mut self, _: Event) -> Verdict {
        self.0 = true;
        Verdict::Hold
    }

    fn deadline(&self) -> Option<std::time::Instant> {
        assert!(!self.0, "told to");
        None
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_cuts_its_stream_at_once_even_if_the_upstream_is_silent() {
    let layer = layer(|_: &StreamHead<'_>| Some(Forgetful(false)));
    let script = Script::of(["data: 1\n\n"]).then(Step::Never);
    let taken = script.taken();
    let out = timeout(SECOND, rest(pass(&layer, script).await)).await;
    let panicked = Some(ErrorKind::InterceptorPanicked);
    assert_eq!(out.unwrap(), (String::new(), panicked));
    assert!(taken.is_dropped());
}

struct Explosive;

impl Drop for Explosive {
    fn drop(&mut self) {
        panic!("told to");
    }
}

/// Defers for ever, or forwards; either way something explodes at last.
struct Mined(#[allow(dead_code, reason = "it is dropped")] Explosive);

impl Interceptor for Mined {
    fn event(&mut self, event: Event) -> Verdict {
        match &*event.data() {
            "defer" => {
                let mine = Explosive;
                Verdict::defer(async move {
                    let _mine = mine;
                    pending::<Result<Event, _>>().await
                })
            }
            _ => event.into(),
        }
    }
}

/// An HTTP/2 connection serves other streams as well, which a panic that comes out would end.
#[tokio::test(start_paused = true)]
async fn a_panic_while_something_is_dropped_stays_in_its_stream() {
    let mined = |_: &StreamHead<'_>| Some(Mined(Explosive));
    let layer = SseProxyLayer::default().intercept(mined.time_limit(SECOND));
    let late = Some(ErrorKind::InterceptorTimedOut);
    assert_eq!(
        through(&layer, "data: 1\n\ndata: defer\n\n").await,
        ("data: 1\n\n".into(), late)
    );
    assert_eq!(
        through(&layer, "data: 1\n\n").await,
        ("data: 1\n\n".into(), None)
    );
    let script = Script::of(["data: defer\n\n"]).then(Step::Never);
    let mut left = pass(&layer, script).await;
    assert!(left.frame().now_or_never().is_none());
    drop(left);
}

#[tokio::test(start_paused = true)]
async fn a_time_limit_may_be_as_long_as_it_likes() {
    let unlimited = event_fn(failing).time_limit(Duration::MAX);
    let layer = SseProxyLayer::default()
        .intercept(unlimited)
        .keep_alive(KeepAlive::new(Duration::MAX).immediate(false));
    let text = "data: slow\n\n";
    assert_eq!(through(&layer, text).await, (text.into(), None));
}

#[tokio::test(start_paused = true)]
async fn a_service_judges_with_all_that_tower_puts_around_it() {
    let running = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&running);
    let judge = service_fn(move |event: Event| {
        let count = Arc::clone(&count);
        async move {
            assert_eq!(count.fetch_add(1, Ordering::SeqCst), 0, "two at once");
            let pause = if event.data() == "slow" {
                3 * SECOND
            } else {
                SECOND / 10
            };
            sleep(pause).await;
            count.fetch_sub(1, Ordering::SeqCst);
            match &*event.data() {
                "error" => Err("told to"),
                "drop" => Ok(None),
                _ => Ok(Some(event)),
            }
        }
    });
    let judge = ServiceBuilder::new()
        .concurrency_limit(1)
        .timeout(SECOND)
        .service(judge);
    let judge = ServiceInterceptor::new(judge);
    let closed = layer(judge.clone());
    // One permit for all streams together: they take turns.
    let (one, two) = tokio::join!(
        through(&closed, "data: 1\n\ndata: drop\n\ndata: 2\n\n"),
        through(&closed, "data: 3\n\ndata: 4\n\n"),
    );
    assert_eq!(one, ("data: 1\n\ndata: 2\n\n".into(), None));
    assert_eq!(two, ("data: 3\n\ndata: 4\n\n".into(), None));
    for (text, error) in [
        ("data: 1\n\ndata: error\n\n", "failed"),
        ("data: 1\n\ndata: slow\n\n", "late"),
    ] {
        let (out, failed) = through(&closed, text).await;
        assert_eq!(
            (&*out, failed),
            ("data: 1\n\n", Some(ErrorKind::InterceptorFailed)),
            "{error}"
        );
        running.store(0, Ordering::SeqCst);
    }
    let open = layer(judge.fail_open());
    let text = "data: error\n\ndata: 2\n\n";
    assert_eq!(through(&open, text).await, (text.into(), None));
}

#[tokio::test(start_paused = true)]
async fn a_time_limit_is_for_a_verdict_as_a_whole() {
    fn again(event: Event, times: u32) -> Verdict {
        Verdict::defer(async move {
            sleep(SECOND / 4).await;
            Ok(match times {
                0 => event.into(),
                _ => again(event, times - 1),
            })
        })
    }
    for (times, error) in [(2, None), (10, Some(ErrorKind::InterceptorTimedOut))] {
        let often = event_fn(move |event: Event| again(event, times)).time_limit(SECOND);
        let begun = Instant::now();
        let (_, failed) = through(&layer(often), "data: a\n\n").await;
        assert_eq!(failed, error);
        assert!(begun.elapsed() < 2 * SECOND);
    }
}

/// Fails when it is told of the end.
struct FailsAtTheEnd;

impl Interceptor for FailsAtTheEnd {
    fn event(&mut self, event: Event) -> Verdict {
        event.into()
    }

    fn end(&mut self, _: StreamEnd<'_>) -> Verdict {
        Verdict::fail("told to")
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_at_the_end_cuts_the_stream_unless_it_fails_open() {
    let opened = |_: &StreamHead<'_>| Some(FailsAtTheEnd);
    let closed = through(&layer(opened), "data: a\n\n").await;
    let failed = Some(ErrorKind::InterceptorFailed);
    assert_eq!(closed, ("data: a\n\n".to_owned(), failed));
    let open = through(&layer(opened.fail_open()), "data: a\n\n").await;
    assert_eq!(open, ("data: a\n\n".to_owned(), None));
}

#[tokio::test]
async fn those_that_are_open_learn_of_one_that_panics_when_it_is_opened() {
    let (witness, mut notes) = crate::support::witness();
    let layer = SseProxyLayer::default()
        .intercept(witness)
        .intercept(|_: &StreamHead<'_>| -> Option<FailsAtTheEnd> { panic!("told to") });
    let response = event_stream(Script::of(["data: a\n\n"]));
    let response = respond(&layer, Request::new(()), response).await;
    assert_eq!(response.status(), 502);
    let failed = crate::support::Note::Failed(ErrorKind::InterceptorPanicked);
    assert_eq!(notes.until_dropped().await, [failed]);
}

#[tokio::test]
async fn one_interceptor_can_serve_two_layers() {
    let shared: Arc<dyn MakeInterceptor> = Arc::new(event_fn(failing).fail_open());
    for _ in 0..2 {
        let passed = through(&layer(Arc::clone(&shared)), "data: fail\n\n").await;
        assert_eq!(passed, ("data: fail\n\n".to_owned(), None));
    }
}
