//! What a program that waits to be sampled says, a JSON object a line, and what it is told, a word a line.
//!
//! ```text
//!            ◀── {"on_demand":1,"workload":"lookup-hit",…,"build":{…}}      once, when all is ready
//! sample ──▶
//!            ◀── {"ns_per_op":24.1,"operations":262144,…}
//! sample ──▶      …
//! (end of input)  it ends
//! ```
//! Names are only added within a version. A program of an older revision does not know the flag, and says so.

use serde::{Deserialize, Serialize};

/// The version of all this.
pub const VERSION: u32 = 1;

/// Asks for a sample.
pub const SAMPLE: &str = "sample";

/// The first thing said.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Ready {
    /// [`VERSION`].
    pub on_demand: u32,
    /// What is measured; both sides must say the same.
    #[serde(flatten)]
    pub subject: Subject,
    /// The commit that it was built from.
    pub revision: Option<String>,
    /// How it was built; both sides must say the same.
    pub build: BuiltBy,
}

/// What is measured.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Subject {
    /// Name of the workload.
    pub workload: String,
    /// Name of the table.
    pub table: String,
    /// Workers.
    pub workers: usize,
    /// Keys or connections together.
    pub batch: usize,
    /// Connections of the table, or flows of a round.
    pub connections: usize,
    /// Protocol of the connections.
    pub l4: String,
    /// Whether every worker is pinned.
    #[serde(default)]
    pub pinned: bool,
}

/// What moves figures though the sources are the same.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct BuiltBy {
    /// The compiler.
    pub rustc: Option<String>,
    /// 0 to 3, s or z.
    pub opt_level: Option<String>,
    /// Instructions that it might use everywhere.
    pub target_features: Option<String>,
}

/// One sample.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Debug)]
pub struct Sampled {
    /// Wall time x workers ÷ operations; 0 where there was none.
    pub ns_per_op: f64,
    /// Operations that were counted.
    pub operations: u64,
    /// Offered connections of which nobody knows what became: 0, or it is broken.
    pub lost: i64,
    /// Others used the machine meanwhile.
    pub disturbed: bool,
}
