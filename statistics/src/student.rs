//! Student's interval of the mean of some launches.
//!
//! What launches differ by holds both their own variance and what is left of their samples' noise. Few launches show that poorly, and
//! one does not at all; so it is pooled with what is assumed of a launch, worth [`LAUNCH_SD_DEGREES`] degrees of freedom, and the noise
//! of its median.
//!
//! Sources: Student, *The probable error of a mean*, Biometrika 6 (1908); the noise of a median from its order statistics,
//! A. C. Davison and D. V. Hinkley, *Bootstrap Methods and their Application*, 1997, 2.

use clashtrack_engine::random::WorkerRng;

use crate::draws::{Draws, even, median, normal};
use crate::resample::LAUNCH_SD_DEGREES;

/// So many draws around the mean of the launches' medians. No launch is empty, and there is one at least; `launch_sd` is what is assumed of
/// a launch.
#[must_use]
pub fn draws(launches: Vec<Vec<f64>>, launch_sd: f64, count: usize, rng: &mut WorkerRng) -> Draws {
    let launches: Vec<Launch> = launches.into_iter().map(Launch::of).collect();
    let number = launches.len() as f64;
    let mean = launches.iter().map(|l| l.figure).sum::<f64>() / number;
    let noise = launches.iter().map(|l| l.noise).sum::<f64>() / number;
    let squares: f64 = launches.iter().map(|l| (l.figure - mean).powi(2)).sum();
    let assumed = launch_sd * launch_sd + noise;
    let degrees = number - 1.0 + LAUNCH_SD_DEGREES;
    let variance = (squares + LAUNCH_SD_DEGREES * assumed) / degrees;
    let error = (variance / number).sqrt();
    Draws::drawn(mean, count, || mean + error * student(degrees, rng))
}

/// What the samples of a launch come to.
#[derive(Clone, Copy, Debug)]
struct Launch {
    /// Their median.
    figure: f64,
    /// Variance of that, from their own spread.
    noise: f64,
}

impl Launch {
    /// Of one sample at least.
    fn of(mut samples: Vec<f64>) -> Launch {
        let figure = median(&mut samples);
        // The ranks that are one standard deviation of a binomial from the middle hold a standard error of the median on each
        // side, whatever the tails are. The call before has sorted.
        let count = samples.len() as f64;
        let (middle, away) = ((count - 1.0) / 2.0, count.sqrt() / 2.0);
        let low = (middle - away).floor().max(0.0) as usize;
        let high = (middle + away).ceil().min(count - 1.0) as usize;
        let error = (samples[high] - samples[low]) / 2.0;
        Launch {
            figure,
            noise: error * error,
        }
    }
}

/// A number of Student's distribution; a normal one where that is the same to three digits.
fn student(degrees: f64, rng: &mut WorkerRng) -> f64 {
    const NORMAL_FROM: f64 = 400.0;
    let number = normal(rng);
    if degrees >= NORMAL_FROM {
        return number;
    }
    // Degrees of freedom are whole: launches, and those of the assumption.
    number / (sum_of_squares(degrees as usize, rng) / degrees).sqrt()
}

/// Of so many normal numbers (χ²).
fn sum_of_squares(numbers: usize, rng: &mut WorkerRng) -> f64 {
    /// Even numbers that are multiplied before the logarithm is taken: ten of 2⁻⁵⁴ are a number still.
    const TOGETHER: usize = 10;
    let odd = (numbers % 2 == 1).then(|| normal(rng).powi(2));
    // Two squares are together distributed as −2 ln of an even number is.
    let (mut pairs, mut logarithm) = (numbers / 2, 0.0);
    while pairs > 0 {
        let part = pairs.min(TOGETHER);
        logarithm += (0..part).map(|_| even(rng)).product::<f64>().ln();
        pairs -= part;
    }
    odd.unwrap_or(0.0) - 2.0 * logarithm
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn students_numbers_have_students_tails() {
        let mut rng = WorkerRng::new(2, 0);
        let mut beyond = |degrees: f64, quantile: f64| {
            let all = 40_000;
            let out = (0..all).filter(|_| student(degrees, &mut rng).abs() > quantile);
            out.count() as f64 / f64::from(all)
        };
        // From a table: 5 % are beyond.
        for (degrees, quantile) in [(4.0, 2.776), (9.0, 2.262), (60.0, 2.000), (1000.0, 1.962)] {
            let share = beyond(degrees, quantile);
            assert!((share - 0.05).abs() < 0.006, "{degrees}: {share}");
        }
    }

    #[test]
    fn the_noise_of_a_median_is_that_of_many_medians() {
        let mut rng = WorkerRng::new(4, 0);
        let launches: Vec<Launch> = (0..2000)
            .map(|_| Launch::of((0..40).map(|_| normal(&mut rng)).collect()))
            .collect();
        let mean = |figure: fn(&Launch) -> f64| launches.iter().map(figure).sum::<f64>() / 2000.0;
        let seen = mean(|launch| launch.figure * launch.figure);
        let said = mean(|launch| launch.noise);
        // Ranks are rounded outwards: rather too much than too little.
        assert!(said > 0.9 * seen && said < 1.8 * seen, "{said} for {seen}");
        assert_eq!(Launch::of(vec![0.5]).noise, 0.0);
    }
}
