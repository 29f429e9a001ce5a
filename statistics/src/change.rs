//! Where a series changed: E-divisive, with a permutation test.
//!
//! # Method
//! A stretch of the series is divided where its two parts differ most by the energy distance Q (below). Whether they
//! differ more than chance has it is asked of the stretch itself: its points are put into random orders
//! ([`PERMUTATIONS`] of them), and the share of orders in which the best division is as good or better is the p-value.
//! Below [`FALSE_ALARMS`] it is a change point, and both parts are asked in turn; else the stretch is left whole.
//!
//! ```text
//! Q = m n / (m + n) × ( 2 mean|left − right| − mean|left − left| − mean|right − right| )
//! ```
//! Nothing is assumed of the noise's distribution, only that without a change any order would be as likely. A machine
//! that drifts breaks that: there a metric relative to the limit says more.
//!
//! # What it can find
//! A series that did not change has a false alarm with a chance of [`FALSE_ALARMS`]; each part of a division is tested
//! again at that level. Parts have at least [`PART_MIN`] points, and fewer than [`POINTS_MIN`] points have too
//! few orders for any p-value that small: they are not judged.
//!
//! # Sources
//! D. Matteson and N. James, *A nonparametric approach for multiple change point analysis of multivariate data*,
//! JASA 109 (2014), 334; D. Daly et al., *The use of change point detection to identify software performance
//! regressions in a continuous integration system*, ICPE 2020 (the same on benchmarks, one point a run). Where
//! we differ: a stretch is tested by itself, not against all others of the series.

use clashtrack_engine::random::WorkerRng;

/// The chance that a stretch without a change is divided.
pub const FALSE_ALARMS: f64 = 0.01;

/// Random orders that a stretch is compared with.
pub const PERMUTATIONS: usize = 999;

/// Points on either side of a change, at least: one or two runs out of line are no change yet.
pub const PART_MIN: usize = 3;

/// Fewer points are not judged.
pub const POINTS_MIN: usize = 10;

/// A place where a series changed.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Change {
    /// Number of the first point after it, counted from 0.
    pub at: usize,
    /// Share of random orders that can be divided as well.
    pub p_value: f64,
}

/// The changes of a series, in order. The same numbers and seed give the same answer.
#[must_use]
pub fn changes(series: &[f64], seed: u64) -> Vec<Change> {
    let mut found = Vec::new();
    divide(series, 0, &mut WorkerRng::new(seed, 0), &mut found);
    found
}

/// Divides a stretch that begins at `offset` of the series, and its parts.
fn divide(stretch: &[f64], offset: usize, rng: &mut WorkerRng, found: &mut Vec<Change>) {
    if stretch.len() < POINTS_MIN {
        return;
    }
    let best = best_division(stretch);
    let Some(p_value) = p_value(stretch, best.quality, rng) else {
        return;
    };
    let (left, right) = stretch.split_at(best.at);
    divide(left, offset, rng, found);
    found.push(Change {
        at: offset + best.at,
        p_value,
    });
    divide(right, offset + best.at, rng, found);
}

struct Division {
    at: usize,
    quality: f64,
}

/// The division with the largest Q; the first one of equals. O(n²): each point goes from right to left once.
fn best_division(stretch: &[f64]) -> Division {
    let count = stretch.len();
    let distances = |points: &[f64], to: f64| points.iter().map(|x| (x - to).abs()).sum::<f64>();
    // Sums over pairs: within the left part, within the right one, and between them.
    let (mut left, mut between) = (0.0, 0.0);
    let mut right: f64 = (1..count)
        .map(|i| distances(&stretch[..i], stretch[i]))
        .sum();
    let mut best = Division {
        at: PART_MIN,
        quality: f64::NEG_INFINITY,
    };
    for at in 1..=count - PART_MIN {
        let moved = stretch[at - 1];
        let (to_left, to_right) = (
            distances(&stretch[..at - 1], moved),
            distances(&stretch[at..], moved),
        );
        left += to_left;
        right -= to_right;
        between += to_right - to_left;
        if at < PART_MIN {
            continue;
        }
        let (m, n) = (at as f64, (count - at) as f64);
        let pairs = |of: f64| of * (of - 1.0) / 2.0;
        let energy = 2.0 * between / (m * n) - left / pairs(m) - right / pairs(n);
        let quality = m * n / (m + n) * energy;
        if quality > best.quality {
            best = Division { at, quality };
        }
    }
    best
}

/// The p-value of a division of that quality, if it is small enough to count; not computed to the end if not.
fn p_value(stretch: &[f64], quality: f64, rng: &mut WorkerRng) -> Option<f64> {
    // The order that was seen is one of the orders.
    let orders = (PERMUTATIONS + 1) as f64;
    let mut as_good = 1.0;
    let mut order = stretch.to_vec();
    // Sums in another order differ in their last bits: equals must count as equals.
    let quality = quality - 1e-9 * quality.abs();
    for _ in 0..PERMUTATIONS {
        if as_good > FALSE_ALARMS * orders {
            return None;
        }
        shuffle(&mut order, rng);
        if best_division(&order).quality >= quality {
            as_good += 1.0;
        }
    }
    let p_value = as_good / orders;
    (p_value <= FALSE_ALARMS).then_some(p_value)
}

