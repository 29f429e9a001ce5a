//! The machine that figures were measured on. What cannot be found out is `null`.

use std::fs;
use std::thread;

use serde::Serialize;

use clashtrack_engine::table::lockfree::Isa;

use super::hardware::{Build, Hardware};
use crate::calibrate::Hints;
use crate::load::Load;
use crate::memory::Resident;

/// What a reader of a figure has to know about where it comes from.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct Machine {
    /// As the processor calls itself.
    pub cpu: Option<String>,
    /// Processors this process may use.
    pub vcpus: Option<usize>,
    /// Operating system and its release.
    pub kernel: Option<String>,
    /// Size of an ordinary memory page.
    pub page_bytes: Option<u64>,
    /// Processors, caches, clock.
    #[serde(flatten)]
    pub hardware: Hardware,
    /// Compiler, target, linker.
    #[serde(flatten)]
    pub build: Build,
    /// This program's version.
    pub version: &'static str,
    /// The commit it was built from, where the build knew it; `+changes` when the sources differed.
    pub revision: Option<&'static str>,
    /// Steal time and foreign load during a run, where somebody watched and the system tells.
    #[serde(flatten)]
    pub load: Option<Load>,
    /// How the tables used this machine, where tables were measured.
    #[serde(flatten)]
    pub tuning: Option<Tuning>,
}

/// What a table's figures depend on beside the machine.
#[derive(Serialize, Clone, Copy, PartialEq, Debug)]
pub struct Tuning {
    /// Instruction set of the table's scans.
    pub isa: &'static str,
    /// Prefetch hint of the tables, for lines that they read.
    pub prefetch: &'static str,
    /// The same for lines that they change.
    pub prefetch_write: &'static str,
    /// Where memory comes from that tables allocate at work.
    pub allocator: &'static str,
    /// Share of this process's memory that lies in huge pages, while the first tables were full.
    pub huge_page_share: Option<f64>,
    /// Size of the pages that most of it lies in.
    pub page_bytes_got: Option<u64>,
}

/// Size of a huge page (x86-64, and aarch64 with small pages of 4 KiB).
const HUGE_PAGE_BYTES: u64 = 2 << 20;

/// The program sets none of its own, so it is the system's.
const ALLOCATOR: &str = if cfg!(target_env = "gnu") {
    "system (glibc)"
} else if cfg!(target_env = "musl") {
    "system (musl)"
} else {
    "system"
};

impl Tuning {
    /// With this instruction set, these hints, and the memory that was seen.
    #[must_use]
    pub fn new(isa: Isa, hints: Hints, resident: Option<Resident>) -> Tuning {
        let share = resident
            .filter(|memory| memory.anonymous > 0)
            .map(|memory| memory.huge as f64 / memory.anonymous as f64);
        Tuning::with_share(isa, hints, share)
    }

    /// The same where only the share of memory in huge pages is known.
    #[must_use]
    pub fn with_share(isa: Isa, hints: Hints, share: Option<f64>) -> Tuning {
        Tuning {
            isa: isa.resolved().name(),
            prefetch: hints.reading.name(),
            prefetch_write: hints.writing.name(),
            allocator: ALLOCATOR,
            huge_page_share: share,
            page_bytes_got: match share {
                Some(share) if share >= 0.5 => Some(HUGE_PAGE_BYTES),
                Some(_) => Machine::here().page_bytes,
                None => None,
            },
        }
    }
}

impl Machine {
    /// Looks at this machine. Reads a few small files; costs well under a millisecond.
    #[must_use]
    pub fn here() -> Machine {
        Machine {
            cpu: fs::read_to_string("/proc/cpuinfo")
                .ok()
                .and_then(|text| cpu_model(&text)),
            vcpus: thread::available_parallelism().ok().map(Into::into),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .ok()
                .map(|release| format!("Linux {}", release.trim())),
            page_bytes: fs::read("/proc/self/auxv")
                .ok()
                .and_then(|vector| page_bytes(&vector)),
            hardware: Hardware::here(),
            build: Build::this(),
            version: env!("CARGO_PKG_VERSION"),
            revision: option_env!("CLASHTRACK_REVISION"),
            load: None,
            tuning: None,
        }
    }

    /// Memory that can be had without swapping, in bytes; `None` where the system does not tell.
    #[must_use]
    pub fn memory_available() -> Option<u64> {
        let free = memory_available(&fs::read_to_string("/proc/meminfo").ok()?)?;
        // A container may have less than its host.
        let group = |name: &str| fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok();
        let left = left_in_group(group("memory.max"), group("memory.current"));
        Some(left.map_or(free, |left| left.min(free)))
    }
}

fn cpu_model(cpuinfo: &str) -> Option<String> {
    let (_, model) = cpuinfo
        .lines()
        .find(|line| line.starts_with("model name"))?
        .split_once(':')?;
    Some(model.trim().to_owned())
}

fn memory_available(meminfo: &str) -> Option<u64> {
    let kilobytes = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?
        .trim()
        .strip_suffix(" kB")?;
    Some(kilobytes.parse::<u64>().ok()? * 1024)
}

/// What a control group (version 2) may still take; `None` without a limit.
fn left_in_group(most: Option<String>, now: Option<String>) -> Option<u64> {
    let most: u64 = most?.trim().parse().ok()?;
    Some(most.saturating_sub(now?.trim().parse().ok()?))
}

/// `AT_PAGESZ` of the auxiliary vector: pairs of words, key then value (getauxval(3)).
fn page_bytes(vector: &[u8]) -> Option<u64> {
    const AT_PAGESZ: u64 = 6;
    const WORD: usize = size_of::<usize>();
    let word =
        |bytes: &[u8]| -> Option<u64> { Some(usize::from_ne_bytes(bytes.try_into().ok()?) as u64) };
    vector
        .chunks_exact(2 * WORD)
        .find(|pair| word(&pair[..WORD]) == Some(AT_PAGESZ))
        .and_then(|pair| word(&pair[WORD..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_model_is_what_stands_behind_the_colon() {
        let text = "processor\t: 0\nmodel name\t: A CPU: fast\nmodel name\t: B\n";
        assert_eq!(cpu_model(text).as_deref(), Some("A CPU: fast"));
        assert_eq!(cpu_model("processor : 0\n"), None);
    }

    #[test]
    fn the_page_size_is_read_from_the_auxiliary_vector() {
        let vector: Vec<u8> = [3usize, 64, 6, 4096, 0, 0]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect();
        assert_eq!(page_bytes(&vector), Some(4096));
        assert_eq!(page_bytes(&vector[..7]), None);
    }

    #[test]
    fn available_memory_is_read_in_kilobytes() {
        let text = "MemTotal: 9 kB\nMemAvailable:   2048 kB\n";
        assert_eq!(memory_available(text), Some(2 << 20));
        assert_eq!(memory_available("MemTotal: 9 kB\n"), None);
    }

    #[test]
    fn a_group_without_a_limit_limits_nothing() {
        let left = |most: &str| left_in_group(Some(most.to_owned()), Some("300\n".to_owned()));
        assert_eq!(left("1000\n"), Some(700));
        assert_eq!(left("200\n"), Some(0));
        assert_eq!(left("max\n"), None);
        assert_eq!(left_in_group(None, None), None);
    }
}
