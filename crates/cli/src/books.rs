//! The ledger in a file: what is about to be sent stands in it before it is sent.

use crate::problem;
use keepmq_client::{Receipt, Received, SendError};
use keepmq_ledger::{Answer, Entry, Ledger, Verdict, entries};
use keepmq_protocol::record::crc;
use keepmq_protocol::{LogOffset, Topic};
use keepmq_server::{ExitCode, Failure, Problem};
use keepmq_world::Chance;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// The ledger in memory and in a file.
pub(crate) struct Books {
    file: BufWriter<File>,
    ledger: Ledger,
    /// A write has failed: nothing that follows would be judged by the file.
    broken: Option<Failure>,
}

impl Books {
    /// New ones; there must be no file yet.
    pub(crate) fn create(path: &Path) -> Result<Self, Failure> {
        let file = File::create_new(path)
            .map_err(|error| problem::io(&format!("the ledger {} cannot be made", path.display()), &error))?;
        Ok(Self { file: BufWriter::new(file), ledger: Ledger::default(), broken: None })
    }

    /// A ledger that a run has left behind, and the topics that it speaks of. What it observed is left out: it is to be
    /// observed again.
    pub(crate) fn read(path: &Path) -> Result<(Ledger, BTreeSet<Topic>), Failure> {
        let title = || format!("the ledger {} cannot be read", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| {
            let remedy = "give the file that keepmq prove has left behind";
            let problem = Problem::new(title(), error.to_string(), "without it nothing can be compared", remedy);
            Failure::new(ExitCode::NotFound, problem)
        })?;
        let bad = |what: String| {
            let why = "a ledger that is read wrongly would prove nothing";
            Failure::new(
                ExitCode::Usage,
                Problem::new(title(), what, why, "give the file that keepmq prove has left behind"),
            )
        };
        let mut ledger = Ledger::default();
        let mut topics = BTreeSet::new();
        for entry in entries(&text).map_err(|error| bad(error.to_string()))? {
            match &entry {
                Entry::Observed { .. } => continue,
                Entry::Attempted { topic, .. } => drop(topics.insert(topic.clone())),
                _ => {}
            }
            ledger.record(entry).map_err(|error| bad(error.to_string()))?;
        }
        Ok((ledger, topics))
    }

    /// A message is about to be sent.
    pub(crate) fn attempt(&mut self, id: u64, topic: &Topic, body: &[u8]) {
        self.record(Entry::Attempted { id, topic: topic.clone(), checksum: crc(body) });
    }

    /// A send has ended.
    pub(crate) fn answer(&mut self, id: u64, outcome: &Result<Receipt, SendError>) {
        let answer = match outcome {
            Ok(receipt) => Answer::Kept {
                queue: receipt.queue.clone(),
                offset: receipt.offset,
                position: position(&receipt.offset_message_id),
            },
            Err(SendError::Refused { code, .. }) => Answer::Refused { code: code.unwrap_or_default() },
            Err(SendError::Unknown { .. }) => Answer::Unknown,
        };
        self.record(Entry::Answered { id, answer });
    }

    /// A reader has found a message.
    pub(crate) fn observe(&mut self, message: &Received) {
        self.record(observed(message));
    }

    fn record(&mut self, entry: Entry) {
        if self.broken.is_some() {
            return;
        }
        // Whole lines, each before what it announces: a line that our own end cuts short says of nothing that it was sent.
        let written = writeln!(self.file, "{entry}").and_then(|()| self.file.flush());
        if let Err(error) = written {
            self.broken = Some(problem::io("the ledger cannot be written", &error));
        } else {
            self.ledger.record(entry).expect("ids are given once, and answers come once");
        }
    }

    /// What has been written so far, unless the books themselves are broken.
    pub(crate) fn ledger(&self) -> Result<&Ledger, Failure> {
        match &self.broken {
            Some(failure) => Err(failure.clone()),
            None => Ok(&self.ledger),
        }
    }

