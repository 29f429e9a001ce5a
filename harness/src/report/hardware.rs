//! What moves figures and does not change during a run: processors, caches, clocks, and how this program was built.
//!
//! Sources: sysfs-devices-system-cpu and sysfs-devices-node of the kernel's ABI documentation. What cannot be found out is
//! `null`: virtual machines hide governors, other systems hide all of it.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// The processors and the clock.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub struct Hardware {
    /// Hardware threads of a core; 1 is no SMT, or a hypervisor that hides it.
    pub smt_siblings: Option<usize>,
    /// The first processor's caches, nearest first; empty where the system does not tell.
    pub caches: Vec<Cache>,
    /// Memory nodes.
    pub numa_nodes: Option<usize>,
    /// What chooses the first processor's frequency.
    pub governor: Option<String>,
    /// What the kernel tells time by.
    pub clock_source: Option<String>,
    /// When memory gets huge pages: always, madvise or never.
    pub huge_pages: Option<String>,
    /// How workers get their cores.
    pub pinning: &'static str,
}

/// A cache as the first processor sees it.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub struct Cache {
    /// 1 is nearest.
    pub level: usize,
    /// Data, Instruction or Unified.
    pub holds: String,
    /// Its size.
    pub bytes: usize,
    /// Processors that share it.
    pub shared_by: usize,
}

/// How this program was built.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Build {
    /// The compiler, as it calls itself.
    pub rustc: Option<&'static str>,
    /// What it built for.
    pub target: Option<&'static str>,
    /// Instructions that it might use everywhere, by commas; a table's scans choose theirs beside (`isa`).
    pub target_features: Option<&'static str>,
    /// 0 to 3, s or z.
    pub opt_level: Option<&'static str>,
    /// What linked it, as far as flags and rustc's default tell.
    pub linker: Option<&'static str>,
}

/// How `workload::worker` does it.
const PINNING: &str = "worker n on the nth core that this process may use, in turns where workers are more; no core is isolated \
                       and no priority raised";

impl Hardware {
    /// Looks at this machine: a dozen small files.
    #[must_use]
    pub fn here() -> Hardware {
        Hardware::under(Path::new("/sys"))
    }

    fn under(sys: &Path) -> Hardware {
        let word = |path: &str| word(&sys.join(path));
        let cpu = sys.join("devices/system/cpu/cpu0");
        Hardware {
            smt_siblings: word("devices/system/cpu/cpu0/topology/thread_siblings_list")
                .and_then(|list| listed(&list)),
            caches: (0..16)
                .map_while(|number| Cache::at(&cpu.join(format!("cache/index{number}"))))
                .collect(),
            numa_nodes: word("devices/system/node/online").and_then(|list| listed(&list)),
            governor: word("devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            clock_source: word("devices/system/clocksource/clocksource0/current_clocksource"),
            huge_pages: word("kernel/mm/transparent_hugepage/enabled").and_then(|choice| {
                let (_, chosen) = choice.split_once('[')?;
                Some(chosen.split_once(']')?.0.to_owned())
            }),
            pinning: PINNING,
        }
    }
}

impl Cache {
    fn at(folder: &Path) -> Option<Cache> {
        let word = |name: &str| word(&folder.join(name));
        let size = word("size")?;
        let (digits, factor) = match size.strip_suffix('K') {
            Some(digits) => (digits, 1024),
            None => (size.strip_suffix('M')?, 1024 * 1024),
        };
        Some(Cache {
            level: word("level")?.parse().ok()?,
            holds: word("type")?,
            bytes: digits.parse::<usize>().ok()?.checked_mul(factor)?,
            shared_by: listed(&word("shared_cpu_list")?)?,
        })
    }
}

impl Build {
    /// What the build noted.
    #[must_use]
    pub fn this() -> Build {
        Build {
            rustc: option_env!("CLASHTRACK_RUSTC"),
            target: option_env!("CLASHTRACK_TARGET"),
            target_features: option_env!("CLASHTRACK_TARGET_FEATURES"),
            opt_level: option_env!("CLASHTRACK_OPT_LEVEL"),
            linker: option_env!("CLASHTRACK_LINKER"),
        }
    }
}

/// A small file's text, without the line end; `None` for an empty one.
fn word(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// How many a kernel's list names: `0-3,8` is five (cpulist of `bitmap_parselist`).
fn listed(list: &str) -> Option<usize> {
    list.split(',').try_fold(0_usize, |sum, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernels_list_is_counted() {
        assert_eq!(listed("0"), Some(1));
        assert_eq!(listed("0-3,8,10-11"), Some(7));
        for bad in ["", "3-1", "a", "1-", "0-18446744073709551615"] {
            assert_eq!(listed(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_machine_is_read_from_its_files_and_what_is_missing_is_unknown() {
        let sys = tempfile::tempdir().expect("a temporary folder");
        let nothing = Hardware::under(sys.path());
        assert_eq!((nothing.smt_siblings, nothing.caches.len()), (None, 0));
        let put = |path: &str, text: &str| {
            let path = sys.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        };
        let cpu = "devices/system/cpu/cpu0";
        put(&format!("{cpu}/topology/thread_siblings_list"), "0,32\n");
        put(&format!("{cpu}/cpufreq/scaling_governor"), "powersave\n");
        put(&format!("{cpu}/cache/index0/level"), "3\n");
        put(&format!("{cpu}/cache/index0/type"), "Unified\n");
        put(&format!("{cpu}/cache/index0/size"), "32M\n");
        put(&format!("{cpu}/cache/index0/shared_cpu_list"), "0-7\n");
        put(
            "kernel/mm/transparent_hugepage/enabled",
            "always [madvise] never\n",
        );
        let hardware = Hardware::under(sys.path());
        assert_eq!(hardware.smt_siblings, Some(2));
        assert_eq!(hardware.governor.as_deref(), Some("powersave"));
        assert_eq!(hardware.huge_pages.as_deref(), Some("madvise"));
        let cache = &hardware.caches[0];
        assert_eq!(
            (cache.level, cache.bytes, cache.shared_by),
            (3, 32 << 20, 8)
        );
        assert_eq!(hardware.numa_nodes, None);
    }
}
