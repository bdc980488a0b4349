//! The gateway under test: a hyper server, the layer, and a hyper client.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tower::{BoxError, Layer, Service, ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_sse_proxy::{
    Event, KeepAlive, SseProxyLayer,
    codec::Block,
    intercept::{Interceptor, StreamEnd, StreamHead, Verdict},
    reconnect::Backoff,
    replay::{Gap, Replay},
};

use crate::{
    SECRET,
    net::{self, Address, Wire},
    plan::Plan,
    upstream::EventData,
    world::World,
};

pub const PARAMETER: &str = "lastEventId";

fn layer(world: &Arc<World>, plan: &Plan) -> SseProxyLayer {
    let tasks = Arc::clone(world);
    let mut replay = Replay::default()
        .retention(plan.retention)
        .grace_period(plan.grace_period)
        .max_detached_bytes(plan.max_detached_bytes)
        .continue_after_end(plan.continue_after_end)
        .complete_when(|event| {
            EventData::read(&event.data()).is_some_and(|seen| seen.done && seen.is_whole)
        })
        .executor(move |task| {
            let world = Arc::clone(&tasks);
            let counter = TaskCounter::new(&world);
            world.spawn_in_gateway("a task of the layer", async move {
                task.await;
                drop(counter);
            });
        });
    if let Some(max_age) = plan.max_age {
        replay = replay.max_age(max_age);
    }
    if !plan.detaches {
        replay = replay.detach_when(|_, _| false);
    }
    if plan.gap_status {
        replay = replay.on_gap(Gap::Status(StatusCode::BAD_REQUEST));
    }
    if plan.priming_event {
        replay = replay.priming_event(Some(Duration::from_millis(20)));
    }
    if plan.by_query {
        replay = replay.query_param(PARAMETER);
    }
    if let Some(join) = plan.share_from {
        let path = |request: &http::request::Parts| Some(request.uri.path().to_owned());
        replay = replay.share_by(path).share_from(join);
    }
    if let Some(duration) = plan.authorize {
        replay = replay.authorize(service_fn(move |_: Request<()>| async move {
            sleep(duration).await;
            Ok::<_, BoxError>(StatusCode::OK)
        }));
    }

    let witness = Arc::clone(world);
    let mut layer = SseProxyLayer::default()
        .replay(replay)
        .max_replay_bytes(plan.max_replay_bytes)
        .strip_comments(plan.strip_comments)
        .intercept(move |_: &StreamHead<'_>| Some(Witness::new(&witness)));
    if plan.hold {
        layer = layer.intercept(|_: &StreamHead<'_>| Some(Hold::default()));
    }
    layer = layer.intercept(|event: Event| {
        let denied = event.data().contains(SECRET);
        (!denied).then_some(event)
    });
    if plan.defer {
        layer = layer.intercept(|event: Event| {
            let duration = Duration::from_millis(event.data().len() as u64 % 40);
            Verdict::defer(async move {
                sleep(duration).await;
                Ok(event)
            })
        });
    }
    if plan.keep_alive {
        layer = layer.keep_alive(KeepAlive::new(Duration::from_secs(2)));
    }
    layer
}

/// Serves connections until the gateway crashes.
pub async fn run(
    world: Arc<World>,
    plan: Arc<Plan>,
    mut accepted: mpsc::UnboundedReceiver<(net::End, Arc<Wire>)>,
    upstream: Address,
    rng: fastrand::Rng,
) {
    let forward = Forward {
        world: Arc::clone(&world),
        plan: Arc::clone(&plan),
        upstream,
        rng: Arc::new(Mutex::new(rng)),
    };
    let layer = layer(&world, &plan);
    let proxy = if plan.reconnects {
        BoxCloneSyncService::new(layer.reconnect(Backoff::default()).layer(forward))
    } else {
        BoxCloneSyncService::new(layer.layer(forward))
    };
    let service = service_fn(move |request: Request<Incoming>| {
        let proxy = proxy.clone();
        // Boxed, because the service does not compile with an unnamed future.
        let answer: BoxFuture<'static, Result<_, io::Error>> = Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
            let request = Request::from_parts(parts, Full::new(body));
            proxy.oneshot(request).await.map_err(io::Error::other)
        });
        answer
    });
    while let Some((end, _)) = accepted.recv().await {
        let service = TowerToHyperService::new(service.clone());
        world.spawn_in_gateway("a connection of the gateway", async move {
            // The client sees the error too.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(end), service)
                .await;
        });
    }
}

