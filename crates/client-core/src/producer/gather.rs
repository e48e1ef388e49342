//! What is sent in one turn goes out together.
//!
//! No timer: a group stands open only while commands are heard, and goes out before anybody waits for anything. So a send alone
//! leaves at once, and under load what has piled up shares one request, one append and one answer.

use super::api::ProducerConfig;
use super::attempt::{self, Item};
use keepmq_protocol::Topic;
use keepmq_world::Mono;
use std::collections::BTreeMap;

/// Messages of one topic for any queue, to go in one request.
pub(super) struct Group {
    pub(super) items: Vec<Item>,
    bytes: usize,
    /// Of all of them: what ends at another time stands in another group.
    pub(super) until: Mono,
}

/// The groups that stand open, one a topic.
#[derive(Default)]
pub(super) struct Gathered {
    groups: BTreeMap<Topic, Group>,
}

impl Gathered {
    /// Whether a message may share a request. In a batch no body is compressed, so what is worth that goes alone.
    pub(super) fn takes(config: &ProducerConfig, item: &Item) -> bool {
        let alone = item.message.body().len() >= config.compress_over;
        !alone && item.message.shard().is_none() && attempt::size(item) <= config.auto_batch_bytes
    }

    /// Adds a message that may share a request; answers a group that is full, or ends at another time, and goes before it.
    pub(super) fn add(&mut self, item: Item, until: Mono, max: usize) -> Option<Group> {
        let size = attempt::size(&item);
        if let Some(group) = self.groups.get_mut(item.message.topic()) {
            if group.until == until && group.bytes + size <= max {
                group.bytes += size;
                group.items.push(item);
                return None;
            }
            return Some(std::mem::replace(group, Group { items: vec![item], bytes: size, until }));
        }
        self.groups.insert(item.message.topic().clone(), Group { items: vec![item], bytes: size, until });
        None
    }

    /// Takes a group, until there is none.
    pub(super) fn take(&mut self) -> Option<Group> {
        self.groups.pop_first().map(|(_, group)| group)
    }
}
