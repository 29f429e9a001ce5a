//! The statistics, on samples drawn from the model with known truth. Seeded: nothing is timed.

use super::*;
use clashtrack_statistics::draws::normal;
use clashtrack_statistics::resample::LAUNCH_SD;
use serde_json::json;

/// How synthetic files are drawn.
#[derive(Clone, Copy)]
struct World {
    rows: usize,
    launches: usize,
    repeats: usize,
    /// Of launches, relative to the limit.
    launch_sd: f64,
    /// Of samples.
    sample_sd: f64,
    /// Of the machine between files.
    drift_sd: f64,
    limit: bool,
}

const WORLD: World = World {
    rows: 4,
    launches: 1,
    repeats: 5,
    launch_sd: 0.05,
    sample_sd: 0.03,
    drift_sd: 0.3,
    limit: true,
};

impl World {
    /// A file whose rows take `factor` times as long.
    fn file(&self, factor: f64, rng: &mut WorkerRng) -> ResultFile {
        let drift = (self.drift_sd * normal(rng)).exp();
        let rows: Vec<_> = (0..self.rows)
            .map(|row| {
                let (mut samples, mut limits) = (Vec::new(), Vec::new());
                for _ in 0..self.launches {
                    let launch = (self.launch_sd * normal(rng)).exp();
                    for _ in 0..self.repeats {
                        let moment = drift * (self.sample_sd * normal(rng)).exp();
                        let own = (self.sample_sd * normal(rng)).exp();
                        samples.push(50.0 * factor * launch * moment * own);
                        limits.push(20.0 * moment);
                    }
                }
                let middle = limits[limits.len() / 2];
                json!({
                    "workload": "w", "table": "t", "workers": row + 1, "batch": 1, "connections": 1, "l4": "tcp",
                    "ns_per_op": {"samples": samples},
                    "limit_ns": self.limit.then_some(middle),
                    "limit_samples_ns": self.limit.then_some(limits),
                    "samples_by_launch": vec![self.repeats; self.launches],
                })
            })
            .collect();
        let text = json!({
            "schema": "clashtrack/1", "command": "run", "machine": {}, "config": {}, "results": rows,
        });
        ResultFile::parse("synthetic", &text.to_string()).expect("a result file")
    }

    /// Of so many comparisons, the share in which some row got that verdict.
    fn share(&self, verdict: Verdict, factor: f64, threshold: f64, comparisons: u64) -> f64 {
        let found = (0..comparisons).filter(|&seed| {
            let mut rng = WorkerRng::new(seed, 77);
            let (base, new) = (self.file(1.0, &mut rng), self.file(factor, &mut rng));
            let rows = compare(&base, &new, threshold, seed).rows;
            rows.iter().any(|row| row.verdict == verdict)
        });
        found.count() as f64 / comparisons as f64
    }
}

#[test]
fn equals_get_a_false_alarm_in_at_most_one_of_twenty_comparisons_even_with_no_threshold() {
    // Without a threshold the false alarms are those of the level itself: half of 5 % in each direction.
    for launches in [1, 2, 5] {
        let world = World { launches, ..WORLD };
        let share = world.share(Verdict::Worse, 1.0, 0.0, 120);
        assert!(share <= 0.05, "{launches} launches: {share}");
    }
}

#[test]
fn equals_get_no_alarm_with_the_default_threshold() {
    for (rows, limit) in [(1, true), (20, true), (4, false)] {
        let drift_sd = if limit { 0.3 } else { 0.08 };
        let world = World {
            rows,
            limit,
            drift_sd,
            ..WORLD
        };
        let share = world.share(Verdict::Worse, 1.0, 0.1, 50);
        assert!(share <= 0.02, "{rows} rows, limit {limit}: {share}");
    }
}

#[test]
fn a_true_slow_down_by_half_is_found_with_few_launches_and_one_by_a_fifth_with_many() {
    let few = World {
        launches: 3,
        ..WORLD
    };
    let share = few.share(Verdict::Worse, 1.5, 0.1, 60);
    assert!(share >= 0.9, "3 launches, 50 %: {share}");
    let many = World {
        launches: 20,
        rows: 1,
        ..WORLD
    };
    let share = many.share(Verdict::Worse, 1.2, 0.1, 60);
    assert!(share >= 0.9, "20 launches, 20 %: {share}");
}

#[test]
fn half_the_time_is_better_and_equals_of_many_launches_are_the_same() {
    assert!(WORLD.share(Verdict::Better, 0.5, 0.1, 40) >= 0.9);
    let many = World {
        launches: 20,
        rows: 1,
        ..WORLD
    };
    assert!(many.share(Verdict::Same, 1.0, 0.1, 40) >= 0.9);
}

#[test]
fn the_machines_drift_is_taken_out_where_there_is_a_limit() {
    let world = World {
        drift_sd: 0.0,
        rows: 1,
        ..WORLD
    };
    let mut rng = WorkerRng::new(5, 0);
    let base = world.file(1.0, &mut rng);
    let mut slow_day = base.clone();
    for sample in &mut slow_day.rows[0].ns_per_op.samples {
        *sample *= 2.0;
    }
    assert!(compare(&base, &slow_day, 0.1, 1).regressed());
    for limit in slow_day.rows[0].limit_samples_ns.iter_mut().flatten() {
        *limit *= 2.0;
    }
    let row = &compare(&base, &slow_day, 0.1, 1).rows[0];
    assert!(row.relative_to_limit && (row.ratio - 1.0).abs() < 1e-9);
    assert_ne!(row.verdict, Verdict::Worse);
}

#[test]
fn one_seed_gives_one_interval() {
    let mut rng = WorkerRng::new(9, 0);
    let (base, new) = (WORLD.file(1.0, &mut rng), WORLD.file(1.1, &mut rng));
    let once = compare(&base, &new, 0.1, 4);
    assert_eq!(once, compare(&base, &new, 0.1, 4));
    assert_ne!(once, compare(&base, &new, 0.1, 5));
}

#[test]
fn a_single_sample_is_not_judged() {
    let world = World {
        repeats: 1,
        rows: 1,
        ..WORLD
    };
    assert_eq!(world.share(Verdict::Unsure, 5.0, 0.1, 3), 1.0);
}

#[test]
fn many_rows_do_not_multiply_false_alarms() {
    // Launches differ as assumed: each row alone is at its level, and twenty of them together must be as well.
    let world = World {
        rows: 20,
        launch_sd: LAUNCH_SD,
        launches: 2,
        ..WORLD
    };
    let share = world.share(Verdict::Worse, 1.0, 0.0, 30);
    assert!(share <= 0.05, "{share}");
}
