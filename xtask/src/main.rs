//! The project's own commands: `cargo xtask test`, `night`, `fuzz`, `bench`.
//!
//! `steps.rs` is what is run, `tidy.rs` the one step that reads the project itself, `tally.rs` counts, `fuzz.rs` looks for bytes
//! that nobody thought of, `bench.rs` measures.
#![forbid(unsafe_code)]

mod bench;
mod fuzz;
mod run;
mod steps;
mod tally;
mod tidy;

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use steps::{Sizes, Step};
use tally::Tally;

#[derive(Parser)]
#[command(about = "The project's own commands", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Everything that proves it, or one step alone. The last line is `N passed, N failed, N skipped`.
    Test {
        /// The step; all, when none is named.
        step: Option<Step>,
        /// What the machine lacks is a failure (except a missing ../shared).
        #[arg(long)]
        strict: bool,
        /// Seeds that the simulator plays.
        #[arg(long, default_value_t = 300)]
        seeds: u64,
        /// The first of them.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// The same with night-sized numbers.
    Night,
    /// libFuzzer on the targets of `fuzz/`. Needs a C++ compiler.
    Fuzz(fuzz::Options),
    /// Ours and the reference alternately: the ratio is what counts.
    Bench(bench::Options),
}

fn main() -> anyhow::Result<ExitCode> {
    let failed = match Arguments::parse().verb {
        Verb::Test { step, strict, seeds, seed } => {
            let steps = step.map_or_else(|| Step::ALL.to_vec(), |step| vec![step]);
            steps::run(&steps, &Sizes { seeds, first_seed: seed, ..Sizes::CI }, Tally::new(strict))?
        }
        Verb::Night => steps::run(Step::NIGHT, &Sizes::NIGHT, Tally::new(true))?,
        Verb::Fuzz(options) => {
            let mut tally = Tally::new(true);
            fuzz::run(&mut tally, &options)?;
            tally.close()
        }
        Verb::Bench(options) => bench::run(&options)?,
    };
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
