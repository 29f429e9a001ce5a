//! How results are printed: the JSON envelope, tables, the machine they were measured on.

mod columns;
pub mod conntrack;
pub mod doubt;
pub mod envelope;
pub mod grid;
pub mod growth;
pub mod hardware;
pub mod histograms;
pub mod json;
mod launches;
pub mod machine;
pub mod open_loop;
pub mod table;
