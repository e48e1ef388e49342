//! # keepmq-fuzz: arbitrary bytes for everything that reads bytes
//!
//! A target is a function of bytes that panics when something is wrong: with the code that reads them, or with what it made
//! of them. Whatever the bytes are, nothing may panic, loop, or take memory without bound; what was read must also survive
//! being written and read again, and two readers of one format must agree.
//!
//! `cargo xtask fuzz` lets libFuzzer look for such bytes. What it has found worth keeping lies in `corpus/<target>`, and
//! `tests/corpus.rs` gives all of it to the targets on the plain compiler, in every run of the tests.
#![forbid(unsafe_code)]

mod answers;
mod config;
mod frames;
mod input;
mod json;
mod memory;
mod records;
mod recovery;

/// What is done with the bytes.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also the name of its corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("frame", frames::frame),
    ("header", frames::header),
    ("record", records::record),
    ("batch", records::batch),
    ("recovery", recovery::recovery),
    ("json", json::json),
    ("properties", config::properties),
    ("answers", answers::answers),
];

/// The target of this name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}
