//! Clients that vanish without a FIN: a machine that is switched off, a network that is gone, a process that never reads again.

use std::{any::Any, net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use socket2::{SockFilter, SockRef};
use tokio::{net::TcpStream, time::interval};

use crate::{
    serving::{gateway, settings},
    support::{BOTH, Exchange, Protocol, Upstream, fetch, soon, sse_chunked},
};

/// A shorter limit than the default of 30 s, so that the tests are short.
const LIMITS: [(&str, &str); 3] = [
    ("SSEP_WRITE_STALL_MS", "1000"),
    ("SSEP_MAX_STREAMS", "1"),
    // A recorded stream then ends soon after its client.
    ("SSEP_DETACH_MS", "100"),
];

fn request(target: &str) -> http::request::Builder {
    Request::get(target).header("accept", "text/event-stream")
}

/// A client that reads one event from `exchange`, and vanishes: from then on it receives and acknowledges no packet. It closes its side of
/// the connection when the returned values are dropped.
async fn vanished(
    protocol: Protocol,
    path: &str,
    gateway: SocketAddr,
    upstream: &mut Upstream,
) -> (Exchange, Box<dyn Any>) {
    let stream = TcpStream::connect(gateway).await.unwrap();
    let socket = SockRef::from(&stream).try_clone().unwrap();
    let io = TokioIo::new(stream);
    let request = match protocol {
        Protocol::Http1 => request(path).header("host", "test"),
        Protocol::Http2 => request(&format!("http://test{path}")),
    };
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let answer = tokio::spawn(async move {
        let (sender, response): (Box<dyn Any + Send>, _) = match protocol {
            Protocol::Http1 => {
                let (mut sender, connection) = http1::handshake(io).await.unwrap();
                tokio::spawn(connection);
                let response = sender.send_request(request).await;
                (Box::new(sender), response)
            }
            Protocol::Http2 => {
                let handshake = http2::handshake(TokioExecutor::new(), io);
                let (mut sender, connection) = handshake.await.unwrap();
                tokio::spawn(connection);
                let response = sender.send_request(request).await;
                (Box::new(sender), response)
            }
        };
        (sender, response.unwrap())
    });
    let mut exchange = upstream.next().await;
    exchange.write(sse_chunked()).await;
    exchange.chunk("data: 1\n\n").await;
    let (sender, mut response) = soon(answer).await.unwrap();
    let frame = soon(response.body_mut().frame()).await.unwrap().unwrap();
    assert!(frame.into_data().unwrap().ends_with(b"data: 1\n\n"));
    // A filter of one instruction, which keeps 0 bytes of each packet (`BPF_RET | BPF_K`).
    let drop_all = SockFilter::new(0x06, 0, 0, 0);
    socket.attach_filter(&[drop_all]).unwrap();
    (exchange, Box::new((sender, response, socket)))
}

/// Sends small events until the gateway closes the connection. They all fit into the buffers of the kernel.
async fn small_events(mut exchange: Exchange) {
    let mut pace = interval(Duration::from_millis(50));
    while exchange
        .wire
        .try_write(b"9\r\ndata: 2\n\n\r\n")
        .await
        .is_ok()
    {
        pace.tick().await;
    }
}

#[tokio::test]
async fn r37_vanished_client_releases_its_place_and_its_upstream() {
    let cases = ["/s/a", "/r/a"].into_iter().flat_map(|path| {
        BOTH.into_iter()
            .flat_map(move |protocol| [(path, protocol, false), (path, protocol, true)])
    });
    join_all(cases.map(|(path, protocol, sends)| async move {
        let mut upstream = Upstream::start().await;
        let gateway = gateway(&LIMITS, upstream.address).await;
        let (exchange, client) = vanished(protocol, path, gateway, &mut upstream).await;
        let another = || {
            let request = request(path).body(Bytes::new()).unwrap();
            fetch(Protocol::Http1, gateway, request)
        };
        assert_eq!(another().await.status, 503, "the place is taken");
        if sends {
            soon(small_events(exchange)).await;
        } else {
            soon(exchange.closed()).await;
        }
        // The stream slot is free soon after that.
        let served = async {
            loop {
                let mut asking = tokio::spawn(another());
                tokio::select! {
                    mut exchange = upstream.next() => {
                        exchange.write(sse_chunked()).await;
                        return asking.await.unwrap().status;
                    }
                    refused = &mut asking => assert_eq!(refused.unwrap().status, 503),
                }
            }
        };
        assert_eq!(soon(served).await, 200);
        drop(client);
    }))
    .await;
}

#[test]
fn r37_default_limit_is_at_most_a_minute() {
    assert!(settings(&[]).write_stall() <= Duration::from_secs(60));
}
