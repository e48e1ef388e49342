use keepmq_protocol::{MessageQueue, QueueOffset};
use std::fmt;

/// What the ledger says in the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Messages sent.
    pub attempted: u64,
    /// Answered with OK.
    pub kept: u64,
    /// Answered with a definite failure.
    pub refused: u64,
    /// Answered with neither, or not at all.
    pub unknown: u64,
    /// Those whose loss the contract allows.
    pub excused: u64,
    /// Kept ones that retention has taken since.
    pub removed: u64,
    /// Places at which a message was found.
    pub observed: u64,
    /// Copies beyond the first. No finding by itself: whoever sends again may store twice.
    pub duplicated: u64,
    /// What must not be.
    pub findings: Vec<Finding>,
}

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the text form of each variant says what its fields are")]
pub enum Finding {
    /// Answered with OK and nowhere to be found.
    Lost { id: u64, queue: MessageQueue, offset: QueueOffset },
    /// There, although it was refused or never sent.
    Phantom { id: u64, queue: MessageQueue, offset: QueueOffset, why: String },
    /// There with other bytes.
    Altered { id: u64, queue: MessageQueue, offset: QueueOffset, sent: u32, found: u32 },
    /// Not where the answer said.
    Misplaced { id: u64, answered: (MessageQueue, QueueOffset), found: (MessageQueue, QueueOffset) },
    /// One offset, two messages.
    Reused { queue: MessageQueue, offset: QueueOffset, first: u64, second: u64 },
    /// Offsets between two messages at which there is nothing.
    Gap { queue: MessageQueue, from: QueueOffset, to: QueueOffset },
    /// Sent after the answer to another one, and stored before it.
    Disordered { queue: MessageQueue, before: u64, behind: u64 },
}

impl Verdict {
    /// Whether there is nothing that must not be.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

impl Finding {
    /// The word for what it is, with which its text begins.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Lost { .. } => "lost",
            Self::Phantom { .. } => "phantom",
            Self::Altered { .. } => "altered",
            Self::Misplaced { .. } => "misplaced",
            Self::Reused { .. } => "reused",
            Self::Gap { .. } => "gap",
            Self::Disordered { .. } => "disordered",
        }
    }
}

