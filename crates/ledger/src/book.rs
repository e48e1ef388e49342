use crate::attempt::{Answer, Entry};
use crate::verdict::{Finding, Verdict};
use keepmq_protocol::{LogOffset, MessageQueue, QueueOffset, Topic};
use std::collections::BTreeMap;

/// Why an entry cannot be: the test that keeps the ledger is wrong, not the broker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// Ids name messages.
    #[error("message {0} is attempted for the second time; a message that is sent again needs no second entry")]
    AttemptedTwice(u64),
    /// One attempt, one answer.
    #[error("message {id} has its answer already ({first}) and is given another ({second})")]
    AnsweredTwice {
        /// The message.
        id: u64,
        /// What was there.
        first: String,
        /// What came.
        second: String,
    },
    /// Entries stand in the order in which things happened.
    #[error("message {0} is answered or excused, but was not attempted before")]
    NeverAttempted(u64),
}

/// The entries so far, folded. Queues and topics are kept once; a message costs about a hundred bytes.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    topics: Vec<Topic>,
    queues: Vec<Queue>,
    by_name: BTreeMap<MessageQueue, u32>,
    attempts: BTreeMap<u64, Attempt>,
    places: BTreeMap<Where, Place>,
    reused: Vec<Finding>,
    /// Entries so far: the ledger's own clock.
    now: u64,
}

#[derive(Clone, Debug)]
struct Queue {
    name: MessageQueue,
    removed_below: QueueOffset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Where {
    queue: u32,
    offset: QueueOffset,
}

/// Who is at a place, as answers and readers say.
#[derive(Clone, Copy, Debug)]
struct Place {
    id: u64,
    /// What a reader found; `None` when only an answer speaks of this place.
    found: Option<u32>,
}

#[derive(Clone, Debug)]
struct Attempt {
    topic: u32,
    checksum: u32,
    at: u64,
    answer: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Open,
    Kept { place: Where, position: LogOffset, at: u64 },
    Refused(i32),
    Unknown,
    Excused,
}

impl Ledger {
    /// Takes what happened next.
    pub fn record(&mut self, entry: Entry) -> Result<(), LedgerError> {
        self.now += 1;
        match entry {
            Entry::Attempted { id, topic, checksum } => {
                let topic = self.topic(topic);
                let attempt = Attempt { topic, checksum, at: self.now, answer: Outcome::Open };
                match self.attempts.insert(id, attempt) {
                    None => Ok(()),
                    Some(_) => Err(LedgerError::AttemptedTwice(id)),
                }
            }
            Entry::Answered { id, answer } => self.answer(id, answer),
            Entry::Observed { queue, offset, id, checksum } => {
                let place = Where { queue: self.queue(queue), offset };
                self.claim(place, id).found = Some(checksum);
                Ok(())
            }
            Entry::Removed { queue, below } => {
                let queue = self.queue(queue);
                let removed = &mut self.queues[queue as usize].removed_below;
                *removed = below.max(*removed);
                Ok(())
            }
            Entry::Excused { id } => {
                self.attempts.get_mut(&id).ok_or(LedgerError::NeverAttempted(id))?.answer = Outcome::Excused;
                Ok(())
            }
        }
    }

    fn answer(&mut self, id: u64, answer: Answer) -> Result<(), LedgerError> {
        let outcome = match answer {
            Answer::Kept { queue, offset, position } => {
                Outcome::Kept { place: Where { queue: self.queue(queue), offset }, position, at: self.now }
            }
            Answer::Refused { code } => Outcome::Refused(code),
            Answer::Unknown => Outcome::Unknown,
        };
        let attempt = self.attempts.get_mut(&id).ok_or(LedgerError::NeverAttempted(id))?;
        if attempt.answer != Outcome::Open {
            let (first, second) = (format!("{:?}", attempt.answer), format!("{outcome:?}"));
            return Err(LedgerError::AnsweredTwice { id, first, second });
        }
        attempt.answer = outcome;
        if let Outcome::Kept { place, .. } = outcome {
            self.claim(place, id);
        }
        Ok(())
    }

