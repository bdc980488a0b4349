//! When events arrive, and when a stream ends by a limit.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use tower_sse_proxy::{
    ErrorKind, Event, Policy, SseProxyLayer, intercept::Verdict, reconnect::Reconnect,
};

use super::ROUTES;
use crate::{
    gateway_guard,
    routes::layer,
    serving::{gateway, settings},
    support::{
        BOTH, Upstream, event, fetch,
        origin::{data, get, numbers},
        sse_chunked, staged,
    },
};

/// With all interceptors of the gateway, none of which finds its text.
#[tokio::test]
async fn r25_event_arrives_before_the_upstream_sends_the_next_one() {
    let variables = [
        ("SSEP_ALLOWED_HOSTS", "test"),
        ("SSEP_DENY", "denied"),
        ("SSEP_WINDOW_DENY", "denied"),
        ("SSEP_WINDOW_MASK", "masked"),
    ];
    for (path, protocol) in ROUTES
        .into_iter()
        .flat_map(|path| BOTH.map(|protocol| (path, protocol)))
    {
        for method in [Method::GET, Method::POST] {
            let mut upstream = Upstream::start().await;
            let gateway = gateway(&variables, upstream.address).await;
            let request = Request::builder().method(&method).uri(path);
            let request = request.body(Bytes::new()).unwrap();
            let asking = tokio::spawn(fetch(protocol, gateway, request));
            let mut exchange = upstream.next().await;
            exchange.write(sse_chunked()).await;
            let mut answer = asking.await.unwrap();
            for number in 0..20 {
                let data = format!("{{\"text\":\"{number}\"}}");
                let text = event(&data);
                // The event arrives in one piece, or its end arrives later than its text.
                let (begin, end) = text.split_at(text.len() - number % 3);
                exchange.chunk(begin).await;
                if !end.is_empty() {
                    exchange.chunk(end).await;
                }
                answer.until(&format!("data: {data}\n\n")).await;
            }
        }
    }
}

const HOUR: u64 = 60 * 60;

/// The layer of the gateway with these environment variables.
fn limited(
    variables: &[(&str, &str)],
    add: impl FnOnce(Policy) -> Policy,
) -> SseProxyLayer<Reconnect> {
    let settings = settings(variables);
    let policy = add(gateway_guard::policy(&settings).unwrap());
    let upstream = "http://127.0.0.1:9".parse().unwrap();
    layer(policy, &settings, settings.listen.addresses[0], &upstream).unwrap()
}

async fn sleep(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn r27_stream_has_no_limits_of_time_by_default() {
    for path in ["/s/a", "/r/a", "/f/a"] {
        let (front, mut origin) = staged(&limited(&[], |policy| policy));
        let (client, mut feed) = front.open(&mut origin, get(path)).await;
        let feeding = async {
            for number in 0..5 {
                sleep(4 * HOUR).await;
                feed.events(number..number + 1).await;
            }
            sleep(3 * HOUR).await;
            feed.end();
        };
        let ((), (text, failed)) = tokio::join!(feeding, client.rest_on_paused_clock());
        assert_eq!((data(&text), failed), (numbers(0..5), None), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn r27_limits_for_the_first_event_and_for_silence_are_separate() {
    let variables = [
        ("SSEP_WATCHDOG_FIRST_MS", "60000"),
        ("SSEP_WATCHDOG_GAP_MS", "3000"),
    ];
    for path in ["/s/a", "/r/a", "/f/a"] {
        // The time before the first event, the time between the others, and the number of events (of five) that arrive.
        for (first, gap, arrive) in [(50, 2, 5), (50, 10, 1), (70, 2, 0)] {
            let (front, mut origin) = staged(&limited(&variables, |policy| policy));
            let (client, mut feed) = front.open(&mut origin, get(path)).await;
            let feeding = async {
                sleep(first).await;
                for number in 0..5 {
                    if feed.is_dropped().await {
                        return;
                    }
                    feed.events(number..number + 1).await;
                    sleep(gap).await;
                }
                feed.end();
            };
            let ((), (text, failed)) = tokio::join!(feeding, client.rest_on_paused_clock());
            assert_eq!(data(&text), numbers(0..arrive), "{path} {first} {gap}");
            let expected = (arrive < 5).then_some(ErrorKind::Aborted);
            assert_eq!(failed, expected, "{path} {first} {gap}");
        }
    }
}

#[tokio::test]
async fn r27_client_sees_the_end_of_a_silent_stream() {
    let variables = [
        ("SSEP_ALLOWED_HOSTS", "test"),
        ("SSEP_WATCHDOG_GAP_MS", "100"),
    ];
    for (path, protocol) in ROUTES
        .into_iter()
        .flat_map(|path| BOTH.map(|protocol| (path, protocol)))
    {
        let mut upstream = Upstream::start().await;
        let gateway = gateway(&variables, upstream.address).await;
        let request = Request::get(path).body(Bytes::new()).unwrap();
        let asking = tokio::spawn(fetch(protocol, gateway, request));
        let mut exchange = upstream.next().await;
        exchange.write(sse_chunked()).await;
        exchange.chunk(event("last")).await;
        let mut answer = asking.await.unwrap();
        answer.until("data: last\n\n").await;
        assert!(!answer.rest().await.1.is_clean(), "{path} {protocol:?}");
        assert_eq!(exchange.closed().await, "");
    }
}

#[tokio::test(start_paused = true)]
async fn r27_time_in_an_interceptor_is_no_silence_of_the_upstream() {
    let slow = |event: Event| {
        Verdict::defer(async {
            sleep(5).await;
            Ok(event)
        })
    };
    for path in ["/s/a", "/r/a", "/f/a"] {
        for falls_silent in [false, true] {
            let variables = [("SSEP_WATCHDOG_GAP_MS", "3000")];
            let layer = limited(&variables, |policy| policy.intercept(slow));
            let (front, mut origin) = staged(&layer);
            let (client, mut feed) = front.open(&mut origin, get(path)).await;
            let feeding = async {
                feed.events(0..4).await;
                // The interceptor needs 20 s for these events.
                sleep(if falls_silent { 60 } else { 22 }).await;
                if !falls_silent {
                    feed.events(4..5).await;
                }
                feed.end();
            };
            let ((), (text, failed)) = tokio::join!(feeding, client.rest_on_paused_clock());
            let arrive = if falls_silent { 4 } else { 5 };
            assert_eq!(data(&text), numbers(0..arrive), "{path}");
            let expected = falls_silent.then_some(ErrorKind::Aborted);
            assert_eq!(failed, expected, "{path}");
        }
    }
}
