//! Each way in which a stream can end makes exactly one record with the right outcome, whatever the kind of the stream and the
//! protocol of the client.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::Request;
use tower_sse_proxy::{
    Event, Policy, SseProxyLayer, Streams, Watchdog,
    intercept::Verdict,
    observe::{EndedBy, StreamOutcome},
    profile::Mcp,
    replay::Replay,
    streams::CloseReason,
};

use crate::support::{
    Answer, BOTH, Ended, Exchange, Protocol, Upstream, fetch, proxy, recorded, soon, sse_chunked,
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Plain,
    Resumable,
    Shared,
    McpPost,
}

const KINDS: [Kind; 4] = [Kind::Plain, Kind::Resumable, Kind::Shared, Kind::McpPost];

/// An interceptor that obeys the data of an event.
fn obey(event: Event) -> Verdict {
    match &*event.data() {
        "end" => Verdict::End(Vec::new()),
        "fail" => Verdict::fail("on purpose"),
        _ => event.into(),
    }
}

/// A layer with room for one stream, or for none, that ends streams of this kind without a client at once.
fn layer(kind: Kind, outcome: StreamOutcome) -> SseProxyLayer {
    let policy = Policy::default().intercept(obey).max_event_bytes(256);
    let policy = match outcome {
        StreamOutcome::Stalled => {
            policy.watchdog(Watchdog::default().content_gap(Duration::from_millis(50)))
        }
        StreamOutcome::Expired => {
            // Long enough for the first event on a busy machine.
            policy.watchdog(Watchdog::default().max_age(Duration::from_millis(400)))
        }
        _ => policy,
    };
    let replay = Replay::default().grace_period(Duration::ZERO);
    let places = usize::from(outcome != StreamOutcome::Rejected);
    let layer = SseProxyLayer::default().max_streams(places);
    if kind == Kind::McpPost {
        let mcp = Mcp::new(policy.replay(replay));
        return layer.policy(move |request, _| mcp.policy(request));
    }
    let policy = Arc::new(match kind {
        Kind::Resumable => policy.replay(replay),
        Kind::Shared => {
            policy.replay(replay.share_by(|request| Some(request.uri.path().to_owned())))
        }
        _ => policy,
    });
    layer.policy(move |_, _| Arc::clone(&policy))
}

fn request(kind: Kind) -> Request<Bytes> {
    let request = Request::builder().uri("/mcp");
    match kind {
        Kind::McpPost => request
            .method("POST")
            .header("accept", "application/json, text/event-stream")
            .header("content-type", "application/json")
            .body(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#.into()),
        _ => request
            .header("accept", "text/event-stream")
            .body(Bytes::new()),
    }
    .unwrap()
}

const PROGRESS: &str = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}\n\n";
const RESULT: &str = "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n";

/// Opens a stream with one event.
async fn open(
    kind: Kind,
    protocol: Protocol,
    proxy: SocketAddr,
    upstream: &mut Upstream,
) -> (Answer, Exchange) {
    let serve = async {
        let mut exchange = upstream.next().await;
        exchange.body().await;
        exchange.write(sse_chunked()).await;
        exchange.chunk(PROGRESS).await;
        exchange
    };
    let (answer, exchange) = tokio::join!(fetch(protocol, proxy, request(kind)), serve);
    assert_eq!(answer.status, 200);
    (answer, exchange)
}

/// Whether a watchdog ends the stream. On a busy machine, it may end the stream before the first event.
fn is_timed(outcome: StreamOutcome) -> bool {
    matches!(outcome, StreamOutcome::Stalled | StreamOutcome::Expired)
}

