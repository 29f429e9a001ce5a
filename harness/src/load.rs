//! What else the machine did while we measured: time stolen by the hypervisor, and load of
//! other processes.
//!
//! Source: `/proc/stat` and `/proc/self/stat` (proc(5)), in ticks of 10 ms. Where they cannot
//! be read nothing is claimed.

use std::fs;

use serde::Serialize;

/// A sample taken while either share was beyond this is marked.
pub const DISTURBED_BEYOND: f64 = 0.05;

/// Shares of all processors' time, 0 to 1.
#[derive(Serialize, Clone, Copy, PartialEq, Debug)]
pub struct Load {
    /// Taken by the hypervisor for others.
    pub steal_share: f64,
    /// Used by other processes and the kernel's own threads.
    pub foreign_share: f64,
}

impl Load {
    /// Whether figures taken meanwhile deserve a mark.
    #[must_use]
    pub fn disturbs(&self) -> bool {
        self.steal_share > DISTURBED_BEYOND || self.foreign_share > DISTURBED_BEYOND
    }
}

/// Times of all processors, and ours among them, in ticks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ticks {
    total: u64,
    steal: u64,
    busy: u64,
    own: u64,
}

impl Ticks {
    /// Whether figures taken since `begun` deserve a mark; never where the system does not tell.
    #[must_use]
    pub fn disturbed_since(begun: Option<Ticks>) -> bool {
        begun
            .and_then(|begun| Ticks::now()?.since(&begun))
            .is_some_and(|load| load.disturbs())
    }

    /// Reads them now; `None` where the system does not tell.
    #[must_use]
    pub fn now() -> Option<Ticks> {
        let stat = fs::read_to_string("/proc/stat").ok()?;
        let own = fs::read_to_string("/proc/self/stat").ok()?;
        Ticks::parse(&stat, &own)
    }

    fn parse(stat: &str, own: &str) -> Option<Ticks> {
        // cpu user nice system idle iowait irq softirq steal guest guest_nice; guests are in user already.
        let times: Vec<u64> = stat
            .lines()
            .next()?
            .strip_prefix("cpu ")?
            .split_whitespace()
            .map_while(|word| word.parse().ok())
            .take(8)
            .collect();
        let &[user, nice, system, idle, iowait, irq, softirq, steal] = times.as_slice() else {
            return None;
        };
        // The name in parentheses may hold spaces; utime and stime are the 12th and 13th fields behind it.
        let (_, fields) = own.rsplit_once(')')?;
        let own: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map_while(|word| word.parse::<u64>().ok())
            .sum();
        let busy = user + nice + system + irq + softirq;
        Some(Ticks {
            total: busy + idle + iowait + steal,
            steal,
            busy,
            own,
        })
    }

    /// The load between `earlier` and this; `None` when no tick has passed.
    #[must_use]
    pub fn since(&self, earlier: &Ticks) -> Option<Load> {
        let total = self.total.checked_sub(earlier.total).filter(|&t| t > 0)? as f64;
        let own = self.own.saturating_sub(earlier.own);
        let foreign = self.busy.saturating_sub(earlier.busy).saturating_sub(own);
        Some(Load {
            steal_share: self.steal.saturating_sub(earlier.steal) as f64 / total,
            foreign_share: foreign as f64 / total,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "42 (a (b) c) S 1 1 1 0 -1 4194304 1 0 0 0 30 10 0 0 20 0 1 0";

    #[test]
    fn foreign_load_is_what_is_busy_and_not_ours() {
        let before = Ticks::parse("cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1", OWN).unwrap();
        let own = OWN.replace(" 30 10 ", " 70 20 ");
        let after = Ticks::parse("cpu  160 0 110 920 0 0 0 10 0 0\n", &own).unwrap();
        let load = after.since(&before).unwrap();
        assert_eq!(load.steal_share, 10.0 / 200.0);
        assert_eq!(load.foreign_share, 20.0 / 200.0);
        assert!(load.disturbs());
        assert_eq!(after.since(&after), None);
    }

    #[test]
    fn a_stat_file_of_another_form_claims_nothing() {
        assert_eq!(Ticks::parse("cpu  1 2 3\n", OWN), None);
        assert_eq!(Ticks::parse("", OWN), None);
    }
}
