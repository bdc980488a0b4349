//! The clients' side: sockets, HTTP/1.1 and HTTP/2, and an orderly end.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    signal::unix::{SignalKind, signal},
};
use tokio_io_timeout::TimeoutStream;
use tower::{BoxError, Service};

use crate::{proxy::Peer, settings::Settings};

/// A client that takes nothing for this long, or whose machine does not acknowledge anything, is gone.
const WRITE_STALL: Duration = Duration::from_secs(30);

pub fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    };
    socket
        .and_then(|socket| {
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(4096)
        })
        .map_err(|error| format!("cannot listen on {address} (--listen, SSEP_LISTEN): {error}"))
}

/// Serves until SIGTERM or Ctrl-C, and then for as long as the streams run or the settings allow.
pub async fn serve<S, B>(listener: TcpListener, service: S, settings: &Settings) -> io::Result<()>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = std::convert::Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let mut terminate = signal(SignalKind::terminate())?;
    let graceful = GracefulShutdown::new();
    let header_timeout = settings.header_timeout();
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout);
    server
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(WRITE_STALL / 2)
        .keep_alive_timeout(WRITE_STALL / 2);

    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = terminate.recv() => break,
            _ = tokio::signal::ctrl_c() => break,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: the ones in use have to end first.
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        if let Err(error) = prepare(&socket) {
            tracing::debug!("{peer} left at once: {error}");
            continue;
        }
        let mut stream = TimeoutStream::new(socket);
        stream.set_write_timeout(Some(WRITE_STALL));

        let begun = Arc::new(AtomicBool::new(false));
        let service = WithPeer {
            service: service.clone(),
            peer,
            begun: Arc::clone(&begun),
        };
        let server = server.clone();
        let watcher = graceful.watcher();
        tokio::spawn(async move {
            let io = TokioIo::new(Box::pin(stream));
            let connection =
                server.serve_connection_with_upgrades(io, TowerToHyperService::new(service));
            let connection = watcher.watch(connection.into_owned());
            tokio::pin!(connection);
            // hyper times the head, but not the bytes by which HTTP/1 and HTTP/2 are told apart.
            let ended = tokio::select! {
                ended = &mut connection => ended,
                () = tokio::time::sleep(header_timeout) => match begun.load(Ordering::Relaxed) {
                    true => connection.await,
                    false => return,
                },
            };
            if let Err(error) = ended {
                tracing::debug!("{peer}: {error}");
            }
        });
    }

    drop(listener);
    tracing::info!("draining for at most {:?}", settings.drain());
    if tokio::time::timeout(settings.drain(), graceful.shutdown())
        .await
        .is_err()
    {
        tracing::info!("streams that still run are cut");
    }
    Ok(())
}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let socket = SockRef::from(socket);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(WRITE_STALL / 2)
            .with_interval(WRITE_STALL / 6),
    )?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(WRITE_STALL))?;
    Ok(())
}

/// Tells the service who asks.
#[derive(Clone)]
struct WithPeer<S> {
    service: S,
    peer: SocketAddr,
    begun: Arc<AtomicBool>,
}

impl<S: Service<Request<Incoming>>> Service<Request<Incoming>> for WithPeer<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Incoming>) -> S::Future {
        self.begun.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(Peer(self.peer));
        self.service.call(request)
    }
}
