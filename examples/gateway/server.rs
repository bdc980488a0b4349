//! The downstream side: sockets, HTTP/1.1 and HTTP/2, and graceful shutdown.

use std::{
    convert::Infallible,
    fmt::Display,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::{
    body::{Body, Incoming},
    server::conn::http1,
    service::{Service as HttpService, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::timeout,
};
use tokio_io_timeout::TimeoutStream;
use tower::{BoxError, Service, util::Oneshot};
use tower_sse_proxy::{Streams, is_event_stream};

use crate::{
    half_close::Connection,
    proxy::{self, Peer, Unanswered},
    settings::{Listen, Settings},
    socket::Socket,
    stall::{StallLimit, WatchedBody},
    tunnel,
};

type ResponseBody = UnsyncBoxBody<Bytes, BoxError>;

/// The time after which a client is treated as gone if it reads nothing or its machine acknowledges nothing.
pub const WRITE_STALL: Duration = Duration::from_secs(30);

/// The resolution of the kernel's probes.
const SECOND: Duration = Duration::from_secs(1);

/// The maximum that the kernel accepts. It replaces longer limits.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the connections may take to send the last bytes of streams that a drain has ended.
const LAST_BYTES: Duration = Duration::from_millis(700);

/// Listens on the first address that can be bound.
pub fn bind(listen: &Listen, setting: &str) -> Result<TcpListener, String> {
    let mut failed = None;
    for address in &listen.addresses {
        match bind_one(*address) {
            Ok(listener) => return Ok(listener),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    let error = failed.unwrap_or_else(|| io::Error::other("the name has no address"));
    let name = &listen.name;
    Err(format!("cannot listen on {name} ({setting}): {error}"))
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    };
    socket.and_then(|socket| {
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(4096)
    })
}

/// Serves until SIGTERM or Ctrl-C. Then it waits until all streams have ended, or until the drain time has passed.
pub async fn serve<S, B>(
    listener: TcpListener,
    service: S,
    streams: Streams,
    settings: &Settings,
) -> io::Result<()>
where
    S: Service<Request<proxy::Body>, Response = Response<B>, Error = Unanswered>,
    S: Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let mut terminate = signal(SignalKind::terminate())?;
    // Signals the start of the drain. It is closed when all connections have ended.
    let (drain, draining) = watch::channel(());
    let header_timeout = settings.header_timeout();
    // The watchdog of the layer is first, so that the record of the stream names the cause.
    let socket_stall = settings.write_stall() + Duration::from_millis(500);
    let mut server = auto::Builder::new(StallLimit(socket_stall));
    server
        .http1()
        .timer(TokioTimer::new())
        .half_close(true)
        .header_read_timeout(header_timeout);
    server
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(WRITE_STALL / 2)
        .keep_alive_timeout(WRITE_STALL / 2);
    let mut http1 = http1::Builder::new();
    http1
        .timer(TokioTimer::new())
        .half_close(true)
        .header_read_timeout(header_timeout);
    let server = Arc::new((http1, server));

    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = terminate.recv() => break,
            _ = tokio::signal::ctrl_c() => break,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Usually out of file descriptors: wait until other connections end.
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let client = match prepare(&socket, socket_stall) {
            Ok(client) => client,
            Err(error) => {
                tracing::debug!("{peer} left before its first request: {error}");
                continue;
            }
        };
        let begun = Arc::new(AtomicBool::new(false));
        let connection = Connection::new();
        let (service, has_begun, client_socket) =
            (service.clone(), Arc::clone(&begun), client.clone());
        let responses = connection.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            has_begun.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(Peer(peer));
            let version = request.version();
            responses.begin(version);
            let asks_for_upgrade = tunnel::requested_upgrade(request.headers()).is_some();
            let request = request.map(BodyExt::boxed);
            let response = Oneshot::new(service.clone(), request);
            let (client_socket, responses) = (client_socket.clone(), responses.clone());
            async move {
                let mut response = match response.await {
                    Ok(response) => with_failure_detection(response, version, &client_socket),
                    Err(unanswered) => unanswered
                        .response()
                        .map(|body| body.map_err(Into::into).boxed_unsync()),
                };
                if asks_for_upgrade {
                    tunnel::close_unless_switched(&mut response);
                }
                Ok::<_, Infallible>(responses.respond(response))
            }
        });
        let (server, draining) = (Arc::clone(&server), draining.clone());
        tokio::spawn(async move {
            // hyper limits the time for a head, but not for the first bytes, which distinguish HTTP/1 from HTTP/2.
            let no_head = async {
                tokio::time::sleep(header_timeout).await;
                if begun.load(Ordering::Relaxed) {
                    std::future::pending().await
                }
            };
            tokio::select! {
                () = connected(socket, &server, service, socket_stall, draining) => {}
                () = no_head => {}
                () = connection.left(&client) => {}
            }
        });
    }

    drop(listener);
    let limit = settings.drain();
    tracing::info!("draining for at most {limit:?}");
    drop(draining);
    let _ = drain.send(());
    let again = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        tracing::info!("ending the streams that are still running");
        streams.drain(Duration::ZERO).await;
    };
    tokio::select! {
        () = async { tokio::join!(streams.drain(limit), drain.closed()); } => return Ok(()),
        () = again => {}
        () = tokio::time::sleep(limit) => {}
    }
    // The last bytes of the streams are on their way.
    let _ = timeout(LAST_BYTES, drain.closed()).await;
    Ok(())
}

