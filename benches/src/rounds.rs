//! Compares several contenders that do the same work.
//!
//! The other load of the machine changes from one second to the next. So the contenders run alternately in short rounds, and the
//! result is the median over the rounds.

use std::{hint::black_box, time::Instant};

/// The median time of one call of each contender, in nanoseconds.
pub fn nanos<T>(contenders: &[(&str, &dyn Fn() -> T)], rounds: usize) -> Vec<f64> {
    let mut times = vec![Vec::with_capacity(rounds); contenders.len()];
    for round in 0..=rounds {
        for (n, (_, contender)) in contenders.iter().enumerate() {
            let begun = Instant::now();
            black_box(contender());
            // The first round is a warm-up.
            if round > 0 {
                times[n].push(begun.elapsed().as_nanos() as f64);
            }
        }
    }
    times.iter_mut().map(|times| median(times)).collect()
}

/// The median of the values.
pub fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}

/// The quantile of the values: `part` is from 0.0 (minimum) to 1.0 (maximum).
pub fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(part * (values.len() - 1) as f64) as usize]
}
