//! Whether one program is slower than another whose samples were taken in turns with its own.
//!
//! # Model
//! The logarithm of a pair's ratio is a sum: the true ratio, its launch (pages and addresses are drawn once a process, each
//! side's by itself), and the pair's own noise. The machine's speed is in both samples of a pair and falls out. A launch's
//! figure is the median of its pairs, the ratio's the mean of the launches.
//!
//! The interval is [Student's](student), of the launches. Drawing launches and then pairs again, as
//! [`resample`](clashtrack_statistics::resample) does for two files, would count the pairs' noise twice: tried on 250 comparisons its
//! intervals were wider, and it missed 3 of 50 slow-downs by a tenth that these find (docs/comparison.md). Correction and verdicts are
//! those of [`compare`](super).

use clashtrack_engine::random::WorkerRng;

use clashtrack_statistics::draws::{self, Draws};
use clashtrack_statistics::student;

use super::{Compared, FALSE_ALARMS, SAMPLES_MIN, Verdict, levels};
use crate::against::duel::{Duel, Pair};
use crate::against::protocol::Subject;

/// Standard deviation of the logarithm of a launch's paired ratio, assumed beside what the launches show. Seen over 78 launches
/// of one program against itself on a machine that others used: 2.2 %, with what was left of the pairs' noise.
pub const PAIRED_LAUNCH_SD: f64 = 0.02;

/// What is compared: one workload on one table.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// What was measured.
    pub subject: &'a Subject,
    /// The pairs, by launch; none of the launches is empty.
    pub launches: &'a [Vec<Pair>],
}

