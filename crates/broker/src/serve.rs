use crate::config::LiveConfig;
use crate::topics::is_own;
use bytes::Bytes;
use keepmq_protocol::change::Configured;
use keepmq_protocol::frame::Caller;
use keepmq_protocol::record::{Record, decode_unchecked};
use keepmq_protocol::response::{PullReply, ResponseHeader};
use keepmq_protocol::{Response, ResponseCode};
use keepmq_store::{Job, JobDone, ReadError, ReadPlan, Served};

/// Work that only a broker has.
#[derive(Debug)]
pub enum Task {
    /// To be run over the store's files; `Event::Done` follows.
    Job(Job),
    /// To be read and answered.
    Serve(Serve),
    /// Properties to be checked and kept in the configuration file; `Event::Done` follows. One at a time.
    Configure(String),
}

/// Such work has ended.
#[derive(Debug)]
pub enum Done {
    /// [`Task::Job`].
    Job(JobDone),
    /// [`Task::Configure`].
    Configured(Box<Configured<LiveConfig>>),
}

impl From<JobDone> for Done {
    fn from(done: JobDone) -> Self {
        Self::Job(done)
    }
}

/// A request that the log itself answers.
#[derive(Debug)]
pub struct Serve {
    /// Who asked.
    pub to: Caller,
    /// What to read.
    pub plan: ReadPlan,
    /// What to make of it.
    pub answer: Answer,
}

/// Which answer it becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Of a pull; `next`, which holds the offset that was asked for, is replaced by what was read.
    Pull(PullReply),
    /// `offset`.
    Offset,
    /// `timestamp`.
    Time,
    /// One record as the body.
    Record,
}

impl Serve {
    /// The answer. Pure: whoever has read may make it, without the core.
    pub fn response(&self, read: Result<Served, ReadError>) -> Response {
        match (self.answer, read) {
            (Answer::Pull(asked), Ok(Served::Records { bytes, count, lost, next })) => {
                let reply = pulled(asked, bytes, count, next);
                if lost == 0 { reply } else { passing_over(lost, reply) }
            }
            // Retention was faster. The client asks again from the same offset, and is then told the lowest one.
            (Answer::Pull(asked), Err(ReadError::Removed { .. })) => {
                Response::refuse(ResponseCode::PullRetryImmediately, "MESSAGE_WAS_REMOVING")
                    .with_header(ResponseHeader::Pull(asked))
            }
            (Answer::Offset, Ok(Served::Offset(offset))) => {
                Response::ok().with_header(ResponseHeader::Offset(offset.wire()))
            }
            (Answer::Time, Ok(Served::Time(time))) => Response::ok().with_header(ResponseHeader::Timestamp(time.0)),
            // The queue has just lost what it had: it has no earliest message now.
            (Answer::Time, Err(ReadError::Removed { .. })) => Response::ok().with_header(ResponseHeader::Timestamp(-1)),
            (Answer::Record, Ok(Served::Records { bytes, .. })) => {
                match with_record(&bytes, |record| (is_own(record.topic), record.at.0)) {
                    Some((false, _)) => Response { body: bytes.into_iter().collect(), ..Response::ok() },
                    Some((true, at)) => failed(&ReadError::Nothing { at }),
                    None => Response::refuse(ResponseCode::SystemError, "can not find message by the offset"),
                }
            }
            (_, Err(error)) => failed(&error),
            (answer, Ok(served)) => unreachable!("a plan for {answer:?} does not give {served:?}"),
        }
    }
}

fn failed(error: &ReadError) -> Response {
    Response::refuse(ResponseCode::SystemError, error.to_string())
}

fn pulled(asked: PullReply, bytes: Vec<Bytes>, count: u32, next: keepmq_protocol::QueueOffset) -> Response {
    let header = ResponseHeader::Pull(PullReply { next, ..asked });
    if count == 0 {
        return Response::refuse(ResponseCode::PullRetryImmediately, "NO_MATCHED_MESSAGE").with_header(header);
    }
    Response { remark: Some("FOUND".into()), body: bytes.into_iter().collect(), header, ..Response::ok() }
}

/// Says that messages are missing which the operator has given up.
fn passing_over(lost: u32, reply: Response) -> Response {
    let said = reply.remark.as_deref().unwrap_or_default();
    let remark =
        format!("{said}; {lost} messages before the next offset are lost: their bytes were damaged (store verify)");
    Response { remark: Some(remark.into()), ..reply }
}

/// Looks at the first record that was read. It may lie in pieces.
fn with_record<T>(pieces: &[Bytes], look: impl FnOnce(&Record<'_>) -> T) -> Option<T> {
    let joined;
    let bytes: &[u8] = match pieces {
        [whole] => whole,
        pieces => {
            joined = pieces.concat();
            &joined
        }
    };
    decode_unchecked(bytes).ok().map(|record| look(&record))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::caller;
    use keepmq_protocol::QueueOffset;
    use keepmq_protocol::seam::Conn;

    #[test]
    fn a_pull_past_what_was_given_up_goes_on_and_says_so() {
        let to = caller(Conn(1), 2);
        let offset = QueueOffset;
        let asked = PullReply { suggest_broker: 0, next: offset(3), min: offset(0), max: offset(9) };
        let serve = Serve { to, plan: ReadPlan::record(0), answer: Answer::Pull(asked) };
        let answer = |count, lost, next| {
            let bytes = vec![Bytes::from_static(b"records")];
            serve.response(Ok(Served::Records { bytes, count, lost, next: offset(next) }))
        };
        for (count, lost, code, said) in [
            (
                0,
                2,
                ResponseCode::PullRetryImmediately,
                "NO_MATCHED_MESSAGE; 2 messages before the next offset are lost",
            ),
            (1, 1, ResponseCode::Success, "FOUND; 1 messages before the next offset are lost"),
        ] {
            let response = answer(count, lost, 5);
            assert_eq!(response.code, code as i32);
            assert_eq!(response.header, ResponseHeader::Pull(PullReply { next: offset(5), ..asked }));
            assert!(response.remark.as_deref().unwrap().starts_with(said), "{response:?}");
        }
        assert_eq!(answer(1, 0, 4).remark.as_deref(), Some("FOUND"));
    }
}
