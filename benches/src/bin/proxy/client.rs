//! The clients: they send requests to a proxy and measure its cost.

use std::{
    error::Error,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use memchr::memmem;
use tower_sse_proxy_benches::rounds::median;

use crate::{
    proxies::{CPU, SESSION},
    upstream::now,
};

/// The measured cost of a proxy, and a second value such as latency or throughput.
#[derive(Clone, Copy, Debug)]
pub struct Result {
    pub cost: f64,
    pub other: f64,
}

type Measured = std::result::Result<Result, Box<dyn Error>>;

/// Long enough for a thousand events, and short enough that the load of the machine is the same for all proxies.
const ROUND: Duration = Duration::from_millis(600);
const WARM_UP: Duration = Duration::from_millis(150);

/// Reads one stream as fast as possible.
pub fn burst(proxy: SocketAddr, path: &str, size: usize) -> Measured {
    let mut stream = ask(proxy, path)?;
    let mut buffer = vec![0; 1 << 20];
    let (mut bytes, mut cpu_before) = (0, 0.0);
    let mut begun = Instant::now();
    let mut warm = false;
    while !warm || begun.elapsed() < ROUND {
        bytes += match stream.read(&mut buffer)? {
            0 => return Err("stream ended".into()),
            read => read,
        };
        if !warm && begun.elapsed() > WARM_UP {
            (warm, bytes, cpu_before, begun) = (true, 0, cpu(proxy)?, Instant::now());
        }
    }
    // The chunk framing is less than 1 % of the bytes.
    let events = bytes as f64 / size as f64;
    Ok(Result {
        cost: (cpu(proxy)? - cpu_before) / 1e3 / events,
        other: events / begun.elapsed().as_secs_f64(),
    })
}

#[derive(Clone, Copy, Debug)]
pub struct Paced {
    pub connections: usize,
    pub rate: usize,
}

/// Reads many connections, each with a fixed rate of events.
pub fn paced(proxy: SocketAddr, paced: Paced) -> Measured {
    let path = format!("/paced/{}", paced.rate);
    let streams = (0..paced.connections).map(|_| ask(proxy, &path));
    let mut streams: Vec<_> = streams.collect::<std::result::Result<_, _>>()?;
    for stream in &streams {
        stream.set_nonblocking(true)?;
    }
    let mut buffer = vec![0; 64 << 10];
    let mut late = Vec::new();
    let (mut begun, mut cpu_before) = (Instant::now(), 0.0);
    let mut warm = false;
    while !warm || begun.elapsed() < 2 * ROUND {
        if !warm && begun.elapsed() > ROUND {
            late.clear();
            (warm, cpu_before, begun) = (true, cpu(proxy)?, Instant::now());
        }
        for stream in &mut streams {
            let Ok(read) = stream.read(&mut buffer) else {
                continue;
            };
            for at in memmem::find_iter(&buffer[..read], b"data: ") {
                let sent = buffer
                    .get(at + 6..at + 25)
                    .and_then(|sent| str::from_utf8(sent).ok());
                if let Some(Ok(sent)) = sent.map(str::parse::<u128>) {
                    late.push(now().saturating_sub(sent) as f64 / 1e3);
                }
            }
        }
    }
    Ok(Result {
        cost: (cpu(proxy)? - cpu_before) / 1e3 / late.len() as f64,
        other: median(&mut late),
    })
}

/// Opens new connections and reads up to the first event of each.
pub fn connect(proxy: SocketAddr, times: usize) -> Measured {
    requests(proxy, times, || {
        let mut stream = ask(proxy, "/once")?;
        until(&mut stream, b"\n\n\r\n").map(drop)
    })
}

/// Sends requests for responses that are no event streams, on one connection.
pub fn plain(proxy: SocketAddr, times: usize) -> Measured {
    let mut stream = connection(proxy)?;
    requests(proxy, times, || {
        write!(stream, "GET /plain HTTP/1.1\r\nhost: bench\r\n\r\n")?;
        until(&mut stream, &[b'x'; 1024]).map(drop)
    })
}

/// As [`plain`], with requests of one session.
pub fn session(proxy: SocketAddr, times: usize) -> Measured {
    const CREDENTIALS: &str = "host: bench\r\nauthorization: Bearer 0123456789abcdef";
    let mut stream = connection(proxy)?;
    write!(stream, "GET /plain HTTP/1.1\r\n{CREDENTIALS}\r\n\r\n")?;
    let opened = String::from_utf8(until(&mut stream, &[b'x'; 1024])?)?;
    let id = opened
        .lines()
        .find_map(|line| line.strip_prefix(SESSION)?.strip_prefix(": "))
        .ok_or("response has no session id")?;
    requests(proxy, times, || {
        write!(
            stream,
            "GET /plain HTTP/1.1\r\n{CREDENTIALS}\r\n{SESSION}: {id}\r\n\r\n"
        )?;
        until(&mut stream, &[b'x'; 1024]).map(drop)
    })
}

/// Sends requests for a JSON body of this size, on one connection.
pub fn json(proxy: SocketAddr, size: usize, times: usize) -> Measured {
    let mut stream = connection(proxy)?;
    let mut buffer = vec![0; 1 << 20];
    requests(proxy, times, || {
        write!(stream, "GET /json/{size} HTTP/1.1\r\nhost: bench\r\n\r\n")?;
        let mut got = Vec::with_capacity(1024);
        let head = loop {
            let read = stream.read(&mut buffer)?;
            got.extend_from_slice(&buffer[..read]);
            if let Some(end) = memmem::find(&got, b"\r\n\r\n") {
                break end + 4;
            }
            if read == 0 {
                return Err("cut".into());
            }
        };
        let mut left = size.saturating_sub(got.len() - head);
        while left > 0 {
            match stream.read(&mut buffer)? {
                0 => return Err("cut".into()),
                read => left = left.saturating_sub(read),
            }
        }
        Ok(())
    })
}

fn requests(
    proxy: SocketAddr,
    times: usize,
    mut request: impl FnMut() -> std::result::Result<(), Box<dyn Error>>,
) -> Measured {
    let mut took = Vec::with_capacity(times);
    let cpu_before = cpu(proxy)?;
    for _ in 0..times {
        let begun = Instant::now();
        request()?;
        took.push(begun.elapsed().as_nanos() as f64 / 1e3);
    }
    Ok(Result {
        cost: (cpu(proxy)? - cpu_before) / 1e3 / times as f64,
        other: median(&mut took),
    })
}

/// Measures the memory of streams that have sent one event and are silent, in KiB per stream.
pub fn idle(proxy: SocketAddr, pid: u32, count: usize) -> Measured {
    let open = |count: usize| -> std::result::Result<Vec<TcpStream>, Box<dyn Error>> {
        let mut streams = Vec::new();
        for _ in 0..count {
            let mut stream = ask(proxy, "/once")?;
            until(&mut stream, b"\n\n\r\n")?;
            streams.push(stream);
        }
        Ok(streams)
    };
    // Warm-up: allocates the memory that all streams share.
    let _first = open(100)?;
    let before = anonymous_kib(pid)?;
    let _streams = open(count)?;
    Ok(Result {
        cost: (anonymous_kib(pid)? - before) / count as f64,
        other: f64::NAN,
    })
}

fn anonymous_kib(pid: u32) -> std::result::Result<f64, Box<dyn Error>> {
    let memory = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = memory
        .lines()
        .find_map(|line| line.strip_prefix("Anonymous:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.ok_or("no line Anonymous in smaps_rollup")?.parse()?)
}

fn cpu(proxy: SocketAddr) -> std::result::Result<f64, Box<dyn Error>> {
    let mut stream = connection(proxy)?;
    write!(
        stream,
        "GET {CPU} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.rsplit("\r\n\r\n").next().unwrap_or_default();
    Ok(body.trim().parse()?)
}

fn ask(proxy: SocketAddr, path: &str) -> std::result::Result<TcpStream, Box<dyn Error>> {
    let mut stream = connection(proxy)?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n")?;
    Ok(stream)
}

fn connection(proxy: SocketAddr) -> std::result::Result<TcpStream, Box<dyn Error>> {
    let stream = TcpStream::connect(proxy)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn until(stream: &mut TcpStream, end: &[u8]) -> std::result::Result<Vec<u8>, Box<dyn Error>> {
    let mut got = Vec::new();
    let mut buffer = [0; 4096];
    while !got.ends_with(end) {
        match stream.read(&mut buffer)? {
            0 => return Err("cut".into()),
            read => got.extend_from_slice(&buffer[..read]),
        }
    }
    Ok(got)
}
