//! Measures the cost of recording streams and of resuming them.
//!
//! ```sh
//! cargo run --release --manifest-path benches/Cargo.toml --bin replay
//! ```
//!
//! The argument is the number of rounds. This benchmark uses no sockets; the benchmark `proxy` measures proxies that record or share
//! streams.

use std::{
    convert::Infallible,
    env,
    error::Error,
    future::pending,
    hint::black_box,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{FutureExt, future::join_all};
use http_body_util::BodyExt;
use hyper::{
    Request, Response,
    body::{Body, Frame},
};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_sse_proxy::{
    SseProxyLayer,
    replay::{Replay, Retention},
};
use tower_sse_proxy_benches::{rounds::median, streams::large};

fn main() -> Result<(), Box<dyn Error>> {
    let rounds = env::args().nth(1).map_or(Ok(11), |rounds| rounds.parse())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    for size in [100, 250, 4 << 10, 64 << 10] {
        runtime.block_on(throughput(size, rounds));
    }
    runtime.block_on(lookup(rounds));
    // The allocation counter counts only this thread.
    let mut held = Vec::new();
    let streams = 10_000;
    let memory = allocation_counter::measure(|| held = runtime.block_on(detached(streams)));
    println!(
        "a detached stream with one event of 250 B: {} B in {:.1} allocations, including the event and an empty upstream body",
        memory.bytes_current / streams as i64,
        memory.count_current as f64 / streams as f64
    );
    drop(held);
    Ok(())
}

/// An upstream body that sends one frame and then stays pending.
struct Upstream(Option<Bytes>);

impl Body for Upstream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.0.take() {
            Some(all) => Poll::Ready(Some(Ok(Frame::data(all)))),
            None => Poll::Pending,
        }
    }
}

type Answer = Result<Response<Upstream>, Infallible>;

fn layer() -> SseProxyLayer {
    let bounds = Retention::default().events(1 << 20).bytes(1 << 30);
    SseProxyLayer::default()
        .replay(Replay::default().retention(bounds))
        .max_replay_bytes(4 << 30)
}

fn streaming(
    stream: Bytes,
) -> impl Service<Request<()>, Response = Response<Upstream>, Error = Infallible, Future: Send>
+ Clone
+ Send
+ 'static {
    service_fn(move |_: Request<()>| {
        let body = Upstream(Some(stream.clone()));
        async { Answer::Ok(event_stream(body)) }
    })
}

fn event_stream<B>(body: B) -> Response<B> {
    let response = Response::builder().header("content-type", "text/event-stream");
    response.body(body).expect("valid head")
}

/// Reads the id of the first event of a response.
async fn id<B>(response: Response<B>) -> String
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Error,
{
    let frame = response.into_body().frame().await.expect("response ended");
    let data = frame
        .expect("response failed")
        .into_data()
        .expect("data frame");
    let id = data.strip_prefix(b"id: ").expect("event has no id");
    let end = id
        .iter()
        .position(|&b| b == b'\n')
        .expect("id line has no end");
    String::from_utf8_lossy(&id[..end]).into_owned()
}

fn resume(id: &str) -> Request<()> {
    let request = Request::get("/").header("last-event-id", id);
    request.body(()).expect("valid request")
}

/// Resumes a stream of 64 MiB in each round and reads it.
async fn throughput(size: usize, rounds: usize) {
    let event = large(size);
    let events = (64 << 20) / event.len();
    let stream = Bytes::from(event.repeat(events));
    let proxy = layer().layer(streaming(stream.clone()));
    let opened = proxy.clone().oneshot(Request::new(())).await;
    let opened = opened.unwrap_or_else(|never| match never {});
    let id = id(opened).await;
    let mut times = Vec::new();
    let mut bytes = 0;
    for _ in 0..=rounds {
        let begun = Instant::now();
        let again = proxy.clone().oneshot(resume(&id)).await;
        let mut body = again.unwrap_or_else(|never| match never {}).into_body();
        bytes = 0;
        let mut seen = 0;
        while seen < events - 1 {
            let frame = body
                .frame()
                .await
                .expect("response ended")
                .expect("response failed");
            let data = frame.into_data().expect("data frame");
            bytes += data.len();
            seen = bytes / (event.len() + 38);
            black_box(data);
        }
        times.push(begun.elapsed().as_nanos() as f64);
    }
    let nanos = median(&mut times[1..]);
    println!(
        "replay of {events} events of {size} B: {:.2} GB/s, {:.1} ns per event",
        bytes as f64 / nanos,
        nanos / events as f64
    );
}

/// Resumes one stream among many.
async fn lookup(rounds: usize) {
    let stream = Bytes::from(large(250).repeat(2));
    for streams in [1, 100_000] {
        let proxy = layer().layer(streaming(stream.clone()));
        let mut ids = Vec::new();
        for _ in 0..streams {
            let opened = proxy.clone().oneshot(Request::new(())).await;
            ids.push(id(opened.unwrap_or_else(|never| match never {})).await);
        }
        let mut times = Vec::new();
        for round in 0..=rounds {
            let requests: Vec<_> = (0..10_000)
                .map(|n| resume(&ids[(n * 7919 + round * 104_729) % ids.len()]))
                .collect();
            let proxies: Vec<_> = requests.iter().map(|_| proxy.clone()).collect();
            let begun = Instant::now();
            for (request, proxy) in requests.into_iter().zip(proxies) {
                let again = proxy.oneshot(request).now_or_never();
                black_box(
                    again
                        .expect("resuming does not wait for the upstream")
                        .is_ok(),
                );
            }
            times.push(begun.elapsed().as_nanos() as f64 / 10_000.0);
        }
        println!(
            "to resume one of {streams} streams: {:.0} ns per request, including the response",
            median(&mut times[1..])
        );
    }
}

/// Opens streams and detaches them: their clients disconnect, and the upstream continues.
async fn detached(streams: usize) -> Vec<impl Sized> {
    let stream = Bytes::from(large(250));
    let bounds = Retention::default();
    let replay = Replay::default()
        .retention(bounds)
        .grace_period(Duration::from_secs(3600));
    let layer = SseProxyLayer::default().replay(replay);
    let proxy = layer.layer(streaming(stream.clone()));
    let opened = (0..streams).map(|_| async {
        let opened = proxy.clone().oneshot(Request::new(())).await;
        id(opened.unwrap_or_else(|never| match never {})).await
    });
    drop(join_all(opened).await);
    // Runs the tasks that the disconnects have woken.
    for _ in 0..3 * streams {
        tokio::task::yield_now().await;
    }
    let _ = pending::<()>().now_or_never();
    vec![(layer, proxy)]
}
