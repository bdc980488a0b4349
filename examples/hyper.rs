//! A reverse proxy with hyper's server, the layer, and hyper's client.
//!
//! ```sh
//! cargo run --example hyper -- 127.0.0.1:3000 127.0.0.1:8080
//! ```
//!
//! The interceptor counts the events of each stream and the bytes of their data, and prints the counts when the stream ends, for
//! any reason.

use std::{convert::Infallible, env, error::Error, time::Duration};

use http::{HeaderName, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::{Bytes, Incoming};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tokio::net::{TcpListener, TcpStream};
use tower::{Layer, service_fn};
use tower_sse_proxy::{
    Event, SseProxyLayer,
    intercept::{Interceptor, StreamEnd, StreamHead, Verdict},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let (Some(listen), Some(upstream)) = (args.next(), args.next()) else {
        return Err("usage: hyper LISTEN UPSTREAM, both as host:port".into());
    };
    serve_all(TcpListener::bind(&listen).await?, upstream).await
}

/// Accepts connections and forwards their requests through the layer to the upstream.
pub async fn serve_all(listener: TcpListener, upstream: String) -> Result<(), Box<dyn Error>> {
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new()).build(tcp);
    let upstream = service_fn(move |request| forward(client.clone(), upstream.clone(), request));

    let proxy = SseProxyLayer::default()
        .intercept(|head: &StreamHead<'_>| Some(Meter::of(head)))
        .layer(upstream);

    loop {
        let accepted = listener.accept().await;
        let Ok((socket, _)) = accepted.inspect_err(|error| eprintln!("cannot accept: {error}"))
        else {
            // Usually out of file descriptors: wait until other connections end.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        // This fails if the client has already left. The server detects that too.
        let _ = socket.set_nodelay(true);
        tokio::spawn(serve(socket, TowerToHyperService::new(proxy.clone())));
    }
}

async fn serve<S, B>(socket: TcpStream, service: S)
where
    S: hyper::service::Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    B: hyper::body::Body<Data = Bytes, Error = tower_sse_proxy::Error> + 'static,
{
    let connection = hyper::server::conn::http1::Builder::new();
    if let Err(error) = connection
        .serve_connection(TokioIo::new(socket), service)
        .await
    {
        eprintln!("{error}");
    }
}

/// Forwards a request to the upstream. Removes the hop-by-hop header fields (RFC 9110 7.6.1).
async fn forward(
    client: Client<HttpConnector, Incoming>,
    upstream: String,
    mut request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, hyper::Error>>, Infallible> {
    const HOP_BY_HOP: [HeaderName; 5] = [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::TE,
        header::TRAILER,
        header::UPGRADE,
    ];
    let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
    let Ok(uri) = format!("http://{upstream}{path}").parse::<Uri>() else {
        return Ok(status(StatusCode::BAD_REQUEST));
    };
    *request.uri_mut() = uri;
    HOP_BY_HOP.iter().for_each(|name| {
        request.headers_mut().remove(name);
    });
    request.headers_mut().remove(header::HOST);
    let Ok(mut response) = client.request(request).await else {
        return Ok(status(StatusCode::BAD_GATEWAY));
    };
    HOP_BY_HOP.iter().for_each(|name| {
        response.headers_mut().remove(name);
    });
    Ok(response.map(BodyExt::boxed))
}

fn status(status: StatusCode) -> Response<BoxBody<Bytes, hyper::Error>> {
    let empty = Full::default().map_err(|never| match never {}).boxed();
    let mut response = Response::new(empty);
    *response.status_mut() = status;
    response
}

/// Counts the events and bytes of one stream.
struct Meter {
    path: String,
    events: u64,
    bytes: usize,
}

impl Meter {
    fn of(head: &StreamHead<'_>) -> Self {
        Self {
            path: head.request.uri.path().to_owned(),
            events: 0,
            bytes: 0,
        }
    }
}

impl Interceptor for Meter {
    fn event(&mut self, event: Event) -> Verdict {
        self.events += 1;
        self.bytes += event.data().len();
        event.into()
    }

    fn end(&mut self, end: StreamEnd<'_>) -> Verdict {
        let Self {
            path,
            events,
            bytes,
        } = self;
        eprintln!("{path}: {events} events, {bytes} bytes of data, {end:?}");
        Verdict::Drop
    }
}
