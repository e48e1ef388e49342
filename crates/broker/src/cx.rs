use crate::config::BrokerConfig;
use crate::counters::Counters;
use crate::pending::{Pending, Stake};
use crate::serve::{Serve, Task};
use crate::tables::Tables;
use keepmq_protocol::body::DataVersion;
use keepmq_protocol::frame::Caller;
use keepmq_protocol::seam::{CallId, Effect};
use keepmq_protocol::{LogOffset, Request, Response, ResponseCode};
use keepmq_store::{AppendError, Disk, MetaRecord, Store};
use keepmq_world::{Mono, Now};
use std::borrow::Cow;
use std::collections::VecDeque;

/// What a check gives. A refusal is rare, and large: it stands aside.
pub(crate) type Checked<T> = Result<T, Box<Response>>;

/// A refusal.
pub(crate) fn refuse(code: ResponseCode, why: impl Into<Cow<'static, str>>) -> Box<Response> {
    Box::new(Response::refuse(code, why))
}

/// What a part is lent for the time of one call: the store, the tables, and the ways to answer.
pub(crate) struct Cx<D: Disk> {
    pub(crate) config: BrokerConfig,
    /// How often the configuration was changed since the start, and when last.
    pub(crate) config_version: DataVersion,
    pub(crate) store: Store<D>,
    pub(crate) tables: Tables,
    pub(crate) pending: Pending,
    pub(crate) counters: Counters,
    /// Time of the event being handled, and of the last one between events.
    pub(crate) now: Now,
    pub(crate) effects: VecDeque<Effect<Task>>,
    calls: u64,
}

impl<D: Disk> Cx<D> {
    pub(crate) fn new(config: BrokerConfig, store: Store<D>, tables: Tables, now: Now) -> Self {
        let pending = Pending::new(config.live.flush_timeout);
        let counters = Counters::new(now);
        Self {
            config,
            config_version: DataVersion::default(),
            store,
            tables,
            pending,
            counters,
            now,
            effects: VecDeque::new(),
            calls: 0,
        }
    }

    /// Answers at once; nobody, when no answer is wanted.
    pub(crate) fn reply(&mut self, to: Caller, response: Response) {
        if !to.oneway {
            self.effects.push_back(Effect::Reply { to, response });
        }
    }

    /// Answers when everything before `end` is kept.
    pub(crate) fn reply_after(&mut self, to: Caller, end: LogOffset, stake: Stake, response: Response) {
        if end <= self.store.commit() {
            self.reply(to, response);
        } else if stake == Stake::Looked && self.pending.is_full() {
            let text = "too many questions wait for the disk: ask again a little later";
            self.reply(to, Response::refuse(ResponseCode::SystemBusy, text));
        } else if !to.oneway {
            self.pending.hold(to, end, stake, response, self.now.mono);
        }
    }

    /// Answers what the tables say. They may be ahead of what is kept; the answer is not.
    pub(crate) fn reply_from_tables(&mut self, to: Caller, response: Response) {
        self.reply_after(to, self.tables.end, Stake::Looked, response);
    }

    /// Has the log itself answer.
    pub(crate) fn serve(&mut self, serve: Serve) {
        self.effects.push_back(Effect::Work(Task::Serve(serve)));
    }

    /// Asks another process; the answer is recognised by the id.
    pub(crate) fn call(&mut self, peer: &str, request: Request<'static>, until: Mono) -> CallId {
        self.calls += 1;
        let call = CallId(self.calls);
        self.effects.push_back(Effect::Call { call, peer: peer.to_owned(), request, until });
        call
    }

    /// Writes a change of the tables into the log and applies it. The answer is the end of the record.
    pub(crate) fn record(&mut self, record: &MetaRecord) -> Result<LogOffset, AppendError> {
        let appended = self.store.append_meta(record, self.now);
        let appended = appended.inspect_err(|error| self.counters.counts.not_appended(error))?;
        self.tables.apply(record, appended.end, self.now.wall);
        Ok(appended.end)
    }
}

/// The answer to what comes while there is too much to do: a definite refusal, in RocketMQ's words.
pub(crate) fn busy(why: &dyn std::fmt::Display) -> Box<Response> {
    refuse(
        ResponseCode::SystemBusy,
        format!("[REJECTREQUEST]system busy, start flow control for a while: {why}. Send again a little later"),
    )
}

/// The answer to something that could not be appended: a definite refusal.
pub(crate) fn not_appended(error: &AppendError) -> Box<Response> {
    match error {
        AppendError::Busy { .. } | AppendError::Reserving => busy(error),
        AppendError::Full(_) => refuse(
            ResponseCode::ServiceNotAvailable,
            format!("the disk is full: {error}. Make room there; the broker then accepts messages again by itself"),
        ),
        AppendError::Stopped(_) => {
            refuse(ResponseCode::ServiceNotAvailable, format!("{error}. Send to another broker"))
        }
        AppendError::TooLarge { .. } | AppendError::Properties { .. } => {
            refuse(ResponseCode::MessageIllegal, format!("the message is illegal: {error}. Make it smaller"))
        }
    }
}
