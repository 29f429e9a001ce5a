//! The machine that figures were measured on. What cannot be found out is `null`.

use std::fs;
use std::thread;

use serde::Serialize;

/// What a reader of a figure has to know about where it comes from.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    /// As the processor calls itself.
    pub cpu: Option<String>,
    /// Processors this process may use.
    pub vcpus: Option<usize>,
    /// Operating system and its release.
    pub kernel: Option<String>,
    /// Size of an ordinary memory page.
    pub page_bytes: Option<u64>,
    /// This program's version.
    pub version: &'static str,
    /// The commit it was built from, where the build knew it; `+changes` when the sources differed.
    pub revision: Option<&'static str>,
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
            version: env!("CARGO_PKG_VERSION"),
            revision: option_env!("CLASHTRACK_REVISION"),
        }
    }
}

fn cpu_model(cpuinfo: &str) -> Option<String> {
    let (_, model) = cpuinfo
        .lines()
        .find(|line| line.starts_with("model name"))?
        .split_once(':')?;
    Some(model.trim().to_owned())
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
}
