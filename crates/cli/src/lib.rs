//! # keepmq-cli: one verb per file, tables out
//!
//! Floor 5. Each file of `verb/` is one verb of the command line: what it is given, and what it does through
//! `keepmq-client`. Beside them:
//!
//! ```text
//!   args.rs       what several verbs are given; durations, sizes, times       table.rs    -o table │ json │ ndjson
//!   problem.rs    what went wrong, in the shape what / why / do, and the exit code
//!   cluster.rs    questions to name servers and brokers                       interrupt.rs   Ctrl-C, once and twice
//!   ground.rs     a name server and a broker of our own, as processes that are killed and started again
//!   books.rs      the ledger in a file, written before each send              load.rs        load whose every answer is kept
//! ```
//!
//! What a verb prints on standard output is its result; everything else goes to standard error.
//!
//! Deliberately absent: verbs for what brokers do not do yet (delays, SQL filters, dead letters).
#![forbid(unsafe_code)]

mod verb;
pub use verb::Verb;

mod args;
mod problem;
mod table;

mod cluster;
mod interrupt;

mod books;
mod ground;
mod load;

pub use ground::end_with_parent;

use keepmq_server::Failure;

/// Does what a verb says, to its end.
///
/// # Errors
/// What the process ends with, and the words for it.
pub fn run(verb: &Verb) -> Result<(), Failure> {
    // One thread: clients have their own, and the kernel ends processes that we start together with the thread that did.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| problem::io("the verb cannot run", &error))?;
    runtime.block_on(verb.run())
}
