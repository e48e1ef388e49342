//! The net: connections that keep their order and lose nothing in the middle, but end, stall, are refused, or are known to
//! be over at one end only.

use crate::stage::{Due, MICRO, MILLI, NodeId, SECOND, Stage};
use crate::trace::Rare;
use std::collections::{BTreeMap, VecDeque};

/// A connection. The broker and the name server know it under the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkId(pub(crate) u64);

/// What has come to a node.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) node: NodeId,
    pub(crate) link: LinkId,
    pub(crate) news: News,
}

#[derive(Debug)]
pub(crate) enum News {
    /// Somebody has connected.
    Opened { peer: NodeId },
    /// A frame on a connection that this node accepted or dialled.
    Frame {
        bytes: Vec<u8>,
        /// Life of the process at the other end.
        by: u32,
    },
    /// A connection that this node accepted is gone.
    ClosedByPeer,
    /// A connection that this node dialled is gone. `accepted`: it had come about.
    DialledClosed { accepted: bool },
}

impl News {
    /// For the trace.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Opened { .. } => "a connection",
            Self::Frame { .. } => "a frame",
            Self::ClosedByPeer => "the end of a connection",
            Self::DialledClosed { .. } => "the end of what it dialled",
        }
    }
}

struct Link {
    ends: [End; 2],
    /// In flight: towards the dialler, towards the acceptor.
    lanes: [VecDeque<Item>; 2],
    /// When the last item of each lane arrives.
    last: [u64; 2],
    stalled_until: u64,
    accepted: bool,
    /// Nothing passes any more, though an end may not know it yet.
    dead: bool,
}

struct End {
    node: NodeId,
    life: u32,
    open: bool,
}

enum Item {
    Syn,
    Frame(Vec<u8>),
    Fin,
}

const DIALLER: usize = 0;
const ACCEPTOR: usize = 1;

/// Whether those at the other end hear that a process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goodbye {
    /// Its system tells them.
    Said,
    /// The power was cut: they find out after a while.
    Late,
    /// They find out when they say something.
    Never,
}

#[derive(Default)]
pub(crate) struct Net {
    links: BTreeMap<LinkId, Link>,
    next: u64,
    /// Of each node: the life of the process that listens and dials there; `None` when none runs.
    lives: Vec<Option<u32>>,
    partitions: Vec<(NodeId, NodeId, u64)>,
}

impl Net {
    /// A process runs at `node`, or none does.
    pub(crate) fn set_life(&mut self, node: NodeId, life: Option<u32>) {
        if self.lives.len() <= node.0 {
            self.lives.resize(node.0 + 1, None);
        }
        self.lives[node.0] = life;
    }

    /// A number that no connection has or will have.
    pub(crate) fn unused_link(&mut self) -> LinkId {
        self.next += 1;
        LinkId(self.next)
    }

    /// Dials. Whether it comes about is heard later; frames sent meanwhile wait for it.
    pub(crate) fn dial(&mut self, stage: &mut Stage, from: NodeId, to: NodeId) -> LinkId {
        let id = self.unused_link();
        let life = |node: NodeId| self.lives[node.0].unwrap_or_default();
        let ends = [End { node: from, life: life(from), open: true }, End { node: to, life: life(to), open: true }];
        let link = Link {
            ends,
            lanes: [VecDeque::new(), VecDeque::new()],
            last: [0; 2],
            stalled_until: 0,
            accepted: false,
            dead: false,
        };
        self.links.insert(id, link);
        self.push(stage, id, ACCEPTOR, Item::Syn);
        id
    }

    /// Sends a frame from one end.
    pub(crate) fn send(&mut self, stage: &mut Stage, link: LinkId, from_acceptor: bool, frame: Vec<u8>) {
        let (from, to) = if from_acceptor { (ACCEPTOR, DIALLER) } else { (DIALLER, ACCEPTOR) };
        let Some(found) = self.links.get(&link) else { return };
        if !found.ends[from].open {
            return;
        }
        if found.dead {
            // The bytes go nowhere; the sender hears of it after a while.
            let delay = stage.delay(200 * MILLI, 5 * SECOND);
            stage.after(delay, Due::Reset { link, acceptor: from_acceptor });
            return;
        }
        self.push(stage, link, to, Item::Frame(frame));
    }

    /// One end closes, after what it has sent.
    pub(crate) fn close(&mut self, stage: &mut Stage, link: LinkId, by_acceptor: bool) {
        let (from, to) = if by_acceptor { (ACCEPTOR, DIALLER) } else { (DIALLER, ACCEPTOR) };
        let Some(found) = self.links.get_mut(&link) else { return };
        if std::mem::take(&mut found.ends[from].open) && !found.dead {
            self.push(stage, link, to, Item::Fin);
        }
        self.forget_if_over(link);
    }

