//! The settings of tests with generated input.

use proptest::test_runner::{Config as ProptestConfig, RngSeed};

/// A configuration with a fixed seed: every run tests the same cases, so a new failure comes from a change of the code. Set
/// `PROPTEST_CASES=5000` for more cases than `default`, or `PROPTEST_RNG_SEED=7` for other cases.
pub fn cases(default: u32) -> ProptestConfig {
    let from_env = ProptestConfig::default();
    ProptestConfig {
        failure_persistence: None,
        cases: std::env::var_os("PROPTEST_CASES").map_or(default, |_| from_env.cases),
        rng_seed: match from_env.rng_seed {
            RngSeed::Random => RngSeed::Fixed(1),
            chosen => chosen,
        },
        ..from_env
    }
}
