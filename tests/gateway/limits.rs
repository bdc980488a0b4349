//! The gateway's limits for the size of an event and for the logs of all recorded streams.

use bytes::Bytes;
use http::Request;
use memchr::memmem;
use tower_sse_proxy::{SseProxyLayer, reconnect::Reconnect};

use crate::{
    gateway_guard,
    routes::layer,
    serving::{self, settings},
    settings::Settings,
    support::{
        Protocol, Upstream, event, fetch, field,
        origin::{get, settle},
        sse, staged,
    },
};

const MIB: usize = 1 << 20;

fn gateway(settings: &Settings) -> SseProxyLayer<Reconnect> {
    let policy = gateway_guard::policy(settings).unwrap();
    let upstream = "http://127.0.0.1:9".parse().unwrap();
    layer(policy, settings, settings.listen.addresses[0], &upstream).unwrap()
}

#[tokio::test(start_paused = true)]
async fn log_bytes_limits_the_logs_of_ended_streams_and_evicts_the_oldest() {
    const STREAMS: usize = 40;
    const EVENTS: usize = 10;
    let limited = gateway(&settings(&[("SSEP_LOG_BYTES", "1048576")]));
    let unlimited = gateway(&settings(&[]));
    for (layer, limit) in [(limited, MIB), (unlimited, 256 * MIB)] {
        let (front, mut origin) = staged(&layer);
        let text = "x".repeat(10_000);
        let mut ids = Vec::new();
        for number in 0..STREAMS {
            let request = get(&format!("/r/{number}"));
            let (mut client, mut feed) = front.open(&mut origin, request).await;
            for _ in 0..EVENTS {
                feed.send(event(&text)).await;
            }
            feed.end();
            ids.push(client.events(1).await.1);
            let (rest, failed) = client.rest().await;
            assert_eq!((rest.matches("id: ").count(), failed), (EVENTS - 1, None));
            settle().await;
            assert!(layer.retained_bytes() <= limit);
        }
        assert!(layer.retained_bytes() >= limit.min(STREAMS * EVENTS * 10_000) / 4);
        let mut complete = Vec::new();
        for (number, id) in ids.iter().enumerate() {
            let request = get(&format!("/r/{number}")).header("last-event-id", id);
            let mut client = front.send(request).await;
            let first = client.event().await;
            if field(&first, "event").as_deref() == Some("gap") {
                complete.push(false);
                continue;
            }
            complete.push(true);
            let (rest, failed) = client.rest().await;
            assert_eq!((rest.matches("id: ").count(), failed), (EVENTS - 2, None));
        }
        assert!(origin.is_idle().await, "every client resumes from the log");
        assert!(complete.is_sorted(), "{complete:?}");
        let resumed = complete.iter().filter(|complete| **complete).count();
        if limit == MIB {
            assert!(
                (2..=MIB / 100_000).contains(&resumed),
                "{resumed} of {STREAMS}"
            );
        } else {
            assert_eq!(resumed, STREAMS);
        }
    }
}

#[tokio::test]
async fn event_above_the_limit_of_1_mib_cuts_the_stream() {
    // The name of the field and the line ends count, too.
    let of_size = |bytes: usize| event(&"x".repeat(bytes - "data: \n\n".len()));
    let raised = (2 * MIB).to_string();
    for (maximum, limit) in [(None, MIB), (Some(&raised), 2 * MIB)] {
        for path in ["/s/a", "/r/a", "/f/a"] {
            for (bytes, passes) in [(limit, true), (limit + 1, false)] {
                let variables = maximum.map(|bytes| ("SSEP_MAX_EVENT_BYTES", bytes.as_str()));
                let large = of_size(bytes);
                let stream = [&event("before")[..], &large, &event("after")].concat();
                let upstream = Upstream::answering(sse(stream)).await;
                let gateway = serving::gateway(variables.as_slice(), upstream).await;
                let request = Request::get(path).body(Bytes::new()).unwrap();
                let answer = fetch(Protocol::Http1, gateway, request).await;
                let (body, ended) = answer.rest().await;
                let events = ["before", "x", "after"]
                    .map(|text| memmem::find(&body, format!("data: {text}").as_bytes()).is_some());
                assert_eq!(events, [true, passes, passes], "{path}, {bytes} bytes");
                assert_eq!(ended.is_clean(), passes, "{path}, {bytes} bytes");
                if passes {
                    assert!(
                        memmem::find(&body, &large).is_some(),
                        "the event is complete"
                    );
                }
            }
        }
    }
}
