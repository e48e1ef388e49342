//! # keepmq-proving: the product as a process, seen from outside
//!
//! Beside the house. Starts the real binary on free ports and a fresh folder, talks to it over real sockets, kills it, cuts
//! its file system off, gives it bad input and RocketMQ's own clients, and judges what is left by the ledger.
//!
//! ```text
//!   process ── starts, kills, never leaves one behind          scene ── a broker, its folder and its configuration
//!   client  ── blocking connection, pipelined                  load ── many of them, every message in the ledger
//!   good    ── such a load with readers that follow it         figures ── latencies, slopes
//!   trace   ── what strace has seen of calls to a store        cut ── a disk whose power fails
//!   kills · power_cuts · io_faults · pauses · java_stores · hostile · overload · idle · soak · small · promise · interop ·
//!   examples · acceptance ── one story each, in a Tally
//!   bench   ── ratios                                         java_facts ── what RocketMQ's broker does in such stories
//! ```
#![deny(unsafe_code)]

pub mod acceptance;
pub mod bench;
pub mod client;
pub mod cut;
pub mod examples;
pub mod figures;
pub mod good;
pub mod hostile;
pub mod idle;
pub mod interop;
pub mod io_faults;
pub mod java_facts;
mod java_servers;
pub mod java_stores;
pub mod kills;
pub mod load;
pub mod overload;
pub mod pauses;
pub mod power_cuts;
pub mod process;
pub mod promise;
pub mod scene;
pub mod small;
pub mod soak;
pub mod tally;
pub mod trace;
