//! HTTP/1.1 by hand: a socket, and just enough parsing to tell where a message ends.

use bytes::{Buf, Bytes, BytesMut};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::soon;

/// A socket and what has been read from it.
#[derive(Debug)]
pub struct Wire {
    socket: TcpStream,
    buffer: BytesMut,
}

/// The next piece of a chunked body.
#[derive(Debug, PartialEq)]
pub enum Chunk {
    Data(Bytes),
    /// The final chunk, and the trailers after it as they stand there.
    Last(String),
    /// The connection ended instead.
    Cut,
}

impl Wire {
    pub fn new(socket: TcpStream) -> Self {
        socket.set_nodelay(true).unwrap();
        let buffer = BytesMut::new();
        Self { socket, buffer }
    }

    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        soon(self.socket.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Writes for as long as the other side takes it; `Err` once it is gone.
    pub async fn try_write(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.socket.write_all(bytes.as_ref()).await
    }

    /// Up to the blank line after the fields of a head.
    pub async fn head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let head = self.buffer.split_to(end + 4);
                return Some(String::from_utf8(head.into()).unwrap());
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    pub async fn chunk(&mut self) -> Chunk {
        let Some(size) = self.line().await else {
            return Chunk::Cut;
        };
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        if size == 0 {
            let mut trailers = String::new();
            loop {
                match self.line().await {
                    None => return Chunk::Cut,
                    Some(end) if end.is_empty() => return Chunk::Last(trailers),
                    Some(line) => trailers.push_str(&(line + "\n")),
                }
            }
        }
        match self.exactly(size + 2).await {
            Some(mut data) => {
                data.truncate(size);
                Chunk::Data(data)
            }
            None => Chunk::Cut,
        }
    }

    pub async fn exactly(&mut self, bytes: usize) -> Option<Bytes> {
        while self.buffer.len() < bytes {
            if !self.fill().await {
                return None;
            }
        }
        Some(self.buffer.split_to(bytes).freeze())
    }

    /// Everything up to the end of the connection.
    pub async fn rest(&mut self) -> Bytes {
        while self.fill().await {}
        self.buffer.split().freeze()
    }

    /// Says that nothing more will be written.
    pub async fn finish(&mut self) {
        let _ = self.socket.shutdown().await;
    }

    /// Ends the connection as if the machine had died.
    pub fn reset(self) {
        let linger = Some(std::time::Duration::ZERO);
        SockRef::from(&self.socket).set_linger(linger).unwrap();
    }

    /// Makes the kernel hold little, so that a reader who does not read is felt soon.
    pub fn narrow(&self) {
        let socket = SockRef::from(&self.socket);
        socket.set_send_buffer_size(16 << 10).unwrap();
        socket.set_recv_buffer_size(16 << 10).unwrap();
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let line = self.buffer.split_to(end);
                self.buffer.advance(2);
                return Some(String::from_utf8(line.into()).unwrap());
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// Reads on; false at the end, however the connection ended.
    async fn fill(&mut self) -> bool {
        !matches!(
            soon(self.socket.read_buf(&mut self.buffer)).await,
            Ok(0) | Err(_)
        )
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    memchr::memmem::find(text, wanted)
}
