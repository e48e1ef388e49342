//! `keepmq bench`: load, with latencies. Works with every name server that speaks RocketMQ's protocol.
//!
//! ```text
//!   closed loop   so many sends under way (--in-flight), the next one when one ends: how much goes
//!   open loop     so many a second (--rate), whether the answers come or not: how long it takes at that rate
//! ```
//! In the open loop a latency counts from the moment at which its message was due: what a slow answer keeps waiting is counted as
//! waiting (otherwise the measurement would leave out just the bad moments).

mod consume;
mod figures;
mod send;

use crate::args::{Connect, duration, positive};
use crate::interrupt::Interrupt;
use clap::{Args, Subcommand};
use keepmq_server::Failure;
use std::time::Duration;

/// Load, with latencies.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  keepmq bench send --topic load --in-flight 64 --secs 10\n  keepmq bench send --rate 20k --size 1KiB --json\n  \
                        keepmq bench consume --topic load\n  keepmq bench e2e --rate 1000")]
pub struct Bench {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Send, and wait for SEND_OK
    Send(Load),
    /// Consume what is there, from the first message on
    Consume(Reading),
    /// Send and consume: from the moment a message is due to the moment a listener has it
    E2e(Load),
}

/// What is sent.
#[derive(Clone, Debug, Args)]
struct Load {
    /// Where to; it is created by the first message, or must exist
    #[arg(long, value_name = "TOPIC", default_value = "keepmq-bench")]
    topic: String,
    /// Producers, each with its own connections and thread
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    producers: u16,
    /// Sends under way at a time, of all producers together
    #[arg(long, value_name = "N", default_value = "64", value_parser = positive)]
    in_flight: u64,
    /// Open loop: so many messages a second, 20k
    #[arg(long, value_name = "A SECOND", value_parser = positive)]
    rate: Option<u64>,
    /// Bytes of a body
    #[arg(long, value_name = "BYTES", default_value = "1KiB", value_parser = size)]
    size: usize,
    /// Ends after so many messages
    #[arg(long, value_name = "N", value_parser = positive)]
    count: Option<u64>,
    /// Ends after this time
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = seconds)]
    secs: Duration,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: Connect,
}

/// What is consumed.
#[derive(Clone, Debug, Args)]
struct Reading {
    /// From where
    #[arg(long, value_name = "TOPIC", default_value = "keepmq-bench")]
    topic: String,
    /// The group [default: a new one, which begins at the first message]
    #[arg(short = 'g', long, value_name = "GROUP")]
    group: Option<String>,
    /// Ends after so many messages
    #[arg(long, value_name = "N", value_parser = positive)]
    count: Option<u64>,
    /// Ends after this time, or when no message has come for 2 s
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = seconds)]
    secs: Duration,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: Connect,
}

impl Bench {
    pub(crate) async fn run(&self, interrupt: &mut Interrupt) -> Result<(), Failure> {
        match &self.verb {
            Verb::Send(load) => send::run(load, interrupt).await,
            Verb::Consume(reading) => consume::run(reading, interrupt).await,
            Verb::E2e(load) => consume::end_to_end(load, interrupt).await,
        }
    }
}

/// With a unit, or in seconds.
fn seconds(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_secs).or_else(|_| duration(text))
}

/// Room for the moment at which a message was due, and less than a frame.
fn size(text: &str) -> Result<usize, String> {
    let bytes = positive(text)?;
    usize::try_from(bytes).ok().filter(|bytes| (8..=15 << 20).contains(bytes)).ok_or_else(|| "give 8 to 15MiB".to_owned())
}
