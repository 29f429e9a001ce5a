//! Time as the engine sees it: nanoseconds that the caller passes in.
//!
//! Live, replayed and virtual time are all the same to it; only differences count.

/// Nanoseconds, from whatever moment the caller counts.
pub type Nanos = u64;

/// One second in [`Nanos`].
pub const SECOND: Nanos = 1_000_000_000;

/// `deadline` has come (`nf_ct_is_expired`: remaining time of 0 is expired).
#[must_use]
pub const fn is_past(deadline: Nanos, now: Nanos) -> bool {
    deadline <= now
}
