//! Measures the cost of a stream in a proxy. The proxies are: a bare hyper proxy, one with the layer that reads every event, one that
//! also has an observer, one with the layer that rewrites every event, and one that parses and writes events with eventsource-stream and
//! axum's `Sse`. With `json`, it measures the cost of JSON bodies that a layer inspects.
//!
//! ```sh
//! cargo run --release --manifest-path benches/Cargo.toml --bin proxy
//! cargo run --release --manifest-path benches/Cargo.toml --bin proxy json
//! ```
//!
//! The upstream and the proxies are separate processes. The proxies run alternately in short rounds. Each ratio compares two proxies
//! of the same round; the output shows the quartiles. CPU is the user and system time of the proxy.

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

/// The compared proxies. The first one is the baseline of the ratios.
const PROXIES: [&str; 5] = ["bare", "reading", "observed", "rewriting", "reparse"];

/// The baseline, a proxy that records streams, and one with a recorded stream that many clients share.
const RECORDING: [&str; 3] = ["bare", "recorded", "shared"];

/// The proxies for requests of a session, by the store of the layer.
const MAPPING: [&str; 2] = ["memory", "sealed"];

/// The baseline, and proxies that inspect JSON bodies: one reads them, one rewrites them, and two have a text window that masks a
/// phrase, by patterns and by a function.
const INSPECTING: [&str; 5] = [
    "bare",
    "json-reading",
    "json-rewriting",
    "json-patterns",
    "json-judge",
];

/// Bytes of a JSON body, and requests in a round.
const BODIES: [(usize, usize); 3] = [(1 << 10, 1000), (64 << 10, 200), (1 << 20, 20)];

/// Name, path at the upstream, bytes of an event.
const BURSTS: [(&str, &str, usize); 3] = [
    (
        "T1: 250 B, one event per chunk, 64 events per write",
        "/burst/250/64/1",
        250,
    ),
    ("T2: 250 B, 64 events per chunk", "/burst/250/64/64", 250),
    ("T4: 64 KiB, one event per chunk", "/burst/65536/1/1", 65536),
];

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["upstream"] => upstream::run()?,
        ["json"] => compare_json(15)?,
        ["json", rounds] => compare_json(rounds.parse()?)?,
        [proxy, upstream] => proxies::run(proxy, upstream.parse()?)?,
        [] => compare(15)?,
        [rounds] => compare(rounds.parse()?)?,
        _ => return Err("usage: proxy [json] [ROUNDS]".into()),
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
        report(&proxies, rounds, measure, "CPU us per event", "events/s")?;
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
    report(&proxies, rounds, paced, "CPU us per event", "p50 us")?;
    let recording: Vec<_> = RECORDING.iter().map(start).collect::<Result<_, _>>()?;
    println!("the same, recorded");
    report(&recording[..2], rounds, paced, "CPU us per event", "p50 us")?;
    println!("{}, recorded", BURSTS[1].0);
    let burst = |proxy: &Process| client::burst(proxy.addr, BURSTS[1].1, BURSTS[1].2);
    report(
        &recording[..2],
        rounds,
        burst,
        "CPU us per event",
        "events/s",
    )?;
    println!("1,000 connections of 5 events/s, each with its own stream, or all sharing one");
    let fan_out = |proxy: &Process| {
        client::paced(
            proxy.addr,
            Paced {
                connections: 1000,
                rate: 5,
            },
        )
    };
    let [bare, _, shared] =
        <[Process; 3]>::try_from(recording).map_err(|_| "expected three proxies")?;
    report(
        &[bare, shared],
        rounds,
        fan_out,
        "CPU us per event",
        "p50 us",
    )?;
    println!("connect and first event");
    let connect = |proxy: &Process| client::connect(proxy.addr, 200);
    report(&proxies, rounds, connect, "CPU us per request", "p50 us")?;
    println!("response that is no event stream, 1 KiB");
    let plain = |proxy: &Process| client::plain(proxy.addr, 1000);
    // Without the last proxy, which answers everything with an event stream.
    report(&proxies[..4], rounds, plain, "CPU us per request", "p50 us")?;
    println!("the same in a session");
    let names = [&PROXIES[..1], &MAPPING].concat();
    let mapping: Vec<_> = names.iter().map(start).collect::<Result<_, _>>()?;
    let session = |proxy: &Process| client::session(proxy.addr, 1000);
    report(&mapping, rounds, session, "CPU us per request", "p50 us")?;
    println!("1,000 idle streams");
    let idle = |proxy: &Process| client::idle(proxy.addr, proxy.child.id(), 1000);
    report(&proxies, 1, idle, "KiB per stream", "-")?;
    Ok(())
}

/// Compares proxies that inspect JSON bodies.
fn compare_json(rounds: usize) -> Result<(), Box<dyn Error>> {
    let upstream = Process::start(&["upstream"])?;
    let to = upstream.addr.to_string();
    let start = |name: &&'static str| Process::start(&[name, &to]);
    let proxies: Vec<_> = INSPECTING.iter().map(start).collect::<Result<_, _>>()?;
    for (size, requests) in BODIES {
        println!("JSON body of {} KiB", size >> 10);
        let body = |proxy: &Process| client::json(proxy.addr, size, requests);
        report(&proxies, rounds, body, "CPU us per request", "p50 us")?;
    }
    Ok(())
}

/// Measures all proxies alternately, round by round, and prints the results.
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
        "", "ratio to bare [quartiles]"
    );
    for (n, Process { name, .. }) in proxies.iter().enumerate() {
        let mut costs: Vec<f64> = all[n].iter().map(|result| result.cost).collect();
        let mut others: Vec<f64> = all[n].iter().map(|result| result.other).collect();
        let pairs = all[n].iter().zip(&all[0]);
        let mut ratios: Vec<f64> = pairs
            .map(|(result, bare)| result.cost / bare.cost)
            .collect();
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

/// A child process with this program as the upstream or a proxy. It is killed when the value is dropped.
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
        let out = child.stdout.take().ok_or("child process has no stdout")?;
        BufReader::new(out).read_line(&mut line)?;
        let addr = line.trim().parse()?;
        let name = role[0].to_owned();
        Ok(Self { name, child, addr })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The process may have exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