/// Serves one connection with HTTP/1 or HTTP/2, depending on its first bytes.
///
/// hyper-util's server for both versions would allocate a read buffer of 16 KiB for an HTTP/1 connection: it reads the first 24 bytes
/// separately, and then with room for 8 KiB. HTTP/2 begins with `PRI` (RFC 9113 3.4), and no HTTP/1 method does.
async fn connected<S, B>(
    socket: TcpStream,
    (http1, any): &(http1::Builder, auto::Builder<StallLimit>),
    service: S,
    stall_limit: Duration,
    mut draining: watch::Receiver<()>,
) where
    S: HttpService<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let mut begin = [0; 3];
    let read = tokio::select! {
        // The server gets the same error when it reads.
        read = socket.peek(&mut begin) => read.unwrap_or(0),
        _ = draining.changed() => return,
    };
    let mut stream = TimeoutStream::new(socket);
    stream.set_write_timeout(Some(stall_limit));
    let io = TokioIo::new(Box::pin(stream));
    // Boxed immediately: an async block reserves space for each variable that holds the future.
    if b"PRI".starts_with(&begin[..read]) {
        let connection = Box::pin(any.serve_connection_with_upgrades(io, service));
        drained(
            connection,
            |connection| connection.graceful_shutdown(),
            draining,
        )
        .await;
    } else {
        let connection = Box::pin(http1.serve_connection(io, service).with_upgrades());
        drained(
            connection,
            |connection| connection.graceful_shutdown(),
            draining,
        )
        .await;
    }
}

/// Runs a connection to its end. When the server drains, the connection ends after its current responses.
async fn drained<C, E>(
    mut connection: Pin<Box<C>>,
    drain: impl FnOnce(Pin<&mut C>),
    mut draining: watch::Receiver<()>,
) where
    C: Future<Output = Result<(), E>>,
    E: Display,
{
    let ended = tokio::select! {
        ended = &mut connection => ended,
        _ = draining.changed() => {
            drain(connection.as_mut());
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("connection failed: {error}");
    }
}

/// Wraps a response body so that an HTTP/1.0 client can see a failure, and so that an HTTP/2 client that does not read is dropped.
fn with_failure_detection<B>(
    response: Response<B>,
    version: Version,
    client: &Socket,
) -> Response<ResponseBody>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (head, body) = response.into_parts();
    let body = if version == Version::HTTP_10 && body.size_hint().exact().is_none() {
        // Only the end of the connection can show whether the body is complete.
        client
            .reset_unless_it_ends(body.map_err(Into::into))
            .boxed_unsync()
    } else if version == Version::HTTP_2 && is_event_stream(&head) {
        // Only event streams: a client with a large window may process a part of a download for longer.
        WatchedBody::new(body.map_err(Into::into).boxed_unsync()).boxed_unsync()
    } else {
        body.map_err(Into::into).boxed_unsync()
    };
    Response::from_parts(head, body)
}

/// Sets the options of a client's socket. The kernel closes the connection of a client that acknowledges nothing for `stall`: neither data
/// nor, in a silent stream, keep-alive probes.
fn prepare(stream: &TcpStream, stall: Duration) -> io::Result<Socket> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let at_most = |part, most| Duration::clamp(stall / part, SECOND, most);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(at_most(2, WRITE_STALL / 2))
            .with_interval(at_most(6, WRITE_STALL / 6)),
    )?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(stall.min(DAY)))?;
    Socket::of(stream)
}