    /// The verdict so far, unless the books themselves are broken.
    pub(crate) fn verdict(&self) -> Result<Verdict, Failure> {
        self.ledger().map(Ledger::verdict)
    }
}

/// The entry for a message that was found.
pub(crate) fn observed(message: &Received) -> Entry {
    Entry::Observed {
        queue: message.queue.clone(),
        offset: message.offset,
        id: message.body.first_chunk().map_or(u64::MAX, |id| u64::from_be_bytes(*id)),
        checksum: crc(&message.body),
    }
}

/// The body of message `id`: the id, then bytes that only it has.
pub(crate) fn body(id: u64, least: usize, most: usize) -> Vec<u8> {
    let mut chance = Chance::new(id);
    let more = chance.below((most - least) as u64 + 1);
    let len = 8 + least + usize::try_from(more).expect("a body is short");
    let mut body = Vec::with_capacity(len + 8);
    body.extend(id.to_be_bytes());
    while body.len() < len {
        body.extend(chance.word().to_be_bytes());
    }
    body.truncate(len);
    body
}

/// Where in the log a message lies: the last eight bytes of its broker's id.
fn position(offset_message_id: &str) -> LogOffset {
    let digits = offset_message_id.len().checked_sub(16).and_then(|at| offset_message_id.get(at..));
    LogOffset(digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or_default())
}

/// What a verdict says of messages that were acknowledged and cannot be consumed.
pub(crate) fn lost(verdict: &Verdict) -> u64 {
    use keepmq_ledger::Finding;
    verdict.findings.iter().filter(|finding| matches!(finding, Finding::Lost { .. })).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use keepmq_client::{BrokerName, MessageQueue, QueueOffset};

    fn kept(offset: u64) -> Result<Receipt, SendError> {
        Ok(Receipt {
            message_id: "ID".to_owned(),
            offset_message_id: format!("7F00000100002A9F{:016X}", 4096 + 100 * offset),
            queue: MessageQueue { topic: Topic::new("T").unwrap(), broker: BrokerName::new("b").unwrap(), id: 0 },
            offset: QueueOffset(offset),
            attempts: 1,
        })
    }

    #[test]
    fn what_was_acknowledged_and_is_not_there_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        let mut books = Books::create(&path).unwrap();
        let topic = Topic::new("T").unwrap();
        for id in 0..3 {
            books.attempt(id, &topic, &body(id, 10, 20));
        }
        books.answer(0, &kept(0));
        let refused = SendError::Refused {
            message_id: String::new(),
            code: Some(14),
            broker: None,
            why: String::new(),
            attempts: 1,
        };
        books.answer(1, &Err(refused));
        let verdict = books.verdict().unwrap();
        assert_eq!((verdict.kept, verdict.refused, verdict.unknown, lost(&verdict)), (1, 1, 1, 1));
        let (read, topics) = Books::read(&path).unwrap();
        assert_eq!((read.verdict(), topics.len()), (verdict, 1), "the file says what memory says");
        assert_eq!(read.kept().map(|(.., position)| position).next(), Some(LogOffset(4096)));
        assert_eq!(
            Books::create(&path).err().map(|failure| failure.exit),
            Some(ExitCode::Io),
            "no ledger is overwritten"
        );
        assert_eq!(Books::read(&dir.path().join("none")).err().map(|failure| failure.exit), Some(ExitCode::NotFound));
    }

    #[test]
    fn bodies_differ_and_say_who_they_are() {
        let bodies: BTreeSet<Vec<u8>> = (0..100).map(|id| body(id, 16, 64)).collect();
        assert_eq!(bodies.len(), 100);
        assert!(bodies.iter().all(|body| (24..=72).contains(&body.len())));
        assert_eq!(body(7, 16, 16).first_chunk(), Some(&7u64.to_be_bytes()));
    }
}
