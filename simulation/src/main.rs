//! Runs seeds, and prints the violated expectations: `cargo run --release -- SEEDS [FIRST]`.

use std::{
    collections::HashMap,
    env, process,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tower_sse_proxy_simulation::run;

const COMMAND: &str = "cargo run --release --manifest-path simulation/Cargo.toml --";

/// A seed that takes longer hangs.
const STUCK: Duration = Duration::from_secs(120);

fn main() {
    let mut numbers = env::args().skip(1).map(|arg| arg.parse::<u64>().ok());
    let (seeds, first) = match (numbers.next(), numbers.next()) {
        (Some(Some(seeds)), None) => (seeds, 1),
        (Some(Some(seeds)), Some(Some(first))) => (seeds, first),
        _ => {
            eprintln!("usage: cargo run --release -- SEEDS [FIRST]");
            process::exit(2);
        }
    };
    let begun = Instant::now();
    let next = AtomicU64::new(first);
    // A hanging seed is reported by `watch`, because its own thread cannot.
    let running = Mutex::new(HashMap::new());
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut all = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds {
                return all;
            }
            running.lock().unwrap().insert(seed, Instant::now());
            // A single seed prints what happens.
            let outcome = run(seed, seeds == 1);
            if !outcome.faults.is_empty() {
                println!("seed {seed}:");
                // Later faults are mostly consequences of the first ones.
                outcome
                    .faults
                    .iter()
                    .take(3)
                    .for_each(|fault| println!("    {fault}"));
                println!("    run again: {COMMAND} 1 {seed}");
            }
            running.lock().unwrap().remove(&seed);
            all.push(outcome);
        }
    };
    let done = AtomicBool::new(false);
    let watch = || {
        while !done.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(100));
            for (seed, since) in &*running.lock().unwrap() {
                if since.elapsed() > STUCK {
                    println!("seed {seed}:\n    hangs\n    run again: {COMMAND} 1 {seed}");
                    process::exit(1);
                }
            }
        }
    };
    let all: Vec<_> = thread::scope(|scope| {
        scope.spawn(watch);
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let all = threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("no panic"));
        let all = all.collect();
        done.store(true, Ordering::Relaxed);
        all
    });
    let failed = all
        .iter()
        .filter(|outcome| !outcome.faults.is_empty())
        .count();
    let sum = |of: fn(&tower_sse_proxy_simulation::world::Counts) -> u64| -> u64 {
        all.iter().map(|outcome| of(&outcome.counts)).sum()
    };
    let hours: f64 = all
        .iter()
        .map(|outcome| outcome.lasted.as_secs_f64() / 3600.0)
        .sum();
    println!(
        "{} requests of clients, {} of them resumes; {} requests to the upstream, {} of them resumes; {} events\n\
         {} connections broke, {} responses of the upstream were cut, {} ended; {} restarts, {} crashes\n\
         gaps: {} evicted, {} unknown, {} failed, {} by status; {} complete streams; {} second connections, {} requests with foreign ids",
        sum(|counts| counts.requests),
        sum(|counts| counts.resumed),
        sum(|counts| counts.upstream_requests),
        sum(|counts| counts.upstream_resumes),
        sum(|counts| counts.events),
        sum(|counts| counts.breaks),
        sum(|counts| counts.upstream_cuts),
        sum(|counts| counts.clean_ends),
        sum(|counts| counts.restarts),
        sum(|counts| counts.crashes),
        sum(|counts| counts.evicted),
        sum(|counts| counts.unknown),
        sum(|counts| counts.failed),
        sum(|counts| counts.statuses),
        sum(|counts| counts.done),
        sum(|counts| counts.mirrors),
        sum(|counts| counts.thieves),
    );
    println!(
        "{seeds} seeds, {failed} failed; {hours:.0} simulated hours in {:.0} s",
        begun.elapsed().as_secs_f64()
    );
    process::exit(i32::from(failed > 0));
}
