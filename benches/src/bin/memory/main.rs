//! Measures the memory of a proxy: `VmRSS` of its process, compared with the bytes that the layer counts and with its limit.
//!
//! ```sh
//! cargo run --release --manifest-path benches/Cargo.toml --bin memory
//! cargo run --release --manifest-path benches/Cargo.toml --bin memory -- --gateway target/release/examples/gateway
//! ```
//!
//! The upstream and the proxy are separate processes; the clients run in this one. Each row of the table starts a new proxy, opens
//! and closes some streams as a warm-up, and reads the RSS of the proxy (the baseline). Then it opens the streams of the row:
//!
//! * `ended`: the upstream ends each stream, and the client reads to the end;
//! * `detached`: the upstream keeps the stream open, and the client disconnects;
//! * `live`: the upstream keeps the stream open, and the client stays connected after it has read all events.
//!
//! `RSS` is the growth of the process since the baseline. The proxies use the system allocator, as most users do, and only the
//! allocator returns memory to the system. With `--trim`, the proxy calls `malloc_trim` before the RSS is read: the difference is
//! freed memory that glibc had not returned.
//!
//! The last part measures 10,000 idle streams: each has sent one event and is silent. It prints the memory of a stream, the difference
//! to a bare hyper proxy, and the CPU time of the proxy during half a minute, in percent of one core. The layer and the gateway
//! send a keep-alive comment every 15 s. If the limit of open files is too low, the number of streams is smaller.

mod client;
mod proxies;
mod upstream;

use std::{
    env,
    error::Error,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const MIB: f64 = (1 << 20) as f64;

/// The state of a row's streams when the RSS is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Ended,
    Detached,
    Live,
}

/// A row of the table: the number of streams, the events of each, the bytes of an event, and the limit for all streams in MiB.
struct Row {
    fate: Fate,
    streams: usize,
    events: usize,
    size: usize,
    bound: usize,
    /// The upstream writes each event separately and pauses after it.
    paced: bool,
}

const fn row(fate: Fate, streams: usize, events: usize, size: usize, bound: usize) -> Row {
    Row {
        fate,
        streams,
        events,
        size,
        bound,
        paced: false,
    }
}

const fn paced(row: Row) -> Row {
    Row { paced: true, ..row }
}

const ROWS: [Row; 15] = [
    // Below the limit: the cost of a stream in addition to its bytes.
    row(Fate::Ended, 5000, 1, 200, 256),
    row(Fate::Ended, 2000, 10, 250, 256),
    paced(row(Fate::Ended, 2000, 100, 30, 256)),
    paced(row(Fate::Ended, 2000, 100, 250, 256)),
    row(Fate::Detached, 2000, 1, 200, 256),
    paced(row(Fate::Detached, 2000, 100, 250, 256)),
    row(Fate::Live, 2000, 1, 200, 256),
    // Above the limit.
    row(Fate::Ended, 20_000, 1, 200, 16),
    row(Fate::Ended, 10_000, 10, 250, 16),
    paced(row(Fate::Ended, 5000, 100, 250, 64)),
    row(Fate::Ended, 1000, 4000, 250, 64),
    row(Fate::Ended, 1000, 16, 65_536, 64),
    row(Fate::Detached, 4000, 1, 200, 16),
    row(Fate::Detached, 1000, 4000, 250, 64),
    row(Fate::Detached, 1000, 16, 65_536, 64),
];

/// The command line options.
#[derive(Clone, Debug, Default)]
struct Options {
    gateway: Option<String>,
    trim: bool,
    /// Measures only rows and proxies with this text in their name.
    only: Option<String>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["upstream"] => return upstream::run(),
        ["proxy", name, upstream, bound] => {
            return proxies::run(name, upstream.parse()?, bound.parse()?);
        }
        _ => {}
    }
    let mut options = Options::default();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--gateway" => options.gateway = Some(args.next().ok_or("--gateway PATH")?),
            "--trim" => options.trim = true,
            "--only" => options.only = Some(args.next().ok_or("--only TEXT")?),
            _ => return Err("usage: memory [--gateway PATH] [--trim] [--only TEXT]".into()),
        }
    }
    compare(&options)
}

