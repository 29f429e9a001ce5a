//! What a cache line costs on this machine, by prefetch hint and number of lines under way.
//!
//! The memory is of the tables' own kind ([`Array`]), larger than the caches; lines are met in a random order that
//! follows from a hash, as a table's do. Each figure is the fastest of several tries: whatever else the machine
//! does can only slow one down.

use std::hint::black_box;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clashtrack_engine::random::WorkerRng;
use clashtrack_engine::table::hash::bucket_of;
use clashtrack_engine::table::prefetch::{Hint, prefetch};
use clashtrack_engine::table::storage::Array;

use crate::limit::{DEPTHS, Line};

/// What is done with a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// It is read.
    Read,
    /// It is read and written.
    Write,
}

impl Access {
    /// Its name in what is printed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Access::Read => "read",
            Access::Write => "write",
        }
    }
}

/// One figure.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Cost {
    /// What was done with each line.
    pub access: Access,
    /// How it was asked for.
    pub hint: Hint,
    /// Lines asked for before the first of them was used.
    pub in_flight: usize,
    /// Nanoseconds a line.
    pub ns_per_line: f64,
}

/// Lines that are enough to be beyond the caches of most machines: 64 MiB.
pub const LINES: usize = 1 << 20;

/// Lines met in one try, and tries of each combination.
const TRY_LINES: usize = 1 << 13;
const TRIES: usize = 3;

/// Measures all combinations on `lines` lines, some tens of milliseconds for [`LINES`]; `lines` must not be 0.
#[must_use]
pub fn measure(lines: usize, seed: u64) -> Vec<Cost> {
    let memory: Array<Line> = Array::zeroed(lines);
    for line in memory.iter() {
        // Relaxed: nobody else is here. Touches the page.
        line[0].store(1, Ordering::Relaxed);
    }
    let mut costs = Vec::new();
    for access in [Access::Read, Access::Write] {
        for hint in Hint::ALL {
            for in_flight in DEPTHS {
                costs.push(Cost {
                    access,
                    hint,
                    in_flight,
                    ns_per_line: f64::INFINITY,
                });
            }
        }
    }
    let mut rng = WorkerRng::new(seed, usize::MAX - 4);
    for _ in 0..TRIES {
        for cost in &mut costs {
            let time = one_try(&memory, cost, rng.next_u64());
            cost.ns_per_line = cost
                .ns_per_line
                .min(time.as_secs_f64() * 1e9 / TRY_LINES as f64);
        }
    }
    costs
}

/// How tables ask for memory ahead.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hints {
    /// For lines that will be read.
    pub reading: Hint,
    /// For lines that will be changed.
    pub writing: Hint,
}

impl Hints {
    /// One for both.
    #[must_use]
    pub const fn same(hint: Hint) -> Hints {
        Hints {
            reading: hint,
            writing: hint,
        }
    }

    /// As `--prefetch` takes them: one word, or two.
    #[must_use]
    pub fn words(self) -> String {
        if self == Hints::same(self.reading) {
            self.reading.name().to_owned()
        } else {
            format!("{},{}", self.reading.name(), self.writing.name())
        }
    }

    /// The best of what was measured.
    #[must_use]
    pub fn best(costs: &[Cost]) -> Hints {
        let hint = |cost: Option<Cost>| cost.map_or(Hint::default(), |cost| cost.hint);
        Hints {
            reading: hint(best(costs, Access::Read)),
            writing: hint(best_to_write(costs)),
        }
    }
}

/// What the hint for writing may cost beyond the best one and still be taken.
const ALIKE: f64 = 1.1;

/// The hint for lines that will be changed: the one that asks for a line of one's own, unless another one is clearly faster. The
/// lines measured here are nobody else's; in a table the last writer was another core as often as not, and has to
/// give them up, which this hint asks for beforehand.
fn best_to_write(costs: &[Cost]) -> Option<Cost> {
    let best = best(costs, Access::Write)?;
    let own = cheapest(costs, |cost| {
        cost.access == Access::Write && cost.hint == Hint::Write
    });
    Some(match own {
        Some(own) if own.ns_per_line <= best.ns_per_line * ALIKE => own,
        _ => best,
    })
}

/// The hint with the smallest cost for this access, at whatever number of lines under way.
#[must_use]
pub fn best(costs: &[Cost], access: Access) -> Option<Cost> {
    cheapest(costs, |cost| cost.access == access)
}

fn cheapest(costs: &[Cost], fits: impl Fn(&Cost) -> bool) -> Option<Cost> {
    let fitting = costs.iter().filter(|cost| fits(cost));
    fitting
        .min_by(|a, b| a.ns_per_line.total_cmp(&b.ns_per_line))
        .copied()
}

fn one_try(memory: &[Line], cost: &Cost, start: u64) -> Duration {
    let mut places = [0u32; 256];
    let places = &mut places[..cost.in_flight];
    let lines = memory.len() as u32;
    let begun = Instant::now();
    let (mut sum, mut state) = (0u64, start);
    for _ in 0..TRY_LINES / cost.in_flight {
        for place in &mut *places {
            // A step of SplitMix64: random places without reading any memory for them.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            *place = bucket_of(mixed ^ mixed >> 27, lines);
            prefetch(cost.hint, &memory[*place as usize]);
        }
        for &place in &*places {
            let word = &memory[place as usize][0];
            // Relaxed, both: nobody else is here.
            let value = word.load(Ordering::Relaxed);
            sum = sum.wrapping_add(value);
            if cost.access == Access::Write {
                // Relaxed: as above.
                word.store(value + 1, Ordering::Relaxed);
            }
        }
    }
    black_box(sum);
    begun.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hint_and_depth_has_a_cost_for_reading_and_for_writing() {
        let costs = measure(1000, 1);
        assert_eq!(costs.len(), 2 * Hint::ALL.len() * DEPTHS.len());
        assert!(costs.iter().all(|cost| cost.ns_per_line.is_finite()));
        let best = best(&costs, Access::Write).unwrap();
        assert!(
            costs
                .iter()
                .all(|cost| cost.access == Access::Read || cost.ns_per_line >= best.ns_per_line)
        );
    }
}
