//! From RocketMQ's configuration files to what cores and shells need.
//!
//! `keys.rs` says what becomes of every key, this file which value each has and where it comes from; `setup.rs` builds the
//! cores' configurations from that. Nothing is ignored in silence: what is unknown, out of range or not built yet is refused,
//! and where RocketMQ would have read a value differently, a warning says so.

mod address;
mod change;
mod keys;
pub mod properties;
mod setup;

pub use keys::{BROKER, NAME_SERVER, Table};
pub use setup::{BrokerSetup, NameServerSetup};
pub(crate) use setup::{configure_broker, configure_name_server};

use crate::failure::{ExitCode, Failure, Problem};
use keys::{Fate, Key, Kind};
use std::fmt::{self, Write};
use std::path::{Path, PathBuf};

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody has said anything.
    Default,
    /// The configuration file.
    File {
        /// Its path, as given.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// The command line, or the environment: what is to be changed there.
    Flag(&'static str),
    /// Somebody who asked for a change while the process ran.
    Request,
    /// Made from other values, or found out on this machine: from what.
    Derived(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Flag(flag) => f.write_str(flag),
            Self::Request => f.write_str("the request"),
            Self::Derived(from) => write!(f, "derived: {from}"),
        }
    }
}

/// A key's effective value.
#[derive(Clone, Debug)]
struct Setting {
    key: &'static Key,
    value: String,
    origin: Origin,
}

/// A value that the command line gives: key, value, and where it is to be changed.
pub type Flag = (&'static str, String, &'static str);

/// The effective values of a process.
#[derive(Clone, Debug)]
pub struct Settings {
    table: &'static Table,
    /// Where changes are kept.
    file: Option<PathBuf>,
    /// Those that do something, and those that were given although they do nothing; in the order of the table.
    settings: Vec<Setting>,
    /// Other values that follow from these, to be shown: name, value, from what.
    derived: Vec<(&'static str, String, String)>,
    /// What an operator should know.
    warnings: Vec<String>,
}

impl Settings {
    /// From a file and the command line, which wins. Every problem is reported, not just the first.
    pub fn read(table: &'static Table, file: Option<&Path>, flags: &[Flag]) -> Result<Self, Failure> {
        match file {
            None => Self::new(table, &[], None, flags),
            Some(path) => {
                let bytes = std::fs::read(path).map_err(|error| {
                    let title = format!("the configuration file {} cannot be read", path.display());
                    let remedy = "give the path of a RocketMQ properties file after -c";
                    Failure::new(
                        ExitCode::Configuration,
                        Problem::new(title, "reading it failed", error.to_string(), remedy),
                    )
                })?;
                Self::parse(table, &bytes, path, flags)
            }
        }
    }

    /// From the bytes of a file that lies at `path`, and the command line.
    pub fn parse(table: &'static Table, bytes: &[u8], path: &Path, flags: &[Flag]) -> Result<Self, Failure> {
        let file = properties::read(bytes).map_err(|error| {
            let title = format!("{}:{}: an escape cannot be read", path.display(), error.line);
            let remedy = "write \\\\ for a backslash, and \\u with four digits for a character";
            Failure::new(
                ExitCode::Configuration,
                Problem::new(title, error.to_string(), "RocketMQ stops here, too", remedy),
            )
        })?;
        let mut settings = Self::new(table, &file.entries, Some(path), flags)?;
        if file.latin {
            settings.warn(format!("{} is no UTF-8: it was read as ISO-8859-1, as RocketMQ does", path.display()));
        }
        Ok(settings)
    }

    fn new(
        table: &'static Table,
        entries: &[properties::Entry],
        file: Option<&Path>,
        flags: &[Flag],
    ) -> Result<Self, Failure> {
        let mut given: Vec<Setting> = Vec::new();
        let mut warnings = Vec::new();
        let mut problems = Vec::new();
        let path = file.unwrap_or(Path::new(""));
        let in_file = outside_markup(entries, path, &mut problems).into_iter().map(|entry| {
            let origin = Origin::File { path: path.to_owned(), line: entry.line };
            (entry.key.as_str(), entry.value.as_str(), origin)
        });
        let by_flag = flags.iter().map(|(key, value, flag)| (*key, value.as_str(), Origin::Flag(flag)));
        for (name, value, origin) in in_file.chain(by_flag) {
            let Some(key) = table.find(name) else {
                problems.push(unknown(table, name, value, &origin));
                continue;
            };
            match check(key, value, &origin, &mut warnings) {
                Err(problem) => problems.push(problem),
                Ok(value) => {
                    let earlier = given.iter().position(|setting| setting.key.name == name);
                    if let Some(earlier) = earlier.map(|at| given.remove(at))
                        && matches!(origin, Origin::File { .. })
                    {
                        warnings.push(format!(
                            "{origin}: {name} stands at {} already; the later one holds",
                            earlier.origin
                        ));
                    }
                    given.push(Setting { key, value, origin });
                }
            }
        }
        if !problems.is_empty() {
            return Err(Failure { exit: ExitCode::Configuration, problems });
        }
        let settings = table.keys().filter_map(|key| {
            let found = given.iter().find(|setting| setting.key.name == key.name).cloned();
            found.or_else(|| match key.fate {
                Fate::Honoured { default } => Some(Setting { key, value: default.to_owned(), origin: Origin::Default }),
                _ => None,
            })
        });
        Ok(Self { table, file: file.map(Path::to_owned), settings: settings.collect(), derived: Vec::new(), warnings })
    }

