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
    for events in [200, 20_000] {
        runtime.block_on(shares(events, rounds));
    }
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

/// An upstream body that sends an event, lets the other tasks run, and so on.
struct OneByOne {
    event: Bytes,
    left: usize,
    is_due: bool,
}

impl Body for OneByOne {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.is_due = !self.is_due;
        if !self.is_due {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(self.event.clone()))))
    }
}

/// The memory limit of the logs in [`shares`], in bytes.
const SHARED_BYTES: usize = 64 << 20;

/// A layer whose logs are filled by ended streams, and the number of streams so far.
struct Filled {
    layer: SseProxyLayer,
    owners: usize,
    streams: usize,
}

impl Filled {
    /// Fills logs of `max_bytes` with streams of this many owners. 0: does not fill them.
    async fn new(max_bytes: usize, owners: usize) -> Self {
        let bounds = Retention::default().events(1 << 20).bytes(1 << 30);
        let layer = SseProxyLayer::default()
            .replay(Replay::default().retention(bounds))
            .max_replay_bytes(max_bytes);
        let mut filled = Self {
            layer,
            owners,
            streams: 0,
        };
        let event = Bytes::from(large(250));
        // More than fits, because an owner may hold less than all.
        for _ in 0..if owners > 0 { 1200 } else { 0 } {
            filled.record(&event.repeat(280).into(), 1).await;
        }
        filled
    }

    /// Records a stream of the next owner, and reads it as its client. Returns the time in nanoseconds.
    async fn record(&mut self, event: &Bytes, events: usize) -> f64 {
        let owner = self.streams % self.owners.max(1);
        self.streams += 1;
        let event = event.clone();
        let proxy = self.layer.layer(service_fn(move |_: Request<()>| {
            let (event, left) = (event.clone(), events);
            let body = OneByOne {
                event,
                left,
                is_due: false,
            };
            async { Ok::<_, Infallible>(event_stream(body)) }
        }));
        let request = Request::get("/").header("authorization", owner.to_string());
        let request = request.body(()).expect("valid request");
        let begun = Instant::now();
        let opened = proxy.oneshot(request).await;
        let mut body = opened.unwrap_or_else(|never| match never {}).into_body();
        while let Some(frame) = body.frame().await {
            black_box(frame.expect("response failed"));
        }
        begun.elapsed().as_nanos() as f64
    }
}

/// Records and reads streams whose events arrive one by one, while the logs of the layer are at their memory limit. Below the limit,
/// nothing is evicted, but events take new memory.
async fn shares(events: usize, rounds: usize) {
    let event = Bytes::from(large(250));
    let mut layers = [
        ("below the memory limit", Filled::new(4 << 30, 0).await),
        ("at the limit, 1 owner", Filled::new(SHARED_BYTES, 1).await),
        (
            "at the limit, 1,000 owners",
            Filled::new(SHARED_BYTES, 1000).await,
        ),
    ];
    let mut times = vec![Vec::new(); layers.len()];
    for round in 0..=rounds {
        for ((_, filled), times) in layers.iter_mut().zip(&mut times) {
            let nanos = filled.record(&event, events).await;
            if round > 0 {
                times.push(nanos / events as f64);
            }
        }
    }
    let medians: Vec<_> = times.iter_mut().map(|times| median(times)).collect();
    for ((name, filled), nanos) in layers.iter().zip(&medians) {
        println!(
            "to record one of {events} events of 250 B that arrive one by one, {name} ({} MiB in logs): {nanos:.0} ns, {:.2} x",
            filled.layer.retained_bytes() >> 20,
            nanos / medians[0]
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
