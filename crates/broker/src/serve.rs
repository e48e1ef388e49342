use keepmq_protocol::frame::Caller;
use keepmq_protocol::response::PullReply;
use keepmq_protocol::Response;
use keepmq_store::{Job, ReadError, ReadPlan, Served};

/// Work that only a broker has.
#[derive(Debug)]
pub enum Task {
    /// To be run over the store's files; `Event::Done` follows.
    Job(Job),
    /// To be read and answered.
    Serve(Serve),
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
    /// Of a pull; `next` is replaced by what was read.
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
        let _ = read;
        todo!()
    }
}
