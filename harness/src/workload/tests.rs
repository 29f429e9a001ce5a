//! The driver and the measured workloads, on small tables.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clashtrack_engine::tuple::Protocol;

use super::traffic::Traffic;
use super::worker::Cores;
use super::*;
use crate::calibrate::Hints;
use crate::peer::TABLES;

fn plan(workloads: &[Workload]) -> Plan {
    Plan {
        workloads: workloads.to_vec(),
        tables: TABLES.iter().map(|table| table.name).collect(),
        workers: vec![2],
        batches: vec![16],
        connections: vec![500],
        protocols: Vec::new(),
        duration: Some(Duration::from_nanos(1)),
        repeat: Some(3),
        seed: 1,
        cores: 2,
        prefetch: Hints::default(),
        isa: clashtrack_engine::table::lockfree::Isa::default(),
        steer: steer::Steer::default(),
        demand: open_loop::Demand::default(),
    }
}

fn measured(plan: &Plan) -> Vec<Measurement> {
    let measured = measure(plan, &AtomicBool::new(false), |_, _| ());
    assert!(!measured.interrupted);
    assert_eq!(
        measured.measurements.len(),
        plan.cases().len() * plan.tables.len()
    );
    measured.measurements
}

#[test]
fn every_table_gets_every_sample() {
    let plan = Plan {
        tables: vec!["striped", "mutex"],
        ..plan(&[clash::WORKLOAD])
    };
    let mut steps = 0;
    let measured = measure(&plan, &AtomicBool::new(false), |_, _| steps += 1);
    assert_eq!(steps, plan.steps());
    assert_eq!(measured.measurements.len(), 2);
    for measurement in &measured.measurements {
        assert_eq!(measurement.samples.len(), 3);
        assert_eq!(measurement.per_cpu.len(), 2);
        assert_eq!(measurement.tally.lost(), 0);
        assert!(!measurement.anomalies.any());
    }
}

#[test]
fn an_interrupt_before_the_first_sample_measures_nothing_and_says_so() {
    let plan = plan(&[clash::WORKLOAD, lookup_hit::WORKLOAD]);
    let measured = measure(&plan, &AtomicBool::new(true), |_, _| ());
    assert!(measured.interrupted && measured.measurements.is_empty());
}

#[test]
fn lookups_find_what_is_there_and_nothing_else_and_have_a_limit_beside_them() {
    let plan = Plan {
        repeat: Some(1),
        batches: vec![1, 16],
        workers: vec![1, 2],
        ..plan(&[lookup_hit::WORKLOAD, lookup_miss::WORKLOAD])
    };
    for measurement in measured(&plan) {
        let lookups = measurement.case.workers * measurement.case.of_a_round(lookup::ROUND_LOOKUPS);
        let lookups = lookups as u64;
        assert!(measurement.samples[0].operations >= lookups);
        assert!(!measurement.anomalies.any(), "{measurement:?}");
        assert!(measurement.limit[0].operations >= lookups);
        assert_eq!(measurement.tally.offered, 0);
    }
}

#[test]
fn connections_are_all_confirmed_in_an_empty_table_and_in_one_that_turns_over() {
    let plan = Plan {
        repeat: Some(1),
        protocols: vec![Protocol::TCP, Protocol::UDP],
        ..plan(&[connect::WORKLOAD, churn::WORKLOAD])
    };
    for measurement in measured(&plan) {
        let tally = measurement.tally;
        assert!(tally.offered >= 500, "{measurement:?}");
        assert_eq!(tally.offered, tally.confirmed, "{measurement:?}");
        assert!(!measurement.anomalies.any(), "{measurement:?}");
        assert_eq!(measurement.limit.len(), 1);
    }
}

