//! A name server's key-value configuration: the one file of its disk, the tool that changes it, and what must be true of both.
//!
//! The file is replaced at some time between the beginning of a save and its end. A process that is killed meanwhile
//! leaves the old content or the new one; after the end of a save only the new one.

use crate::stage::{MILLI, Stage};
use crate::trace::Rare;
use keepmq_nameserver::{KvSaved, SaveError, SaveKv, read_kv};
use keepmq_protocol::Request;
use keepmq_protocol::body::KvConfig;
use keepmq_protocol::request::{KvEntry, KvName};
use keepmq_world::Chance;

pub(crate) const NAMESPACE: &str = "tools";
const KEYS: [&str; 3] = ["a", "b", "c"];

/// A value, or that there is none.
pub(crate) type Value = Option<String>;

pub(crate) struct KvDesk {
    /// The file; empty: there is none.
    file: Vec<u8>,
    /// What is being saved.
    saving: Option<Vec<u8>>,
    keys: Vec<Key>,
    changes: u64,
    chance: Chance,
}

/// What is known of a key.
struct Key {
    name: &'static str,
    /// What was confirmed last, or read at the last start.
    confirmed: Value,
    /// Changes without an answer, in the order in which they were asked for; by the number of their question.
    asked: Vec<(u64, Value)>,
}

impl KvDesk {
    pub(crate) fn new(chance: Chance) -> Self {
        let key = |name| Key { name, confirmed: None, asked: Vec::new() };
        Self { file: Vec::new(), saving: None, keys: KEYS.map(key).into(), changes: 0, chance }
    }

    /// What the process reads when it starts. Every key has a value that it may have, and keeps it from now on.
    pub(crate) fn read(&mut self, stage: &mut Stage) -> KvConfig {
        let content = if self.file.is_empty() { Ok(KvConfig::default()) } else { read_kv(&self.file) };
        let config = content.unwrap_or_else(|error| {
            stage.blame("kv", format!("what a name server has written cannot be read: {error}"));
            KvConfig::default()
        });
        for key in &mut self.keys {
            let found = config.config_table.get(NAMESPACE).and_then(|entries| entries.get(key.name)).cloned();
            let asked = std::mem::take(&mut key.asked);
            if found != key.confirmed && !asked.iter().any(|(_, value)| *value == found) {
                let Key { name, confirmed, .. } = key;
                stage.blame("kv", format!("{name} was confirmed as {confirmed:?}, and is {found:?} after a restart"));
            }
            key.confirmed = found;
        }
        config
    }

    /// What a tool wants changed now, if anything.
    pub(crate) fn change(&mut self) -> Option<(usize, Value)> {
        if !self.chance.one_in(3) {
            return None;
        }
        let nth = self.chance.below(KEYS.len() as u64) as usize;
        self.changes += 1;
        // Now and then the same again, and now and then nothing.
        let value = (!self.chance.one_in(4)).then(|| format!("v{}", self.changes / 2));
        Some((nth, value))
    }

    pub(crate) fn request(nth: usize, value: &Value) -> Request<'_> {
        let (namespace, key) = (NAMESPACE.into(), KEYS[nth].into());
        match value {
            Some(value) => Request::PutKv(KvEntry { namespace, key, value: value.as_str().into() }),
            None => Request::DeleteKv(KvName { namespace, key }),
        }
    }

    pub(crate) fn asked(&mut self, nth: usize, question: u64, value: Value) {
        self.keys[nth].asked.push((question, value));
    }

    /// A change was answered: it has taken the place of all that were asked for before it.
    pub(crate) fn answered(&mut self, question: u64, code: i32) {
        for key in &mut self.keys {
            let Some(at) = key.asked.iter().position(|(asked, _)| *asked == question) else { continue };
            if code == 0 {
                let mut until_then = key.asked.drain(..=at);
                key.confirmed = until_then.next_back().and_then(|(_, value)| value);
            } else {
                key.asked.remove(at);
            }
        }
    }

    /// The keys with the values that everybody must see.
    pub(crate) fn confirmed(&self) -> Vec<(&'static str, Value)> {
        self.keys.iter().map(|key| (key.name, key.confirmed.clone())).collect()
    }

    /// A save begins: how long it takes, and how it will end.
    pub(crate) fn save(&mut self, stage: &mut Stage, save: SaveKv, well: bool) -> (u64, KvSaved) {
        let SaveKv { ticket, bytes } = save;
        if let Some(also) = &self.saving {
            stage.blame("kv", format!("a save begins while one of {} bytes is under way", also.len()));
        }
        let waiting: usize = self.keys.iter().map(|key| key.asked.len()).sum();
        if waiting > 1 {
            stage.happened(Rare::KvTogether);
        }
        self.saving = Some(bytes);
        let outcome = match self.chance.below(40) {
            0 if !well => Err(SaveError::Unknown("the folder could not be synced".to_owned())),
            1 | 2 if !well => Err(SaveError::NotSaved("the disk is full".to_owned())),
            _ => Ok(()),
        };
        let longest = if self.chance.one_in(2) { 3000 * MILLI } else { 8 * MILLI };
        (MILLI / 5 + self.chance.below(longest), KvSaved { ticket, outcome })
    }

    /// A save has ended, and its process lives.
    pub(crate) fn saved(&mut self, stage: &mut Stage, outcome: &Result<(), SaveError>) {
        let Some(content) = self.saving.take() else {
            return stage.blame("kv", "a save ends that has not begun");
        };
        match outcome {
            Ok(()) => self.file = content,
            Err(SaveError::NotSaved(_)) => stage.happened(Rare::KvRefused),
            Err(SaveError::Unknown(_)) => {
                stage.happened(Rare::KvUnknown);
                if self.chance.one_in(2) {
                    self.file = content;
                }
                // Nobody is told what has become of them.
                self.keys.iter_mut().for_each(|key| key.forget_answers());
            }
        }
    }

    /// The process is gone.
    pub(crate) fn killed(&mut self, stage: &mut Stage) {
        let Some(content) = self.saving.take() else { return };
        if self.chance.one_in(2) {
            stage.happened(Rare::KvLate);
            self.file = content;
        } else {
            stage.happened(Rare::KvLost);
        }
    }
}

impl Key {
    /// What was asked for may be there; an answer that still comes says nothing of it.
    fn forget_answers(&mut self) {
        self.asked.iter_mut().for_each(|(question, _)| *question = 0);
    }
}
