//! An HTTP/1.1 upstream over a socket: the test writes each response byte by byte.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};

use super::{
    soon,
    wire::{Chunk, Wire},
};

/// Accepts connections, reads the head of one request from each, and hands it to the test.
pub struct Upstream {
    pub address: SocketAddr,
    requests: Arc<AtomicUsize>,
    exchanges: mpsc::UnboundedReceiver<Exchange>,
}

/// A request head and the connection for its response.
#[derive(Debug)]
pub struct Exchange {
    pub head: String,
    pub wire: Wire,
}

impl Upstream {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let (sender, exchanges) = mpsc::unbounded_channel();
        let count = Arc::clone(&requests);
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (sender, count) = (sender.clone(), Arc::clone(&count));
                tokio::spawn(async move {
                    let mut wire = Wire::new(socket);
                    let Some(head) = wire.head().await else {
                        return;
                    };
                    count.fetch_add(1, Ordering::SeqCst);
                    let _ = sender.send(Exchange { head, wire });
                });
            }
        });
        Self {
            address,
            requests,
            exchanges,
        }
    }

    /// Starts an upstream that sends `answer` to every request and closes the connection.
    pub async fn answering(answer: impl Into<Bytes>) -> SocketAddr {
        let answer = answer.into();
        let mut upstream = Self::start().await;
        let address = upstream.address;
        tokio::spawn(async move {
            while let Some(mut exchange) = upstream.exchanges.recv().await {
                exchange.body().await;
                let _ = exchange.wire.try_write(&answer).await;
            }
        });
        address
    }

    /// The next request.
    pub async fn next(&mut self) -> Exchange {
        soon(self.exchanges.recv()).await.unwrap()
    }

    /// The next request, without a time limit.
    pub async fn received(&mut self) -> Exchange {
        self.exchanges.recv().await.unwrap()
    }

    /// The number of request heads received since the start.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Exchange {
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.wire.write(bytes).await;
    }

    /// Sends one chunk of a chunked body.
    pub async fn chunk(&mut self, data: impl AsRef<[u8]>) {
        self.wire.write(chunk(data.as_ref())).await;
    }

    /// Sends chunks in a task, as fast as the peer takes them: `chunk_of` returns the data of the chunk with this number.
    pub fn flood(
        mut self,
        mut chunk_of: impl FnMut(usize) -> String + Send + 'static,
        most_bytes: usize,
    ) -> Flood {
        let taken = Arc::<Taken>::default();
        let count = Arc::clone(&taken);
        let writing = tokio::spawn(async move {
            while count.bytes.load(Ordering::SeqCst) < most_bytes {
                let data = chunk_of(count.chunks.load(Ordering::SeqCst));
                if self.wire.try_write(chunk(data.as_bytes())).await.is_err() {
                    break;
                }
                count.bytes.fetch_add(data.len(), Ordering::SeqCst);
                count.chunks.fetch_add(1, Ordering::SeqCst);
            }
            self
        });
        Flood { taken, writing }
    }

    /// Reads the request's body.
    pub async fn body(&mut self) -> Bytes {
        let head = self.head.to_ascii_lowercase();
        if head.contains("transfer-encoding: chunked") {
            let mut all = Vec::new();
            while let Chunk::Data(data) = self.wire.chunk().await {
                all.extend_from_slice(&data);
            }
            return all.into();
        }
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"));
        let length = length.map_or(0, |length| length.trim().parse().unwrap());
        self.wire.exactly(length).await.unwrap_or_default()
    }

    /// Waits until the peer closes the connection, and returns the bytes it sent before.
    pub async fn closed(mut self) -> Bytes {
        self.wire.rest().await
    }
}

/// A task that sends as much as the peer takes. Dropping it closes the connection.
pub struct Flood {
    taken: Arc<Taken>,
    writing: JoinHandle<Exchange>,
}

/// The chunks and bytes that the peer has taken from a [`Flood`].
#[derive(Default)]
struct Taken {
    chunks: AtomicUsize,
    bytes: AtomicUsize,
}

impl Flood {
    /// Waits until the peer takes nothing any more: nothing while `other` runs 200 times. `other` waits for work of the peer, so that
    /// the peer had time to take more. Returns the number of chunks and bytes that the peer has taken. Needs a runtime with one thread.
    pub async fn until_stalled(&self, mut other: impl AsyncFnMut()) -> (usize, usize) {
        let (mut chunks, mut idle) = (0, 0);
        while idle < 200 && !self.writing.is_finished() {
            other().await;
            let now = self.taken.chunks.load(Ordering::SeqCst);
            idle = if now == chunks { idle + 1 } else { 0 };
            chunks = now;
        }
        (chunks, self.taken.bytes.load(Ordering::SeqCst))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.writing.abort();
    }
}

/// The wire form of one chunk.
pub fn chunk(data: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}

/// A response with this event stream. The end of the connection ends the body.
pub fn sse(body: impl AsRef<[u8]>) -> Vec<u8> {
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    [&head[..], body.as_ref()].concat()
}

/// The head of an event stream with chunked transfer encoding.
pub fn sse_chunked() -> &'static str {
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
}
