//! The contract of `http_body::Body`: the layer's body keeps it towards the server, and the layer keeps it towards the
//! upstream's body. The upstream's body in these tests panics if it is polled after its end.

use std::future::pending;

use crate::support::{Script, Step, pass, witnessed_layer};
use futures_util::FutureExt;
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::{Duration, Instant};
use tower_sse_proxy::{
    ErrorKind, Event, SseProxyLayer,
    intercept::{Interceptor, StreamEnd, StreamHead, Verdict},
};

/// Polls a body past its end, and checks that its size hints and `is_end_stream` agree with the frames it returns.
async fn check_contract(layer: &SseProxyLayer, script: Script) -> (Vec<u8>, Option<ErrorKind>) {
    let mut body = pass(layer, script).await;
    let mut all = Vec::new();
    let mut hints = vec![(0, body.size_hint())];
    let failed = loop {
        let ended = body.is_end_stream();
        match body.frame().await {
            None => break None,
            Some(Err(error)) => break Some(error.kind()),
            Some(Ok(frame)) => {
                assert!(!ended, "data frame after is_end_stream returned true");
                if let Ok(data) = frame.into_data() {
                    assert!(!data.is_empty());
                    all.extend_from_slice(&data);
                }
            }
        }
        hints.push((all.len() as u64, body.size_hint()));
    };
    for (before, hint) in hints {
        let after = all.len() as u64 - before;
        assert!(hint.lower() <= after && hint.upper().is_none_or(|upper| after <= upper));
    }
    for _ in 0..3 {
        assert!(body.is_end_stream());
        assert!(body.frame().await.is_none(), "frame after the end");
    }
    (all, failed)
}

#[tokio::test(start_paused = true)]
async fn r11_body_keeps_the_http_body_contract() {
    let trailers = || {
        Step::Trailers(
            [("x".parse().unwrap(), "y".parse().unwrap())]
                .into_iter()
                .collect(),
        )
    };
    let data = |text: &'static str| Step::Data(text.into());
    let one = "data: 1\n\n";
    let large: &'static str = "x".repeat(2000).leak();
    for layer in [
        SseProxyLayer::default().max_event_bytes(1000),
        witnessed_layer().0,
    ] {
        for (steps, out, failed) in [
            (vec![], "", None),
            (vec![Step::Later, data(one), Step::Later], one, None),
            (vec![data(one), trailers()], one, None),
            (
                vec![data(""), data("data: half"), trailers()],
                "data: half",
                None,
            ),
            (vec![data(one), Step::Error], one, Some(ErrorKind::Upstream)),
            (
                vec![Step::Later, Step::Error],
                "",
                Some(ErrorKind::Upstream),
            ),
            (
                vec![data(one), data(large), data(one)],
                one,
                Some(ErrorKind::EventTooLarge),
            ),
        ] {
            let (all, error) = check_contract(&layer, Script::new(steps)).await;
            assert_eq!((&*all, error), (out.as_bytes(), failed));
        }
    }
    for (text, out, failed) in [
        ("data: end\n\ndata: 2\n\n", "data: end\n\n", None),
        (
            "data: fail\n\ndata: 2\n\n",
            "",
            Some(ErrorKind::InterceptorFailed),
        ),
        (
            "data: panic\n\ndata: 2\n\n",
            "",
            Some(ErrorKind::InterceptorPanicked),
        ),
    ] {
        let (all, error) = check_contract(&witnessed_layer().0, Script::of([text, one])).await;
        assert_eq!((&*all, error), (out.as_bytes(), failed));
    }
}

#[tokio::test(start_paused = true)]
async fn upstream_body_is_dropped_before_the_client_sees_the_end() {
    for text in ["data: end\n\n", "data: fail\n\n"] {
        let script = Script::of([text]).then(Step::Never);
        let taken = script.taken();
        let (layer, [mut notes, _]) = witnessed_layer();
        let mut body = pass(&layer, script).await;
        while !taken.is_dropped() {
            let frame = body.frame().await;
            assert!(!matches!(frame, None | Some(Err(_))) || taken.is_dropped());
        }
        assert_eq!(notes.ends().await.len(), 1);
    }
}

/// HTTP/2 servers write in a separate task, so a wake does not prove that the frame has been written.
#[tokio::test(start_paused = true)]
async fn error_is_delayed_until_the_server_can_send_earlier_frames() {
    for (layer, text) in [
        (SseProxyLayer::default(), "data: 1\n\n"),
        (witnessed_layer().0, "data: 1\n\ndata: fail\n\n"),
    ] {
        let script = Script::of([text]).then(Step::Error);
        let mut body = pass(&layer, script).await;
        assert!(body.frame().await.unwrap().is_ok());
        let sent = Instant::now();
        assert!(body.frame().await.unwrap().is_err());
        let pause = sent.elapsed();
        let fair = Duration::from_millis(20)..Duration::from_millis(500);
        assert!(fair.contains(&pause), "{pause:?}");
    }
}

/// Defers its verdict at the end of the stream and never resolves it.
struct NeverEnds;

impl Interceptor for NeverEnds {
    fn event(&mut self, event: Event) -> Verdict {
        event.into()
    }

    fn end(&mut self, _: StreamEnd<'_>) -> Verdict {
        Verdict::defer(pending::<Result<Event, _>>())
    }
}

#[tokio::test]
async fn upstream_body_is_dropped_while_an_end_verdict_is_deferred() {
    for text in ["data: end\n\n", "data: fail\n\n"] {
        let script = Script::of([text]).then(Step::Never);
        let taken = script.taken();
        let layer = witnessed_layer()
            .0
            .intercept(|_: &StreamHead<'_>| Some(NeverEnds));
        let mut body = pass(&layer, script).await;
        for _ in 0..10 {
            let frame = body.frame().now_or_never().flatten();
            assert!(matches!(frame, None | Some(Ok(_))), "{text}");
        }
        assert!(!body.is_end_stream());
        assert!(taken.is_dropped(), "{text}");
    }
}
