//! x
pub mod addr;
pub mod config;
pub mod engine;
pub mod event;
pub mod hook;
pub mod host;
pub mod nat;
pub mod packet;
pub mod proto;
pub mod random;
pub mod rules;
pub mod stats;
pub mod status;
pub mod table;
pub mod time;
pub mod tuple;
pub mod zone;
