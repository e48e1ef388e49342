//! # keepmq-cli: one verb per file
//!
//! Floor 5.
#![forbid(unsafe_code)]

pub mod verb;
