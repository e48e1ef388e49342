//! # keepmq-world: all that a core may know of the world
//!
//! A core (floors 0–2) asks nobody what time it is, rolls no dice of its own and never depends on the order in which
//! a randomly seeded map happens to iterate. What it needs of these it is given:
//!
//! - [`Now`]: two clocks, read once by whoever drives the core: [`Mono`] for waiting, [`Timestamp`] for stamping.
//! - [`Chance`]: a seeded generator.
//! - [`Map`]: a hash map that keeps insertion order and is keyed from the core's own seed.
//! - [`planted!`]: deliberate mistakes that a test build can switch on, to prove that the checkers bite.
//!
//! So the same inputs give the same outputs, byte for byte, in the simulator as in production.
#![forbid(unsafe_code)]

mod chance;
mod map;
pub mod planted;
mod time;

pub use chance::Chance;
pub use map::{Keyed, Map};
pub use time::{Mono, Now, Timestamp};
