//! Comparing several ways to do the same.
//!
//! Whatever else the machine does changes from one second to the next. So the contenders take turns in short rounds, and
//! what counts is the median over the rounds.

use std::{hint::black_box, time::Instant};

/// The median time of one call of each contender, in nanoseconds.
pub fn nanos<T>(contenders: &[(&str, &dyn Fn() -> T)], rounds: usize) -> Vec<f64> {
    let mut times = vec![Vec::with_capacity(rounds); contenders.len()];
    for round in 0..=rounds {
        for (n, (_, contender)) in contenders.iter().enumerate() {
            let begun = Instant::now();
            black_box(contender());
            // The first round warms up.
            if round > 0 {
                times[n].push(begun.elapsed().as_nanos() as f64);
            }
        }
    }
    times.iter_mut().map(|times| median(times)).collect()
}

/// The value in the middle.
pub fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value below which this part of all lies.
pub fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(part * (values.len() - 1) as f64) as usize]
}