/// Each is its own judge: a table that gives another answer panics, or has anomalies.
#[test]
fn every_workload_gives_right_answers_and_balanced_books_on_tables_of_both_kinds() {
    for &workload in WORKLOADS {
        if matches!(workload.kind, Kind::Stall | Kind::Expire) {
            // These take their time, and have tests of their own.
            continue;
        }
        let plan = Plan {
            tables: vec!["lockfree", "dashmap"],
            connections: vec![2000],
            repeat: Some(1),
            ..plan(&[workload])
        };
        for measurement in measured(&plan) {
            let (name, tally) = (workload.name, measurement.tally);
            assert!(measurement.samples[0].operations > 0, "{name}");
            assert_eq!(measurement.per_cpu.len(), 2, "{name}");
            assert_eq!(tally.lost(), 0, "{name}: {tally:?}");
            assert_eq!(workload.kind.confirms(), tally.offered > 0, "{name}");
            // Two inserts are no atomic step: a race may see one of them.
            let atomic = measurement.table == "lockfree";
            assert!(!atomic || !measurement.anomalies.any(), "{measurement:?}");
        }
    }
}

#[test]
fn skew_keeps_one_worker_busy_and_steering_by_hash_all_of_them() {
    for (steer, idle) in [(steer::Steer::Rss, 1), (steer::Steer::Hash, 0)] {
        let case = Case {
            steer,
            ..plan(&[skew::WORKLOAD]).cases()[0]
        };
        let traffic = Traffic::of(&case);
        let parts = [0, 1].map(|worker| traffic.part_of(worker, 1000));
        assert_eq!(parts.iter().filter(|&&part| part == 0).count(), idle);
        assert!(
            (2000..2002).contains(&parts.iter().sum::<u64>()),
            "{parts:?}"
        );
    }
}

#[test]
fn a_syn_flood_evicts_somebody_for_each_newcomer_or_drops_it() {
    for measurement in measured(&Plan {
        repeat: Some(1),
        ..plan(&[syn_flood::WORKLOAD])
    }) {
        let evicted: u64 = measurement.per_cpu.iter().map(|cpu| cpu.early_drop).sum();
        let tally = measurement.tally;
        assert!(tally.confirmed > 0, "{measurement:?}");
        // What one round frees the next may use.
        assert!(evicted + 1000 > tally.confirmed, "{evicted} {tally:?}");
    }
}

#[test]
fn a_mixture_is_ninety_hits_nine_connections_and_one_end_in_a_hundred() {
    for measurement in measured(&Plan {
        tables: vec!["lockfree"],
        repeat: Some(1),
        ..plan(&[mixed::WORKLOAD])
    }) {
        let (operations, made) = (measurement.samples[0].operations, measurement.tally.offered);
        assert_eq!(made % mixed::newcomers(16) as u64, 0);
        // The last lookups of a sweep are a shorter batch.
        let share = made as f64 / operations as f64;
        assert!((0.09..0.095).contains(&share), "{share}");
    }
}

#[test]
fn a_batch_may_be_larger_than_a_workers_part_of_the_table() {
    let plan = Plan {
        repeat: Some(1),
        batches: vec![300],
        connections: vec![100],
        ..plan(&[connect::WORKLOAD, churn::WORKLOAD, lookup_hit::WORKLOAD])
    };
    measured(&plan);
}

/// Aim: no connection is forgotten by the books, whatever the machine's other load does to the pace.
#[test]
fn what_expires_and_what_is_left_over_are_all_connections_and_every_insert_has_its_latency() {
    let plan = Plan {
        repeat: Some(1),
        workers: vec![1],
        duration: Some(Duration::from_millis(160)),
        ..plan(&[expire::WORKLOAD])
    };
    for measurement in measured(&plan) {
        let expiry = measurement.expiry.as_ref().expect("expire tells of expiry");
        let table = measurement.table;
        assert_eq!(expiry.expired + expiry.left_over, 500, "{table}");
        let latencies = expiry.with.len() + expiry.without.len();
        assert_eq!(latencies, measurement.tally.offered, "{table}");
        assert_eq!(measurement.tally.offered, measurement.tally.confirmed);
    }
}

#[test]
fn a_suspended_worker_hangs_the_tables_that_lock_and_not_the_lock_free_one() {
    let case = Case {
        duration: Duration::from_millis(300),
        ..plan(&[stall::WORKLOAD]).cases()[0]
    };
    for (table, hangs) in [("lockfree", false), ("striped", true), ("mutex", true)] {
        let stall = measure::once(table, &case)
            .stall
            .expect("stall tells of it");
        assert_eq!(stall.hung, hangs, "{table}: {stall:?}");
        assert!(stall.others_ops > 0 || hangs, "{table}: {stall:?}");
        assert!(stall.suspended >= case.duration);
    }
}

