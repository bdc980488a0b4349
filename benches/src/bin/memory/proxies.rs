//! The proxies: hyper's server and client, with or without the layer.

use std::{convert::Infallible, error::Error, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Empty, Full, combinators::BoxBody};
use hyper::{
    Request, Response, Uri,
    body::{Body, Incoming},
    header,
    server::conn::http1,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tokio::net::TcpListener;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_sse_proxy::{KeepAlive, SseProxyLayer, replay::Replay};

/// A GET of this path returns the number of bytes that the layer counts.
pub const COUNTED: &str = "/-/counted";

/// A GET of this path makes the allocator return free memory to the system.
pub const TRIM: &str = "/-/trim";

type Reply = Result<Response<BoxBody<Bytes, hyper::Error>>, Infallible>;

pub fn run(name: &str, upstream: SocketAddr, bound: usize) -> Result<(), Box<dyn Error>> {
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
        let keep_alive = KeepAlive::new(Duration::from_secs(15));
        match name {
            "bare" => serve(listener, forward, || 0).await,
            "plain" => {
                let layer = SseProxyLayer::default()
                    .intercept(|event: tower_sse_proxy::Event| event)
                    .keep_alive(keep_alive);
                serve(listener, layer.layer(forward), || 0).await
            }
            "layer" => {
                let layer = SseProxyLayer::default()
                    .keep_alive(keep_alive)
                    .replay(Replay::default().grace_period(Duration::from_secs(3600)))
                    .max_replay_bytes(bound);
                let service = layer.layer(forward);
                serve(listener, service, move || layer.retained_bytes()).await
            }
            _ => Err(format!("unknown proxy `{name}`").into()),
        }
    })
}

async fn serve<S, B>(
    listener: TcpListener,
    service: S,
    counted: impl Fn() -> usize + Clone + Send + 'static,
) -> Result<(), Box<dyn Error>>
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
        let (service, counted) = (service.clone(), counted.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let own = match request.uri().path() {
                COUNTED => Ok(counted().to_string()),
                TRIM => Ok(trim()),
                _ => Err(service.clone().oneshot(request)),
            };
            async move {
                Ok::<_, Infallible>(match own {
                    Ok(text) => Response::new(Either::Right(Full::<Bytes>::from(text))),
                    Err(response) => response.await?.map(Either::Left),
                })
            }
        });
        let service = TowerToHyperService::new(service);
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
    let mut upstream_request = Request::new(Empty::new());
    *upstream_request.uri_mut() = target(upstream, request.uri().path());
    Ok(match client.request(upstream_request).await {
        Ok(mut response) => {
            for name in [header::CONNECTION, header::TRANSFER_ENCODING] {
                response.headers_mut().remove(name);
            }
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

/// Makes glibc's allocator return free memory to the system.
fn trim() -> String {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `malloc_trim` accepts any number and may be called from any thread.
    let trimmed = unsafe { libc::malloc_trim(0) };
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    let trimmed = 0;
    trimmed.to_string()
}