    /// Puts `id` at `place`; somebody else there is a finding, unless it was excused.
    fn claim(&mut self, place: Where, id: u64) -> &mut Place {
        let held = self.places.entry(place).or_insert(Place { id, found: None });
        if held.id != id && self.attempts.get(&held.id).is_some_and(|other| other.answer == Outcome::Excused) {
            *held = Place { id, found: None };
        }
        if held.id != id {
            let queue = self.queues[place.queue as usize].name.clone();
            self.reused.push(Finding::Reused { queue, offset: place.offset, first: held.id, second: id });
            *held = Place { id, found: None };
        }
        held
    }

    fn topic(&mut self, topic: Topic) -> u32 {
        let known = self.topics.iter().position(|name| *name == topic);
        let index = known.unwrap_or_else(|| {
            self.topics.push(topic);
            self.topics.len() - 1
        });
        u32::try_from(index).expect("a test has fewer than 2^32 topics")
    }

    fn queue(&mut self, name: MessageQueue) -> u32 {
        if let Some(index) = self.by_name.get(&name) {
            return *index;
        }
        let index = u32::try_from(self.queues.len()).expect("a test has fewer than 2^32 queues");
        self.queues.push(Queue { name: name.clone(), removed_below: QueueOffset(0) });
        self.by_name.insert(name, index);
        index
    }

    /// Attempts that no answer has come to yet.
    pub fn open(&self) -> impl Iterator<Item = u64> + '_ {
        self.attempts.iter().filter(|(_, attempt)| attempt.answer == Outcome::Open).map(|(id, _)| *id)
    }

