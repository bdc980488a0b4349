//! What HTTP does not see of a client's socket.

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

/// A second view of a socket, beside that of the server.
#[derive(Clone)]
pub struct Socket(Arc<TcpStream>);

impl Socket {
    pub fn of(stream: &TcpStream) -> io::Result<Self> {
        let second = stream.as_fd().try_clone_to_owned()?;
        let second = TcpStream::from_std(second.into())?;
        Ok(Self(Arc::new(second)))
    }

    /// Waits until the client has closed its side, or reset the connection.
    ///
    /// A server of HTTP/1 that has input left, the next request or a line end too many, does not read on while an answer is
    /// due, and what is behind that input it does not see.
    pub async fn left(&self) {
        // An error here is that of a runtime that ends.
        while let Ok(ready) = self.0.ready(Interest::READABLE).await {
            if ready.is_read_closed() {
                return;
            }
            // Nothing is read here, but it is old news now.
            let nothing = || Err::<(), _>(ErrorKind::WouldBlock.into());
            let _ = self.0.try_io(Interest::READABLE, nothing);
        }
    }

    /// Waits until the connection is reset, once the client has [closed](Self::left) its side.
    pub async fn reset(&self) {
        while let Ok(ready) = self.0.ready(Interest::WRITABLE).await {
            if ready.is_write_closed() {
                return;
            }
            let nothing = || Err::<(), _>(ErrorKind::WouldBlock.into());
            let _ = self.0.try_io(Interest::WRITABLE, nothing);
        }
    }

    /// A body that resets the connection unless it comes to its end. To HTTP/1.0 every other end looks like that one.
    pub fn reset_unless_it_ends<B: Body>(
        &self,
        body: B,
    ) -> impl Body<Data = B::Data, Error = B::Error> + use<B> {
        let (socket, at_the_end) = (self.clone(), self.clone());
        self.close_by_reset(true);
        let frames = BodyStream::new(body).then(move |frame| {
            let socket = socket.clone();
            async move {
                if frame.is_err() {
                    // A client that takes nothing does not get it all, but it is to be reset even so.
                    let _ = timeout(WRITE_STALL, socket.all_sent()).await;
                }
                frame
            }
        });
        let end = stream::poll_fn(move |_| {
            at_the_end.close_by_reset(false);
            Poll::Ready(None)
        });
        StreamBody::new(frames.chain(end))
    }

    fn close_by_reset(&self, reset: bool) {
        // If it cannot be set, the socket is closed already.
        let _ = SockRef::from(&*self.0).set_linger(reset.then_some(Duration::ZERO));
    }

    /// Waits until the kernel has nothing more to send. What it has when the connection is reset is lost.
    async fn all_sent(&self) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        {
            // From now on it counts as writable only then, which a view that is newer than that is told.
            SockRef::from(&*self.0).set_tcp_notsent_lowat(1)?;
            Socket::of(&self.0)?.0.writable().await?;
        }
        Ok(())
    }
}
