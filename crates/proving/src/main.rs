//! `keepmq-proving`: see the library.
#![forbid(unsafe_code)]

use clap::{Args, Parser, Subcommand, ValueEnum};
use keepmq_proving::power_cuts::{self, Expected};
use keepmq_proving::scene::Mode;
use keepmq_proving::tally::Tally;
use keepmq_proving::{
    acceptance, bench, examples, hostile, idle, interop, io_faults, java_facts, java_stores, kills, overload, pauses,
    promise, small, soak,
};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Parser)]
#[command(about = "Proves the product from outside: kills, power cuts, bad input, real clients")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct Common {
    /// The keepmq to prove.
    #[arg(long, global = true, default_value = "target/release/keepmq")]
    binary: PathBuf,
    /// What the machine lacks is a failure.
    #[arg(long, global = true)]
    strict: bool,
    /// Of the moments at which things fail.
    #[arg(long, global = true, default_value_t = 1)]
    seed: u64,
}

#[derive(Subcommand)]
enum Verb {
    /// SIGKILL under load.
    Kills {
        #[arg(long, value_enum, default_value = "sync")]
        mode: Flush,
        #[arg(long, default_value_t = 30)]
        count: u64,
    },
    /// Power cuts under load. Needs root.
    Powercuts {
        #[arg(long, default_value_t = 20)]
        count: u64,
        /// A deliberate mistake that the binary was built with; its loss must be found.
        #[arg(long)]
        planted: Option<String>,
    },
    /// Power cuts under load with ASYNC_FLUSH: what is lost was acknowledged last. Needs root.
    Asynccuts {
        #[arg(long, default_value_t = 5)]
        count: u64,
    },
    /// Calls to the disk that fail. Needs root and strace.
    Iofaults(io_faults::Options),
    /// One store, used by RocketMQ's broker and by ours in turn. Needs Java.
    Javastores(java_stores::Options),
    /// What RocketMQ's own broker does when disks and power fail: measured, not judged. Needs root, Java and strace.
    Javafacts(java_facts::Options),
    /// SIGSTOP and SIGCONT under load.
    Pauses {
        #[arg(long, default_value_t = 10)]
        count: u64,
        /// Milliseconds of the longest.
        #[arg(long, default_value_t = 4_000)]
        longest: u64,
    },
    /// Bad input, one by one and all at once while good clients work.
    Hostile(hostile::Options),
    /// Memory of connections that do nothing.
    Idle,
    /// More than the disk takes.
    Overload {
        /// Seconds for each way of flushing.
        #[arg(long, default_value_t = 8)]
        secs: u64,
    },
    /// Mixed load for a long time: memory must not grow, the books must balance.
    Soak {
        #[arg(long, default_value_t = 20)]
        minutes: u64,
    },
    /// `keepmq tour`: its books must balance.
    Tour {
        /// A deliberate mistake that the binary was built with; its loss must be found.
        #[arg(long)]
        planted: Option<String>,
    },
    /// `keepmq prove`, also of a log that is cut behind its back.
    Prove,
    /// `keepmq dev`, the README's first command.
    Dev,
    /// Memory of an idle broker and name server.
    Rss,
    /// RocketMQ's own clients. Needs Java, Maven and Go.
    Interop(interop::Options),
    /// Our own client library, by its examples.
    Examples(examples::Options),
    /// Ours and the prototype alternately.
    Bench(bench::Options),
    /// RocketMQ's integration tests.
    Acceptance {
        /// The program that runs them.
        #[arg(long)]
        suite: PathBuf,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Flush {
    Sync,
    Async,
}

fn main() -> anyhow::Result<ExitCode> {
    let Arguments { verb, common: Common { binary, strict, seed } } = Arguments::parse();
    let mut tally = Tally::new(strict);
    match verb {
        Verb::Kills { mode, count } => {
            let mode = match mode {
                Flush::Sync => Mode::Sync,
                Flush::Async => Mode::Async,
            };
            kills::run(&mut tally, &binary, mode, count, seed)?;
        }
        Verb::Powercuts { count, planted } => {
            let expected = planted.as_deref().map_or(Expected::Kept, Expected::Loss);
            power_cuts::run(&mut tally, &binary, expected, count, seed)?;
        }
        Verb::Asynccuts { count } => power_cuts::run_async(&mut tally, &binary, count, seed)?,
        Verb::Iofaults(options) => io_faults::run(&mut tally, &binary, &options)?,
        Verb::Javastores(options) => java_stores::run(&mut tally, &binary, &options)?,
        Verb::Javafacts(options) => java_facts::run(&options)?,
        Verb::Pauses { count, longest } => {
            pauses::run(&mut tally, &binary, count, Duration::from_millis(longest), seed)?;
        }
        Verb::Hostile(options) => hostile::run(&mut tally, &binary, &options)?,
        Verb::Idle => idle::run(&mut tally, &binary)?,
        Verb::Overload { secs } => overload::run(&mut tally, &binary, Duration::from_secs(secs))?,
        Verb::Soak { minutes } => soak::run(&mut tally, &binary, Duration::from_secs(60 * minutes), seed)?,
        Verb::Tour { planted } => promise::tour(&mut tally, &binary, planted.as_deref())?,
        Verb::Prove => promise::prove(&mut tally, &binary)?,
        Verb::Dev => small::dev(&mut tally, &binary)?,
        Verb::Rss => small::rss(&mut tally, &binary)?,
        Verb::Interop(options) => interop::run(&mut tally, &binary, &options)?,
        Verb::Examples(options) => examples::run(&mut tally, &binary, &options)?,
        Verb::Bench(options) => bench::run(&mut tally, &binary, &options)?,
        Verb::Acceptance { suite } => acceptance::run(&mut tally, &binary, &suite)?,
    }
    Ok(if tally.close() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