    /// What an operator should know, in sentences.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Keys that were given and do nothing here, in sentences.
    pub fn without_effect(&self) -> impl Iterator<Item = String> {
        self.settings.iter().filter_map(|setting| match setting.key.fate {
            Fate::NoEffect(why) => Some(format!("{}: {} has no effect: {why}", setting.origin, setting.key.name)),
            _ => None,
        })
    }

    /// Every effective key: name, value, origin, and RocketMQ's default where it differs.
    pub fn print(&self) -> String {
        let mut out = String::new();
        for setting in &self.settings {
            let mut notes = vec![setting.origin.to_string()];
            if let Fate::NoEffect(why) = setting.key.fate {
                notes.push(format!("no effect: {why}"));
            }
            let default = setting.key.java;
            if !default.is_empty() && !same(setting.key.kind, &setting.value, default) {
                notes.push(format!("RocketMQ's default: {default}"));
            }
            let value = if setting.value.is_empty() { "(none)" } else { setting.shown() };
            line(&mut out, setting.key.name, value, &notes.join("; "));
        }
        for (name, value, from) in &self.derived {
            line(&mut out, name, value, from);
        }
        out
    }

    /// Every effective key and its value, for GET_BROKER_CONFIG.
    fn shown(&self) -> Vec<(String, String)> {
        self.settings.iter().map(|setting| (setting.key.name.to_owned(), setting.shown().to_owned())).collect()
    }

    fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    fn find(&self, name: &str) -> Option<&Setting> {
        self.settings.iter().find(|setting| setting.key.name == name)
    }

    fn setting(&self, name: &str) -> &Setting {
        self.find(name).unwrap_or_else(|| panic!("{name} is an honoured key of this table"))
    }

    fn text(&self, name: &str) -> &str {
        &self.setting(name).value
    }

    /// The text, unless it is empty.
    fn given(&self, name: &str) -> Option<&str> {
        Some(self.text(name)).filter(|text| !text.is_empty())
    }

    fn flag(&self, name: &str) -> bool {
        self.text(name).eq_ignore_ascii_case("true")
    }

    fn number<N: TryFrom<i64>>(&self, name: &str) -> N {
        let number = self.text(name).parse().ok().and_then(|number: i64| N::try_from(number).ok());
        number.unwrap_or_else(|| panic!("{name} was checked against its range when it was read"))
    }

    /// Puts another value in place of what was said, or of nothing.
    fn derive(&mut self, name: &str, value: String, from: &'static str) {
        let setting = self.settings.iter_mut().find(|setting| setting.key.name == name);
        let setting = setting.unwrap_or_else(|| panic!("{name} is an honoured key of this table"));
        setting.value = value;
        setting.origin = Origin::Derived(from);
    }

    /// A port that follows from another, to be shown unless it was given.
    fn follow(&mut self, name: &'static str, port: Option<u16>, from: &str) {
        if self.find(name).is_none() {
            let port = port.map_or_else(|| "(none)".to_owned(), |port| port.to_string());
            self.derived.push((name, port, format!("derived: {from}")));
        }
    }

    /// The value of this key cannot be used.
    fn refusal(&self, name: &str, why: impl Into<String>, remedy: impl Into<String>) -> Failure {
        let Setting { key, value, origin } = self.setting(name);
        let title = format!("{origin}: {} cannot be used", key.name);
        Failure::new(ExitCode::Configuration, Problem::new(title, format!("{}={value}", key.name), why, remedy))
    }
}

impl Setting {
    fn shown(&self) -> &str {
        if self.key.kind == Kind::Secret { "(not shown)" } else { &self.value }
    }
}

fn line(out: &mut String, name: &str, value: &str, from: &str) {
    writeln!(out, "{name:<36} {value:<24} {from}").expect("a string takes any text");
}

/// Without the comments of another format, which are a problem of their own: their words would all be unknown keys, and a
/// setting among them would hold in RocketMQ.
fn outside_markup<'e>(
    entries: &'e [properties::Entry],
    path: &Path,
    problems: &mut Vec<Problem>,
) -> Vec<&'e properties::Entry> {
    let mut inside = false;
    let mut outside = Vec::new();
    for entry in entries {
        if !inside && entry.key.starts_with("<!--") {
            inside = true;
            let title = format!("{}:{}: <!-- begins no comment in a properties file", path.display(), entry.line);
            let why = "RocketMQ takes every line in it for a key, and obeys those that it knows";
            problems.push(Problem::new(title, "an XML comment", why, "take it out, or begin each of its lines with #"));
        }
        if !inside {
            outside.push(entry);
        }
        inside &= !(entry.key.ends_with("-->") || entry.value.trim_end().ends_with("-->"));
    }
    outside
}

