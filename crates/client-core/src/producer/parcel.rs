//! What is under way.

use super::Target;
use super::attempt::Item;
use keepmq_protocol::{BrokerName, MessageQueue};
use keepmq_world::Mono;
use std::time::Duration;

/// How long a send rests when everybody was tried: doubled each time.
const REST: Duration = Duration::from_millis(50);

/// What goes in one request: a message, or a batch.
pub(super) struct Parcel {
    pub(super) items: Vec<Item>,
    pub(super) bytes: usize,
    /// They have come together by chance, not by the user's will, and may part.
    pub(super) gathered: bool,
    pub(super) to: Target,
    /// The queue that its sharding key has chosen.
    pub(super) shard: Option<MessageQueue>,
    pub(super) until: Mono,
    pub(super) state: State,
    /// Requests that may have reached a broker.
    pub(super) attempts: u32,
    /// Those that count among the attempts that a send has.
    pub(super) counted: u32,
    /// Attempts since the last rest.
    pub(super) in_turn: usize,
    pub(super) rest: Duration,
    pub(super) avoid: Option<BrokerName>,
    /// What happened last, and by whose fault.
    pub(super) last: Last,
    /// The end of an attempt is unknown.
    pub(super) doubt: bool,
}

impl Parcel {
    pub(super) fn new(items: Vec<Item>, to: Target, until: Mono) -> Self {
        Self {
            bytes: items.iter().map(|item| item.message.body().len()).sum(),
            items,
            gathered: false,
            to,
            shard: None,
            until,
            state: State::Waiting,
            attempts: 0,
            counted: 0,
            in_turn: 0,
            rest: REST,
            avoid: None,
            last: Last::default(),
            doubt: false,
        }
    }
}

pub(super) enum State {
    /// For the route, until its time is over.
    Waiting,
    Resting(Mono),
    Asking {
        queue: MessageQueue,
        since: Mono,
    },
}

/// What is told of a send that did not end well.
#[derive(Default)]
pub(super) struct Last {
    pub(super) code: Option<i32>,
    pub(super) broker: Option<BrokerName>,
    pub(super) why: String,
}
