//! What members of consumer groups were told and believe, and what of it cannot be true at the same time.

use crate::checkers::Place;
use crate::net::{LinkId, Net};
use crate::stage::{Due, NodeId, SECOND, Stage};
use crate::trace::Rare;
use std::collections::BTreeMap;

/// So long a member believes in a lock. Source: RocketMQ `ProcessQueue.REBALANCE_LOCK_MAX_LIVE_TIME`.
pub(crate) const BELIEVED: u64 = 30 * SECOND;
/// A broker's lock ends so long after it was renewed last; a request for it may have been under way for 20 s.
const CLAIMED: u64 = 80 * SECOND;
/// A broker that has started may know less than the one before, and be careful, for so long.
const CAREFUL: u64 = 40 * SECOND;
/// A change must be heard of within.
const HEARD_WITHIN: u64 = 2 * SECOND;

/// The books of all groups.
#[derive(Default)]
pub(crate) struct Groups {
    members: BTreeMap<NodeId, Standing>,
    /// Who works at a queue in order, and until when it believes that it may.
    at_work: BTreeMap<Place, (NodeId, u64)>,
    /// Who may hold the lock of a queue: until when at most, and over which connection it has asked for it, if over one.
    claims: BTreeMap<(Place, Holder), (u64, Option<LinkId>)>,
}

/// A member, and how often it was started: each time it has another name.
pub(crate) type Holder = (NodeId, u32);

/// A member, as it stands with the brokers.
struct Standing {
    group: &'static str,
    /// It has not been still since.
    awake_since: u64,
    /// It has been still since; 0: it is not.
    still_since: u64,
    /// When it has introduced itself over a connection.
    introduced: BTreeMap<LinkId, u64>,
    /// Connections over which a broker has confirmed a heartbeat.
    beats: BTreeMap<usize, LinkId>,
    /// When it was told last over a connection that its group has changed.
    told: BTreeMap<LinkId, u64>,
}

/// A group has changed on a broker; these must hear of it.
#[derive(Debug)]
pub(crate) struct Change {
    broker: usize,
    since: u64,
    what: &'static str,
    /// The connection of whoever came or went.
    of: LinkId,
    /// Whoever was missed must have been still all the time.
    missed: Option<NodeId>,
    peers: Vec<(NodeId, LinkId)>,
}

impl Groups {
    pub(crate) fn awake(&mut self, node: NodeId, group: &'static str, now: u64) {
        let (introduced, beats, told) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let standing = Standing { group, awake_since: now, still_since: 0, introduced, beats, told };
        let standing = self.members.entry(node).or_insert(standing);
        (standing.awake_since, standing.still_since) = (now, 0);
    }

    /// A member is still for a while: if it is so for as long as `missed`, the others hear of it.
    pub(crate) fn still(&mut self, stage: &mut Stage, net: &Net, node: NodeId, missed: u64) {
        let now = stage.now;
        let Some(standing) = self.members.get_mut(&node) else { return };
        (standing.awake_since, standing.still_since) = (u64::MAX, now);
        for (broker, link) in standing.beats.clone() {
            if net.was_well(link, now) {
                self.changed(stage, (node, link), broker, now, missed, "fallen silent");
            }
        }
    }

    pub(crate) fn told(&mut self, node: NodeId, link: LinkId, now: u64) {
        if let Some(standing) = self.members.get_mut(&node) {
            standing.told.insert(link, now);
        }
    }

    /// A member introduces itself, or does so again.
    pub(crate) fn beats(&mut self, node: NodeId, link: LinkId, now: u64) {
        if let Some(standing) = self.members.get_mut(&node) {
            standing.introduced.entry(link).or_insert(now);
        }
    }

    /// A broker has confirmed a heartbeat. It may have taken an earlier one, and said that it cannot yet answer it.
    pub(crate) fn beaten(&mut self, stage: &mut Stage, node: NodeId, broker: usize, link: LinkId) {
        let Some(standing) = self.members.get_mut(&node) else { return };
        if standing.beats.insert(broker, link) != Some(link) {
            let since = standing.introduced.get(&link).copied().unwrap_or_default();
            self.changed(stage, (node, link), broker, since, 0, "joined");
        }
    }

    /// A member has taken its leave of a broker at `since`.
    pub(crate) fn left(&mut self, stage: &mut Stage, net: &Net, node: NodeId, broker: usize, since: u64) {
        let link = self.members.get_mut(&node).and_then(|standing| {
            let link = standing.beats.remove(&broker)?;
            standing.introduced.remove(&link);
            Some(link)
        });
        if let Some(link) = link.filter(|link| net.was_well(*link, since)) {
            self.changed(stage, (node, link), broker, since, 0, "left");
        }
    }

    /// A member is about to close all its connections, and is missed at once.
    pub(crate) fn gone(&mut self, stage: &mut Stage, net: &Net, node: NodeId) {
        let brokers = self.members.get(&node).map(|standing| standing.beats.keys().copied().collect::<Vec<_>>());
        for broker in brokers.unwrap_or_default() {
            self.left(stage, net, node, broker, stage.now);
        }
        self.members.remove(&node);
        self.at_work.retain(|_, (owner, _)| *owner != node);
    }