fn unknown(table: &Table, name: &str, value: &str, origin: &Origin) -> Problem {
    let nearest = table.nearest(name);
    let hidden = nearest.and_then(|meant| table.find(meant)).is_some_and(|meant| meant.kind == Kind::Secret);
    let value = if hidden { "(not shown)" } else { value };
    let remedy = match nearest {
        Some(meant) => format!("did you mean {meant}? If not, take it out"),
        None => "take it out; `keepmq broker -p` prints the keys that do something".to_owned(),
    };
    let why = "RocketMQ ignores what it does not know; a setting that silently does not hold is how messages get lost";
    Problem::new(format!("{origin}: the key {name} is not known"), format!("{name}={value}"), why, remedy)
}

/// The value as it will be used.
fn check(key: &'static Key, raw: &str, origin: &Origin, warnings: &mut Vec<String>) -> Result<String, Problem> {
    let mut value = raw.trim().to_owned();
    let said = |value: &str| {
        let shown = if key.kind == Kind::Secret { "(not shown)" } else { value };
        format!("{}={shown}", key.name)
    };
    let allowed = match key.kind {
        Kind::Text | Kind::Secret => None,
        Kind::Flag => {
            (!["true", "false"].iter().any(|word| value.eq_ignore_ascii_case(word))).then(|| "true or false".to_owned())
        }
        Kind::Number { min, max } => {
            let fits = value.parse().is_ok_and(|number: i64| (min..=max).contains(&number));
            (!fits).then(|| format!("a whole number from {min} to {max}, without a unit"))
        }
        Kind::Real => value.parse::<f64>().is_err().then(|| "a number".to_owned()),
        Kind::Choice(words) => match words.iter().find(|word| word.eq_ignore_ascii_case(&value)) {
            None => Some(words.join(" or ")),
            Some(word) => {
                if *word != value {
                    let java = key.java;
                    warnings.push(format!(
                        "{origin}: {}={value} is taken as {word}; RocketMQ would have used {java}",
                        key.name
                    ));
                    value = (*word).to_owned();
                }
                None
            }
        },
    };
    if let Some(allowed) = allowed {
        let title = format!("{origin}: {} has a value that it cannot have", key.name);
        let why = format!("RocketMQ would have ignored it and used {}", default_of(key));
        return Err(Problem::new(title, said(&value), why, format!("give {allowed}")));
    }
    if value != raw && !matches!(key.kind, Kind::Text | Kind::Secret) {
        let java = if key.kind == Kind::Flag { "false" } else { default_of(key) };
        warnings.push(format!(
            "{origin}: the blanks behind {} are taken off; RocketMQ would have used {java}",
            said(&value)
        ));
    }
    let (what, why) = match key.fate {
        Fate::Honoured { .. } | Fate::NoEffect(_) => return Ok(value),
        _ if same(key.kind, &value, key.java) => return Ok(value),
        Fate::NotYet(what) => ("is not built yet", format!("it asks for {what}, which KeepMQ does not have yet")),
        Fate::Refused(why) => ("is not supported", why.to_owned()),
    };
    let remedy = match key.java {
        "" => format!("take {} out", key.name),
        java => format!("take {} out, or set it to {java}", key.name),
    };
    Err(Problem::new(format!("{origin}: {} {what}", key.name), said(&value), why, remedy))
}

fn default_of(key: &Key) -> &'static str {
    if key.java.is_empty() { "its default" } else { key.java }
}

/// Whether two values of a key mean the same.
fn same(kind: Kind, one: &str, other: &str) -> bool {
    match kind {
        Kind::Text | Kind::Secret | Kind::Choice(_) => one == other,
        Kind::Flag => one.eq_ignore_ascii_case(other),
        Kind::Number { .. } => one.parse::<i64>().is_ok_and(|number| other.parse() == Ok(number)),
        Kind::Real => one.parse::<f64>().is_ok_and(|number| other.parse() == Ok(number)),
    }
}

#[cfg(test)]
mod document;
#[cfg(test)]
mod tests;
