//! The limit on what all open streams hold in buffers.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tower_sse_proxy::{ErrorKind, SseProxyLayer, observe::StreamOutcome};

use crate::support::{is_silent, next, open, rest};

/// A layer with this limit, and the outcomes of its streams.
fn layer(bytes: usize) -> (SseProxyLayer, Arc<Mutex<Vec<StreamOutcome>>>) {
    let outcomes = Arc::<Mutex<Vec<_>>>::default();
    let ended = Arc::clone(&outcomes);
    let layer = SseProxyLayer::default()
        .max_buffered_bytes(bytes)
        .on_close(move |record| ended.lock().unwrap().push(record.outcome));
    (layer, outcomes)
}

/// The beginning of an event whose end does not arrive.
fn unfinished(bytes: usize) -> Bytes {
    format!("data: {}", "x".repeat(bytes)).into()
}

#[tokio::test(start_paused = true)]
async fn stream_that_holds_the_most_ends_when_all_hold_too_much() {
    let (layer, outcomes) = layer(100_000);
    let streams = layer.streams();
    let (mut small, mut reads_small) = open(&layer).await;
    let (mut large, mut reads_large) = open(&layer).await;
    large.send_data(unfinished(60_000)).await.unwrap();
    assert!(is_silent(&mut reads_large).await);
    let held = streams.buffered_bytes();
    assert!((60_000..80_000).contains(&held), "{held}");
    let listed: usize = streams.list().iter().map(|stream| stream.buffered).sum();
    assert_eq!(listed, held);

    // The small stream exceeds the limit, and the large one is to blame.
    small.send_data(unfinished(50_000)).await.unwrap();
    assert!(is_silent(&mut reads_small).await);
    let (text, failed) = rest(reads_large).await;
    assert_eq!((text.as_str(), failed), ("", Some(ErrorKind::Aborted)));
    assert_eq!(*outcomes.lock().unwrap(), [StreamOutcome::Overflow]);
    assert!(streams.buffered_bytes() < 80_000);

    small.send_data("\n\n".into()).await.unwrap();
    assert_eq!(next(&mut reads_small).await.len(), 50_008);
    drop(small);
    assert_eq!(rest(reads_small).await.1, None);
    assert_eq!(streams.buffered_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn buffers_of_a_dropped_stream_do_not_count() {
    let (layer, _) = layer(1 << 20);
    let (mut sender, mut body) = open(&layer).await;
    sender.send_data(unfinished(5000)).await.unwrap();
    assert!(is_silent(&mut body).await);
    assert!(layer.streams().buffered_bytes() >= 5000);
    drop(body);
    assert_eq!(layer.streams().buffered_bytes(), 0);
}
