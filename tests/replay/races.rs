//! Clients that connect and disconnect on many threads, with an upstream that often ends or breaks its streams.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::support::{Broken, event_stream, field, soon};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, channel::Channel};
use tokio::sync::mpsc;
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};
use tower_sse_proxy::{
    Event, SseBody, SseProxyLayer,
    intercept::{StreamHead, Verdict},
    replay::{Replay, Retention},
};

const EVENTS: usize = 300;
const STREAMS: usize = 40;

type Fed = Channel<Bytes, Broken>;

/// Sends numbered events. After some of them it ends or aborts the stream.
async fn feed(mut sender: http_body_util::channel::Sender<Bytes, Broken>, from: usize) {
    let mut chance = fastrand::Rng::new();
    for number in from..EVENTS {
        let event = format!("id: {number}\ndata: {number}\n\n");
        if sender.send_data(event.into()).await.is_err() {
            return;
        }
        match chance.u32(..40) {
            0 => return,
            1 => return sender.abort(Broken),
            2..10 => tokio::task::yield_now().await,
            _ => {}
        }
    }
    let _ = sender.send_data("data: [DONE]\n\n".into()).await;
}

/// The events that a client has read.
#[derive(Clone, Default)]
struct Seen {
    events: usize,
    id: Option<String>,
    done: bool,
}

async fn read<S>(proxy: S, seen: &mut Seen)
where
    S: Service<Request<()>, Response = Response<SseBody<Fed>>, Error = Infallible>,
{
    let mut request = Request::get("/");
    if let Some(id) = &seen.id {
        request = request.header("last-event-id", id);
    }
    let response = proxy.oneshot(request.body(()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200, "after {}", seen.events);
    let mut body = response.into_body();
    let most = fastrand::usize(1..20);
    let mut text = String::new();
    for _ in 0..most {
        let Some(Ok(frame)) = body.frame().await else {
            return;
        };
        text += std::str::from_utf8(frame.data_ref().unwrap()).unwrap();
        while let Some(end) = text.find("\n\n") {
            let rest = text.split_off(end + 2);
            let event = std::mem::replace(&mut text, rest);
            let data = field(&event, "data").unwrap();
            seen.id = Some(field(&event, "id").unwrap());
            if data == "[DONE]" {
                assert_eq!(seen.events, EVENTS);
                seen.done = true;
                return;
            }
            assert_eq!(data, seen.events.to_string(), "{event}");
            seen.events += 1;
            if fastrand::u32(..30) == 0 {
                return;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r45_clients_that_disconnect_and_resume_miss_no_event() {
    let (task, mut tasks) = mpsc::channel::<()>(1);
    let replay = Replay::default()
        .continue_after_end(true)
        .retention(
            Retention::default()
                .events(2 * EVENTS)
                .age(Duration::from_secs(8)),
        )
        .grace_period(Duration::from_secs(5))
        .executor(move |driver| {
            let running = task.clone();
            tokio::spawn(async move {
                driver.await;
                drop(running);
            });
        });
    let layer = SseProxyLayer::default()
        .replay(replay)
        .intercept(|_: &StreamHead<'_>| {
            let mut number = 0_u32;
            Some(move |event: Event| {
                number += 1;
                match number % 7 {
                    0 => Verdict::defer(async move {
                        tokio::task::yield_now().await;
                        Ok::<_, BoxError>(event)
                    }),
                    _ => event.into(),
                }
            })
        });
    let calls = Arc::new(AtomicUsize::new(0));
    let called = Arc::clone(&calls);
    let proxy = layer.layer(service_fn(move |request: Request<()>| {
        called.fetch_add(1, Ordering::SeqCst);
        let last = request.headers().get("last-event-id");
        let from = last.map_or(0, |id| id.to_str().unwrap().parse::<usize>().unwrap() + 1);
        let (sender, body) = Fed::new(4);
        tokio::spawn(feed(sender, from));
        async move { Ok::<_, Infallible>(event_stream(body)) }
    }));
    let mut clients = Vec::new();
    for _ in 0..STREAMS {
        let proxy = proxy.clone();
        clients.push(tokio::spawn(async move {
            let mut seen = Seen::default();
            while seen.id.is_none() {
                read(proxy.clone(), &mut seen).await;
            }
            let others: Vec<_> = (0..3)
                .map(|_| {
                    let (proxy, mut seen) = (proxy.clone(), seen.clone());
                    tokio::spawn(async move {
                        while !seen.done {
                            read(proxy.clone(), &mut seen).await;
                        }
                    })
                })
                .collect();
            for other in others {
                other.await.unwrap();
            }
        }));
    }
    for client in clients {
        soon(client).await.unwrap();
    }
    assert!(
        calls.load(Ordering::SeqCst) > STREAMS,
        "no stream was continued"
    );
    // Drivers end together with the layer.
    drop((layer, proxy));
    assert_eq!(soon(tasks.recv()).await, None);
}
