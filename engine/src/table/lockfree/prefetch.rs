//! The hints of [`crate::table::prefetch`], as the table uses them.

pub use crate::table::prefetch::Hint;
pub(super) use crate::table::prefetch::prefetch;
