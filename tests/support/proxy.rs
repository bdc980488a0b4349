//! A hyper server in front of the layer, and a hyper client that forwards requests to the upstream.

use std::{
    io,
    net::SocketAddr,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, Version, header};
use http_body::Body;
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Builder, Client, Error, ResponseFuture, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use socket2::SockRef;
use tokio::net::TcpListener;
use tower::{BoxError, Layer, Service, ServiceExt, util::BoxCloneService};
use tower_sse_proxy::SseProxyLayer;

/// Serves HTTP/1.1 and HTTP/2 and forwards every request through the layer to `upstream`.
pub async fn proxy(layer: SseProxyLayer, upstream: SocketAddr) -> SocketAddr {
    serve(layer.layer(forward(upstream))).await
}

/// Serves `service` over HTTP/1.1 and HTTP/2; the client chooses the protocol.
pub async fn serve<S, B>(service: S) -> SocketAddr
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let service = service
        .map_response(|response| {
            response.map(|body| UnsyncBoxBody::new(body.map_err(io::Error::other)))
        })
        .map_err(io::Error::other);
    serve_boxed(BoxCloneService::new(service)).await
}

/// One type for all services, so that the compiler instantiates hyper's server once in each test binary.
type BoxedService =
    BoxCloneService<Request<Incoming>, Response<UnsyncBoxBody<Bytes, io::Error>>, io::Error>;

async fn serve_boxed(service: BoxedService) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            socket.set_nodelay(true).unwrap();
            // A small kernel buffer, so that tests of backpressure reach the layer soon.
            SockRef::from(&socket)
                .set_send_buffer_size(64 << 10)
                .unwrap();
            let service = TowerToHyperService::new(service.clone());
            tokio::spawn(async move {
                // An error means that the client left or the body failed. Tests check both from outside.
                let _ = auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(socket), service)
                    .await;
            });
        }
    });
    address
}

/// Sends every request to one upstream.
pub struct Forward<B> {
    client: Client<HttpConnector, B>,
    upstream: SocketAddr,
}

impl<B> Clone for Forward<B> {
    fn clone(&self) -> Self {
        Self {
            client: self.client.clone(),
            upstream: self.upstream,
        }
    }
}

/// Sends every request to one upstream, each on a new connection.
pub fn forward<B>(upstream: SocketAddr) -> Forward<B>
where
    B: Body + Send,
    B::Data: Send,
{
    let mut client = Client::builder(TokioExecutor::new());
    client.pool_max_idle_per_host(0);
    forward_with(&client, upstream)
}

/// Sends all requests to one HTTP/2 upstream, on one connection as long as the upstream keeps it.
pub fn forward_http2<B>(upstream: SocketAddr) -> Forward<B>
where
    B: Body + Send,
    B::Data: Send,
{
    forward_with(
        Client::builder(TokioExecutor::new()).http2_only(true),
        upstream,
    )
}

fn forward_with<B>(client: &Builder, upstream: SocketAddr) -> Forward<B>
where
    B: Body + Send,
    B::Data: Send,
{
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    tcp.set_recv_buffer_size(Some(64 << 10));
    Forward {
        client: client.build(tcp),
        upstream,
    }
}

impl<B> Service<Request<B>> for Forward<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<Incoming>;
    type Error = Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> ResponseFuture {
        let path = request
            .uri()
            .path_and_query()
            .map_or("/", |path| path.as_str());
        let uri = format!("http://{}{path}", self.upstream);
        *request.uri_mut() = uri.parse().unwrap();
        *request.version_mut() = Version::HTTP_11;
        request.headers_mut().remove(header::HOST);
        self.client.request(request)
    }
}