impl<'a> Row<'a> {
    /// Of a duel; `None` if nothing was measured.
    #[must_use]
    pub fn of(duel: &'a Duel) -> Option<Row<'a>> {
        let subject = duel.subject.as_ref()?;
        (!duel.launches.is_empty()).then_some(Row {
            subject,
            launches: &duel.launches,
        })
    }

    fn pairs(&self) -> impl Iterator<Item = &Pair> {
        self.launches.iter().flatten()
    }

    /// Draws of the ratio's logarithm: Student's, around the mean of the launches.
    fn draws(&self, count: usize, rng: &mut WorkerRng) -> Draws {
        let logarithm = |pair: &Pair| (pair.new / pair.base).ln();
        let launch = |pairs: &Vec<Pair>| pairs.iter().map(logarithm).collect();
        let launches = self.launches.iter().map(launch).collect();
        student::draws(launches, PAIRED_LAUNCH_SD, count, rng)
    }
}

/// Compares the rows together. `threshold` is a share, 0.03 for 3 %; `seed` is the resampling's.
#[must_use]
pub fn compare(rows: &[Row<'_>], threshold: f64, seed: u64) -> Vec<Compared> {
    let resamples = draws::count(rows.len(), FALSE_ALARMS);
    let draws: Vec<Draws> = rows
        .iter()
        .enumerate()
        .map(|(number, row)| row.draws(resamples, &mut WorkerRng::new(seed, number)))
        .collect();
    let levels = levels(&draws, threshold);
    rows.iter()
        .zip(draws.iter().zip(levels))
        .map(|(row, (draws, level))| judge(row, draws, level, threshold))
        .collect()
}

fn judge(row: &Row<'_>, draws: &Draws, level: f64, threshold: f64) -> Compared {
    let interval = draws.interval(level);
    let pairs = row.pairs().count();
    let disturbed = row.pairs().filter(|pair| pair.disturbed).count();
    let subject = row.subject;
    Compared {
        workload: subject.workload.clone(),
        table: subject.table.clone(),
        workers: subject.workers,
        batch: subject.batch,
        connections: subject.connections,
        l4: subject.l4.clone(),
        ratio: draws.centre().exp(),
        ci_low: interval.0.exp(),
        ci_high: interval.1.exp(),
        verdict: if pairs < SAMPLES_MIN {
            Verdict::Unsure
        } else {
            Verdict::of(interval, threshold)
        },
        relative_to_limit: false,
        limit_moved: None,
        launches: [row.launches.len(); 2],
        samples: [pairs; 2],
        disturbed_samples: [disturbed; 2],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clashtrack_statistics::draws::normal;

    /// How pairs are drawn.
    #[derive(Clone, Copy)]
    struct World {
        launches: usize,
        pairs: usize,
        launch_sd: f64,
        /// Of one sample beside the other.
        sample_sd: f64,
        /// One pair of so many has a sample that takes up to five times as long; 0 for none.
        outlier_in: u64,
    }

    const WORLD: World = World {
        launches: 5,
        pairs: 20,
        launch_sd: 0.02,
        sample_sd: 0.05,
        outlier_in: 0,
    };

    impl World {
        fn launches(&self, ratio: f64, rng: &mut WorkerRng) -> Vec<Vec<Pair>> {
            (0..self.launches)
                .map(|_| {
                    let launch = (self.launch_sd * normal(rng)).exp();
                    let mut drift = 0.0;
                    (0..self.pairs)
                        .map(|_| {
                            // Speed wanders by far more than is looked for.
                            drift += 0.1 * normal(rng);
                            let mut sample = |factor: f64| {
                                let hit = self.outlier_in > 0
                                    && rng.next_u64().is_multiple_of(self.outlier_in);
                                let held_up = if hit { 5.0 } else { 1.0 };
                                50.0 * factor
                                    * held_up
                                    * (drift + self.sample_sd * normal(rng)).exp()
                            };
                            Pair {
                                base: sample(1.0),
                                new: sample(ratio * launch),
                                disturbed: false,
                            }
                        })
                        .collect()
                })
                .collect()
        }

        /// Of so many comparisons of `rows` rows, the share in which some row got that verdict.
        fn share(&self, verdict: Verdict, ratio: f64, threshold: f64, rows: usize) -> f64 {
            const COMPARISONS: u64 = 200;
            let found = (0..COMPARISONS).filter(|&seed| {
                let mut rng = WorkerRng::new(seed, 99);
                let drawn: Vec<_> = (0..rows).map(|_| self.launches(ratio, &mut rng)).collect();
                let subject = subject();
                let rows: Vec<Row<'_>> = drawn
                    .iter()
                    .map(|launches| Row {
                        subject: &subject,
                        launches,
                    })
                    .collect();
                let compared = compare(&rows, threshold, seed);
                compared.iter().any(|row| row.verdict == verdict)
            });
            found.count() as f64 / COMPARISONS as f64
        }
    }

    fn subject() -> Subject {
        Subject {
            workload: "w".to_owned(),
            table: "t".to_owned(),
            workers: 1,
            batch: 1,
            connections: 1,
            l4: "tcp".to_owned(),
            pinned: true,
        }
    }

    #[test]
    fn equals_get_a_false_alarm_in_at_most_one_of_twenty_comparisons_even_with_no_threshold() {
        for launches in [1, 2, 5, 10] {
            let share = World { launches, ..WORLD }.share(Verdict::Worse, 1.0, 0.0, 1);
            assert!(share <= 0.05, "{launches} launches: {share}");
        }
        let share = WORLD.share(Verdict::Worse, 1.0, 0.0, 10);
        assert!(share <= 0.05, "ten rows together: {share}");
    }

    #[test]
    fn equals_get_hardly_any_alarm_with_the_default_threshold_whatever_holds_samples_up() {
        for outlier_in in [0, 5] {
            let share = World {
                outlier_in,
                ..WORLD
            }
            .share(Verdict::Worse, 1.0, 0.03, 1);
            assert!(share <= 0.02, "one of {outlier_in}: {share}");
        }
    }

    #[test]
    fn a_true_slow_down_by_a_tenth_is_found_in_nine_of_ten_comparisons() {
        for outlier_in in [0, 10] {
            let share = World {
                outlier_in,
                ..WORLD
            }
            .share(Verdict::Worse, 1.1, 0.03, 1);
            assert!(share >= 0.9, "one of {outlier_in}: {share}");
        }
        assert!(WORLD.share(Verdict::Better, 1.0 / 1.1, 0.03, 1) >= 0.9);
    }

    #[test]
    fn the_ratio_is_that_of_the_pairs_and_few_pairs_are_not_judged() {
        let pair = |base| Pair {
            base,
            new: 2.0 * base,
            disturbed: base > 50.0,
        };
        let subject = subject();
        let launches = vec![vec![pair(10.0), pair(100.0)]];
        let row = Row {
            subject: &subject,
            launches: &launches,
        };
        let compared = &compare(&[row], 0.03, 1)[0];
        assert!((compared.ratio - 2.0).abs() < 1e-9);
        assert_eq!(compared.verdict, Verdict::Unsure);
        assert_eq!(compared.disturbed_samples, [1, 1]);
        let launches = vec![vec![pair(10.0), pair(100.0)], vec![pair(3.0)]];
        let row = Row {
            launches: &launches,
            ..row
        };
        assert_eq!(compare(&[row], 0.03, 1)[0].verdict, Verdict::Worse);
        assert!(compare(&[], 0.03, 1).is_empty());
    }
}
