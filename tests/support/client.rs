//! HTTP clients that report how a response body ended: cleanly or cut.

use std::{error::Error, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use socket2::SockRef;
use tokio::{net::TcpStream, task::AbortHandle};

use super::{
    soon,
    wire::{Chunk, Wire},
};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Protocol {
    Http1,
    Http2,
}

pub const BOTH: [Protocol; 2] = [Protocol::Http1, Protocol::Http2];

/// A response whose head has been read. The body is read on demand.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    /// Bytes that have been read but not yet returned.
    ahead: Bytes,
    body: AnswerBody,
}

enum AnswerBody {
    None,
    Chunks(Wire),
    Length(Wire, usize),
    UntilClose(Wire),
    /// The sender and the link keep the connection open.
    Http2(Incoming, http2::SendRequest<Full<Bytes>>, Link),
}

/// A second handle of an HTTP/2 connection that a task drives. It can reset the connection.
struct Link {
    socket: socket2::Socket,
    task: AbortHandle,
}

/// The result of one read from a body.
#[derive(Debug, PartialEq)]
pub enum Read {
    Data(Bytes),
    Over(Ended),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    /// HTTP/1.1: the final chunk. HTTP/2: END_STREAM. Contains the trailers, if any.
    Clean(HeaderMap),
    /// HTTP/1.1: the connection ended before the final chunk. HTTP/2: RST_STREAM.
    Cut,
}

impl Ended {
    pub fn is_clean(&self) -> bool {
        matches!(self, Ended::Clean(_))
    }
}

/// Opens a connection and sends nothing.
pub async fn connect(address: SocketAddr) -> Wire {
    Wire::new(TcpStream::connect(address).await.unwrap())
}

pub async fn get(protocol: Protocol, address: SocketAddr) -> Answer {
    fetch(
        protocol,
        address,
        Request::get("/").body(Bytes::new()).unwrap(),
    )
    .await
}

pub async fn post(protocol: Protocol, address: SocketAddr, body: impl Into<Bytes>) -> Answer {
    fetch(
        protocol,
        address,
        Request::post("/").body(body.into()).unwrap(),
    )
    .await
}

/// Opens a connection, sends a request and reads the head of the response.
pub async fn fetch(protocol: Protocol, address: SocketAddr, request: Request<Bytes>) -> Answer {
    let answer = async {
        match protocol {
            Protocol::Http1 => fetch_http1(address, request).await,
            Protocol::Http2 => fetch_http2(address, request).await,
        }
    };
    soon(answer).await
}

async fn fetch_http1(address: SocketAddr, request: Request<Bytes>) -> Answer {
    let mut wire = connect(address).await;
    let mut head = format!(
        "{} {} HTTP/1.1\r\nhost: test\r\n",
        request.method(),
        request.uri()
    );
    for (name, value) in request.headers() {
        head += &format!("{name}: {}\r\n", value.to_str().unwrap());
    }
    head += &format!("content-length: {}\r\n\r\n", request.body().len());
    wire.write(head).await;
    wire.write(request.body()).await;

    let head = wire
        .head()
        .await
        .expect("connection closed before the response head");
    let mut lines = head.lines();
    let status = lines
        .next()
        .unwrap()
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    let headers: HeaderMap = lines.filter_map(field).collect();
    let value = |name| {
        headers
            .get(name)
            .map(|value: &HeaderValue| value.to_str().unwrap())
    };
    let body = if request.method() == Method::HEAD || matches!(status, 101 | 204 | 304) {
        AnswerBody::None
    } else if value("transfer-encoding") == Some("chunked") {
        AnswerBody::Chunks(wire)
    } else if let Some(length) = value("content-length") {
        AnswerBody::Length(wire, length.parse().unwrap())
    } else {
        AnswerBody::UntilClose(wire)
    };
    Answer {
        status,
        headers,
        ahead: Bytes::new(),
        body,
    }
}

fn field(line: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = line.split_once(':')?;
    Some((name.parse().unwrap(), value.trim().parse().unwrap()))
}

async fn fetch_http2(address: SocketAddr, request: Request<Bytes>) -> Answer {
    let socket = TcpStream::connect(address).await.unwrap();
    socket.set_nodelay(true).unwrap();
    let again = SockRef::from(&socket).try_clone().unwrap();
    let io = TokioIo::new(socket);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let link = Link {
        socket: again,
        task: tokio::spawn(connection).abort_handle(),
    };
    let (mut parts, body) = request.into_parts();
    parts.uri = format!("http://test{}", parts.uri).parse().unwrap();
    let request = Request::from_parts(parts, Full::new(body));
    let response = sender.send_request(request).await.unwrap();
    let (parts, body) = response.into_parts();
    Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        ahead: Bytes::new(),
        body: AnswerBody::Http2(body, sender, link),
    }
}