/// Findings that are printed in full; the rest is counted.
const SHOWN: usize = 20;

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { attempted, kept, refused, unknown, excused, removed, observed, duplicated, findings } = self;
        write!(f, "{attempted} sent: {kept} kept, {refused} refused, {unknown} unknown")?;
        if *excused > 0 {
            write!(f, ", {excused} given up as the contract allows")?;
        }
        write!(f, "; {observed} found, {duplicated} of them twice or more")?;
        if *removed > 0 {
            write!(f, "; {removed} kept ones removed by retention since")?;
        }
        if findings.is_empty() {
            return write!(f, "; the books balance");
        }
        write!(f, "; {} findings:", findings.len())?;
        for finding in findings.iter().take(SHOWN) {
            write!(f, "\n  {finding}")?;
        }
        match findings.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n  … and {more} more"),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |queue: &MessageQueue, offset: &QueueOffset| {
            format!("{} queue {} of {}, offset {offset}", queue.topic, queue.id, queue.broker)
        };
        write!(f, "{}: ", self.kind())?;
        match self {
            Self::Lost { id, queue, offset } => {
                write!(f, "message {id} was answered with OK for {} and is not there", at(queue, offset))
            }
            Self::Phantom { id, queue, offset, why } => {
                write!(f, "message {id} {why} and is at {}", at(queue, offset))
            }
            Self::Altered { id, queue, offset, sent, found } => {
                let place = at(queue, offset);
                write!(f, "message {id} at {place} was sent with checksum {sent:08x} and has {found:08x}")
            }
            Self::Misplaced { id, answered, found } => {
                let (said, is) = (at(&answered.0, &answered.1), at(&found.0, &found.1));
                write!(f, "message {id} was answered with OK for {said} and is at {is}")
            }
            Self::Reused { queue, offset, first, second } => {
                write!(f, "{} was message {first} and then message {second}", at(queue, offset))
            }
            Self::Gap { queue, from, to } => {
                write!(f, "{} up to {to} is empty, and there is something behind it", at(queue, from))
            }
            Self::Disordered { queue, before, behind } => write!(
                f,
                "in {} queue {} of {}, message {before} stands before message {behind}, which came first",
                queue.topic, queue.id, queue.broker
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Ledger, LedgerError, entries};

    /// The first line of the verdict and the kinds of findings, from a ledger in its text form (`;` ends a line).
    fn judge(story: &str) -> String {
        let mut ledger = Ledger::default();
        for entry in entries(&story.replace("; ", "\n").replace(';', "\n")).unwrap() {
            ledger.record(entry).unwrap();
        }
        let text = ledger.verdict().to_string();
        assert_eq!(ledger.verdict().is_clean(), text.ends_with("the books balance"), "{text}");
        let kinds = text.lines().skip(1).map(|line| line.trim().split(' ').next().unwrap().to_owned());
        kinds.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_finding_has_its_story() {
        let sent = "A 1 T 11; A 2 T 22; A 3 T 33; ";
        for (finding, story) in [
            ("", "K 1 T b 0 0 0; K 2 T b 0 1 50; R 3 2; O T b 0 0 1 11; O T b 0 1 2 22; O T b 0 0 1 11;"),
            ("", "U 1; O T b 0 0 2 22; O T b 1 0 2 22;"),
            ("lost:", "K 1 T b 0 0 0;"),
            ("", "K 1 T b 0 0 0; X 1;"),
            ("", "K 1 T b 0 0 0; O T b 0 0 1 11; X 1; K 2 T b 0 0 0; O T b 0 0 2 22;"),
            ("", "K 1 T b 0 0 0; M T b 0 1; K 2 T b 0 1 50; O T b 0 1 2 22;"),
            ("phantom:", "R 1 14; O T b 0 0 1 11;"),
            ("phantom:", "O T b 0 0 9 99;"),
            ("phantom:", "O Other b 0 0 1 11;"),
            ("altered:", "U 1; O T b 0 0 1 12;"),
            ("misplaced:", "K 1 T b 0 0 0; O T b 1 0 1 11;"),
            ("reused:", "U 1; O T b 0 0 1 11; O T b 0 0 2 22;"),
            ("lost: reused:", "K 1 T b 0 0 0; K 2 T b 0 0 0; O T b 0 0 2 22;"),
            ("gap:", "O T b 0 0 1 11; O T b 0 2 2 22;"),
            ("gap:", "O T b 0 1 1 11;"),
            ("gap:", "M T b 0 1; O T b 0 0 3 33; O T b 0 2 1 11;"),
            ("disordered:", "K 1 T b 0 1 50; A 4 T 44; K 4 T b 0 0 0; O T b 0 0 4 44; O T b 0 1 1 11;"),
            ("disordered:", "K 1 T b 0 0 50; K 2 T b 0 1 0; O T b 0 0 1 11; O T b 0 1 2 22;"),
            ("", "K 2 T b 0 1 50; K 1 T b 0 0 0; O T b 0 0 1 11; O T b 0 1 2 22;"),
        ] {
            assert_eq!(judge(&format!("{sent}{story}")), finding, "{story}");
        }
    }

    #[test]
    fn the_verdict_reads_like_a_sentence() {
        let mut ledger = Ledger::default();
        for line in ["A 7 T 1", "K 7 T b 2 5 4096", "A 8 T 2", "A 9 T 3", "X 9"] {
            ledger.record(line.parse().unwrap()).unwrap();
        }
        assert_eq!(
            ledger.verdict().to_string(),
            "3 sent: 1 kept, 0 refused, 1 unknown, 1 given up as the contract allows; 0 found, 0 of them twice or more; \
             1 findings:\n  lost: message 7 was answered with OK for T queue 2 of b, offset 5 and is not there"
        );
        assert_eq!(ledger.open().collect::<Vec<_>>(), [8]);
        assert_eq!(ledger.kept().count(), 1);
    }

    #[test]
    fn queues_are_told_by_what_was_found_in_them() {
        let mut ledger = Ledger::default();
        for line in ["A 1 T 1", "K 1 T b 1 7 0", "O T b 0 4 1 1", "O T b 0 2 1 1", "O T b 0 2 1 1"] {
            ledger.record(line.parse().unwrap()).unwrap();
        }
        let queues: Vec<_> = ledger.queues().map(|(queue, found, behind)| (queue.id, found, behind.0)).collect();
        assert_eq!(queues, [(0, 2, 5), (1, 0, 0)]);
    }

    #[test]
    fn a_ledger_kept_wrongly_is_an_error() {
        let mut ledger = Ledger::default();
        let mut record = |line: &str| ledger.record(line.parse().unwrap());
        assert_eq!(record("U 1"), Err(LedgerError::NeverAttempted(1)));
        assert_eq!(record("A 1 T 1"), Ok(()));
        assert_eq!(record("A 1 T 1"), Err(LedgerError::AttemptedTwice(1)));
        assert_eq!(record("U 1"), Ok(()));
        assert!(matches!(record("R 1 2"), Err(LedgerError::AnsweredTwice { id: 1, .. })));
    }
}