/// Forwards each request on a new connection.
#[derive(Clone)]
struct Forward {
    world: Arc<World>,
    plan: Arc<Plan>,
    upstream: Address,
    rng: Arc<Mutex<fastrand::Rng>>,
}

type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

impl Service<Request<Full<Bytes>>> for Forward {
    type Response = Answer;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, io::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            match this.send(request).await {
                Ok(response) => {
                    Ok(response.map(|body| body.map_err(io::Error::other).boxed_unsync()))
                }
                Err(why) => {
                    this.world
                        .note(|| format!("the gateway cannot reach its upstream: {why}"));
                    let body = Full::default().map_err(|never| match never {});
                    let mut response = Response::new(body.boxed_unsync());
                    *response.status_mut() = StatusCode::BAD_GATEWAY;
                    Ok(response)
                }
            }
        })
    }
}

impl Forward {
    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, BoxError> {
        let mut rng = self.rng.lock().unwrap().fork();
        let link_settings = self
            .plan
            .to_upstream
            .settings(&mut rng, self.world.is_chaotic());
        let end = self
            .upstream
            .connect(&self.world, link_settings, rng)
            .await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(end)).await?;
        self.world
            .spawn_in_gateway("a connection to the upstream", async move {
                let _ = connection.await;
            });
        let number = request.headers()["x-request"].to_str()?.parse()?;
        let response = sender.send_request(request).await?;
        self.world.handle_head(number);
        Ok(response)
    }
}

/// Counts a task of the layer while it exists.
struct TaskCounter(Arc<World>);

impl TaskCounter {
    fn new(world: &Arc<World>) -> Self {
        world.count(|counts| counts.layer_tasks += 1);
        Self(Arc::clone(world))
    }
}

impl Drop for TaskCounter {
    fn drop(&mut self) {
        self.0.count(|counts| counts.layer_tasks -= 1);
    }
}

/// Checks that an interceptor gets each event once and in order, and is ended once.
struct Witness {
    world: Arc<World>,
    last: Option<(usize, usize)>,
    ended: bool,
}

impl Witness {
    fn new(world: &Arc<World>) -> Self {
        world.count(|counts| counts.opened += 1);
        Self {
            world: Arc::clone(world),
            last: None,
            ended: false,
        }
    }
}

impl Interceptor for Witness {
    fn event(&mut self, event: Event) -> Verdict {
        if let Some(seen) = EventData::read(&event.data()) {
            let follows = match self.last {
                Some((run, number)) => run == seen.run && number + 1 == seen.number,
                None => true,
            };
            if !follows {
                let (last, run, number) = (self.last, seen.run, seen.number);
                self.world.fault(format!(
                    "an interceptor gets event {run}/{number} after {last:?}"
                ));
            }
            self.last = Some((seen.run, seen.number));
        }
        event.into()
    }

    fn end(&mut self, _: StreamEnd<'_>) -> Verdict {
        self.world.count(|counts| counts.ended += 1);
        if std::mem::replace(&mut self.ended, true) {
            self.world.fault("an interceptor is ended twice");
        }
        Verdict::Drop
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.world.count(|counts| counts.dropped += 1);
        if !self.ended {
            self.world.fault("an interceptor is dropped without an end");
        }
    }
}

/// Holds each event until the next one, or for three seconds.
#[derive(Default)]
struct Hold {
    held: Vec<Block>,
    until: Option<Instant>,
}

impl Interceptor for Hold {
    fn event(&mut self, event: Event) -> Verdict {
        self.until = Some(Instant::now() + Duration::from_secs(3));
        Verdict::Release(std::mem::replace(&mut self.held, vec![event.into()]))
    }

    fn block(&mut self, block: Block) -> Verdict {
        if self.held.is_empty() {
            return block.into();
        }
        self.held.push(block);
        Verdict::Hold
    }

    fn deadline(&self) -> Option<std::time::Instant> {
        self.until.map(Instant::into_std)
    }

    fn timeout(&mut self, _: std::time::Instant) -> Verdict {
        self.until = None;
        Verdict::Release(std::mem::take(&mut self.held))
    }

    fn end(&mut self, _: StreamEnd<'_>) -> Verdict {
        Verdict::Release(std::mem::take(&mut self.held))
    }
}
