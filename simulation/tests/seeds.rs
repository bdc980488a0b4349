//! A few seeds, for whoever changes the simulation or doubts that it finds anything.

use tower_sse_proxy_simulation::{run, world::Counts};

fn clean(seeds: std::ops::Range<u64>) -> Vec<Counts> {
    seeds
        .map(|seed| {
            let outcome = run(seed, false);
            assert_eq!(outcome.faults, [""; 0], "seed {seed}");
            outcome.counts
        })
        .collect()
}

#[test]
fn fifty_seeds_are_clean_and_everything_happens_in_them() {
    let all = clean(1..51);
    let often = |of: fn(&Counts) -> u64| assert!(all.iter().map(of).sum::<u64>() > 5);
    often(|counts| counts.events);
    often(|counts| counts.resumed);
    often(|counts| counts.asked_to_go_on);
    often(|counts| counts.breaks);
    often(|counts| counts.upstream_cuts);
    often(|counts| counts.clean_ends);
    often(|counts| counts.restarts);
    often(|counts| counts.crashes);
    often(|counts| counts.evicted);
    often(|counts| counts.unknown);
    often(|counts| counts.failed);
    often(|counts| counts.statuses);
    often(|counts| counts.done);
    often(|counts| counts.mirrors);
    often(|counts| counts.thieves);
}

#[test]
fn a_seed_is_the_same_again() {
    for seed in 1..10 {
        let (one, other) = (run(seed, false), run(seed, false));
        assert_eq!(
            (one.counts, one.lasted),
            (other.counts, other.lasted),
            "seed {seed}"
        );
    }
}