/// Ends the stream with this outcome. Returns how the response ended, if the client is there, and the upstream's side, unless the
/// upstream has closed it.
async fn end(
    outcome: StreamOutcome,
    streams: &Streams,
    mut answer: Answer,
    mut exchange: Exchange,
) -> (Option<Ended>, Option<Exchange>) {
    if !is_timed(outcome) {
        answer.until("progress").await;
    }
    match outcome {
        StreamOutcome::Completed => {
            exchange.chunk(RESULT).await;
            exchange.write("0\r\n\r\n").await;
            let ended = answer.rest().await.1;
            return (Some(ended), None);
        }
        StreamOutcome::Truncated => {
            exchange.chunk("data: half").await;
            exchange.write("0\r\n\r\n").await;
            answer.rest().await;
            return (None, None);
        }
        StreamOutcome::UpstreamError => {
            drop(exchange);
            return (Some(answer.rest().await.1), None);
        }
        StreamOutcome::ClientLeft => {
            drop(answer.leave());
            return (None, Some(exchange));
        }
        StreamOutcome::Cancelled => {
            let id = streams.list()[0].id;
            assert_eq!(streams.close(id, CloseReason::Cancelled), 1);
            assert_eq!(streams.close(id, CloseReason::Cancelled), 0);
        }
        StreamOutcome::Revoked => {
            let owner = streams.list()[0].owner;
            assert_eq!(streams.close(owner, CloseReason::Revoked), 1);
        }
        StreamOutcome::Blocked => exchange.chunk("data: end\n\n").await,
        StreamOutcome::InterceptorFailed => exchange.chunk("data: fail\n\n").await,
        StreamOutcome::Overflow => {
            let long = format!("data: {}\n\n", "x".repeat(300));
            exchange.chunk(long).await;
        }
        StreamOutcome::Drained => soon(streams.drain(Duration::ZERO)).await,
        _ => assert!(is_timed(outcome)),
    }
    (Some(answer.rest().await.1), Some(exchange))
}

#[tokio::test]
async fn each_outcome_has_one_record_for_each_kind_of_stream_and_protocol() {
    for kind in KINDS {
        for protocol in BOTH {
            for outcome in StreamOutcome::ALL {
                let case = format!("{outcome} {kind:?} {protocol:?}");
                let (layer, records) = recorded(layer(kind, outcome));
                let streams = layer.streams();
                let mut upstream = Upstream::start().await;
                let proxy = proxy(layer, upstream.address).await;
                if outcome == StreamOutcome::Rejected {
                    let answer = fetch(protocol, proxy, request(kind)).await;
                    assert_eq!(answer.status, 503, "{case}");
                    assert_eq!(upstream.requests(), 0, "{case}");
                } else {
                    let (answer, exchange) = open(kind, protocol, proxy, &mut upstream).await;
                    let (ended, upstream) = end(outcome, &streams, answer, exchange).await;
                    let is_clean =
                        matches!(outcome, StreamOutcome::Completed | StreamOutcome::Blocked);
                    if let Some(ended) = ended {
                        assert_eq!(ended.is_clean(), is_clean, "{case}");
                    }
                    if let Some(upstream) = upstream {
                        // The upstream request is cancelled.
                        upstream.closed().await;
                    }
                }
                let record = records.next().await;
                assert_eq!(record.outcome, outcome, "{case}");
                assert_eq!(record.ended_by(), outcome.ended_by(), "{case}");
                assert_eq!(streams.count(), 0, "{case}");
                assert!(records.take().await.is_empty(), "{case}");
                match outcome {
                    StreamOutcome::Rejected => {
                        assert_eq!((records.opened(), record.events_in), (0, 0), "{case}");
                        assert_eq!(record.status.unwrap(), 503, "{case}");
                        assert_eq!(record.time_to_head, None, "{case}");
                    }
                    StreamOutcome::Drained => assert_eq!(records.opened(), 1, "{case}"),
                    _ => {
                        assert_eq!(records.opened(), 1, "{case}");
                        assert_eq!(record.status.unwrap(), 200, "{case}");
                        assert!(record.events_in >= 1 || is_timed(outcome), "{case}");
                        // The place of the stream is free.
                        let (answer, _exchange) = open(kind, protocol, proxy, &mut upstream).await;
                        drop(answer.leave());
                        records.next().await;
                    }
                }
            }
        }
    }
}

#[test]
fn ended_by_names_the_party() {
    use StreamOutcome::*;
    for (party, outcomes) in [
        (
            EndedBy::Upstream,
            &[Completed, Truncated, UpstreamError][..],
        ),
        (EndedBy::Client, &[ClientLeft]),
        (EndedBy::Operator, &[Cancelled, Revoked]),
        (EndedBy::Interceptor, &[Blocked, InterceptorFailed]),
        (
            EndedBy::Gateway,
            &[Stalled, Expired, Overflow, Drained, Rejected],
        ),
    ] {
        for outcome in outcomes {
            assert_eq!(outcome.ended_by(), party);
        }
    }
}
