//! `zipf`: packets of connections of which a few have most of the traffic.
//!
//! # Model
//! The full table of [`lookup-hit`](super::lookup_hit), and packets whose connections are drawn by Zipf's law with exponent
//! [`EXPONENT`]: the most popular connection has about one packet in fifteen of a table of 1 M, the thousand most popular
//! ones half of all. Which connections are popular has nothing to do with where they lie. Each packet comes from either
//! side, at random. As many packets are drawn as the table has keys, and gone through again and again.
//!
//! # What it does not measure
//! Popularity that changes; bursts (a flow's packets come one by one, not in trains).

use clashtrack_engine::random::WorkerRng;
use clashtrack_engine::table::key::KeyV4;

use super::case::{Kind, Workload};
use super::flows::Pair;

/// The workload.
pub const WORKLOAD: Workload = Workload {
    name: "zipf",
    question: "Few connections have most of the packets: how much do caches help the lookup?",
    kind: Kind::Zipf,
};

/// The exponent that key-value benchmarks use (YCSB: Cooper et al., 2010).
pub const EXPONENT: f64 = 0.99;

/// Draws ranks by Zipf's law, the most popular first.
///
/// Source: rejection-inversion, Hörmann and Derflinger, 1996.
#[derive(Clone, Copy, Debug)]
pub struct Zipf {
    ranks: f64,
    /// The integral of the hat at one half and at the end.
    first: f64,
    last: f64,
    /// Closer than this to its rank a draw is taken without asking.
    sure: f64,
}

impl Zipf {
    /// Of so many ranks, one at least.
    #[must_use]
    pub fn new(ranks: usize) -> Zipf {
        let ranks = ranks.max(1) as f64;
        Zipf {
            ranks,
            first: hat(1.5) - 1.0,
            last: hat(ranks + 0.5),
            sure: 2.0 - hat_inverse(hat(2.5) - 2f64.powf(-EXPONENT)),
        }
    }

    /// A rank, from 0.
    pub fn draw(&self, rng: &mut WorkerRng) -> usize {
        loop {
            let uniform = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
            let area = self.last + uniform * (self.first - self.last);
            let place = hat_inverse(area);
            let rank = place.round().clamp(1.0, self.ranks);
            if rank - place <= self.sure || area >= hat(rank + 0.5) - rank.powf(-EXPONENT) {
                return rank as usize - 1;
            }
        }
    }
}

/// The integral of `x^-EXPONENT` from 1.
fn hat(x: f64) -> f64 {
    (x.powf(1.0 - EXPONENT) - 1.0) / (1.0 - EXPONENT)
}

fn hat_inverse(area: f64) -> f64 {
    (1.0 + area * (1.0 - EXPONENT)).powf(1.0 / (1.0 - EXPONENT))
}

/// The keys of `2 * pairs.len()` packets.
pub(super) fn keys(seed: u64, pairs: &[Pair]) -> Vec<KeyV4> {
    let mut rng = WorkerRng::new(seed, usize::MAX - 1);
    let zipf = Zipf::new(pairs.len());
    // Which connection has which rank.
    let mut order: Vec<u32> = (0..pairs.len() as u32).collect();
    for at in (1..order.len()).rev() {
        order.swap(at, rng.below(at as u32 + 1) as usize);
    }
    (0..2 * pairs.len())
        .map(|_| {
            let pair = &pairs[order[zipf.draw(&mut rng)] as usize];
            if rng.next_u32() & 1 == 0 {
                pair.original
            } else {
                pair.reply
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_drawn_as_often_as_zipfs_law_says() {
        const DRAWS: usize = 400_000;
        let (ranks, mut rng) = (1000, WorkerRng::new(1, 0));
        let zipf = Zipf::new(ranks);
        let mut seen = vec![0u32; ranks];
        for _ in 0..DRAWS {
            seen[zipf.draw(&mut rng)] += 1;
        }
        let weight = |rank: usize| ((rank + 1) as f64).powf(-EXPONENT);
        let all: f64 = (0..ranks).map(weight).sum();
        for rank in [0, 1, 2, 9, 99, 999] {
            let expected = DRAWS as f64 * weight(rank) / all;
            let off = (f64::from(seen[rank]) - expected).abs();
            assert!(
                off < 5.0 * expected.sqrt(),
                "{rank}: {} {expected}",
                seen[rank]
            );
        }
    }

    #[test]
    fn one_connection_is_always_the_one() {
        let mut rng = WorkerRng::new(1, 0);
        assert!((0..100).all(|_| Zipf::new(1).draw(&mut rng) == 0));
    }
}
