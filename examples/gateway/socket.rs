//! What HTTP does not see of a client's socket.

use std::{
    io::{self, ErrorKind},
    os::fd::AsFd,
    sync::Arc,
    time::Duration,
};

use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream};

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

    /// Makes the end of the connection look like a failure. To HTTP/1.0 it is the end of a body otherwise.
    pub fn fail(&self) {
        // It may be gone already.
        let _ = SockRef::from(&*self.0).set_linger(Some(Duration::ZERO));
    }
}
