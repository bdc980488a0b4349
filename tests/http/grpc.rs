//! A tonic server behind the layer: gRPC responses are no event streams, and their trailers with the status must arrive.

use std::{
    convert::Infallible,
    net::SocketAddr,
    task::{Context, Poll},
    time::Duration,
};

use crate::support::{Deny, SECRET};
use bytes::{Buf, BufMut, Bytes};
use futures_util::{StreamExt, future::BoxFuture, stream};
use http::uri::PathAndQuery;
use tokio::net::TcpListener;
use tonic::{
    Code, Request, Response, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::{NamedService, ServerStreamingService, UnaryService},
    transport::{Channel, Server, server::TcpIncoming},
};
use tower::Service;
use tower_http::timeout::TimeoutLayer;
use tower_sse_proxy::SseProxyLayer;

/// A codec whose messages are plain bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Raw
    }

    fn decoder(&mut self) -> Self {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// Answers with the request's message, or with an error if the message is `refuse`.
#[derive(Clone, Copy, Debug)]
struct Echo;

type Messages = stream::Iter<std::vec::IntoIter<Result<Bytes, Status>>>;

fn error_status() -> Status {
    let mut status = Status::resource_exhausted("not today: 100 %");
    status
        .metadata_mut()
        .insert("x-why", "because".parse().unwrap());
    status
}

impl UnaryService<Bytes> for Echo {
    type Response = Bytes;
    type Future = std::future::Ready<Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        std::future::ready(match &request.get_ref()[..] {
            b"refuse" => Err(error_status()),
            _ => Ok(Response::new(request.into_inner())),
        })
    }
}

impl ServerStreamingService<Bytes> for Echo {
    type Response = Bytes;
    type ResponseStream = Messages;
    type Future = std::future::Ready<Result<Response<Messages>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let message = request.into_inner();
        let messages = vec![Ok(message.clone()), Ok(message), Err(error_status())];
        std::future::ready(Ok(Response::new(stream::iter(messages))))
    }
}

impl NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

impl Service<http::Request<tonic::body::Body>> for Echo {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Raw);
            Ok(match request.uri().path() {
                "/test.Echo/Never" => std::future::pending().await,
                "/test.Echo/Stream" => grpc.server_streaming(Echo, request).await,
                _ => grpc.unary(Echo, request).await,
            })
        })
    }
}

/// Starts a server with the layer around all services, and connects a client.
async fn client() -> tonic::client::Grpc<Channel> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder()
        .layer(SseProxyLayer::default().intercept(Deny::opened))
        .add_service(Echo)
        .serve_with_incoming(TcpIncoming::from(listener));
    tokio::spawn(server);
    connected(address).await
}

async fn connected(address: SocketAddr) -> tonic::client::Grpc<Channel> {
    let channel = Channel::from_shared(format!("http://{address}")).unwrap();
    let mut client = tonic::client::Grpc::new(channel.connect().await.unwrap());
    client.ready().await.unwrap();
    client
}

async fn call(message: &'static str) -> Result<Response<Bytes>, Status> {
    let path = PathAndQuery::from_static("/test.Echo/Unary");
    client()
        .await
        .unary(Request::new(message.into()), path, Raw)
        .await
}

#[tokio::test]
async fn unary_message_and_its_status_arrive() {
    // The layer does not inspect the message, because it is not an event stream.
    for message in ["", "hello", SECRET, "data: hunter2\n\n"] {
        let answer = crate::support::soon(call(message)).await.unwrap();
        assert_eq!(answer.get_ref(), message);
        assert_eq!(answer.metadata().get("grpc-status").unwrap(), "0");
    }
}

#[tokio::test]
async fn error_status_arrives_with_code_message_and_metadata() {
    let status = crate::support::soon(call("refuse")).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::ResourceExhausted, "not today: 100 %")
    );
    assert_eq!(status.metadata().get("x-why").unwrap(), "because");
}

#[tokio::test]
async fn streamed_messages_and_the_trailing_status_arrive() {
    let path = PathAndQuery::from_static("/test.Echo/Stream");
    let mut client = client().await;
    let answer = client
        .server_streaming(Request::new("x".into()), path, Raw)
        .await
        .unwrap();
    let mut messages = answer.into_inner();
    for _ in 0..2 {
        assert_eq!(
            crate::support::soon(messages.next())
                .await
                .unwrap()
                .unwrap(),
            "x"
        );
    }
    let status = crate::support::soon(messages.next())
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::ResourceExhausted, "not today: 100 %")
    );
    assert_eq!(status.metadata().get("x-why").unwrap(), "because");
}

/// After the timeout, tower-http's `Timeout` returns a response with `Default::default()` as its body.
#[tokio::test]
async fn timeout_layer_outside_can_answer_in_place_of_the_layer() {
    let answer = async |limit, path| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let timeout = TimeoutLayer::with_status_code(http::StatusCode::REQUEST_TIMEOUT, limit);
        let server = Server::builder()
            .layer(timeout)
            .layer(SseProxyLayer::default().intercept(Deny::opened))
            .add_service(Echo)
            .serve_with_incoming(TcpIncoming::from(listener));
        tokio::spawn(server);
        let mut client = connected(address).await;
        let path = PathAndQuery::from_static(path);
        crate::support::soon(client.unary(Request::new(Bytes::from("x")), path, Raw)).await
    };
    let late = answer(Duration::from_millis(50), "/test.Echo/Never").await;
    assert!(late.unwrap_err().message().contains("408"));
    let in_time = answer(Duration::from_secs(60), "/test.Echo/Unary").await;
    assert_eq!(in_time.unwrap().get_ref(), "x");
}
