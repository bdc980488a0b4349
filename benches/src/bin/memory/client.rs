//! The clients, on raw sockets.
//!
//! They run in the process that measures.

use std::{
    error::Error,
    io::{Read, Write},
    net::SocketAddr,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// The number of streams that are opened concurrently.
const CONCURRENT: usize = 50;

/// Opens `number` streams and reads `events` events from each, or to its end if its path asks for one. With `stay`, returns the
/// connections; otherwise the clients disconnect.
pub async fn open(
    proxy: SocketAddr,
    from: usize,
    number: usize,
    path: impl Fn(usize) -> String,
    events: usize,
    stay: bool,
) -> Result<Vec<TcpStream>, Box<dyn Error>> {
    let path = &path;
    let streams = stream::iter(from..from + number).map(|n| one(proxy, path(n), events));
    let mut opened = Vec::new();
    let mut streams = streams.buffer_unordered(CONCURRENT);
    while let Some(stream) = streams.next().await {
        let stream = stream?;
        if stay {
            opened.push(stream);
        }
    }
    Ok(opened)
}

async fn one(proxy: SocketAddr, path: String, events: usize) -> Result<TcpStream, Box<dyn Error>> {
    let mut stream = TcpStream::connect(proxy).await?;
    stream.set_nodelay(true)?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {proxy}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut buffer = vec![0; 64 << 10];
    let mut last = 0;
    let (mut seen, mut ended) = (0, false);
    let to_end = path.contains("/end/");
    while (seen < events) || (to_end && !ended) {
        let read = tokio::time::timeout(Duration::from_secs(30), stream.read(&mut buffer)).await;
        let read = read.map_err(|_| format!("{path}: {seen} of {events} events arrived"))??;
        if read == 0 {
            return Err("stream was cut".into());
        }
        // An event ends with a blank line. Two LFs in a row occur nowhere else.
        for byte in &buffer[..read] {
            seen += usize::from(*byte == b'\n' && last == b'\n');
            last = *byte;
        }
        ended = buffer[..read].ends_with(b"0\r\n\r\n");
    }
    Ok(stream)
}

/// Gets a path that the proxy answers itself, and returns the body.
pub fn ask(proxy: SocketAddr, path: &str) -> Result<String, Box<dyn Error>> {
    let mut stream = std::net::TcpStream::connect(proxy)?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: {proxy}\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.rsplit("\r\n\r\n").next().unwrap_or_default();
    Ok(body.trim().to_owned())
}
