//! Runs seeds: `cargo run --release -- SEEDS [FIRST]`.

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

const AGAIN: &str = "cargo run --release --manifest-path simulation/Cargo.toml --";

/// So long no seed takes.
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
    // A seed in which time stands still would be waited for for ever.
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
            // Of one seed, all that happens is told.
            let outcome = run(seed, seeds == 1);
            if !outcome.faults.is_empty() {
                println!("seed {seed}:");
                // What comes after the first ones is mostly of their making.
                outcome
                    .faults
                    .iter()
                    .take(3)
                    .for_each(|fault| println!("    {fault}"));
                println!("    again: {AGAIN} 1 {seed}");
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
                    println!(
                        "seed {seed}:\n    does not come to its end\n    again: {AGAIN} 1 {seed}"
                    );
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
        "{} requests, {} of them to go on; the upstream was asked {} times, {} of them to go on; {} events\n\
         {} connections broke, {} answers of the upstream were cut, {} ended; {} restarts, {} crashes\n\
         gaps: {} evicted, {} unknown, {} failed, {} by status; {} streams read to the end; {} second readers, {} thieves",
        sum(|counts| counts.requests),
        sum(|counts| counts.resumed),
        sum(|counts| counts.asked),
        sum(|counts| counts.asked_to_go_on),
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
        "{seeds} seeds, {failed} failed; {hours:.0} hours of theirs in {:.0} s of ours",
        begun.elapsed().as_secs_f64()
    );
    process::exit(i32::from(failed > 0));
}