    /// Every message that was answered with OK and not excused: its id, and where in the log the answer put it.
    pub fn kept(&self) -> impl Iterator<Item = (u64, &MessageQueue, QueueOffset, LogOffset)> + '_ {
        self.attempts.iter().filter_map(|(id, attempt)| match attempt.answer {
            Outcome::Kept { place, position, .. } => {
                Some((*id, &self.queues[place.queue as usize].name, place.offset, position))
            }
            _ => None,
        })
    }

    /// Every queue that an answer or a reader has spoken of: how many of its messages were found, and the offset behind the
    /// last of them.
    pub fn queues(&self) -> impl Iterator<Item = (&MessageQueue, u64, QueueOffset)> {
        let mut found = vec![(0, QueueOffset(0)); self.queues.len()];
        // Places are in the order of their offsets.
        for (place, _) in self.places.iter().filter(|(_, held)| held.found.is_some()) {
            let (count, behind) = &mut found[place.queue as usize];
            (*count, *behind) = (*count + 1, place.offset.next());
        }
        self.by_name.iter().map(move |(name, index)| {
            let (count, behind) = found[*index as usize];
            (name, count, behind)
        })
    }

    /// The verdict, once everything that can be read has been observed.
    pub fn verdict(&self) -> Verdict {
        let mut verdict = Verdict { attempted: self.attempts.len() as u64, ..Verdict::default() };
        // Where each id was found; an id may be at several places.
        let mut found: BTreeMap<u64, Vec<Where>> = BTreeMap::new();
        for (place, held) in &self.places {
            let Some(checksum) = held.found else { continue };
            verdict.observed += 1;
            found.entry(held.id).or_default().push(*place);
            self.judge_place(*place, held.id, checksum, &mut verdict.findings);
        }
        verdict.duplicated = found.values().map(|places| places.len() as u64 - 1).sum();
        for (id, attempt) in &self.attempts {
            match attempt.answer {
                Outcome::Kept { place, .. } => {
                    verdict.kept += 1;
                    let places = found.get(id).map_or(&[][..], Vec::as_slice);
                    let queue = &self.queues[place.queue as usize];
                    if places.contains(&place) {
                        continue;
                    }
                    let (id, queue_name, offset) = (*id, queue.name.clone(), place.offset);
                    match places.first() {
                        Some(other) => verdict.findings.push(Finding::Misplaced {
                            id,
                            answered: (queue_name, offset),
                            found: (self.queues[other.queue as usize].name.clone(), other.offset),
                        }),
                        None if offset < queue.removed_below => verdict.removed += 1,
                        None => verdict.findings.push(Finding::Lost { id, queue: queue_name, offset }),
                    }
                }
                Outcome::Refused(_) => verdict.refused += 1,
                Outcome::Unknown | Outcome::Open => verdict.unknown += 1,
                Outcome::Excused => verdict.excused += 1,
            }
        }
        verdict.findings.extend(self.reused.iter().cloned());
        self.judge_gaps(&mut verdict.findings);
        self.judge_order(&mut verdict.findings);
        verdict
    }

    fn judge_place(&self, place: Where, id: u64, checksum: u32, findings: &mut Vec<Finding>) {
        let queue = self.queues[place.queue as usize].name.clone();
        let offset = place.offset;
        match self.attempts.get(&id) {
            None => findings.push(Finding::Phantom { id, queue, offset, why: "was never sent".to_owned() }),
            Some(Attempt { answer: Outcome::Refused(code), .. }) => {
                findings.push(Finding::Phantom { id, queue, offset, why: format!("was refused with code {code}") });
            }
            Some(attempt) if self.topics[attempt.topic as usize] != queue.topic => {
                let why = format!("was sent to {}", self.topics[attempt.topic as usize]);
                findings.push(Finding::Phantom { id, queue, offset, why });
            }
            Some(attempt) if attempt.checksum != checksum => {
                findings.push(Finding::Altered { id, queue, offset, sent: attempt.checksum, found: checksum });
            }
            Some(_) => {}
        }
    }

    /// A reader that saw offset n of a queue must have seen every one before it that was not removed.
    fn judge_gaps(&self, findings: &mut Vec<Finding>) {
        let mut wanted: Vec<QueueOffset> = self.queues.iter().map(|queue| queue.removed_below).collect();
        for (place, held) in &self.places {
            let wanted = &mut wanted[place.queue as usize];
            if held.found.is_none() || place.offset < *wanted {
                continue;
            }
            if place.offset > *wanted {
                let queue = self.queues[place.queue as usize].name.clone();
                findings.push(Finding::Gap { queue, from: *wanted, to: place.offset });
            }
            *wanted = place.offset.next();
        }
    }

    /// In one queue, what was sent after an answer must stand behind the message answered, in the queue and in the log.
    fn judge_order(&self, findings: &mut Vec<Finding>) {
        let mut kept: Vec<_> = self
            .attempts
            .iter()
            .filter_map(|(id, attempt)| match attempt.answer {
                Outcome::Kept { place, position, at } => Some((place, position, *id, attempt.at, at)),
                _ => None,
            })
            .collect();
        kept.sort_unstable();
        // Two at one place are another finding.
        kept.dedup_by_key(|(place, ..)| *place);
        // From the end of a queue back: the message that was answered first among those behind, and the lowest position.
        let mut behind: Option<(u32, u64, u64, LogOffset)> = None;
        for (place, position, id, sent, answered) in kept.into_iter().rev() {
            behind = Some(match behind {
                Some((queue, first_answered, first, lowest)) if queue == place.queue => {
                    if sent > first_answered || position >= lowest {
                        let queue = self.queues[place.queue as usize].name.clone();
                        findings.push(Finding::Disordered { queue, before: id, behind: first });
                    }
                    match answered < first_answered {
                        true => (queue, answered, id, lowest.min(position)),
                        false => (queue, first_answered, first, lowest.min(position)),
                    }
                }
                _ => (place.queue, answered, id, position),
            });
        }
    }
}
