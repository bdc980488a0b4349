//! What it costs to put a stream through a proxy: a bare one of hyper, one with the layer that reads every event, one with
//! the layer that rewrites every event, and the way it is often done (eventsource-stream and axum's `Sse`).
//!
//! ```sh
//! cargo run --release --manifest-path benches/Cargo.toml --bin proxy
//! ```
//!
//! Upstream and proxies are processes of their own. The proxies take turns in short rounds, and each ratio is taken within
//! a round; what is printed are the quartiles. CPU is that of the proxy, user and system.
//!
//! # Settings of the layer that this bench decides
//!
//! * `MAX_BYTES` of a `FrameBuffer`, by T4: with 64 KiB a stream of large events costs 1.5 times the CPU of the bare proxy,
//!   because each frame wakes the reader. With 256 KiB it costs about the same as the bare proxy.
//! * `MIN_BLOCK_COST` of a `FrameBuffer`, by T1 and T2: small events count for 512 bytes, so that a frame of them has about half of
//!   `MAX_BYTES`. With larger frames the data has left the nearest cache of the processor before the server writes it.
//! * The copy of a `FrameBuffer`, by T1: reusing the rest of its allocation makes bursts 7 % cheaper, but an idle stream would keep
//!   up to 256 KiB. So each frame gets an allocation of its own.
//! * `BLOCKS_PER_CLOCK_READ` of a `WorkBudget`, by T2: reading the clock for each block costs as much as the block.
//! * The order of the fields of `Stream`, `Pull` and `Pipeline`, and `inline(never)` on their poll functions, by the paced
//!   streams: when a single event arrives, the memory and the code of its stream are out of the caches, and loading them is most
//!   of the cost of the event. The order of the fields alone lowered that cost from 1.10 to 1.05 times the cost of the bare
//!   proxy.
//! * `FlushPolicy`: bursts (T1) need the additional polls of the source, and paced streams need to skip them.

mod client;
mod proxies;
mod upstream;

use std::{
    env,
    error::Error,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use client::{Paced, Result as Measured};
use tower_sse_proxy_benches::rounds::quantile;

/// What is compared; the first is what the others are compared with.
const PROXIES: [&str; 4] = ["bare", "reading", "rewriting", "reparse"];

/// Of these too, with one that keeps streams and one on whose streams many clients ride.
const KEEPING: [&str; 3] = ["bare", "kept", "shared"];

/// Of these too, for requests that belong to a session; which store the layer has.
const MAPPING: [&str; 2] = ["memory", "sealed"];

/// Name, path of the upstream, bytes of an event.
const BURSTS: [(&str, &str, usize); 3] = [
    (
        "T1: 250 B, a chunk each, 64 a write",
        "/burst/250/64/1",
        250,
    ),
    ("T2: 250 B, 64 a chunk", "/burst/250/64/64", 250),
    ("T4: 64 KiB, a chunk each", "/burst/65536/1/1", 65536),
];

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["upstream"] => upstream::run()?,
        [proxy, upstream] => proxies::run(proxy, upstream.parse()?)?,
        [] => compare(15)?,
        [rounds] => compare(rounds.parse()?)?,
        _ => return Err("usage: proxy [ROUNDS]".into()),
    }
    Ok(())
}

