//! An upstream with minimal cost: one thread per connection, and prepared writes.

use std::{
    error::Error,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tower_sse_proxy_benches::streams::large;

const HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

pub fn run() -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    for stream in listener.incoming() {
        let stream = stream?;
        thread::spawn(move || {
            // A disconnect of the client ends its thread.
            let _ = serve(&stream);
        });
    }
    Ok(())
}

fn serve(mut stream: &TcpStream) -> Result<(), Box<dyn Error>> {
    stream.set_nodelay(true)?;
    let mut lines = BufReader::new(stream).lines();
    while let Some(request) = lines.next() {
        let request = request?;
        while !lines
            .next()
            .ok_or("connection closed inside a request")??
            .is_empty()
        {}
        let path: Vec<&str> = request
            .split(' ')
            .nth(1)
            .unwrap_or("/")
            .split('/')
            .collect();
        match path[..] {
            ["", "burst", size, events, a_chunk] => {
                stream.write_all(HEAD.as_bytes())?;
                let event = large(size.parse()?);
                let (events, a_chunk): (usize, usize) = (events.parse()?, a_chunk.parse()?);
                let write = chunk(&event.repeat(a_chunk)).repeat(events / a_chunk);
                loop {
                    stream.write_all(&write)?;
                }
            }
            ["", "paced", rate] => {
                stream.write_all(HEAD.as_bytes())?;
                let period = Duration::from_secs(1) / rate.parse::<u32>()?;
                // Spreads the connections over the period.
                let mut due = Instant::now()
                    + period.mul_f64(f64::from(stream.peer_addr()?.port() % 97) / 97.0);
                loop {
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    stream.write_all(&chunk(&stamped()))?;
                    due += period;
                }
            }
            ["", "once"] => {
                stream.write_all(HEAD.as_bytes())?;
                stream.write_all(&chunk(&large(250)))?;
            }
            ["", "json", size] => {
                let body = answer(size.parse()?);
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                )?;
            }
            _ => {
                let body = "x".repeat(1024);
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 1024\r\n\r\n{body}"
                )?;
            }
        }
    }
    Ok(())
}

/// An answer of a model API without streaming, of this size in bytes.
fn answer(size: usize) -> String {
    let mut body = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1732400000,"model":"m","usage":{"total_tokens":9},"choices":[{"index":0,"message":{"role":"assistant","content":"#.to_owned();
    body.push('"');
    let end = r#""},"finish_reason":"stop"}]}"#;
    let words = "Some words of an answer, as a model writes them. ";
    while body.len() + words.len() + end.len() <= size {
        body.push_str(words);
    }
    let rest = size.saturating_sub(body.len() + end.len());
    body.push_str(&"z".repeat(rest));
    body + end
}

fn chunk(data: &str) -> Vec<u8> {
    format!("{:x}\r\n{data}\r\n", data.len()).into_bytes()
}

/// An event of 250 bytes with the time of its send.
fn stamped() -> String {
    format!("data: {:019} {}\n\n", now(), "z".repeat(222))
}

/// The system time in nanoseconds, which all processes share.
pub fn now() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_nanos())
}
