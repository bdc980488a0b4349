//! Interceptors that fail, panic or exceed their time limit: the layer cuts their stream unless they fail open, and no other
//! stream is affected. The clock is virtual.

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
        "fail" => Verdict::fail("event says fail"),
        "block" => Verdict::block("event says block"),
        "panic" => panic!("event says panic"),
        "panic later" => Verdict::defer(async move {
            assert!(event.data().is_empty(), "panics inside a deferral");
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
async fn r30_failure_cuts_the_stream_unless_the_interceptor_fails_open() {
    let limited = || event_fn(failing).time_limit(SECOND / 2);
    let closed = || SseProxyLayer::default().intercept(limited());
    let open = || SseProxyLayer::default().intercept(limited().fail_open());
    let other_order = failing.fail_open().time_limit(SECOND / 2);
    let other_order = SseProxyLayer::default().intercept(other_order);
    let unlimited = SseProxyLayer::default().intercept(failing);
    let failed = Some(ErrorKind::InterceptorFailed);
    let blocked = Some(ErrorKind::Blocked);
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
        (closed(), "block", false, blocked),
        (open(), "block", false, blocked),
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
        assert!(self.0 != here, "panics at {here:?}");
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

/// A layer whose interceptor panics at `at`, but only for requests to `/panic`.
fn panicking(at: Panics) -> SseProxyLayer {
    layer(move |head: &StreamHead<'_>| {
        let panics = head.request.uri.path() == "/panic";
        assert!(!(panics && at == Panics::Open), "panics at Open");
        panics.then_some(Panicking(at))
    })
}

#[tokio::test(start_paused = true)]
async fn panic_cuts_only_its_own_stream() {
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

/// Holds every event. After the first one, it panics in `deadline`.
struct PanicsInDeadline(bool);

impl Interceptor for PanicsInDeadline {
    fn event(&mut self, _: Event) -> Verdict {
        self.0 = true;
        Verdict::Hold
    }

    fn deadline(&self) -> Option<std::time::Instant> {
        assert!(!self.0, "panics in deadline");
        None
    }
}

#[tokio::test(start_paused = true)]
async fn panic_cuts_the_stream_at_once_while_the_upstream_is_silent() {
    let layer = layer(|_: &StreamHead<'_>| Some(PanicsInDeadline(false)));
    let script = Script::of(["data: 1\n\n"]).then(Step::Never);
    let taken = script.taken();
    let out = timeout(SECOND, rest(pass(&layer, script).await)).await;
    let panicked = Some(ErrorKind::InterceptorPanicked);
    assert_eq!(out.unwrap(), (String::new(), panicked));
    assert!(taken.is_dropped());
}

/// Panics when it is dropped.
struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        panic!("panics on drop");
    }
}

/// Defers forever or forwards. Both the interceptor and its deferred future panic when they are dropped.
struct OwnsPanicsOnDrop(#[allow(dead_code, reason = "only its drop matters")] PanicsOnDrop);

impl Interceptor for OwnsPanicsOnDrop {
    fn event(&mut self, event: Event) -> Verdict {
        match &*event.data() {
            "defer" => {
                let bomb = PanicsOnDrop;
                Verdict::defer(async move {
                    let _bomb = bomb;
                    pending::<Result<Event, _>>().await
                })
            }
            _ => event.into(),
        }
    }
}

/// If the panic left the body, it would end the HTTP/2 connection and thereby all its other streams.
#[tokio::test(start_paused = true)]
async fn panic_on_drop_does_not_leave_the_body() {
    let interceptor = |_: &StreamHead<'_>| Some(OwnsPanicsOnDrop(PanicsOnDrop));
    let layer = SseProxyLayer::default().intercept(interceptor.time_limit(SECOND));
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
async fn maximal_time_limit_does_not_overflow() {
    let unlimited = event_fn(failing).time_limit(Duration::MAX);
    let layer = SseProxyLayer::default()
        .intercept(unlimited)
        .keep_alive(KeepAlive::new(Duration::MAX).immediate(false));
    let text = "data: slow\n\n";
    assert_eq!(through(&layer, text).await, (text.into(), None));
}

#[tokio::test(start_paused = true)]
async fn service_interceptor_works_with_tower_middleware() {
    let running = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&running);
    let judge = service_fn(move |event: Event| {
        let count = Arc::clone(&count);
        async move {
            assert_eq!(
                count.fetch_add(1, Ordering::SeqCst),
                0,
                "concurrent calls exceed the limit"
            );
            let pause = if event.data() == "slow" {
                3 * SECOND
            } else {
                SECOND / 10
            };
            sleep(pause).await;
            count.fetch_sub(1, Ordering::SeqCst);
            match &*event.data() {
                "error" => Err("event says error"),
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
    // All streams share one permit, so the calls run one after another.
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
async fn time_limit_covers_nested_deferrals_as_a_whole() {
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

/// Fails in `end`.
struct FailsAtEnd;

impl Interceptor for FailsAtEnd {
    fn event(&mut self, event: Event) -> Verdict {
        event.into()
    }

    fn end(&mut self, _: StreamEnd<'_>) -> Verdict {
        Verdict::fail("fails at the end")
    }
}

#[tokio::test(start_paused = true)]
async fn failure_at_the_end_cuts_the_stream_unless_it_fails_open() {
    let opened = |_: &StreamHead<'_>| Some(FailsAtEnd);
    let closed = through(&layer(opened), "data: a\n\n").await;
    let failed = Some(ErrorKind::InterceptorFailed);
    assert_eq!(closed, ("data: a\n\n".to_owned(), failed));
    let open = through(&layer(opened.fail_open()), "data: a\n\n").await;
    assert_eq!(open, ("data: a\n\n".to_owned(), None));
}

#[tokio::test]
async fn open_interceptors_get_the_end_if_a_later_one_panics_at_open() {
    let (witness, mut notes) = crate::support::witness();
    let layer = SseProxyLayer::default()
        .intercept(witness)
        .intercept(|_: &StreamHead<'_>| -> Option<FailsAtEnd> { panic!("panics at open") });
    let response = event_stream(Script::of(["data: a\n\n"]));
    let response = respond(&layer, Request::new(()), response).await;
    assert_eq!(response.status(), 502);
    let failed = crate::support::Note::Failed(ErrorKind::InterceptorPanicked);
    assert_eq!(notes.until_dropped().await, [failed]);
}

#[tokio::test]
async fn interceptor_can_be_shared_by_two_layers() {
    let shared: Arc<dyn MakeInterceptor> = Arc::new(event_fn(failing).fail_open());
    for _ in 0..2 {
        let passed = through(&layer(Arc::clone(&shared)), "data: fail\n\n").await;
        assert_eq!(passed, ("data: fail\n\n".to_owned(), None));
    }
}