fn compare(options: &Options) -> Result<(), Box<dyn Error>> {
    let upstream = Process::start(&["upstream"])?;
    let wanted = |name: &str| options.only.as_ref().is_none_or(|only| name.contains(only));
    println!(
        "{:9} {:9} {:>8} {:>14} {:>7} {:>9} {:>9} {:>9} {:>8} {:>9} {:>10}",
        "proxy",
        "streams",
        "number",
        "events",
        "bound",
        "baseline",
        "RSS",
        "counted",
        "of count",
        "of bound",
        "KiB each"
    );
    let proxies = [Some("layer"), options.gateway.as_ref().map(|_| "gateway")];
    for proxy in proxies.into_iter().flatten() {
        for row in &ROWS {
            let fate = format!("{:?}", row.fate).to_lowercase();
            if wanted(&format!("{proxy} {fate}")) {
                measure(proxy, &fate, row, &upstream, options)?;
            }
        }
    }
    println!("\nidle streams: number, KiB each, KiB more than bare, CPU");
    let mut bare = 0.0;
    let names = ["bare", "plain", "layer"];
    let gateways = ["gateway /s", "gateway /r"];
    let gateways = gateways.iter().filter(|_| options.gateway.is_some());
    for name in names.iter().chain(gateways) {
        if name == &"bare" || wanted(&format!("idle {name}")) {
            let streams = idle_streams(name);
            let (each, cpu) = idle(name, streams, &upstream, options)?;
            if name == &"bare" {
                bare = each;
            }
            println!(
                "{name:12} {streams:6} {each:6.1}  {:+.1}  {cpu:.2} %",
                each - bare
            );
        }
    }
    Ok(())
}

fn measure(
    name: &str,
    fate: &str,
    row: &Row,
    upstream: &Process,
    options: &Options,
) -> Result<(), Box<dyn Error>> {
    let proxy = Process::proxy(name, upstream.addr, row.bound << 20, options)?;
    // The gateway records only streams of paths that begin with /r. The layer records all.
    let kind = if row.paced { "paced" } else { "burst" };
    let end = if row.fate == Fate::Ended {
        "end"
    } else {
        "stay"
    };
    let path = |n: usize| format!("/r/{kind}/{}/{}/{end}/{n}", row.size, row.events);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let runtime = &runtime;
    let open = |from: usize, number: usize| {
        let stay = row.fate == Fate::Live;
        runtime.block_on(client::open(
            proxy.addr, from, number, path, row.events, stay,
        ))
    };
    // Warm-up: allocates the memory that all streams share.
    drop(open(usize::MAX / 2, 20)?);
    let baseline = proxy.rss(options)?;
    let clients = open(0, row.streams)?;
    let rss = proxy.rss(options)? - baseline;
    let counted = proxy.counted();
    drop(clients);
    let bound = row.bound as f64 * MIB;
    let part = |of: Option<f64>| of.map_or("-".into(), |of| format!("{:.2}", rss / of));
    println!(
        "{name:9} {fate:9} {:>8} {:>14} {:>7} {:>9.1} {:>9.1} {:>9} {:>8} {:>9.2} {:>10.2}",
        row.streams,
        format!(
            "{} x {} B{}",
            row.events,
            row.size,
            if row.paced { " p" } else { "" }
        ),
        row.bound,
        baseline / MIB,
        rss / MIB,
        counted.map_or("-".into(), |bytes| format!("{:.1}", bytes / MIB)),
        part(counted),
        rss / bound,
        rss / 1024.0 / row.streams as f64,
    );
    Ok(())
}

/// The number of idle streams: 10,000, or fewer if the process may not open enough file descriptors. A proxy needs two for each stream,
/// and the gateway three, because it watches the sockets of its clients.
fn idle_streams(name: &str) -> usize {
    let each = if name.starts_with("gateway") { 3 } else { 2 };
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let limit = line.and_then(|line| line.split_whitespace().nth(3)?.parse().ok());
    limit.map_or(10_000, |limit: usize| {
        10_000.min(limit.saturating_sub(500) / each)
    })
}

