//! How much memory this process really has, and how much of it in huge pages.
//!
//! Source: `/proc/self/smaps_rollup` (proc(5)), which is exact where `statm` is not. Where it cannot be read nothing is claimed.

use std::fs;

/// Memory of this process at one moment, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resident {
    /// All that is in memory.
    pub resident: u64,
    /// Of it, what belongs to no file.
    pub anonymous: u64,
    /// Of that, what lies in huge pages.
    pub huge: u64,
}

impl Resident {
    /// Looks now; `None` where the system does not tell. Costs as much as the process has pages.
    #[must_use]
    pub fn now() -> Option<Resident> {
        Resident::parse(&fs::read_to_string("/proc/self/smaps_rollup").ok()?)
    }

    fn parse(rollup: &str) -> Option<Resident> {
        let bytes = |name: &str| -> Option<u64> {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name))?;
            let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
            Some(kilobytes * 1024)
        };
        Some(Resident {
            resident: bytes("Rss:")?,
            anonymous: bytes("Anonymous:")?,
            huge: bytes("AnonHugePages:")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_kilobytes() {
        let text = "5589-7ffd ---p 00000000 00:00 0 [rollup]\nRss:  3 kB\nPss: 1 kB\nAnonymous:  2 kB\nAnonHugePages: 0 kB\n";
        assert_eq!(
            Resident::parse(text),
            Some(Resident {
                resident: 3 << 10,
                anonymous: 2 << 10,
                huge: 0
            })
        );
        assert_eq!(Resident::parse("Rss: 3 kB\n"), None);
    }
}
