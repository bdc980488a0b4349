//! The measured proxies.

use std::{convert::Infallible, error::Error, net::SocketAddr};

use axum::{
    Router,
    response::sse::{Event as AxumEvent, Sse},
    serve::ListenerExt,
};
use bytes::Bytes;
use cpu_time::ProcessTime;
use eventsource_stream::Eventsource;
use futures_util::StreamExt;
use http_body_util::{BodyExt, Empty, Full, combinators::BoxBody};
use hyper::{
    Request, Response, Uri,
    body::{Body, Incoming},
    header::{self, HeaderName, HeaderValue},
    server::conn::http1,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tokio::net::TcpListener;
use tower::{Layer, Service, service_fn};
use tower_sse_proxy::{
    Event, SseProxyLayer,
    intercept::{
        Interceptor, StreamHead, Verdict,
        window::{Decision, Pattern, TextSegment, TextWindow, patterns},
    },
    replay::Replay,
    session::{MemoryStore, SealedKey, SealedStore, SessionMapping},
};

/// A GET of this path returns the CPU time of the proxy, in nanoseconds.
pub const CPU: &str = "/-/cpu";

/// The header field with the session id.
pub const SESSION: &str = "x-session";

type Reply = Result<Response<BoxBody<Bytes, hyper::Error>>, Infallible>;

pub fn run(name: &str, upstream: SocketAddr) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).build(tcp);
        let forward = service_fn(move |request| forward(client.clone(), upstream, request));
        match name {
            "bare" => serve(listener, forward).await,
            "reading" => {
                let layer = SseProxyLayer::default().intercept(|_: &StreamHead<'_>| Some(Read(0)));
                serve(listener, layer.layer(forward)).await
            }
            "observed" => {
                let layer = SseProxyLayer::default()
                    .intercept(|_: &StreamHead<'_>| Some(Read(0)))
                    .on_close(|_| ());
                serve(listener, layer.layer(forward)).await
            }
            "rewriting" => {
                let layer = SseProxyLayer::default().intercept(|mut event: Event| {
                    let data = event.data().replace('z', "y");
                    event.set_data(data);
                    event
                });
                serve(listener, layer.layer(forward)).await
            }
            "json-reading" => {
                let layer = inspecting().intercept(|_: &StreamHead<'_>| Some(Read(0)));
                serve(listener, layer.layer(forward)).await
            }
            "json-rewriting" => {
                let layer = inspecting().intercept(|mut event: Event| {
                    let data = event.data().replace('z', "y");
                    event.set_data(data);
                    event
                });
                serve(listener, layer.layer(forward)).await
            }
            "json-patterns" => {
                let masks = patterns([Pattern::phrase("project nightingale").mask("***")])?;
                let layer = inspecting().intercept(TextWindow::new(masks));
                serve(listener, layer.layer(forward)).await
            }
            "json-judge" => {
                let judge = |segment: &TextSegment| {
                    let found = segment.text.match_indices("project nightingale");
                    Decision::mask(found.map(|(at, text)| at..at + text.len()), "***")
                };
                let layer = inspecting().intercept(TextWindow::new(judge));
                serve(listener, layer.layer(forward)).await
            }
            "recorded" => {
                let layer = SseProxyLayer::default()
                    .intercept(|_: &StreamHead<'_>| Some(Read(0)))
                    .replay(Replay::default().detach_when(|_, _| false));
                serve(listener, layer.layer(forward)).await
            }
            "shared" => {
                let replay = Replay::default()
                    .share_by(|request| Some(request.uri.path().to_owned()))
                    .detach_when(|_, _| false);
                let layer = SseProxyLayer::default()
                    .intercept(|_: &StreamHead<'_>| Some(Read(0)))
                    .replay(replay);
                serve(listener, layer.layer(forward)).await
            }
            "memory" => {
                let layer = SseProxyLayer::new(MemoryStore::default()).sessions(sessions());
                serve(listener, layer.layer(forward)).await
            }
            "sealed" => {
                let store = SealedStore::new(SealedKey::generate());
                let layer = SseProxyLayer::new(store).sessions(sessions());
                serve(listener, layer.layer(forward)).await
            }
            "reparse" => reparse(listener, upstream).await,
            _ => Err(format!("unknown proxy `{name}`").into()),
        }
    })
}

fn inspecting() -> SseProxyLayer {
    SseProxyLayer::default().inspect_json(16 << 20)
}

fn sessions() -> SessionMapping {
    SessionMapping::header(HeaderName::from_static(SESSION))
}

/// Reads the data of every event and edits none.
struct Read(usize);

impl Interceptor for Read {
    fn event(&mut self, event: Event) -> Verdict {
        self.0 += event.data().len();
        event.into()
    }
}

async fn serve<S, B>(listener: TcpListener, service: S) -> Result<(), Box<dyn Error>>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let service = TowerToHyperService::new(service.clone());
        tokio::spawn(async move {
            // A disconnect of the client is not an error here.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn forward(
    client: Client<HttpConnector, Empty<Bytes>>,
    upstream: SocketAddr,
    request: Request<Incoming>,
) -> Reply {
    let path = request.uri().path();
    if path == CPU {
        let body = Full::from(cpu()).map_err(|never| match never {});
        return Ok(Response::new(body.boxed()));
    }
    let mut upstream_request = Request::new(Empty::new());
    *upstream_request.uri_mut() = target(upstream, path);
    Ok(match client.request(upstream_request).await {
        Ok(mut response) => {
            for name in [header::CONNECTION, header::TRANSFER_ENCODING] {
                response.headers_mut().remove(name);
            }
            // All requests belong to one session.
            let session = HeaderValue::from_static("68d0c7d2-4d2a-4f0e-9d6c-0a3f5c1b7e21");
            response.headers_mut().insert(SESSION, session);
            response.map(BodyExt::boxed)
        }
        Err(_) => {
            let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed());
            *response.status_mut() = hyper::StatusCode::BAD_GATEWAY;
            response
        }
    })
}

fn target(upstream: SocketAddr, path: &str) -> Uri {
    let uri = format!("http://{upstream}{path}").parse();
    uri.expect("the path of a request is a valid path")
}

fn cpu() -> String {
    ProcessTime::now().as_duration().as_nanos().to_string()
}

/// The usual way to write such a proxy: it parses events into structs and formats the structs as events.
async fn reparse(listener: TcpListener, upstream: SocketAddr) -> Result<(), Box<dyn Error>> {
    let client = reqwest::Client::builder().tcp_nodelay(true).build()?;
    let events = move |uri: Uri| {
        let client = client.clone();
        async move {
            let response = client
                .get(target(upstream, uri.path()).to_string())
                .send()
                .await;
            let events = response
                .expect("the upstream responds")
                .bytes_stream()
                .eventsource();
            Sse::new(events.map(|event| {
                event.map(|event| AxumEvent::default().event(event.event).data(event.data))
            }))
        }
    };
    let app = Router::new()
        .route(CPU, axum::routing::get(async || cpu()))
        .fallback(events);
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, app).await?;
    Ok(())
}
