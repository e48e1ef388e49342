//! # keepmq: one binary
//!
//! Verbs and their dispatch; what they do stands in `keepmq-server`.
#![forbid(unsafe_code)]

use clap::{Parser, Subcommand, ValueEnum};
use keepmq_server::config::{self, ConfigErrors};
use keepmq_server::{DevOptions, Failure, LogForm, exit, run_broker, run_dev, run_nameserver, start_log};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// A message broker for Apache RocketMQ's clients. An acknowledged message is never lost.
#[derive(Parser)]
#[command(name = "keepmq", version, about)]
struct Arguments {
    /// How log lines are written to stderr; RUST_LOG chooses which.
    #[arg(long, global = true, value_enum, default_value = "text")]
    log: Log,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Copy, ValueEnum)]
enum Log {
    Text,
    Json,
}

#[derive(Subcommand)]
enum Verb {
    /// Name server and broker in this process, on loopback, for a developer's day.
    Dev {
        /// Where the data lies.
        #[arg(long, default_value = "keepmq-data", value_name = "DIR")]
        data: PathBuf,
        /// Keep the data in a temporary folder and remove it at the end.
        #[arg(long, conflicts_with = "data")]
        ephemeral: bool,
        /// Port of the name server; the broker's is ten above. Without it: 9876 and 10911.
        #[arg(long, value_name = "N")]
        port_base: Option<u16>,
    },
    /// Tells clients which broker serves which topic.
    Nameserver {
        /// A namesrv.conf, as RocketMQ reads it.
        #[arg(short = 'c', value_name = "FILE")]
        config: Option<PathBuf>,
        /// Where to listen; 0.0.0.0:9876 unless set.
        #[arg(long, value_name = "ADDR:PORT")]
        listen: Option<SocketAddr>,
    },
    /// Keeps messages and hands them out.
    Broker {
        /// A broker.conf, as RocketMQ reads it.
        #[arg(short = 'c', value_name = "FILE")]
        config: Option<PathBuf>,
        /// Name servers, separated by `;`. Wins over the file's namesrvAddr.
        #[arg(short = 'n', value_name = "NAMESRV")]
        namesrv: Option<String>,
        /// Print every effective key with its value and origin, and exit.
        #[arg(short = 'p')]
        print: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_log(match arguments.log {
        Log::Text => LogForm::Text,
        Log::Json => LogForm::Json,
    });
    // A thread that has panicked may hold half a decision: nothing may go on without it.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
    #[cfg(feature = "planted")]
    if let Ok(bug) = std::env::var("KEEPMQ_PLANTED")
        && !keepmq_server::plant(&bug)
    {
        eprintln!("error: no planted bug is called {bug:?}");
        return ExitCode::from(2);
    }
    match run(arguments.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(failure.exit)
        }
    }
}

fn run(verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Dev { data, ephemeral, port_base } => {
            let data = if ephemeral {
                std::env::temp_dir().join(format!("keepmq-{}", std::process::id()))
            } else {
                data
            };
            run_dev(&DevOptions { data, ephemeral, port_base })
        }
        Verb::Nameserver { config, listen } => {
            run_nameserver(&config::read_nameserver(config.as_deref(), listen).map_err(refused)?)
        }
        Verb::Broker { config, namesrv, print } => {
            let settings = config::read_broker(config.as_deref(), namesrv.as_deref()).map_err(refused)?;
            if print {
                print!("{}", config::print(&settings.settings));
                return Ok(());
            }
            run_broker(settings)
        }
    }
}

fn refused(errors: ConfigErrors) -> Failure {
    Failure {
        what: "the configuration is refused; nothing was started".to_owned(),
        why: errors.to_string(),
        todo: "correct these lines; `keepmq broker -c FILE -p` shows what would hold".to_owned(),
        exit: exit::CONFIG,
    }
}
