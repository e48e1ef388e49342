//! A change of the configuration while the process runs: checked as a whole, kept in the file, then told.
//!
//! ```text
//!   request ──▶ every key and value checked ──▶ the file gets the new values ──▶ the new settings hold
//!                     └── anything wrong ──▶ refused, nothing has changed
//! ```

use super::keys::{Change, Fate};
use super::{Origin, Setting, Settings, check, properties, same, unknown};
use crate::failure::Problem;
use keepmq_protocol::ResponseCode;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// RocketMQ refuses these whatever `configBlackList` says.
const NEVER: [&str; 4] = ["brokerConfigPath", "configBlackList", "configStorePath", "kvConfigPath"];

/// A key and what it shall be.
type NewValue = (&'static str, String);

/// Why nothing was changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: ResponseCode,
    /// Which key, why, and what to do.
    pub(crate) why: String,
}

impl Settings {
    /// Takes the properties in `text`, all or none. The answer is what the operator should know.
    pub(crate) fn change(&mut self, text: &str) -> Result<Option<String>, Refusal> {
        let (changes, mut notes) = self.examine(text)?;
        let Some(((first, _), _)) = changes.split_first() else {
            return Ok(Some("every value is what it was already".to_owned()));
        };
        match &self.file {
            Some(path) => keep(path, &changes)?,
            None => notes
                .push(format!("{first} holds until the restart: without a configuration file (-c) it is kept nowhere")),
        }
        for (name, value) in changes {
            let setting = self.settings.iter_mut().find(|setting| setting.key.name == name);
            let setting = setting.expect("what can be changed at once is honoured, so it has a value");
            tracing::info!("{name} was {}, and is {value} now: a request has changed it", setting.value);
            *setting = Setting { value, origin: Origin::Request, ..*setting };
        }
        Ok((!notes.is_empty()).then(|| notes.join("; ")))
    }

    /// What is to be changed, and what should be known about it; or everything that is wrong.
    fn examine(&self, text: &str) -> Result<(Vec<NewValue>, Vec<String>), Refusal> {
        let invalid = |why: String| Refusal { code: ResponseCode::InvalidParameter, why };
        let asked = properties::read(text.as_bytes())
            .map_err(|error| invalid(format!("nothing was changed: line {}: {error}", error.line)))?
            .entries;
        if asked.is_empty() {
            return Err(invalid("nothing was changed: the request has no line key=value".to_owned()));
        }
        let listed = self.find("configBlackList").map_or("", |setting| &setting.value);
        let closed = |key: &str| NEVER.contains(&key) || listed.split(';').any(|listed| listed.trim() == key);
        if let Some(entry) = asked.iter().find(|entry| closed(&entry.key)) {
            let why = format!(
                "Can not update config in black list. Nothing was changed: {} stands in configBlackList; change it in the file, \
                 and start again",
                entry.key
            );
            return Err(Refusal { code: ResponseCode::NoPermission, why });
        }
        let (mut changes, mut notes, mut problems) = (Vec::new(), Vec::new(), Vec::new());
        for entry in asked {
            let Some(key) = self.table.find(&entry.key) else {
                problems.push(unknown(self.table, &entry.key, &entry.value, &Origin::Request));
                continue;
            };
            let value = match check(key, &entry.value, &Origin::Request, &mut notes) {
                Ok(value) => value,
                Err(problem) => {
                    problems.push(problem);
                    continue;
                }
            };
            let unchanged = self.find(key.name).is_some_and(|now| same(key.kind, &now.value, &value));
            let why = match (key.fate, key.change) {
                (Fate::Honoured { .. }, Change::AtOnce) => {
                    changes.retain(|(name, _)| *name != key.name);
                    changes.push((key.name, value));
                    continue;
                }
                // `check` has let nothing but the default pass.
                (Fate::NotYet(_) | Fate::Refused(_), _) => continue,
                _ if unchanged => continue,
                (Fate::Honoured { .. }, Change::AtStart(why)) => {
                    format!("it cannot be changed while the process runs: {why}")
                }
                (Fate::NoEffect(why), _) => format!("it has no effect here: {why}"),
            };
            let remedy = match key.fate {
                Fate::Honoured { .. } => "set it in the configuration file, and start again",
                _ => "leave it out",
            };
            problems.push(Problem::new(format!("{}: {}", Origin::Request, key.name), "", why, remedy));
        }
        if problems.is_empty() {
            return Ok((changes, notes));
        }
        let said = problems.into_iter().map(|Problem { title, what, why, remedy }| {
            let what = if what.is_empty() { what } else { format!(" ({what})") };
            format!("{title}{what}: {why}. {remedy}")
        });
        Err(invalid(format!("nothing was changed. {}", said.collect::<Vec<_>>().join(" | "))))
    }
}

/// Puts the values into the file; everything else in it stays as it is.
fn keep(path: &Path, changes: &[NewValue]) -> Result<(), Refusal> {
    let refusal = |what: String| Refusal {
        code: ResponseCode::SystemError,
        why: format!(
            "nothing was changed in the running process: the configuration file {} {what}. A change that is not kept would be \
             gone after a restart: see to the file and its folder, look at what it holds, and ask again",
            path.display()
        ),
    };
    let pairs: Vec<_> = changes.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let before = fs::read(path).map_err(|error| refusal(format!("cannot be read: {error}")))?;
    let after = properties::edit(&before, &pairs)
        .map_err(|error| refusal(format!("cannot be understood at line {}: {error}", error.line)))?;
    if after == before {
        return Ok(());
    }
    replace(path, &after).map_err(|error| refusal(format!("cannot be written: {error}")))
}

/// Another file in its place, as a whole: after a power cut it is the old one or the new one.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // Behind a link, so that the link stays.
    let path = path.canonicalize()?;
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::other("it is no file in a folder"));
    };
    // Hidden, and of a name that nobody else uses: one that a crash has left is written over.
    let beside = folder.join(format!(".{}.keepmq", name.to_string_lossy()));
    let written = write_beside(&beside, &path, bytes);
    if written.is_err()
        && let Err(error) = fs::remove_file(&beside)
    {
        tracing::warn!(%error, "{} is left over", beside.display());
    }
    written?;
    File::open(folder)?.sync_all()
}

fn write_beside(beside: &PathBuf, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(beside)?;
    file.set_permissions(fs::metadata(path)?.permissions())?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(beside, path)
}

#[cfg(test)]
mod tests;