#[test]
fn the_limit_looks_for_its_best_way_in_the_warm_up_with_all_of_its_workers() {
    let cores = Cores::available();
    let never = AtomicBool::new(false);
    for workload in [
        lookup_hit::WORKLOAD,
        lookup_miss::WORKLOAD,
        connect::WORKLOAD,
    ] {
        let case = plan(&[workload]).cases()[0];
        let traffic = Arc::new(Traffic::of(&case));
        let mut limit = crate::limit::contender(&case, &traffic).expect("it has a limit");
        assert_eq!(limit.round(&cores, &never).operations, 0, "the warm-up");
        let round = limit.round(&cores, &never);
        assert!(round.operations > 0 && round.elapsed > Duration::ZERO);
    }
}

#[test]
fn every_workload_has_a_limit_but_those_that_say_why_not() {
    let (cores, never) = (Cores::available(), AtomicBool::new(false));
    for &workload in WORKLOADS {
        let none = matches!(workload.kind, Kind::Exhaust | Kind::Expire | Kind::Stall);
        let asked = Plan {
            batches: vec![1, 16],
            protocols: vec![Protocol::TCP, Protocol::UDP],
            ..plan(&[workload])
        };
        for case in asked.cases() {
            let traffic = Arc::new(Traffic::of(&case));
            let limit = crate::limit::contender(&case, &traffic);
            assert_eq!(limit.is_none(), none, "{}", workload.name);
            let Some(mut limit) = limit else {
                continue;
            };
            // Some have a warm-up, in which they look for their best way.
            limit.round(&cores, &never);
            let rounds: Vec<_> = (0..3).map(|_| limit.round(&cores, &never)).collect();
            for round in rounds {
                assert!(round.operations > 0, "{case:?}");
                assert!(round.elapsed > Duration::ZERO, "{case:?}");
            }
        }
    }
}

/// Aim: what the driver says about a rate is what was offered. Method: a rate that any machine keeps, in operations that can be counted.
#[test]
fn at_a_rate_every_table_is_offered_as_much_as_was_asked_for() {
    let plan = Plan {
        tables: vec!["lockfree", "mutex"],
        duration: Some(Duration::from_millis(40)),
        repeat: Some(2),
        demand: open_loop::Demand::Rates(vec![4000, 8000]),
        ..plan(&[lookup_hit::WORKLOAD, churn::WORKLOAD, packets::WORKLOAD])
    };
    let measured = measure(&plan, &AtomicBool::new(false), |_, _| ());
    assert_eq!(measured.measurements.len(), 3 * 2 * 2);
    for measurement in &measured.measurements {
        let open = measurement.open_loop.as_ref().expect("it was at a rate");
        let rate = open.rate.expect("it was given");
        let done: u64 = measurement.samples.iter().map(|s| s.operations).sum();
        // Each worker's last batch may reach beyond the end, and the second one begins a batch later.
        let due = (rate * 0.08) as u64;
        let seen = done + open.offered.given_up;
        assert!(
            (due - 64..=due + 64).contains(&seen),
            "{seen} of {due}: {measurement:?}"
        );
        assert_eq!(open.offered.latencies.len(), seen, "{measurement:?}");
        assert_eq!(measurement.limit.len(), 2);
        assert!(!measurement.anomalies.any());
    }
}

#[test]
fn an_interrupted_search_measures_nothing_and_ends() {
    let goal = open_loop::Goal {
        percentile: open_loop::Percentile::P50,
        latency: Duration::from_secs(1),
    };
    let plan = Plan {
        demand: open_loop::Demand::Highest(goal),
        ..plan(&[lookup_hit::WORKLOAD])
    };
    let measured = measure(&plan, &AtomicBool::new(true), |_, _| ());
    assert!(measured.interrupted && measured.measurements.is_empty());
}
