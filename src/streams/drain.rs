//! Draining: waits for the open streams of a layer, and ends the rest.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until, timeout_at};

use crate::observe::{LiveStreams, StreamOutcome};

/// The longest part of the drain time in which streams are ended.
const MAX_ENDING_TIME: Duration = Duration::from_secs(5);

/// Waits until no stream is open, and ends those that are still open near the end of `limit`.
pub(super) async fn drain(streams: Arc<LiveStreams>, limit: Duration) {
    let start = Instant::now();
    let ending_time = (limit / 5).min(MAX_ENDING_TIME);
    match start.checked_add(limit - ending_time) {
        Some(ending_start) => {
            let _ = timeout_at(ending_start, until_no_client(&streams)).await;
        }
        // A time that is too far away for the clock is no limit.
        None => until_no_client(&streams).await,
    }

    let open = streams.all();
    // The streams end in the first half of `ending_time`: the servers then have the other half to send the last bytes.
    let pause = ending_time / 2 / u32::try_from(open.len().max(1)).unwrap_or(u32::MAX);
    let spread_start = Instant::now();
    for (number, stream) in (0_u32..).zip(open) {
        if stream.clients() > 0 {
            sleep_until(spread_start + pause * number).await;
        }
        stream.end_with(StreamOutcome::Drained);
    }
    until_empty(&streams).await;
}

/// Waits until no stream has a client.
async fn until_no_client(streams: &LiveStreams) {
    loop {
        let changed = streams.changed();
        if streams.all().iter().all(|stream| stream.clients() == 0) {
            return;
        }
        changed.await;
    }
}

async fn until_empty(streams: &LiveStreams) {
    loop {
        let changed = streams.changed();
        let rest = streams.all();
        if rest.is_empty() {
            return;
        }
        // Streams that have opened since: their requests were admitted before the drain began.
        for stream in rest {
            stream.end_with(StreamOutcome::Drained);
        }
        changed.await;
    }
}