    fn push(&mut self, stage: &mut Stage, id: LinkId, lane: usize, item: Item) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let latency = match stage.chance.below(20) {
            0 => stage.delay(MILLI, 200 * MILLI),
            _ => stage.delay(30 * MICRO, 800 * MICRO),
        };
        let arrives = (stage.now + latency).max(link.last[lane]);
        link.last[lane] = arrives;
        link.lanes[lane].push_back(item);
        stage.at(arrives, Due::Arrive { link: id, to_acceptor: lane == ACCEPTOR });
    }

    /// The next item of a lane is there, unless the link stalls.
    pub(crate) fn arrive(&mut self, stage: &mut Stage, id: LinkId, to_acceptor: bool) -> Option<Arrival> {
        let lane = usize::from(to_acceptor);
        let link = self.links.get_mut(&id)?;
        if stage.now < link.stalled_until {
            stage.at(link.stalled_until, Due::Arrive { link: id, to_acceptor });
            return None;
        }
        let item = link.lanes[lane].pop_front()?;
        let [dialler, acceptor] = [link.ends[DIALLER].node, link.ends[ACCEPTOR].node];
        let cut_off = self.partitions.iter().any(|(a, b, until)| {
            stage.now < *until && ((*a, *b) == (dialler, acceptor) || (*b, *a) == (dialler, acceptor))
        });
        let by = link.ends[1 - lane].life;
        let end = &mut link.ends[lane];
        let (node, alive) = (end.node, self.lives[end.node.0]);
        let listens = alive.is_some() && (matches!(item, Item::Syn) || alive == Some(end.life));
        match item {
            Item::Syn if cut_off => {
                link.dead = true;
                link.lanes[lane].clear();
                let delay = stage.delay(SECOND, 3 * SECOND);
                stage.after(delay, Due::Reset { link: id, acceptor: false });
                None
            }
            Item::Syn if listens => {
                end.life = alive.unwrap_or_default();
                link.accepted = true;
                Some(Arrival { node, link: id, news: News::Opened { peer: dialler } })
            }
            Item::Frame(bytes) if listens && end.open => {
                Some(Arrival { node, link: id, news: News::Frame { bytes, by } })
            }
            Item::Fin if listens && end.open => {
                end.open = false;
                let news = closed(to_acceptor, link.accepted);
                self.forget_if_over(id);
                Some(Arrival { node, link: id, news })
            }
            // Nobody is there who knows this connection: its sender is told so.
            Item::Syn | Item::Frame(_) => {
                let delay = stage.delay(30 * MICRO, 800 * MICRO);
                stage.after(delay, Due::Reset { link: id, acceptor: !to_acceptor });
                None
            }
            Item::Fin => None,
        }
    }

    /// One end learns that the link is gone; whatever was in flight to it vanishes.
    pub(crate) fn reset(&mut self, id: LinkId, acceptor: bool) -> Option<Arrival> {
        let lane = usize::from(acceptor);
        let link = self.links.get_mut(&id)?;
        link.lanes[lane].clear();
        let end = &mut link.ends[lane];
        let was_open = std::mem::take(&mut end.open) && self.lives[end.node.0] == Some(end.life);
        let (node, news) = (end.node, closed(acceptor, link.accepted));
        // An acceptor that was never reached has nothing to lose.
        let knows = was_open && (link.accepted || !acceptor);
        self.forget_if_over(id);
        knows.then_some(Arrival { node, link: id, news })
    }

    /// Whether the acceptor still takes the link for open.
    pub(crate) fn open_at_acceptor(&self, link: LinkId) -> bool {
        self.links.get(&link).is_some_and(|link| link.accepted && link.ends[ACCEPTOR].open)
    }

    /// Whether everything that was sent over a link since then has arrived by now.
    pub(crate) fn was_well(&self, link: LinkId, since: u64) -> bool {
        let well = |link: &Link| !link.dead && link.stalled_until <= since && link.ends.iter().all(|end| end.open);
        self.links.get(&link).is_some_and(well)
    }

    /// Whether a link that is not over yet has been cut or stalled since then.
    pub(crate) fn was_disturbed(&self, link: LinkId, since: u64) -> bool {
        self.links.get(&link).is_some_and(|link| link.dead || link.stalled_until > since)
    }

    fn forget_if_over(&mut self, id: LinkId) {
        if self.links.get(&id).is_some_and(|link| {
            link.ends.iter().all(|end| !end.open) && (link.dead || link.lanes.iter().all(VecDeque::is_empty))
        }) {
            self.links.remove(&id);
        }
    }

    /// The process at `node` is gone. Its system says goodbye for it, or cannot when the power is gone.
    pub(crate) fn process_ended(&mut self, stage: &mut Stage, node: NodeId, goodbye: Goodbye) {
        let ids: Vec<LinkId> =
            self.links.iter().filter(|(_, l)| l.ends.iter().any(|e| e.node == node)).map(|(id, _)| *id).collect();
        for id in ids {
            let Some(link) = self.links.get_mut(&id) else { continue };
            let mine = usize::from(link.ends[ACCEPTOR].node == node);
            if mine == ACCEPTOR && !link.accepted {
                // The greeting is still under way; whoever runs here when it arrives will answer it.
                continue;
            }
            if mine == DIALLER && !link.accepted {
                // A process that is gone does not finish a greeting.
                self.links.remove(&id);
                continue;
            }
            if !link.ends[mine].open {
                continue;
            }
            if goodbye == Goodbye::Never {
                link.ends[mine].open = false;
            } else if goodbye == Goodbye::Late {
                link.ends[mine].open = false;
                if stage.chance.one_in(2) {
                    link.lanes[1 - mine].clear();
                }
                stage.happened(Rare::HalfOpen);
                let delay = stage.delay(SECOND, 20 * SECOND);
                stage.after(delay, Due::Reset { link: id, acceptor: mine == DIALLER });
            } else if stage.chance.one_in(4) {
                // Unread bytes make it a reset, which overtakes what was sent.
                link.ends[mine].open = false;
                link.lanes[1 - mine].clear();
                let delay = stage.delay(30 * MICRO, 2 * MILLI);
                stage.after(delay, Due::Reset { link: id, acceptor: mine == DIALLER });
            } else {
                self.close(stage, id, mine == ACCEPTOR);
            }
        }
    }

    /// Every link between two nodes is cut or stalls until the partition ends; new ones do not come about.
    pub(crate) fn partition(&mut self, stage: &mut Stage, a: NodeId, b: NodeId, until: u64) {
        self.partitions.push((a, b, until));
        let between = |link: &Link| [(a, b), (b, a)].contains(&(link.ends[DIALLER].node, link.ends[ACCEPTOR].node));
        let ids: Vec<LinkId> = self.links.iter().filter(|(_, link)| between(link)).map(|(id, _)| *id).collect();
        for id in ids {
            if stage.chance.one_in(2) {
                self.cut(stage, id);
            } else {
                self.stall(stage, id, until);
            }
        }
    }

    /// A link ends; its ends hear of it each in its own time.
    fn cut(&mut self, stage: &mut Stage, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.dead = true;
        link.lanes.iter_mut().for_each(VecDeque::clear);
        for acceptor in [false, true] {
            let late = stage.chance.one_in(3);
            if late {
                stage.happened(Rare::HalfOpen);
            }
            let delay = if late { stage.delay(5 * SECOND, 30 * SECOND) } else { stage.delay(MICRO, 100 * MILLI) };
            stage.after(delay, Due::Reset { link: id, acceptor });
        }
    }

    /// Nothing arrives on a link for a while, then all of it.
    fn stall(&mut self, stage: &mut Stage, id: LinkId, until: u64) {
        if let Some(link) = self.links.get_mut(&id) {
            link.stalled_until = link.stalled_until.max(until + stage.chance.below(10 * MILLI));
        }
    }

    /// Cuts or stalls one link, whichever chance picks.
    pub(crate) fn trouble(&mut self, stage: &mut Stage) {
        if self.links.is_empty() {
            return;
        }
        let nth = stage.chance.below(self.links.len() as u64);
        let id = *self.links.keys().nth(nth as usize).expect("drawn below their number");
        if stage.chance.one_in(2) {
            self.cut(stage, id);
        } else {
            let until = stage.now + stage.delay(10 * MILLI, 8 * SECOND);
            self.stall(stage, id, until);
        }
    }

    /// Stalls what one node has dialled to another, both of them alive or not: old words that arrive late.
    pub(crate) fn hold_back(&mut self, stage: &mut Stage, from: NodeId, to: NodeId, until: u64) {
        let held = |link: &Link| link.ends[DIALLER].node == from && link.ends[ACCEPTOR].node == to;
        let ids: Vec<LinkId> = self.links.iter().filter(|(_, link)| held(link)).map(|(id, _)| *id).collect();
        for id in ids {
            self.stall(stage, id, until);
        }
    }

    /// No partitions and no stalls from now on.
    pub(crate) fn heal(&mut self, stage: &mut Stage) {
        self.partitions.clear();
        for link in self.links.values_mut() {
            link.stalled_until = link.stalled_until.min(stage.now);
        }
    }
}

