//! Two programs side by side: another revision built, and its samples taken in turns with this one's.
//!
//! ```text
//!  revision   git worktree, cargo build ─▶ the other program, kept by commit
//!  duel       for each launch: both programs started, then samples in turns   A B  B A  A B …
//!     │ side       a process that waits: one line in, one sample out
//!     │ serve      the same from within that process
//!     ▼
//!  compare::paired   ratio of each pair ─▶ interval, verdict
//!  check      the comparison itself, measured: equals, and a known slow-down
//! ```
//! Samples of a pair are taken within some tens of milliseconds, so what the machine's speed does over seconds is in both; which
//! side comes first changes from pair to pair, so a drift hits both alike. What is drawn once a process (page placement,
//! addresses) is in one side alone: hence several launches. The hash key is the same for both sides of a launch.

pub mod check;
pub mod duel;
pub mod protocol;
pub mod revision;
pub mod serve;
pub mod side;
