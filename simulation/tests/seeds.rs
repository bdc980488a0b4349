//! A few seeds, as a test of the simulation itself.

use tower_sse_proxy_simulation::{run, world::Counts};

fn run_without_faults(seeds: std::ops::Range<u64>) -> Vec<Counts> {
    seeds
        .map(|seed| {
            let outcome = run(seed, false);
            assert_eq!(outcome.faults, [""; 0], "seed {seed}");
            outcome.counts
        })
        .collect()
}

#[test]
fn fifty_seeds_have_no_faults_and_reach_every_case() {
    let all = run_without_faults(1..51);
    let assert_often = |of: fn(&Counts) -> u64| assert!(all.iter().map(of).sum::<u64>() > 5);
    assert_often(|counts| counts.events);
    assert_often(|counts| counts.resumed);
    assert_often(|counts| counts.upstream_resumes);
    assert_often(|counts| counts.breaks);
    assert_often(|counts| counts.upstream_cuts);
    assert_often(|counts| counts.clean_ends);
    assert_often(|counts| counts.restarts);
    assert_often(|counts| counts.crashes);
    assert_often(|counts| counts.evicted);
    assert_often(|counts| counts.unknown);
    assert_often(|counts| counts.failed);
    assert_often(|counts| counts.statuses);
    assert_often(|counts| counts.done);
    assert_often(|counts| counts.mirrors);
    assert_often(|counts| counts.thieves);
}

#[test]
fn seed_determines_the_run() {
    for seed in 1..10 {
        let (one, other) = (run(seed, false), run(seed, false));
        assert_eq!(
            (one.counts, one.lasted),
            (other.counts, other.lasted),
            "seed {seed}"
        );
    }
}