    fn changed(
        &self,
        stage: &mut Stage,
        (node, of): (NodeId, LinkId),
        broker: usize,
        since: u64,
        within: u64,
        what: &'static str,
    ) {
        let Some(group) = self.members.get(&node).map(|standing| standing.group) else { return };
        let peers = self.members.iter().filter(|(peer, standing)| **peer != node && standing.group == group);
        let peers: Vec<_> = peers.filter_map(|(peer, standing)| Some((*peer, *standing.beats.get(&broker)?))).collect();
        if !peers.is_empty() {
            let change = Box::new(Change { broker, since, what, of, missed: (within > 0).then_some(node), peers });
            stage.after(within + HEARD_WITHIN, Due::Noticed(change));
        }
    }

    /// Whoever was connected all the time has heard of a change.
    pub(crate) fn check_noticed(&self, stage: &mut Stage, net: &Net, change: &Change) {
        let Change { broker, since, what, of, missed, peers } = change;
        let still = |node| self.members.get(node).is_some_and(|standing| standing.still_since == *since);
        if net.was_disturbed(*of, *since) || missed.as_ref().is_some_and(|node| !still(node)) {
            return;
        }
        for (peer, link) in peers {
            let Some(standing) = self.members.get(peer) else { continue };
            let connected = standing.beats.get(broker) == Some(link) && net.was_well(*link, *since);
            let told = standing.told.get(link).copied().unwrap_or_default();
            if connected && standing.awake_since <= *since && told < *since {
                let group = standing.group;
                stage.blame(
                    "notice",
                    format!("a member of {group} has {what}, and broker {broker} does not tell {peer:?}"),
                );
            }
        }
    }

    // ---- locks ----------------------------------------------------------------------------------------------------------

    /// A member asks for the lock of a queue.
    pub(crate) fn claims(&mut self, place: Place, holder: Holder, link: LinkId, now: u64) {
        let (until, over) = self.claims.get(&(place, holder)).copied().unwrap_or_default();
        let over = if until < now { Some(link) } else { over.filter(|over| *over == link) };
        self.claims.insert((place, holder), (now + CLAIMED, over));
    }

    /// A member was given the lock of a queue: nobody else may be at work there.
    pub(crate) fn granted(&mut self, stage: &mut Stage, place: Place, node: NodeId) {
        let now = stage.now;
        match self.at_work.insert(place, (node, now + BELIEVED)) {
            Some((other, until)) if other != node && until > now => {
                let (broker, group, queue) = place;
                let until = until as f64 / 1e9;
                let what = format!(
                    "broker {broker} gives {queue:?} of {group} to {node:?} while {other:?} may work there until {until} s"
                );
                stage.blame("one-owner", what);
            }
            Some((other, _)) if other != node => stage.happened(Rare::LockPassedOn),
            _ => {}
        }
    }

    /// A member was refused the lock of a queue: somebody must be able to hold it. `known`: the broker knows the topic.
    pub(crate) fn refused(&mut self, stage: &mut Stage, place: Place, holder: Holder, since: u64, started: u64) {
        stage.happened(Rare::LockRefused);
        let mut others = self.claims.range((place, (NodeId(0), 0))..=(place, (NodeId(usize::MAX), 0)));
        let claimed = others.any(|((_, other), (until, _))| *other != holder && *until > since);
        if !claimed && since > started + CAREFUL {
            let (broker, group, queue) = place;
            stage.blame(
                "lock-stuck",
                format!("broker {broker} refuses {queue:?} of {group} to {holder:?}; nobody can hold it"),
            );
        }
    }

    /// A broker has lost what the contract allows it to lose; a group that it does not know has no locks to be careful with.
    pub(crate) fn forgotten(&mut self, broker: usize) {
        self.at_work.retain(|(on, ..), _| *on != broker);
    }

    /// A member works at a queue no more; it has not given the lock back yet.
    pub(crate) fn rests(&mut self, place: Place, node: NodeId) {
        if self.at_work.get(&place).is_some_and(|(owner, _)| *owner == node) {
            self.at_work.remove(&place);
        }
    }

    /// A broker has confirmed that a member does not hold a lock any more.
    pub(crate) fn unlocked(&mut self, place: Place, holder: Holder, by: LinkId, now: u64) {
        if let Some((until, link)) = self.claims.get_mut(&(place, holder))
            && *link == Some(by)
        {
            *until = now;
        }
    }
}

/// The queues of one member: contiguous shares, the first ones one larger when they are not equal. Source: RocketMQ
/// `AllocateMessageQueueAveragely`.
pub(crate) fn share<Q: Copy>(queues: &[Q], members: &[String], me: &str) -> Vec<Q> {
    let Some(index) = members.iter().position(|member| member == me) else { return Vec::new() };
    let (queues_each, over) = (queues.len() / members.len(), queues.len() % members.len());
    let start = index * queues_each + index.min(over);
    let count = queues_each + usize::from(index < over);
    queues[start..start + count].to_vec()
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn shares_are_contiguous_and_whole() {
        let members: Vec<String> = ["a", "b", "c"].map(str::to_owned).into();
        let shares = |count: usize| {
            let queues: Vec<usize> = (0..count).collect();
            members.iter().map(|member| share(&queues, &members, member)).collect::<Vec<_>>()
        };
        assert_eq!(shares(7), [vec![0, 1, 2], vec![3, 4], vec![5, 6]]);
        assert_eq!(shares(2), [vec![0], vec![1], vec![]]);
        assert!(share(&[1, 2], &members, "d").is_empty());
    }
}