/// Measures many idle streams: the memory of each, in KiB, and the CPU time of all, in percent of one core.
fn idle(
    name: &str,
    streams: usize,
    upstream: &Process,
    options: &Options,
) -> Result<(f64, f64), Box<dyn Error>> {
    const PAUSE: Duration = Duration::from_secs(30);
    let (proxy, prefix) = name.split_once(' ').unwrap_or((name, "/s"));
    let proxy = Process::proxy(proxy, upstream.addr, 256 << 20, options)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let path = |n: usize| format!("{prefix}/burst/250/1/stay/{n}");
    let open =
        |from, number| runtime.block_on(client::open(proxy.addr, from, number, path, 1, true));
    let _first = open(usize::MAX / 2, 100)?;
    let before = proxy.rss(options)?;
    let _streams = open(0, streams)?;
    let each = (proxy.rss(options)? - before) / 1024.0 / streams as f64;
    let before = proxy.cpu()?;
    thread::sleep(PAUSE);
    let cpu = (proxy.cpu()? - before).as_secs_f64() / PAUSE.as_secs_f64();
    Ok((each, cpu * 100.0))
}

/// A child process: the upstream or a proxy. It is killed when the value is dropped.
struct Process {
    child: Child,
    addr: SocketAddr,
}

impl Process {
    /// Starts this program with other arguments. It prints its address first.
    fn start(args: &[&str]) -> Result<Self, Box<dyn Error>> {
        let mut child = Command::new(env::current_exe()?)
            .args(args)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let out = child.stdout.take().ok_or("child process has no stdout")?;
        BufReader::new(out).read_line(&mut line)?;
        let addr = line.trim().parse()?;
        Ok(Self { child, addr })
    }

    fn proxy(
        name: &str,
        upstream: SocketAddr,
        bound: usize,
        options: &Options,
    ) -> Result<Self, Box<dyn Error>> {
        if name != "gateway" {
            return Self::start(&["proxy", name, &upstream.to_string(), &bound.to_string()]);
        }
        let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let path = options
            .gateway
            .as_deref()
            .ok_or("missing option --gateway")?;
        let child = Command::new(path)
            .env("SSEP_LISTEN", free.to_string())
            .env("SSEP_UPSTREAM", format!("http://{upstream}"))
            .env("SSEP_LOG_BYTES", bound.to_string())
            .env("SSEP_DETACH_MS", "3600000")
            .env("SSEP_KEEPALIVE_MS", "15000")
            .env("SSEP_LOG", "error")
            .spawn()?;
        let gateway = Self { child, addr: free };
        let begun = Instant::now();
        while std::net::TcpStream::connect(free).is_err() {
            if begun.elapsed() > Duration::from_secs(10) {
                return Err("gateway did not listen within 10 s".into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(gateway)
    }

    /// The resident set size after a pause, in bytes.
    fn rss(&self, options: &Options) -> Result<f64, Box<dyn Error>> {
        // Gives tasks and timers time to end.
        thread::sleep(Duration::from_millis(500));
        if options.trim {
            let _ = client::ask(self.addr, proxies::TRIM);
        }
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        Ok(kib.ok_or("no VmRSS in /proc/PID/status")?.parse::<f64>()? * 1024.0)
    }

    /// The CPU time that the process has used.
    fn cpu(&self) -> Result<Duration, Box<dyn Error>> {
        let mut total = 0;
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let stat = std::fs::read_to_string(thread?.path().join("schedstat"))?;
            let nanos = stat.split_whitespace().next();
            total += nanos.ok_or("empty schedstat")?.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(total))
    }

    /// The bytes that the layer counts, or `None` if the proxy does not report them.
    fn counted(&self) -> Option<f64> {
        client::ask(self.addr, proxies::COUNTED).ok()?.parse().ok()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The process may have exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
