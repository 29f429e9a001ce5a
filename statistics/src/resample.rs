//! Hierarchical bootstrap: launches are drawn again from a file's launches, then repeats from each launch's repeats.
//!
//! A launch's figure is the median of its samples' logarithms, a file's the mean of its launches. What resampling cannot
//! show is added as normal noise: of L launches it shows (L−1)/L of the variance between them, of one launch
//! nothing, and of few launches a poor estimate. So the variance between launches is pooled from the file's own and the
//! assumed one ([`LAUNCH_SD`], worth [`LAUNCH_SD_DEGREES`] degrees of freedom), and the part that is missing is added.

use clashtrack_engine::random::WorkerRng;

use crate::draws::{Draws, below, median, normal};

/// Standard deviation of the logarithm of a launch's relative figure, assumed where a file shows too few launches.
///
/// Seen over eight launches of `lookup-hit` and `connect` on `lockfree` and `dashmap`, five samples of 100 ms each, on two
/// virtual cores of which others used 67 to 80 %: 7 to 17 % relative to the limit (13 to 28 % in absolute time), 12 % in the mean
/// square. A quiet machine differs less: there, several launches show it. The assumption counts as much as
/// [`LAUNCH_SD_DEGREES`] degrees of freedom beside those that a file has.
pub const LAUNCH_SD: f64 = 0.12;

/// What the assumption weighs: from about this many launches on, a file's own launches say more.
pub const LAUNCH_SD_DEGREES: f64 = 4.0;

/// The samples of one file.
#[derive(Clone, Debug)]
pub struct Side {
    /// Logarithms of the samples, by launch; no launch is empty.
    launches: Vec<Vec<f64>>,
    /// The mean of the launches' medians.
    figure: f64,
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
        let figure = medians.iter().sum::<f64>() / count;
        let squares: f64 = medians.iter().map(|m| (m - figure).powi(2)).sum();
        let pooled = (squares + LAUNCH_SD_DEGREES * LAUNCH_SD * LAUNCH_SD)
            / (count - 1.0 + LAUNCH_SD_DEGREES);
        // Of the mean of so many launches; resampling shows squares ÷ count of one.
        let unseen = (pooled - squares / count).max(0.0) / count;
        Side {
            launches,
            figure,
            added_sd: (unseen + drift_sd * drift_sd).sqrt(),
        }
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

/// So many draws of NEW's figure less BASE's; the same generator gives the same ones.
#[must_use]
pub fn draws(base: &Side, new: &Side, count: usize, rng: &mut WorkerRng) -> Draws {
    let mut scratch = Vec::new();
    Draws::drawn(new.figure - base.figure, count, || {
        new.draw(rng, &mut scratch) - base.draw(rng, &mut scratch)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let draws = draws(&side(0.0), &side(0.2), 10_000, &mut WorkerRng::new(3, 0));
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
