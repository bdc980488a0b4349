//! Streams that are read ahead of their clients, with random interleavings of upstream, task and client, against a script: the client gets
//! its bytes, trailers and end, whichever side has read them first.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use bytes::Bytes;
use fastrand::Rng;
use http::HeaderMap;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::{runtime, task::yield_now, time::sleep};
use tower_sse_proxy::{ErrorKind, SseBody, observe::StreamOutcome};

use crate::{
    read_ahead::{layers, pass_http2},
    support::{Broken, event, origin::settle, soon},
};

/// What the upstream does next.
enum Step {
    Frame(Frame<Bytes>),
    /// Is pending until the test opens the gate.
    Gate,
    /// Is pending, and wakes during the poll.
    Later,
    Error,
}

/// An upstream that the test and the layer share. `None` once the layer has dropped it.
#[derive(Clone)]
struct Upstream(Arc<Mutex<Option<State>>>);

struct State {
    steps: VecDeque<Step>,
    /// How often [`Step::Gate`] passes.
    opened: usize,
    waker: Option<Waker>,
}

impl Upstream {
    /// Lets the upstream go on. Returns false if the layer has dropped it.
    fn open(&self) -> bool {
        let waker = match &mut *self.0.lock().unwrap() {
            Some(state) => {
                state.opened += 1;
                state.waker.take()
            }
            None => return false,
        };
        waker.inspect(Waker::wake_by_ref);
        true
    }

    fn is_dropped(&self) -> bool {
        self.0.lock().unwrap().is_none()
    }
}

/// The body that the layer reads.
struct Scripted(Upstream);

impl Body for Scripted {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let mut state = self.0.0.lock().unwrap();
        let state = state.as_mut().unwrap();
        Poll::Ready(match state.steps.pop_front() {
            None => None,
            Some(Step::Frame(frame)) => Some(Ok(frame)),
            Some(Step::Error) => Some(Err(Broken)),
            Some(Step::Gate) if state.opened > 0 => {
                state.opened -= 1;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(Step::Gate) => {
                state.steps.push_front(Step::Gate);
                state.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Some(Step::Later) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        })
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        *self.0.0.lock().unwrap() = None;
    }
}

/// What the client has to get.
struct Expected {
    text: Vec<u8>,
    trailers: Option<HeaderMap>,
    is_broken: bool,
}

/// A random upstream.
fn scripted(chance: &mut Rng) -> (Scripted, Upstream, Expected) {
    let mut text = Vec::new();
    for number in 0..chance.usize(..60) {
        let most = if chance.u8(..8) == 0 { 20_000 } else { 300 };
        let data = format!("{number} {}", "x".repeat(chance.usize(..most)));
        text.extend_from_slice(&event(&data));
    }
    let mut steps = VecDeque::new();
    let mut rest = &text[..];
    while !rest.is_empty() {
        let most = if chance.bool() { 100 } else { 8000 };
        let (frame, behind) = rest.split_at(chance.usize(..most).min(rest.len()));
        rest = behind;
        steps.push_back(Step::Frame(Frame::data(Bytes::copy_from_slice(frame))));
        steps.extend(pause(chance));
    }
    let is_broken = chance.u8(..3) == 0;
    let trailers = HeaderMap::from_iter([(http::header::ETAG, "1".parse().unwrap())]);
    let trailers = Some(trailers).filter(|_| !is_broken && chance.bool());
    if let Some(trailers) = &trailers {
        steps.push_back(Step::Frame(Frame::trailers(trailers.clone())));
        steps.extend(pause(chance));
    }
    if is_broken {
        steps.push_back(Step::Error);
    }
    let state = State {
        steps,
        opened: 0,
        waker: None,
    };
    let upstream = Upstream(Arc::new(Mutex::new(Some(state))));
    let expected = Expected {
        text,
        trailers,
        is_broken,
    };
    (Scripted(upstream.clone()), upstream, expected)
}

fn pause(chance: &mut Rng) -> Option<Step> {
    match chance.u8(..4) {
        0 => Some(Step::Gate),
        1 => Some(Step::Later),
        _ => None,
    }
}

/// What the client has got.
#[derive(Default)]
struct Got {
    text: Vec<u8>,
    trailers: Option<HeaderMap>,
    end: Option<Option<ErrorKind>>,
}

impl Got {
    fn push(&mut self, frame: Option<Result<Frame<Bytes>, tower_sse_proxy::Error>>) {
        match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => self.text.extend_from_slice(&data),
                Err(frame) => self.trailers = frame.into_trailers().ok(),
            },
            Some(Err(error)) => self.end = Some(Some(error.kind())),
            None => self.end = Some(None),
        }
    }

    /// Checks the stream of a client that has read it to its end. `limit` is how far it may be read ahead. Returns the outcome.
    fn check(&self, expected: &Expected, limit: usize, name: &str) -> StreamOutcome {
        let end = self.end.unwrap();
        if let Some(ErrorKind::Lagged | ErrorKind::Aborted) = end {
            assert!(expected.text.len() >= limit, "{name}");
            assert!(expected.text.starts_with(&self.text), "{name}");
            return StreamOutcome::Stalled;
        }
        assert_eq!(
            Bytes::copy_from_slice(&self.text),
            Bytes::copy_from_slice(&expected.text),
            "{name}"
        );
        assert_eq!(self.trailers, expected.trailers, "{name}");
        let failed = expected.is_broken.then_some(ErrorKind::Upstream);
        assert_eq!(end, failed, "{name}");
        match expected.is_broken {
            true => StreamOutcome::UpstreamError,
            false => StreamOutcome::Completed,
        }
    }
}

