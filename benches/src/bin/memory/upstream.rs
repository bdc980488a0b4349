//! The upstream: raw sockets on one thread.

use std::{error::Error, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use tower_sse_proxy_benches::streams::large;

const HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// The pause after each separately written event.
const PAUSE: Duration = Duration::from_millis(3);

pub fn run() -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(async move {
                // A disconnect of the client ends its task.
                let _ = serve(stream).await;
            });
        }
    })
}

async fn serve(stream: TcpStream) -> Result<(), Box<dyn Error>> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::with_capacity(1024, stream);
    loop {
        let mut request = String::new();
        if stream.read_line(&mut request).await? == 0 {
            return Ok(());
        }
        let mut line = String::from("-");
        while !line.trim().is_empty() {
            line.clear();
            stream.read_line(&mut line).await?;
        }
        let path = request.split(' ').nth(1).unwrap_or("/").to_owned();
        let ["", _, kind, size, events, end, _] = path.split('/').collect::<Vec<_>>()[..] else {
            return Err("unknown path".into());
        };
        let event = large(size.parse()?);
        let events: usize = events.parse()?;
        stream.write_all(HEAD.as_bytes()).await?;
        let chunk = chunk(&event);
        if kind == "paced" {
            for _ in 0..events {
                stream.write_all(&chunk).await?;
                tokio::time::sleep(PAUSE).await;
            }
        } else {
            let together = (256 << 10) / chunk.len() + 1;
            for begun in (0..events).step_by(together) {
                stream
                    .write_all(&chunk.repeat(together.min(events - begun)))
                    .await?;
            }
        }
        if end == "end" {
            stream.write_all(b"0\r\n\r\n").await?;
        } else {
            // Stays silent until the proxy disconnects.
            stream.read_line(&mut line).await?;
            return Ok(());
        }
    }
}

fn chunk(data: &str) -> Vec<u8> {
    format!("{:x}\r\n{data}\r\n", data.len()).into_bytes()
}