impl Answer {
    /// The value of a header, or `None` if it is absent. Panics if the header is repeated.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next()?;
        assert_eq!(values.next(), None, "more than one {name} header");
        Some(value.to_str().unwrap())
    }

    /// Reads the next data of the body (one chunk on HTTP/1.1), or its end.
    pub async fn read(&mut self) -> Read {
        if !self.ahead.is_empty() {
            return Read::Data(std::mem::take(&mut self.ahead));
        }
        let over = |clean| {
            Read::Over(if clean {
                Ended::Clean(HeaderMap::new())
            } else {
                Ended::Cut
            })
        };
        match &mut self.body {
            AnswerBody::None => over(true),
            AnswerBody::Chunks(wire) => match wire.chunk().await {
                Chunk::Data(data) => Read::Data(data),
                Chunk::Last(trailers) => {
                    Read::Over(Ended::Clean(trailers.lines().filter_map(field).collect()))
                }
                Chunk::Cut => over(false),
            },
            AnswerBody::Length(_, 0) => over(true),
            AnswerBody::Length(wire, length) => match wire.exactly(*length).await {
                Some(data) => {
                    *length = 0;
                    Read::Data(data)
                }
                None => over(false),
            },
            AnswerBody::UntilClose(wire) => match wire.rest().await {
                all if all.is_empty() => over(true),
                all => Read::Data(all),
            },
            AnswerBody::Http2(body, ..) => match soon(body.frame()).await {
                None => over(true),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => Read::Data(data),
                    Err(frame) => Read::Over(Ended::Clean(frame.into_trailers().unwrap())),
                },
                Some(Err(error)) => {
                    let cause = error.source().unwrap().to_string();
                    assert!(
                        cause.contains("stream error received"),
                        "expected a stream reset, got: {cause}"
                    );
                    over(false)
                }
            },
        }
    }

    /// Reads as many bytes as `text` has, in any number of pieces, and asserts that they are equal.
    pub async fn expect(&mut self, text: impl AsRef<[u8]>) {
        let wanted = text.as_ref();
        let mut got = Vec::new();
        while got.len() < wanted.len() {
            match self.read().await {
                Read::Data(data) => got.extend_from_slice(&data),
                Read::Over(ended) => panic!("{ended:?} after {}", got.escape_ascii()),
            }
        }
        self.ahead = got.split_off(wanted.len()).into();
        assert_eq!(
            got.escape_ascii().to_string(),
            wanted.escape_ascii().to_string()
        );
    }

    /// Reads until the body contains `text`, and returns the bytes read.
    pub async fn until(&mut self, text: &str) -> Bytes {
        let mut got = Vec::new();
        while !String::from_utf8_lossy(&got).contains(text) {
            match self.read().await {
                Read::Data(data) => got.extend_from_slice(&data),
                Read::Over(ended) => panic!("{ended:?} after {}", got.escape_ascii()),
            }
        }
        got.into()
    }

    /// Drops the response: HTTP/1.1 closes the connection; HTTP/2 resets the stream and keeps the connection.
    pub fn leave(self) -> Option<http2::SendRequest<Full<Bytes>>> {
        match self.body {
            AnswerBody::Http2(_, sender, _) => Some(sender),
            _ => None,
        }
    }

    /// Resets the TCP connection (RST), as a crashed peer would.
    pub fn reset(self) {
        match self.body {
            AnswerBody::None => {}
            AnswerBody::Chunks(wire)
            | AnswerBody::Length(wire, _)
            | AnswerBody::UntilClose(wire) => wire.reset(),
            AnswerBody::Http2(_, _, link) => {
                link.socket.set_linger(Some(Duration::ZERO)).unwrap();
                link.task.abort();
            }
        }
    }

    /// Reads the rest of the body. Returns the bytes and how the body ended.
    pub async fn rest(mut self) -> (Bytes, Ended) {
        let mut all = Vec::new();
        loop {
            match self.read().await {
                Read::Data(data) => all.extend_from_slice(&data),
                Read::Over(ended) => return (all.into(), ended),
            }
        }
    }
}
