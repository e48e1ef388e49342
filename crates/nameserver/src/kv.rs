//! Key-value configuration: what tools keep here, for example how many queues an ordered topic has on which broker.
//!
//! ```text
//!   change ──▶ waiting ──┬──▶ SaveKv: the whole table ──▶ the shell writes, syncs, renames ──▶ KvSaved ──▶ answers
//!   change ──▶ waiting ──┘    one at a time; what comes meanwhile goes together with the next
//! ```
//! A change is answered when it is on disk, and nobody reads it before: what has once been read is not taken back.

use keepmq_protocol::body::KvConfig;
use keepmq_protocol::frame::Caller;
use keepmq_protocol::json;
use keepmq_protocol::{Response, ResponseCode};
use keepmq_world::planted;
use std::collections::BTreeMap;
use std::fmt;

/// Most entries, of all namespaces together.
const ENTRIES_MAX: usize = 10_000;
/// Most bytes of all entries, each with its namespace and key. They are written as a whole at every change.
const BYTES_MAX: usize = 4 << 20;
/// Longest namespace, and longest key: a retry topic has 255 bytes.
const NAME_MAX: usize = 255;
/// Longest value: a thousand brokers with their queues.
const VALUE_MAX: usize = 32 << 10;
/// Most changes that wait for a save; they have at most [`BYTES_MAX`], too.
const WAITING_MAX: usize = 1000;

/// Work of a name server's own: this shall be the whole content of `kvConfig.json`. [`KvSaved`] follows, exactly once.
#[derive(Clone, PartialEq, Eq)]
pub struct SaveKv {
    /// Names the answer.
    pub ticket: u64,
    /// The content.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for SaveKv {
    /// Without the content, which may be megabytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SaveKv({}, {} bytes)", self.ticket, self.bytes.len())
    }
}

/// A save has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvSaved {
    /// Whose end it is.
    pub ticket: u64,
    /// How it went. Well: it will be read at the next start, whatever happens.
    pub outcome: Result<(), SaveError>,
}

/// How a save can fail.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SaveError {
    /// The old file stands as it was, and another save may go better.
    #[error("{0}")]
    NotSaved(String),
    /// The next start may read the old content or the new one.
    #[error("{0}")]
    Unknown(String),
}

/// Reads the content of `kvConfig.json`.
pub fn read_kv(bytes: &[u8]) -> Result<KvConfig, String> {
    let config: KvConfig = json::parse(bytes).map_err(|error| error.to_string())?;
    let size = Size::of(&config);
    if size.is_too_much() {
        return Err(format!("it holds {size}"));
    }
    Ok(config)
}

/// The configuration, and who waits for what.
pub(crate) struct Kv {
    /// What is on disk.
    kept: KvConfig,
    size: Size,
    under_way: Option<Save>,
    waiting: Vec<(Caller, Change)>,
    waiting_bytes: usize,
    tickets: u64,
}

/// A save that is under way.
struct Save {
    ticket: u64,
    content: KvConfig,
    size: Size,
    callers: Vec<Caller>,
}

/// What a tool wants changed.
pub(crate) struct Change {
    pub(crate) namespace: String,
    pub(crate) key: String,
    /// `None`: it shall be deleted.
    pub(crate) value: Option<String>,
}

/// Who gets which answer.
pub(crate) type Answers = Vec<(Caller, Response)>;

impl Kv {
    /// With what is on disk.
    pub(crate) fn new(kept: KvConfig) -> Self {
        let size = Size::of(&kept);
        Self { kept, size, under_way: None, waiting: Vec::new(), waiting_bytes: 0, tickets: 0 }
    }

    pub(crate) fn get(&self, namespace: &str, key: &str) -> Option<&String> {
        self.kept.config_table.get(namespace)?.get(key)
    }

    pub(crate) fn namespace(&self, namespace: &str) -> Option<&BTreeMap<String, String>> {
        self.kept.config_table.get(namespace)
    }

    /// Whether nobody waits.
    pub(crate) fn is_idle(&self) -> bool {
        self.under_way.is_none() && self.waiting.is_empty()
    }

    /// Takes a change, to be answered later; or refuses it at once.
    pub(crate) fn change(&mut self, from: Caller, change: Change) -> Option<Response> {
        if let Err(why) = change.check() {
            return Some(Response::refuse(ResponseCode::SystemError, why));
        }
        let bytes = self.waiting_bytes + change.bytes();
        if self.waiting.len() >= WAITING_MAX || bytes > BYTES_MAX {
            let remark = format!("{} changes wait for the disk already; try again", self.waiting.len());
            return Some(Response::refuse(ResponseCode::SystemBusy, remark));
        }
        self.waiting_bytes = bytes;
        self.waiting.push((from, change));
        None
    }

