//! The verbs.

mod bench;
mod consume;
mod group;
mod prove;
mod send;
mod store;
mod topic;
mod tour;

use crate::interrupt::Interrupt;
use clap::Subcommand;
use keepmq_server::Failure;

/// What can be asked of a running system, or of one that a verb starts itself.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// The main job in one command: send, consume, kill the broker, lose nothing
    Tour(tour::Tour),
    /// Send messages to a topic
    Send(send::Send),
    /// Read a topic: look at it, or consume it as a member of a group
    Consume(consume::Consume),
    /// Topics: list, describe, create, delete
    Topic(topic::Topics),
    /// Consumer groups: list, describe, lag
    Group(group::Groups),
    /// Load, with latencies: send, consume, e2e
    Bench(bench::Bench),
    /// A store that no broker has open: what is in it, whether it is sound, its records
    Store(store::Stores),
    /// Kill a broker under load on your disk, again and again, and look for what was acknowledged
    Prove(prove::Prove),
}

impl Verb {
    pub(crate) async fn run(&self) -> Result<(), Failure> {
        let mut interrupt = Interrupt::listen()?;
        match self {
            Self::Tour(tour) => tour.run(&mut interrupt).await,
            Self::Send(send) => send.run(&mut interrupt).await,
            Self::Consume(consume) => consume.run(&mut interrupt).await,
            Self::Topic(topics) => interrupt.unless(topics.run()).await,
            Self::Group(groups) => interrupt.unless(groups.run()).await,
            Self::Bench(bench) => bench.run(&mut interrupt).await,
            Self::Store(stores) => stores.run(&mut interrupt).await,
            Self::Prove(prove) => prove.run(&mut interrupt).await,
        }
    }
}