fn compare(rounds: usize) -> Result<(), Box<dyn Error>> {
    let upstream = Process::start(&["upstream"])?;
    let to = upstream.addr.to_string();
    let start = |name: &&'static str| Process::start(&[name, &to]);
    let proxies: Vec<_> = PROXIES.iter().map(start).collect::<Result<_, _>>()?;

    for (name, path, size) in BURSTS {
        println!("{name}");
        let measure = |proxy: &Process| client::burst(proxy.addr, path, size);
        report(&proxies, rounds, measure, "CPU us an event", "events/s")?;
    }
    println!("paced: 250 B, 100 connections of 50 events/s");
    let paced = |proxy: &Process| {
        client::paced(
            proxy.addr,
            Paced {
                connections: 100,
                rate: 50,
            },
        )
    };
    report(&proxies, rounds, paced, "CPU us an event", "p50 us")?;
    let keeping: Vec<_> = KEEPING.iter().map(start).collect::<Result<_, _>>()?;
    println!("the same, and streams are kept");
    report(&keeping[..2], rounds, paced, "CPU us an event", "p50 us")?;
    println!("{}, and streams are kept", BURSTS[1].0);
    let burst = |proxy: &Process| client::burst(proxy.addr, BURSTS[1].1, BURSTS[1].2);
    report(&keeping[..2], rounds, burst, "CPU us an event", "events/s")?;
    println!("1,000 connections of 5 events/s, each with a stream of its own, or all on one");
    let fan_out = |proxy: &Process| {
        client::paced(
            proxy.addr,
            Paced {
                connections: 1000,
                rate: 5,
            },
        )
    };
    let [bare, _, shared] = <[Process; 3]>::try_from(keeping).map_err(|_| "three proxies")?;
    report(
        &[bare, shared],
        rounds,
        fan_out,
        "CPU us an event",
        "p50 us",
    )?;
    println!("connect and first event");
    let connect = |proxy: &Process| client::connect(proxy.addr, 200);
    report(&proxies, rounds, connect, "CPU us a request", "p50 us")?;
    println!("an answer that is no event stream, 1 KiB");
    let plain = |proxy: &Process| client::plain(proxy.addr, 1000);
    // The last one makes an event stream of everything.
    report(&proxies[..3], rounds, plain, "CPU us a request", "p50 us")?;
    println!("the same in a session");
    let names = [&PROXIES[..1], &MAPPING].concat();
    let mapping: Vec<_> = names.iter().map(start).collect::<Result<_, _>>()?;
    let session = |proxy: &Process| client::session(proxy.addr, 1000);
    report(&mapping, rounds, session, "CPU us a request", "p50 us")?;
    println!("1,000 idle streams");
    let idle = |proxy: &Process| client::idle(proxy.addr, proxy.child.id(), 1000);
    report(&proxies, 1, idle, "KiB a stream", "-")?;
    Ok(())
}

/// Measures all proxies in turn, round by round.
fn report(
    proxies: &[Process],
    rounds: usize,
    measure: impl Fn(&Process) -> Result<Measured, Box<dyn Error>>,
    cost: &str,
    other: &str,
) -> Result<(), Box<dyn Error>> {
    let mut all = vec![Vec::new(); proxies.len()];
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..proxies.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for n in order {
            all[n].push(measure(&proxies[n])?);
        }
    }
    println!(
        "  {:10} {cost:>18} {:>30} {other:>12}",
        "", "of the bare one [quartiles]"
    );
    for (n, Process { name, .. }) in proxies.iter().enumerate() {
        let mut costs: Vec<f64> = all[n].iter().map(|it| it.cost).collect();
        let mut others: Vec<f64> = all[n].iter().map(|it| it.other).collect();
        let pairs = all[n].iter().zip(&all[0]);
        let mut ratios: Vec<f64> = pairs.map(|(it, bare)| it.cost / bare.cost).collect();
        let quartiles = [0.5, 0.25, 0.75].map(|part| quantile(&mut ratios, part));
        println!(
            "  {name:10} {:>18.3} {:>30} {:>12.0}",
            quantile(&mut costs, 0.5),
            format!(
                "{:.2} [{:.2} .. {:.2}]",
                quartiles[0], quartiles[1], quartiles[2]
            ),
            quantile(&mut others, 0.5),
        );
    }
    Ok(())
}

/// This program in another role. It says where it listens, and ends with this process.
struct Process {
    name: String,
    child: Child,
    addr: SocketAddr,
}

impl Process {
    fn start(role: &[&str]) -> Result<Self, Box<dyn Error>> {
        let mut child = Command::new(env::current_exe()?)
            .args(role)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let out = child.stdout.take().ok_or("no output")?;
        BufReader::new(out).read_line(&mut line)?;
        let addr = line.trim().parse()?;
        let name = role[0].to_owned();
        Ok(Self { name, child, addr })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
