//! What is drawn many times over, and what the draws say: an interval, a chance.
//!
//! [`normal`] is Box and Muller's, *A note on the generation of random normal deviates*, Ann. Math. Statist. 29 (1958), 610.

use std::f64::consts::TAU;

use clashtrack_engine::random::WorkerRng;

/// Draws behind the smaller tail of the strictest interval: fewer make its end a matter of luck.
const DRAWS_IN_TAIL: f64 = 20.0;
const DRAWS_MIN: usize = 4_000;
const DRAWS_MAX: usize = 200_000;

/// How many draws so many rows need, for intervals of `level` ÷ rows.
#[must_use]
pub fn count(rows: usize, level: f64) -> usize {
    let needed = DRAWS_IN_TAIL * 2.0 * rows as f64 / level;
    (needed as usize).clamp(DRAWS_MIN, DRAWS_MAX)
}

/// Draws of the logarithm of NEW ÷ BASE.
#[derive(Clone, Debug)]
pub struct Draws {
    centre: f64,
    sorted: Vec<f64>,
}

impl Draws {
    /// So many numbers that `draw` gives, around a figure.
    #[must_use]
    pub fn drawn(centre: f64, count: usize, mut draw: impl FnMut() -> f64) -> Draws {
        let mut sorted: Vec<f64> = (0..count).map(|_| draw()).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        Draws { centre, sorted }
    }

    /// The figure of the samples as they are.
    #[must_use]
    pub fn centre(&self) -> f64 {
        self.centre
    }

    /// The interval that leaves half of `level` of the draws on each side.
    #[must_use]
    pub fn interval(&self, level: f64) -> (f64, f64) {
        let outside = (level / 2.0 * self.sorted.len() as f64) as usize;
        let outside = outside.min(self.sorted.len() / 2);
        (
            self.sorted[outside],
            self.sorted[self.sorted.len() - 1 - outside],
        )
    }

    /// Two-sided p-value of "the ratio's logarithm is not beyond ± `limit`".
    #[must_use]
    pub fn chance_within(&self, limit: f64) -> f64 {
        let not_above = self.sorted.partition_point(|&draw| draw <= limit);
        let below = self.sorted.partition_point(|&draw| draw < -limit);
        let not_below = self.sorted.len() - below;
        2.0 * not_above.min(not_below) as f64 / self.sorted.len() as f64
    }
}

/// The middle one of some numbers, one at least; of an even number the mean of the two in the middle. Sorts.
#[must_use]
pub fn median(samples: &mut [f64]) -> f64 {
    samples.sort_unstable_by(f64::total_cmp);
    let middle = samples.len() / 2;
    if samples.len().is_multiple_of(2) {
        f64::midpoint(samples[middle - 1], samples[middle])
    } else {
        samples[middle]
    }
}

/// From 0 to `end`, `end` itself not among them (Lemire's multiplication; its bias is below 2⁻⁵⁰ here).
pub(crate) fn below(rng: &mut WorkerRng, end: usize) -> usize {
    ((u128::from(rng.next_u64()) * end as u128) >> 64) as usize
}

/// Between 0 and 1, of 53 bits, never either of them.
pub(crate) fn even(rng: &mut WorkerRng) -> f64 {
    ((rng.next_u64() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
}

/// A standard normal number; the other half of the pair is left.
pub fn normal(rng: &mut WorkerRng) -> f64 {
    let (radius, angle) = (even(rng), even(rng));
    (-2.0 * radius.ln()).sqrt() * (TAU * angle).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_numbers_have_mean_0_and_variance_1() {
        let mut rng = WorkerRng::new(1, 0);
        let numbers: Vec<f64> = (0..100_000).map(|_| normal(&mut rng)).collect();
        let mean = numbers.iter().sum::<f64>() / 1e5;
        let variance = numbers.iter().map(|n| n * n).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.02, "{mean}");
        assert!((variance - 1.0).abs() < 0.03, "{variance}");
    }
}