/// Notes that the client was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

/// Polls the body as a server does until it has no frame now, or has ended.
fn poll<B>(body: &mut SseBody<B>, woken: &Arc<Woken>, got: &mut Got, most: usize)
where
    B: Body<Data = Bytes, Error = Broken> + Send + Unpin + 'static,
{
    woken.0.store(false, SeqCst);
    let waker = Arc::clone(woken).into();
    for _ in 0..most {
        match Pin::new(&mut *body).poll_frame(&mut Context::from_waker(&waker)) {
            Poll::Ready(frame) => got.push(frame),
            Poll::Pending => return,
        }
        if got.end.is_some() {
            return;
        }
        // A server does not poll a body again that has ended by this hint.
        if body.is_end_stream() {
            got.end = Some(None);
            return;
        }
    }
    woken.0.store(true, SeqCst);
}

#[tokio::test(start_paused = true)]
async fn client_gets_the_stream_whichever_side_reads_it() {
    for seed in 0..400 {
        for (name, layer, records) in layers() {
            let name = format!("{name}, seed {seed}");
            let chance = &mut Rng::with_seed(seed);
            let limit = if chance.bool() { 1 << 20 } else { 2 << 10 };
            let layer = layer.read_ahead(limit);
            let streams = layer.streams();
            let (body, upstream, expected) = scripted(chance);
            let mut body = pass_http2(&layer, body).await;
            let (woken, mut got) = (Arc::<Woken>::default(), Got::default());
            woken.0.store(true, SeqCst);
            let leaves = chance.u8(..4) == 0;
            for _ in 0..chance.usize(..200) {
                match chance.u8(..3) {
                    0 => _ = upstream.open(),
                    1 => yield_now().await,
                    _ if got.end.is_some() => {}
                    // A client may also poll without a reason.
                    _ if woken.0.load(SeqCst) || chance.u8(..8) == 0 => {
                        poll(&mut body, &woken, &mut got, chance.usize(1..5));
                    }
                    _ => {}
                }
            }
            let mut outcomes = vec![StreamOutcome::ClientLeft, StreamOutcome::Stalled];
            if expected.is_broken {
                // The client leaves while the error is delayed.
                outcomes.push(StreamOutcome::UpstreamError);
            }
            if !leaves || got.end.is_some() {
                while got.end.is_none() {
                    for _ in 0..200 {
                        if woken.0.load(SeqCst) || !upstream.open() {
                            break;
                        }
                        settle().await;
                    }
                    // An error comes later.
                    sleep(Duration::from_secs(6)).await;
                    assert!(woken.0.load(SeqCst), "{name}: the client was not woken");
                    poll(&mut body, &woken, &mut got, 1);
                }
                outcomes = vec![got.check(&expected, limit, &name)];
                assert!(upstream.is_dropped(), "{name}");
            }
            if chance.bool() {
                // The client does not poll any more: the task reads to the end, or to the limit.
                for _ in 0..200 {
                    if !upstream.open() {
                        break;
                    }
                    settle().await;
                }
                sleep(Duration::from_secs(31)).await;
                assert!(upstream.is_dropped(), "{name}: it is not read");
            }
            drop(body);
            assert!(upstream.is_dropped(), "{name}");
            if let Some(records) = records {
                let record = records.only().await;
                assert!(outcomes.contains(&record.outcome), "{name}: {record:?}");
                assert_eq!(streams.buffered_bytes(), 0, "{name}");
                assert_eq!(streams.list().len(), 0, "{name}");
            }
        }
    }
}

/// The same with threads.
#[test]
fn client_gets_the_stream_whichever_thread_reads_it() {
    let threads = runtime::Builder::new_multi_thread()
        .worker_threads(3)
        .enable_all()
        .build()
        .unwrap();
    threads.block_on(async {
        for seed in 0..300 {
            for (name, layer, records) in layers() {
                let name = format!("{name}, seed {seed}");
                let mut chance = Rng::with_seed(seed);
                let streams = layer.streams();
                let (body, upstream, mut expected) = scripted(&mut chance);
                // An error takes its time.
                if expected.is_broken && seed % 10 != 0 {
                    let mut state = upstream.0.lock().unwrap();
                    state.as_mut().unwrap().steps.pop_back();
                    expected.is_broken = false;
                }
                let mut body = pass_http2(&layer, body).await;
                let feeds = tokio::spawn(async move {
                    while upstream.open() {
                        yield_now().await;
                    }
                });
                let reads = tokio::spawn(async move {
                    let mut got = Got::default();
                    while got.end.is_none() {
                        got.push(body.frame().await);
                        if got.end.is_none() && body.is_end_stream() {
                            got.end = Some(None);
                        }
                        if chance.u8(..4) == 0 {
                            yield_now().await;
                        }
                    }
                    got
                });
                let got = soon(reads).await.unwrap();
                let outcome = got.check(&expected, usize::MAX, &name);
                soon(feeds).await.unwrap();
                if let Some(records) = records {
                    assert_eq!(records.next().await.outcome, outcome, "{name}");
                    assert_eq!(streams.buffered_bytes(), 0, "{name}");
                }
            }
        }
    });
}
