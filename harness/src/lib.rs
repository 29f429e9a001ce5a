//! The `clashtrack` suite: what the command is made of.
//!
//! The engine is in [`clashtrack_engine`]; here is what drives it: the command line
//! ([`cli`], [`command`]), tables to compare with ([`peer`]), what is measured ([`workload`]),
//! what two results
//! say of each other ([`compare`]), how runs are kept and followed ([`history`]), how captures are read ([`capture`]) and replayed ([`replay`]), how rules are read
//! ([`rules`]), hosts in virtual time ([`simulate`]), and how results are printed ([`report`]).

#![forbid(unsafe_code)]

pub mod against;
pub mod calibrate;
pub mod capture;
pub mod cli;
pub mod command;
pub mod compare;
pub mod error;
pub mod flame;
pub mod floor;
pub mod history;
pub mod interrupt;
pub mod limit;
pub mod load;
pub mod memory;
pub mod peer;
pub mod replay;
pub mod report;
pub mod rules;
pub mod simulate;
pub mod workload;
