//! Hierarchical bootstrap: launches are drawn again from a file's launches, then repeats from each launch's repeats.
//!
//! A launch's figure is the median of its samples' logarithms, a file's the mean of its launches. What resampling cannot
//! show is added as normal noise: of L launches it shows (L−1)/L of the variance between them, of one launch
//! nothing, and of few launches a poor estimate. So the variance between launches is pooled from the file's own and the
//! assumed one ([`LAUNCH_SD`], worth [`LAUNCH_SD_DEGREES`] degrees of freedom), and the part that is missing is added.

use std::f64::consts::TAU;

use clashtrack_engine::random::WorkerRng;

use super::{LAUNCH_SD, LAUNCH_SD_DEGREES};

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

/// A row of one file.
#[derive(Clone, Debug)]
pub struct Side {
    /// Logarithms of the samples, by launch; no launch is empty.
    launches: Vec<Vec<f64>>,
    /// Standard deviation of what is added to the file's figure.
    added_sd: f64,
}

impl Side {
    /// Of samples' logarithms by launch, none of them empty; `drift_sd` is of the whole file.
    #[must_use]
    pub fn new(launches: Vec<Vec<f64>>, drift_sd: f64) -> Side {
        let medians: Vec<f64> = launches
            .iter()
            .map(|launch| median(&mut launch.clone()))
            .collect();
        let count = medians.len() as f64;
        let mean = medians.iter().sum::<f64>() / count;
        let squares: f64 = medians.iter().map(|m| (m - mean).powi(2)).sum();
        let pooled = (squares + LAUNCH_SD_DEGREES * LAUNCH_SD * LAUNCH_SD)
            / (count - 1.0 + LAUNCH_SD_DEGREES);
        // Of the mean of so many launches; resampling shows squares ÷ count of one.
        let unseen = (pooled - squares / count).max(0.0) / count;
        Side {
            launches,
            added_sd: (unseen + drift_sd * drift_sd).sqrt(),
        }
    }

    fn figure(&self) -> f64 {
        let medians = self
            .launches
            .iter()
            .map(|launch| median(&mut launch.clone()));
        medians.sum::<f64>() / self.launches.len() as f64
    }

    fn draw(&self, rng: &mut WorkerRng, scratch: &mut Vec<f64>) -> f64 {
        let mut sum = 0.0;
        for _ in &self.launches {
            let launch = &self.launches[below(rng, self.launches.len())];
            scratch.clear();
            scratch.extend((0..launch.len()).map(|_| launch[below(rng, launch.len())]));
            sum += median(scratch);
        }
        sum / self.launches.len() as f64 + self.added_sd * normal(rng)
    }
}

/// Draws of the logarithm of NEW ÷ BASE.
#[derive(Clone, Debug)]
pub struct Draws {
    centre: f64,
    sorted: Vec<f64>,
}

impl Draws {
    /// So many draws; the same generator gives the same ones.
    #[must_use]
    pub fn of(base: &Side, new: &Side, count: usize, rng: &mut WorkerRng) -> Draws {
        let mut scratch = Vec::new();
        Draws::drawn(new.figure() - base.figure(), count, || {
            new.draw(rng, &mut scratch) - base.draw(rng, &mut scratch)
        })
    }

    /// So many numbers that `draw` gives, around a figure.
    pub(super) fn drawn(centre: f64, count: usize, mut draw: impl FnMut() -> f64) -> Draws {
        let mut sorted: Vec<f64> = (0..count).map(|_| draw()).collect();
        sorted.sort_by(f64::total_cmp);
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

/// The middle one; of an even number the mean of the two in the middle. Sorts.
pub(super) fn median(samples: &mut [f64]) -> f64 {
    samples.sort_unstable_by(f64::total_cmp);
    let middle = samples.len() / 2;
    if samples.len().is_multiple_of(2) {
        f64::midpoint(samples[middle - 1], samples[middle])
    } else {
        samples[middle]
    }
}

/// From 0 to `end`, `end` itself not among them (Lemire's multiplication; its bias is below 2⁻⁵⁰ here).
fn below(rng: &mut WorkerRng, end: usize) -> usize {
    ((u128::from(rng.next_u64()) * end as u128) >> 64) as usize
}

/// A standard normal number (Box and Muller, 1958; the other half of the pair is left).
pub(super) fn normal(rng: &mut WorkerRng) -> f64 {
    // 53 bits each; the first is never 0.
    let mut unit = || ((rng.next_u64() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    let (radius, angle) = (unit(), unit());
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

    #[test]
    fn one_launch_gets_the_whole_assumed_variance_and_many_hardly_any() {
        let one = Side::new(vec![vec![0.0; 5]], 0.0);
        assert!((one.added_sd - LAUNCH_SD).abs() < 1e-12);
        // Forty launches that differ by 1 %: their own spread counts, not the assumed one.
        let many = (0..40)
            .map(|n| vec![0.01 * f64::from(n % 2 * 2 - 1); 5])
            .collect();
        assert!(Side::new(many, 0.0).added_sd < LAUNCH_SD / 10.0);
        let drifting = Side::new(vec![vec![0.0; 5]], 0.1);
        assert!(drifting.added_sd > 0.1);
    }

    #[test]
    fn the_interval_and_the_p_value_say_the_same() {
        let side = |offset: f64| Side::new(vec![vec![offset; 5]; 3], 0.0);
        let draws = Draws::of(&side(0.0), &side(0.2), 10_000, &mut WorkerRng::new(3, 0));
        for level in [0.001, 0.01, 0.05, 0.3] {
            for limit in [0.0, 0.05, 0.1, 0.15, 0.2, 0.3] {
                let beyond = draws.interval(level).0 > limit;
                assert_eq!(
                    beyond,
                    draws.chance_within(limit) <= level,
                    "{level} {limit}"
                );
            }
        }
    }
}
