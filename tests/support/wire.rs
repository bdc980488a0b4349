//! A socket with a minimal HTTP/1.1 parser that finds the ends of heads, chunks and bodies.

use bytes::{Buf, Bytes, BytesMut};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::soon;

/// A socket and its read buffer.
#[derive(Debug)]
pub struct Wire {
    socket: TcpStream,
    buffer: BytesMut,
}

/// The next piece of a chunked body.
#[derive(Debug, PartialEq)]
pub enum Chunk {
    Data(Bytes),
    /// The final chunk. Contains the trailer lines.
    Last(String),
    /// The connection ended before the final chunk.
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

    /// Writes without a time limit. Returns an error if the peer has closed the connection.
    pub async fn try_write(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.socket.write_all(bytes.as_ref()).await
    }

    /// Reads a head up to and including its blank line. Returns `None` if the connection ends first.
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

    /// Reads one chunk of a chunked body.
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

    /// Reads this number of bytes. Returns `None` if the connection ends first.
    pub async fn exactly(&mut self, bytes: usize) -> Option<Bytes> {
        while self.buffer.len() < bytes {
            if !self.fill().await {
                return None;
            }
        }
        Some(self.buffer.split_to(bytes).freeze())
    }

    /// Reads everything up to the end of the connection.
    pub async fn rest(&mut self) -> Bytes {
        while self.fill().await {}
        self.buffer.split().freeze()
    }

    /// Closes the write half of the socket.
    pub async fn finish(&mut self) {
        let _ = self.socket.shutdown().await;
    }

    /// Resets the TCP connection (RST), as a crashed peer would.
    pub fn reset(self) {
        let linger = Some(std::time::Duration::ZERO);
        SockRef::from(&self.socket).set_linger(linger).unwrap();
    }

    /// Reduces the kernel's buffers, so that backpressure from a slow reader reaches the writer soon.
    pub fn shrink_buffers(&self) {
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

    /// Reads more bytes into the buffer. Returns false at the end of the connection, clean or not.
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