/// Fisher and Yates.
fn shuffle(points: &mut [f64], rng: &mut WorkerRng) {
    for last in (1..points.len()).rev() {
        let bound = u32::try_from(last + 1).unwrap_or(u32::MAX);
        points.swap(last, rng.below(bound) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NONE: [usize; 0] = [];

    /// Noise around 100: the sum of four even ones, near enough to normal, with this standard deviation.
    fn noise(count: usize, sd: f64, seed: u64) -> Vec<f64> {
        let mut rng = WorkerRng::new(seed, 1);
        let mut even = || f64::from(rng.next_u32()) / f64::from(u32::MAX) - 0.5;
        // The variance of an even one is 1/12.
        let mut point = || (even() + even() + even() + even()) * 3_f64.sqrt() * sd;
        (0..count).map(|_| 100.0 + point()).collect()
    }

    fn stepped(count: usize, at: usize, factor: f64, seed: u64) -> Vec<f64> {
        let mut series = noise(count, 3.0, seed);
        series[at..].iter_mut().for_each(|point| *point *= factor);
        series
    }

    fn places(series: &[f64]) -> Vec<usize> {
        changes(series, 1).iter().map(|change| change.at).collect()
    }

    /// 1,000 series at 1 %: ten are expected, and 21 or more come about once in 600 times (binomial).
    #[test]
    fn constant_noise_gives_false_alarms_at_the_rate_that_is_documented() {
        for count in [POINTS_MIN, 30] {
            let alarms = (0..1000).filter(|&seed| !places(&noise(count, 3.0, seed)).is_empty());
            let alarms = alarms.count();
            assert!(alarms <= 20, "{alarms} of 1000 series of {count} points");
        }
    }

    #[test]
    fn a_step_of_ten_per_cent_in_noise_of_three_is_found_at_its_place() {
        for (count, at) in [(40, 20), (40, 30), (40, 10), (15, 8)] {
            for factor in [1.1, 0.9] {
                let near = |seed: &u64| {
                    let series = stepped(count, at, factor, *seed);
                    places(&series).iter().any(|found| found.abs_diff(at) <= 1)
                };
                let found = (0..100).filter(near).count();
                assert!(found >= 90, "{found} of 100 at {at} of {count}, x {factor}");
            }
        }
    }

    #[test]
    fn two_steps_are_two_changes_in_order() {
        let mut series = stepped(60, 20, 1.2, 7);
        series[40..].iter_mut().for_each(|point| *point *= 0.8);
        assert_eq!(places(&series), [20, 40]);
    }

    #[test]
    fn what_does_not_move_has_no_change_and_two_levels_have_one() {
        assert_eq!(places(&[5.0; 50]), NONE);
        let levels = [vec![104.0; 6], vec![105.0; 6]].concat();
        assert_eq!(places(&levels), [6]);
    }

    #[test]
    fn one_run_out_of_line_is_no_change() {
        let mut series = noise(30, 3.0, 3);
        for at in [0, 15, 29] {
            let before = std::mem::replace(&mut series[at], 300.0);
            assert_eq!(places(&series), NONE, "{at}");
            series[at] = before;
        }
    }

    #[test]
    fn too_few_points_are_not_judged() {
        let steep = [1.0, 1.0, 1.0, 1.0, 9.0, 9.0, 9.0, 9.0, 9.0];
        assert_eq!(places(&steep), NONE);
        assert_eq!(places(&[]), NONE);
    }

    /// Q by its definition, for [`best_division`]'s running sums.
    fn quality(left: &[f64], right: &[f64]) -> f64 {
        let mean = |a: &[f64], b: &[f64], pairs: f64| {
            let sum: f64 = a
                .iter()
                .flat_map(|x| b.iter().map(move |y| (x - y).abs()))
                .sum();
            sum / pairs
        };
        let (m, n) = (left.len() as f64, right.len() as f64);
        m * n / (m + n)
            * (2.0 * mean(left, right, m * n)
                - mean(left, left, m * (m - 1.0))
                - mean(right, right, n * (n - 1.0)))
    }

    proptest! {
        #[test]
        fn the_best_division_is_the_best_by_definition(
            series in prop::collection::vec(-100.0..100.0_f64, 2 * PART_MIN..30)
        ) {
            let best = best_division(&series);
            let by_definition = (PART_MIN..=series.len() - PART_MIN)
                .map(|at| quality(&series[..at], &series[at..]))
                .fold(f64::NEG_INFINITY, f64::max);
            prop_assert!((best.quality - by_definition).abs() < 1e-6, "{} {by_definition}", best.quality);
            let (left, right) = series.split_at(best.at);
            prop_assert!((quality(left, right) - by_definition).abs() < 1e-6);
        }

        #[test]
        fn changes_are_in_order_and_apart_and_the_same_in_any_unit(
            levels in prop::collection::vec((1.0..9.0_f64, 4..20_usize), 1..5), seed: u64
        ) {
            let mut series: Vec<f64> = levels.iter().flat_map(|&(level, count)| vec![level; count]).collect();
            for (point, noise) in series.iter_mut().zip(noise(100, 1.0, seed)) {
                *point *= noise;
            }
            let found = changes(&series, seed);
            let mut before = 0;
            for change in &found {
                prop_assert!(change.at >= before + PART_MIN && change.at + PART_MIN <= series.len());
                prop_assert!(change.p_value > 0.0 && change.p_value <= FALSE_ALARMS);
                before = change.at;
            }
            // A power of two changes no digits.
            let other: Vec<f64> = series.iter().map(|point| point * 1024.0).collect();
            prop_assert_eq!(changes(&other, seed), found);
        }
    }
}