    /// The save that is due, if any. What needs none is answered.
    pub(crate) fn next_save(&mut self, answers: &mut Answers) -> Option<SaveKv> {
        if self.under_way.is_some() || self.waiting.is_empty() {
            return None;
        }
        let (mut content, mut size) = (self.kept.clone(), self.size);
        let mut callers = Vec::new();
        for (from, change) in std::mem::take(&mut self.waiting) {
            match change.apply(&mut content, &mut size) {
                Ok(()) => callers.push(from),
                Err(why) => answers.push((from, Response::refuse(ResponseCode::SystemError, why))),
            }
        }
        self.waiting_bytes = 0;
        if content == self.kept {
            answers.extend(callers.into_iter().map(|from| (from, Response::ok())));
            return None;
        }
        if planted!("kv-answered-before-saved") {
            answers.extend(callers.drain(..).map(|from| (from, Response::ok())));
            self.kept = content.clone();
        }
        self.tickets += 1;
        let bytes = serde_json::to_vec(&content).expect("a configuration has text as keys");
        self.under_way = Some(Save { ticket: self.tickets, content, size, callers });
        Some(SaveKv { ticket: self.tickets, bytes })
    }

    /// A save has ended. An error in return: nobody knows what is on disk.
    pub(crate) fn saved(&mut self, done: KvSaved, answers: &mut Answers) -> Result<(), String> {
        let save = self.under_way.take().expect("a save that was asked for ends once");
        assert_eq!(save.ticket, done.ticket, "one save is under way at a time");
        match done.outcome {
            Ok(()) => {
                (self.kept, self.size) = (save.content, save.size);
                answers.extend(save.callers.into_iter().map(|from| (from, Response::ok())));
                Ok(())
            }
            Err(SaveError::NotSaved(why)) => {
                let remark = format!(
                    "the change was not saved, and everything is as before: {why}. See to the disk of this name server, then \
                     try again"
                );
                refuse(save.callers, &remark, answers);
                Ok(())
            }
            Err(SaveError::Unknown(why)) => {
                let remark = format!(
                    "it is not known whether the change was saved: {why}. This name server ends; see to its disk, start it, and \
                     look at what it has read"
                );
                refuse(save.callers, &remark, answers);
                let remark = format!("the change was not saved, for an earlier one has failed: {why}");
                refuse(self.waiting.drain(..).map(|(from, _)| from), &remark, answers);
                Err(why)
            }
        }
    }
}

fn refuse(callers: impl IntoIterator<Item = Caller>, remark: &str, answers: &mut Answers) {
    let refusal = || Response::refuse(ResponseCode::SystemError, remark.to_owned());
    answers.extend(callers.into_iter().map(|from| (from, refusal())));
}

impl Change {
    fn bytes(&self) -> usize {
        entry_bytes(&self.namespace, &self.key, self.value.as_deref().unwrap_or_default())
    }

    fn check(&self) -> Result<(), String> {
        for (what, name) in [("namespace", &self.namespace), ("key", &self.key)] {
            if name.is_empty() {
                return Err(format!("the {what} is empty; give it a name"));
            }
            if name.len() > NAME_MAX {
                return Err(format!("the {what} has {} bytes; the limit is {NAME_MAX}", name.len()));
            }
        }
        match self.value.as_ref().map(String::len).filter(|len| *len > VALUE_MAX) {
            Some(len) => Err(format!("the value has {len} bytes; the limit is {VALUE_MAX}")),
            None => Ok(()),
        }
    }

    fn apply(self, content: &mut KvConfig, size: &mut Size) -> Result<(), String> {
        let Self { namespace, key, value } = self;
        let known = content.config_table.get(&namespace).and_then(|entries| entries.get(&key));
        let mut after = *size;
        if let Some(known) = known {
            after.entries -= 1;
            after.bytes -= entry_bytes(&namespace, &key, known);
        }
        if let Some(value) = value {
            after.entries += 1;
            after.bytes += entry_bytes(&namespace, &key, &value);
            if after.is_too_much() {
                return Err(format!("with it there would be {after}; delete what is not needed"));
            }
            content.config_table.entry(namespace).or_default().insert(key, value);
        } else if let Some(entries) = content.config_table.get_mut(&namespace) {
            entries.remove(&key);
            if entries.is_empty() {
                content.config_table.remove(&namespace);
            }
        }
        *size = after;
        Ok(())
    }
}

fn entry_bytes(namespace: &str, key: &str, value: &str) -> usize {
    namespace.len() + key.len() + value.len()
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    entries: usize,
    bytes: usize,
}

impl Size {
    fn of(config: &KvConfig) -> Self {
        let mut size = Self::default();
        for (namespace, entries) in &config.config_table {
            size.entries += entries.len();
            size.bytes += entries.iter().map(|(key, value)| entry_bytes(namespace, key, value)).sum::<usize>();
        }
        size
    }

    fn is_too_much(self) -> bool {
        self.entries > ENTRIES_MAX || self.bytes > BYTES_MAX
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { entries, bytes } = self;
        write!(f, "{entries} entries of {bytes} bytes; the limits are {ENTRIES_MAX} and {BYTES_MAX}")
    }
}
