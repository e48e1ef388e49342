//! The binary: verbs and their dispatch.
#![forbid(unsafe_code)]

use clap::{Args, Parser, Subcommand, value_parser};
use keepmq_cli::end_with_parent;
use keepmq_server::config::{BROKER, BrokerSetup, Flag, NAME_SERVER, NameServerSetup, Settings};
use keepmq_server::dev::Data;
use keepmq_server::{ExitCode as Exit, Failure, Problem, broker, dev, log, nameserver};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// A message broker for Apache RocketMQ's clients: an acknowledged message is never lost.
#[derive(Debug, Parser)]
#[command(version, disable_help_subcommand = true)]
struct Cli {
    /// What to log, on standard error: error, warn, info, debug, trace or target=level; "json" for JSON lines; several
    /// separated by commas [default: RUST_LOG, else info]
    #[arg(long, global = true, value_name = "WHAT")]
    log: Option<String>,
    /// The process that has started this one, and without which it shall not go on
    #[arg(long, value_name = "PID", hide = true)]
    end_with: Option<u32>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Name server and broker in this process, for a developer's day
    Dev(Dev),
    /// A name server: tells clients which broker serves a topic
    Nameserver(Nameserver),
    /// A broker: keeps and delivers messages
    Broker(Broker),
    #[command(flatten)]
    Client(keepmq_cli::Verb),
}

#[derive(Debug, Args)]
struct Dev {
    /// Where the data is kept [default: ./keepmq-data]
    #[arg(long, value_name = "DIR", conflicts_with = "ephemeral")]
    data: Option<PathBuf>,
    /// Data in a temporary folder that is removed at the end
    #[arg(long)]
    ephemeral: bool,
    /// The name server's port; the broker's is ten above it [default: 9876 and 10911]
    #[arg(long, value_name = "PORT", value_parser = value_parser!(u16).range(1..=65_525))]
    port_base: Option<u16>,
}

#[derive(Debug, Args)]
struct Nameserver {
    /// RocketMQ's namesrv.conf
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where it listens [default: 0.0.0.0:9876]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// Print every effective key with its value, where it comes from, and RocketMQ's default when different; then exit
    #[arg(short = 'p', long = "print")]
    print: bool,
    /// Where its key-value configuration is kept, as kvConfig.json; wins over kvConfigPath [default: ~/namesrv]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Broker {
    /// RocketMQ's broker.conf
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Name servers, host:port, several separated by semicolons; wins over namesrvAddr
    #[arg(short = 'n', long = "namesrv", value_name = "NAMESRV[;NAMESRV]")]
    name_servers: Option<String>,
    /// Take the store over from RocketMQ, which must have been stopped cleanly and for good: messages, topics, groups, offsets
    #[arg(long)]
    adopt: bool,
    /// Print every effective key with its value, where it comes from, and RocketMQ's default when different; then exit
    #[arg(short = 'p', long = "print")]
    print: bool,
    /// Start although the log is damaged at this position, which an error or `keepmq store verify` has named: what is missing
    /// there is passed over for good, and written down in keepmq/losses
    #[arg(long, value_name = "POSITION", conflicts_with = "print")]
    accept_loss: Option<u64>,
}

fn main() -> ExitCode {
    // Usage errors end here, with 2.
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.problems.is_empty() {
                eprintln!("{failure}");
            }
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn run(cli: &Cli) -> Result<(), Failure> {
    if let Some(parent) = cli.end_with {
        end_with_parent(parent)?;
    }
    // Where people read what is printed, the log only has what they must know.
    let level = if matches!(cli.verb, Verb::Nameserver(_) | Verb::Broker(_)) { "info" } else { "warn" };
    log::init(cli.log.as_deref(), level)?;
    #[cfg(feature = "planted")]
    keepmq_server::planted::arm_from_environment()?;
    match &cli.verb {
        Verb::Dev(Dev { data, ephemeral, port_base }) => {
            let kept = || data.clone().unwrap_or_else(|| PathBuf::from("keepmq-data"));
            let data = if *ephemeral { Data::Ephemeral } else { Data::Kept(kept()) };
            dev::run(&data, *port_base)
        }
        Verb::Nameserver(Nameserver { config, listen, data, print }) => {
            let by_listen = |listen: &SocketAddr| {
                let (ip, port) = (listen.ip().to_string(), listen.port().to_string());
                [("bindAddress", ip, "--listen"), ("listenPort", port, "--listen")]
            };
            let kept = data.iter().map(|data| data.join("kvConfig.json").display().to_string());
            let by_data = kept.map(|path| ("kvConfigPath", path, "--data"));
            let flags: Vec<Flag> = listen.iter().flat_map(by_listen).chain(by_data).collect();
            let setup = NameServerSetup::new(Settings::read(&NAME_SERVER, config.as_deref(), &flags)?)?;
            if *print {
                return show(&setup.settings);
            }
            nameserver::run(setup)
        }
        Verb::Broker(Broker { config, name_servers, adopt, print, accept_loss }) => {
            let named = name_servers.iter().map(|addresses| ("namesrvAddr", addresses.clone(), "-n"));
            let flags: Vec<Flag> = named.chain(adopt.then(|| ("adopt", "true".to_owned(), "--adopt"))).collect();
            let settings = Settings::read(&BROKER, config.as_deref(), &flags)?;
            if *print {
                return show(&BrokerSetup::preview(settings)?);
            }
            let setup = BrokerSetup::new(settings)?;
            broker::run(match accept_loss {
                Some(at) => setup.accepting_loss(*at),
                None => setup,
            })
        }
        Verb::Client(verb) => keepmq_cli::run(verb),
    }
}

fn show(settings: &Settings) -> Result<(), Failure> {
    for warning in settings.warnings() {
        eprintln!("warning: {warning}");
    }
    io::stdout().write_all(settings.print().as_bytes()).map_err(|error| unread(&error))
}

fn unread(error: &io::Error) -> Failure {
    let why = "what reads it has ended, or its disk is full";
    Failure::new(
        Exit::Io,
        Problem::new("the configuration cannot be printed", error.to_string(), why, "print it elsewhere"),
    )
}
