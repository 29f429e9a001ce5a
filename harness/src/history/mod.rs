//! Saved results, and where a metric changed over them.
//!
//! ```text
//! store     one SQLite file: a row a run, a row a result, both as the JSON that `run` prints
//! metric    what can be followed, and where it stands in a result
//! series    results that may be compared, in the order in which they were saved, and where they changed
//! ```
//! Nothing is thrown away when a run is saved: samples, counters, machine and settings are in the file, so that statistics
//! can be made again in another way.

pub mod metric;
pub mod series;
pub mod store;

use std::env;
use std::path::PathBuf;

/// Names the file where no flag does.
pub const FILE_VARIABLE: &str = "CLASHTRACK_HISTORY";

/// The file where neither a flag nor the environment names one, under the current folder.
pub const DEFAULT_FILE: &str = ".clashtrack/history.sqlite";

/// The file that is meant where no flag names one.
#[must_use]
pub fn default_file() -> PathBuf {
    let named = env::var_os(FILE_VARIABLE).filter(|name| !name.is_empty());
    named.map_or_else(|| PathBuf::from(DEFAULT_FILE), PathBuf::from)
}
