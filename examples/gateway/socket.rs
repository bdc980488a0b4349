//! Events of a client's socket that the HTTP server does not report.

use std::{
    io::{self, ErrorKind},
    os::fd::AsFd,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use http_body_util::{BodyStream, StreamBody};
use hyper::body::Body;
use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream, time::timeout};

use crate::server::WRITE_STALL;

/// A second handle of a client's socket, in addition to the server's.
#[derive(Clone)]
pub struct Socket(Arc<TcpStream>);

impl Socket {
    pub fn of(stream: &TcpStream) -> io::Result<Self> {
        let second = stream.as_fd().try_clone_to_owned()?;
        let second = TcpStream::from_std(second.into())?;
        Ok(Self(Arc::new(second)))
    }

    /// Waits until the client has closed its side or reset the connection.
    ///
    /// An HTTP/1 server does not read during a response if it has unprocessed input, such as a pipelined request or an extra line
    /// end. So it does not see a close after that input.
    pub async fn left(&self) {
        // `ready` fails only when the runtime shuts down.
        while let Ok(ready) = self.0.ready(Interest::READABLE).await {
            if ready.is_read_closed() {
                return;
            }
            // Clears the readiness without reading anything.
            let would_block = || Err::<(), _>(ErrorKind::WouldBlock.into());
            let _ = self.0.try_io(Interest::READABLE, would_block);
        }
    }

    /// Waits until the connection is reset, after the client has [closed](Self::left) its side.
    pub async fn reset(&self) {
        while let Ok(ready) = self.0.ready(Interest::WRITABLE).await {
            if ready.is_write_closed() {
                return;
            }
            let would_block = || Err::<(), _>(ErrorKind::WouldBlock.into());
            let _ = self.0.try_io(Interest::WRITABLE, would_block);
        }
    }

    /// Wraps a body: if it fails or is dropped before its end, the connection is reset. An HTTP/1.0 client cannot distinguish any other
    /// close from a complete body.
    pub fn reset_unless_it_ends<B: Body>(
        &self,
        body: B,
    ) -> impl Body<Data = B::Data, Error = B::Error> + use<B> {
        let (socket, at_end) = (self.clone(), self.clone());
        self.close_by_reset(true);
        let frames = BodyStream::new(body).then(move |frame| {
            let socket = socket.clone();
            async move {
                if frame.is_err() {
                    // A client that does not read loses the unsent data, because the reset must not wait forever.
                    let _ = timeout(WRITE_STALL, socket.all_sent()).await;
                }
                frame
            }
        });
        let end = stream::poll_fn(move |_| {
            at_end.close_by_reset(false);
            Poll::Ready(None)
        });
        StreamBody::new(frames.chain(end))
    }

    fn close_by_reset(&self, reset: bool) {
        // This fails only if the socket is already closed.
        let _ = SockRef::from(&*self.0).set_linger(reset.then_some(Duration::ZERO));
    }

    /// Waits until the kernel has sent all data. A reset discards unsent data.
    async fn all_sent(&self) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        {
            // With this option, the socket is writable only when all data is sent. A new handle reports the current state.
            SockRef::from(&*self.0).set_tcp_notsent_lowat(1)?;
            Socket::of(&self.0)?.0.writable().await?;
        }
        Ok(())
    }
}
