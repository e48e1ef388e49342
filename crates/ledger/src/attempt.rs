use keepmq_protocol::{BrokerName, LogOffset, MessageQueue, QueueOffset, Topic};
use std::fmt;
use std::str::FromStr;

/// What an attempt was answered with. A client that hears nothing, or cannot tell, says `Unknown`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// SEND_OK: the message is kept, in this place.
    Kept {
        /// In which queue.
        queue: MessageQueue,
        /// Where in it.
        offset: QueueOffset,
        /// Where in the log.
        position: LogOffset,
    },
    /// A definite failure: the message will never be seen.
    Refused {
        /// The code on the wire.
        code: i32,
    },
    /// It may be kept or not.
    Unknown,
}

/// One thing that happened. Its text form is one line (see [`Entry::from_str`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A message is about to be sent.
    Attempted {
        /// Carried in the body; never used for two messages.
        id: u64,
        /// Where to.
        topic: Topic,
        /// Of the whole body.
        checksum: u32,
    },
    /// An attempt has its answer.
    Answered {
        /// The message.
        id: u64,
        /// What came.
        answer: Answer,
    },
    /// A reader found a message. The same place may be read any number of times.
    Observed {
        /// In which queue.
        queue: MessageQueue,
        /// Where in it.
        offset: QueueOffset,
        /// What the body says it is.
        id: u64,
        /// Of the whole body.
        checksum: u32,
    },
    /// Whatever lay below this offset was taken away on purpose: retention, a deleted topic.
    Removed {
        /// In which queue.
        queue: MessageQueue,
        /// The lowest offset that must still be there.
        below: QueueOffset,
    },
    /// The contract allows this message to be lost (ASYNC_FLUSH and a power cut): from here on its answer is unknown, and
    /// its offset may be given to another.
    Excused {
        /// The message.
        id: u64,
    },
}

/// Why a line is not an entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the ledger, {text:?}, is no entry: {why}")]
pub struct ParseError {
    /// Counted from 1; 0 when only one line was read.
    pub line: usize,
    /// The line, cut to 200 characters.
    pub text: String,
    /// What is wrong.
    pub why: String,
}

/// Reads a whole ledger. A last line without its line end was cut short when its writer died: what it announced had not
/// begun, so it is left out.
pub fn entries(text: &str) -> Result<Vec<Entry>, ParseError> {
    let Some(end) = text.rfind('\n') else { return Ok(Vec::new()) };
    let read = |(index, line): (usize, &str)| line.parse().map_err(|error| ParseError { line: index + 1, ..error });
    text[..end].split('\n').enumerate().map(read).collect()
}

/// Without the line end.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |queue: &MessageQueue| format!("{} {} {}", queue.topic, queue.broker, queue.id);
        match self {
            Self::Attempted { id, topic, checksum } => write!(f, "A {id} {topic} {checksum}"),
            Self::Answered { id, answer: Answer::Kept { queue, offset, position } } => {
                write!(f, "K {id} {} {offset} {position}", place(queue))
            }
            Self::Answered { id, answer: Answer::Refused { code } } => write!(f, "R {id} {code}"),
            Self::Answered { id, answer: Answer::Unknown } => write!(f, "U {id}"),
            Self::Observed { queue, offset, id, checksum } => {
                write!(f, "O {} {offset} {id} {checksum}", place(queue))
            }
            Self::Removed { queue, below } => write!(f, "M {} {below}", place(queue)),
            Self::Excused { id } => write!(f, "X {id}"),
        }
    }
}

/// ```text
///  A id topic checksum                        attempted
///  K id topic broker queue offset position    kept
///  R id code                                  refused
///  U id                                       unknown
///  O topic broker queue offset id checksum    observed
///  M topic broker queue below                 removed
///  X id                                       excused
/// ```
impl FromStr for Entry {
    type Err = ParseError;

    fn from_str(line: &str) -> Result<Self, ParseError> {
        let mut words = Words(line.split(' '));
        let mut read = || {
            let entry = match words.text()? {
                "A" => Self::Attempted { id: words.number()?, topic: words.topic()?, checksum: words.number()? },
                "K" => Self::Answered {
                    id: words.number()?,
                    answer: Answer::Kept {
                        queue: words.queue()?,
                        offset: QueueOffset(words.number()?),
                        position: LogOffset(words.number()?),
                    },
                },
                "R" => Self::Answered { id: words.number()?, answer: Answer::Refused { code: words.number()? } },
                "U" => Self::Answered { id: words.number()?, answer: Answer::Unknown },
                "O" => Self::Observed {
                    queue: words.queue()?,
                    offset: QueueOffset(words.number()?),
                    id: words.number()?,
                    checksum: words.number()?,
                },
                "M" => Self::Removed { queue: words.queue()?, below: QueueOffset(words.number()?) },
                "X" => Self::Excused { id: words.number()? },
                other => return Err(format!("{other:?} begins none")),
            };
            match words.0.next() {
                None => Ok(entry),
                Some(more) => Err(format!("{more:?} is one word too many")),
            }
        };
        read().map_err(|why| ParseError { line: 0, text: line.chars().take(200).collect(), why })
    }
}

struct Words<'l>(std::str::Split<'l, char>);

impl<'l> Words<'l> {
    fn text(&mut self) -> Result<&'l str, String> {
        self.0.next().filter(|word| !word.is_empty()).ok_or_else(|| "a word is missing".to_owned())
    }

    fn number<N: FromStr>(&mut self) -> Result<N, String> {
        let word = self.text()?;
        word.parse().map_err(|_| format!("{word:?} is not the number that belongs here"))
    }

    fn topic(&mut self) -> Result<Topic, String> {
        Topic::new(self.text()?).map_err(|error| error.to_string())
    }

    fn queue(&mut self) -> Result<MessageQueue, String> {
        let topic = self.topic()?;
        let broker = BrokerName::new(self.text()?).map_err(|error| error.to_string())?;
        Ok(MessageQueue { topic, broker, id: self.number()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_comes_back_and_a_torn_last_one_is_left_out() {
        let text = "A 1 T 77\nK 1 T b.example 3 5 4096\nR 2 -14\nU 3\nO %RETRY%g b 0 5 1 77\nM T b 1 9\nX 1\n";
        let read = entries(text).unwrap();
        let written: String = read.iter().map(|entry| format!("{entry}\n")).collect();
        assert_eq!(written, text);
        assert_eq!(entries("A 1 T 77\nA 12 T 7").unwrap(), read[..1]);
        assert_eq!(entries("A 1").unwrap(), []);
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        for (line, why) in [
            ("", "a word is missing"),
            ("Z 1", "\"Z\" begins none"),
            ("U", "a word is missing"),
            ("U x", "\"x\" is not the number"),
            ("U 1 2", "\"2\" is one word too many"),
            ("A 1 a/b 2", "illegal characters"),
            ("R 1 99999999999", "is not the number"),
            ("M T b,c 1 2", "illegal characters"),
        ] {
            let error = entries(&format!("U 1\n{line}\n")).expect_err(line).to_string();
            assert!(error.starts_with("line 2 of the ledger") && error.contains(why), "{error}");
        }
    }
}
