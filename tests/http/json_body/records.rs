//! The records of JSON bodies that interceptors have inspected.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tower_sse_proxy::{
    Event, SseProxyLayer,
    intercept::{BodyShape, Verdict},
    observe::{StreamOutcome, StreamRecord},
};

use crate::support::{recorded, respond};

const ANSWER: &str = r#"{"object":"chat.completion","model":"gpt","choices":[{"message":{"content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":5}}"#;

/// The records of one response with this body, and the status of the client's response.
async fn records_of(
    layer: SseProxyLayer,
    content_type: &str,
    body: &'static str,
) -> (StatusCode, Vec<StreamRecord>) {
    let (layer, records) = recorded(layer);
    let response = Response::builder()
        .header("content-type", content_type)
        .body(Full::<Bytes>::from(body))
        .unwrap();
    let response = respond(&layer, Request::new(()), response).await;
    let status = response.status();
    response.into_body().collect().await.unwrap();
    (status, records.take().await)
}

fn layer(decide: fn(Event) -> Verdict) -> SseProxyLayer {
    SseProxyLayer::default()
        .intercept(decide)
        .inspect_json(1000)
}

#[tokio::test(start_paused = true)]
async fn forwarded_body_has_one_record_with_the_tokens_of_its_api() {
    let (status, records) = records_of(
        layer(<Verdict as From<Event>>::from),
        "application/json",
        ANSWER,
    )
    .await;
    assert_eq!(status, StatusCode::OK);
    let [record] = &records[..] else {
        panic!("{} records", records.len());
    };
    assert_eq!(record.outcome, StreamOutcome::Completed);
    assert_eq!((record.shape, record.opened), (BodyShape::Json, false));
    assert_eq!(record.status, Some(StatusCode::OK));
    assert_eq!((record.events_in, record.events_out), (1, 1));
    let size = ANSWER.len() as u64;
    assert_eq!((record.bytes_in, record.bytes_out), (size, size));
    let model = record.model.as_ref().unwrap();
    assert_eq!(model.model.as_deref(), Some("gpt"));
    assert_eq!((model.usage.input, model.usage.output), (Some(3), Some(5)));
}

#[tokio::test(start_paused = true)]
async fn refused_body_has_the_outcome_of_a_stream() {
    let drop_it: fn(Event) -> Verdict = |_| Verdict::Drop;
    let block: fn(Event) -> Verdict = |_| Verdict::block("no");
    let fail: fn(Event) -> Verdict = |_| Verdict::fail("broken");
    let pass: fn(Event) -> Verdict = <Verdict as From<Event>>::from;
    let large: &'static str = Box::leak(format!("\"{}\"", "x".repeat(1000)).into_boxed_str());
    let foreign = "application/json; charset=utf-16";
    for (decide, content_type, body, outcome, status) in [
        (
            drop_it,
            "application/json",
            ANSWER,
            StreamOutcome::Blocked,
            403,
        ),
        (
            block,
            "application/json",
            ANSWER,
            StreamOutcome::Blocked,
            403,
        ),
        (
            fail,
            "application/json",
            ANSWER,
            StreamOutcome::InterceptorFailed,
            502,
        ),
        (
            pass,
            "application/json",
            large,
            StreamOutcome::Overflow,
            502,
        ),
        (pass, foreign, ANSWER, StreamOutcome::Rejected, 502),
    ] {
        let (answered, records) = records_of(layer(decide), content_type, body).await;
        let [record] = &records[..] else {
            panic!("{} records of {outcome}", records.len());
        };
        assert_eq!(record.outcome, outcome);
        assert_eq!(record.status, Some(answered));
        assert_eq!(answered.as_u16(), status, "{outcome}");
        assert_eq!((record.events_out, record.bytes_out), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn empty_body_and_body_that_is_not_inspected_have_no_record() {
    let pass: fn(Event) -> Verdict = <Verdict as From<Event>>::from;
    let (_, records) = records_of(layer(pass), "application/json", "").await;
    assert!(records.is_empty());
    let uninspected = SseProxyLayer::default().intercept(pass);
    let (_, records) = records_of(uninspected, "application/json", ANSWER).await;
    assert!(records.is_empty());
}
