//! `skew`: a NIC's RSS sends everything to one worker.
//!
//! # Model
//! The full table of [`lookup-hit`](super::lookup_hit), and of its keys those that Toeplitz RSS sends to one and the same of
//! the workers, whichever it is: what a tunnel, a load balancer with few flows, or somebody who knows the NIC's key does
//! to a machine. A round is as many lookups as all workers together would do; each is done by the worker that the
//! packet is steered to, and the round's time ends with the last one. `--steer rss` (the default) leaves all but one idle,
//! `hash` and `random` spread the same packets in software. The limit beside it spreads them evenly: with one
//! worker busy of N, `limit_ratio` is a N-th of `lookup-hit`'s.
//!
//! # What it does not measure
//! What steering in software costs (handing a packet over, its cache lines), and packets that overtake each other with `random`.

use clashtrack_engine::table::key::KeyV4;

use super::case::{Kind, Workload};
use super::steer::{Steer, Steering};

/// The workload.
pub const WORKLOAD: Workload = Workload {
    name: "skew",
    question: "RSS sends every packet to one worker: what is left of all workers' rate?",
    kind: Kind::Skew,
};

/// Those of the keys that RSS sends to the worker of the first of them.
pub(super) fn keys(workers: usize, mut keys: Vec<KeyV4>) -> Vec<KeyV4> {
    let mut rss = Steering::new(Steer::Rss, workers, 0);
    if let Some(target) = keys.first().map(|key| rss.worker(key)) {
        keys.retain(|key| rss.worker(key) == target);
    }
    keys
}

/// The keys of each worker.
pub(super) fn steered(steer: Steer, workers: usize, seed: u64, keys: &[KeyV4]) -> Vec<Vec<KeyV4>> {
    let mut steering = Steering::new(steer, workers, seed);
    let mut of_worker = vec![Vec::new(); workers];
    for key in keys {
        of_worker[steering.worker(key)].push(*key);
    }
    of_worker
}

#[cfg(test)]
mod tests {
    use super::super::flows;
    use super::*;
    use clashtrack_engine::tuple::Protocol;

    #[test]
    fn rss_leaves_all_workers_but_one_idle_and_other_steering_does_not() {
        let pairs = flows::translated(1, 0, Protocol::TCP, 2000);
        let keys = keys(4, flows::two_sweeps(1, &pairs));
        assert!(keys.len() > 500, "{}", keys.len());
        for steer in Steer::ALL {
            let parts = steered(steer, 4, 1, &keys);
            let busy = parts.iter().filter(|part| !part.is_empty()).count();
            assert_eq!(busy, if steer == Steer::Rss { 1 } else { 4 });
            assert_eq!(parts.iter().map(Vec::len).sum::<usize>(), keys.len());
        }
    }
}
