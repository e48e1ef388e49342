//! # keepmq-ledger: what was attempted, what was answered, what came out, and the verdict
//!
//! Floor 1. A test that sends messages through a broker that crashes writes down every [`Entry`]: before it sends, when it
//! has an answer, when it reads. The [`Ledger`] takes the entries in the order in which they happened and gives a
//! [`Verdict`]: is everything that was answered with OK there, where the answer said, unchanged, and nothing else?
//!
//! ```text
//!   Attempted ──▶ Kept │ Refused │ Unknown      (or nothing, which counts as unknown)
//!   Observed · Removed (retention) · Excused (a loss that the contract allows)   ──▶ verdict
//! ```
//! The entries have a text form, a line each, so that one process can write them as it goes (before each send, so that its
//! own end loses nothing) and another can read and judge them. No files here: lines in, lines out.
//!
//! Deliberately absent: opinions about duplicates. A client that sends again after an unknown answer may store a message
//! twice; the verdict counts such copies and leaves the judgement to the test.
#![forbid(unsafe_code)]

mod attempt;
mod book;
mod verdict;

pub use attempt::{Answer, Entry, ParseError, entries};
pub use book::{Ledger, LedgerError};
pub use verdict::{Finding, Verdict};