fn closed(acceptor: bool, accepted: bool) -> News {
    match acceptor {
        true => News::ClosedByPeer,
        false => News::DialledClosed { accepted },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keepmq_world::Chance;

    const CLIENT: NodeId = NodeId(0);
    const SERVER: NodeId = NodeId(1);

    fn start(seed: u64) -> (Stage, Net) {
        let mut net = Net::default();
        net.set_life(CLIENT, Some(1));
        net.set_life(SERVER, Some(1));
        (Stage::new(seed, Chance::new(seed), false), net)
    }

    /// Runs until nothing is due; what arrived, one word each.
    fn settle(stage: &mut Stage, net: &mut Net) -> String {
        let mut words = Vec::new();
        while let Some(due) = stage.next() {
            let arrival = match due {
                Due::Arrive { link, to_acceptor } => net.arrive(stage, link, to_acceptor),
                Due::Reset { link, acceptor } => net.reset(link, acceptor),
                other => panic!("{other:?}"),
            };
            words.extend(arrival.map(|arrival| match arrival.news {
                News::Opened { .. } => "opened".to_owned(),
                News::Frame { bytes, .. } => String::from_utf8(bytes).unwrap(),
                News::ClosedByPeer => "closed".to_owned(),
                News::DialledClosed { accepted } => format!("ended({accepted})"),
            }));
        }
        words.join(" ")
    }

    #[test]
    fn frames_keep_their_order_and_come_before_the_end() {
        for seed in 0..100 {
            let (mut stage, mut net) = start(seed);
            let link = net.dial(&mut stage, CLIENT, SERVER);
            for frame in ["a", "b", "c"] {
                net.send(&mut stage, link, false, frame.into());
            }
            net.close(&mut stage, link, false);
            assert_eq!(settle(&mut stage, &mut net), "opened a b c closed");
            assert!(net.links.is_empty() || net.open_at_acceptor(link));
        }
    }

    #[test]
    fn a_cut_loses_the_end_and_never_the_middle() {
        for seed in 0..200 {
            let (mut stage, mut net) = start(seed);
            let link = net.dial(&mut stage, CLIENT, SERVER);
            for frame in ["a", "b", "c"] {
                net.send(&mut stage, link, false, frame.into());
            }
            for _ in 0..seed % 4 {
                let Some(Due::Arrive { link, to_acceptor }) = stage.next() else { panic!("an arrival") };
                net.arrive(&mut stage, link, to_acceptor);
            }
            net.cut(&mut stage, link);
            let rest = settle(&mut stage, &mut net);
            let both = if seed % 4 == 0 { "ended(false)" } else { "closed ended(true)" };
            let mut words: Vec<_> = rest.split(' ').collect();
            words.sort_unstable();
            assert_eq!(words.join(" "), both, "seed {seed}");
        }
    }

    #[test]
    fn a_dead_process_refuses_and_an_old_connection_is_unknown_to_a_new_one() {
        let (mut stage, mut net) = start(1);
        net.set_life(SERVER, None);
        let refused = net.dial(&mut stage, CLIENT, SERVER);
        net.send(&mut stage, refused, false, b"x".to_vec());
        assert_eq!(settle(&mut stage, &mut net), "ended(false)");
        net.set_life(SERVER, Some(2));
        let link = net.dial(&mut stage, CLIENT, SERVER);
        assert_eq!(settle(&mut stage, &mut net), "opened");
        net.process_ended(&mut stage, SERVER, Goodbye::Late);
        net.set_life(SERVER, Some(3));
        net.send(&mut stage, link, false, b"x".to_vec());
        assert_eq!(settle(&mut stage, &mut net), "ended(true)");
    }

    #[test]
    fn a_stalled_link_delivers_late_and_whole() {
        let (mut stage, mut net) = start(3);
        let link = net.dial(&mut stage, CLIENT, SERVER);
        assert_eq!(settle(&mut stage, &mut net), "opened");
        net.hold_back(&mut stage, CLIENT, SERVER, SECOND);
        net.send(&mut stage, link, false, b"late".to_vec());
        net.process_ended(&mut stage, CLIENT, Goodbye::Said);
        let words = settle(&mut stage, &mut net);
        assert!(words == "late closed" || words == "closed", "{words}");
        let until = stage.now + SECOND;
        net.partition(&mut stage, CLIENT, SERVER, until);
        net.dial(&mut stage, CLIENT, SERVER);
        assert_eq!(settle(&mut stage, &mut net), "ended(false)");
    }
}
