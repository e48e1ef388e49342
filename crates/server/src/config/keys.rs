//! Every key that may stand in RocketMQ's `broker.conf` and `namesrv.conf`, and what becomes of it here.

mod broker;
mod controller;
mod nameserver;
mod net;
mod store;

/// One key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// RocketMQ's default; empty when it has none, or finds it out on the machine.
    pub(super) java: &'static str,
    pub(super) fate: Fate,
    pub(super) change: Change,
}

/// When another value begins to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// As soon as an operator asks for it: the core reads it anew whenever it needs it.
    AtOnce,
    /// When the process starts, for this reason.
    AtStart(&'static str),
}

/// What values it takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Text,
    /// Text that is never shown to anybody.
    Secret,
    Flag,
    Number {
        min: i64,
        max: i64,
    },
    Real,
    Choice(&'static [&'static str]),
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It does what it does in RocketMQ. The default is ours, where it differs; empty when it is derived from something else.
    Honoured { default: &'static str },
    /// It is accepted, and there is nothing here that it could change; the reason follows the name.
    NoEffect(&'static str),
    /// Accepted only with RocketMQ's default: what it asks for is not built yet.
    NotYet(&'static str),
    /// Accepted only with RocketMQ's default: what it asks for will not be built.
    Refused(&'static str),
}

/// A kind of file.
#[derive(Debug)]
pub struct Table {
    keys: &'static [&'static [Key]],
}

/// Of a broker: RocketMQ's `broker.conf`.
pub const BROKER: Table = Table {
    keys: &[broker::HONOURED, store::HONOURED, net::HONOURED, broker::KEYS, store::KEYS, net::KEYS, net::ACCESS],
};

/// Of a name server: RocketMQ's `namesrv.conf`.
pub const NAME_SERVER: Table = Table { keys: &[nameserver::HONOURED, nameserver::KEYS, controller::KEYS, net::KEYS] };

impl Table {
    /// All keys, those that do something first.
    pub(super) fn keys(&self) -> impl Iterator<Item = &'static Key> + use<> {
        self.keys.iter().copied().flatten()
    }

    pub(super) fn find(&self, name: &str) -> Option<&'static Key> {
        self.keys().find(|key| key.name == name)
    }

    /// The key that was probably meant.
    pub(super) fn nearest(&self, name: &str) -> Option<&'static str> {
        let lower = name.to_ascii_lowercase();
        let far = (name.len() / 3).clamp(1, 5);
        let distances = self.keys().map(|key| (distance(&lower, &key.name.to_ascii_lowercase()), key.name));
        distances.filter(|(distance, _)| *distance <= far).min_by_key(|(distance, _)| *distance).map(|(_, name)| name)
    }
}

/// Characters to be put in, taken out or changed, to make one word of the other (Levenshtein's distance).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

const TEXT: Kind = Kind::Text;
const SECRET: Kind = Kind::Secret;
const BOOL: Kind = Kind::Flag;
const REAL: Kind = Kind::Real;
const INT: Kind = number(i32::MIN as i64, i32::MAX as i64);
const LONG: Kind = number(i64::MIN, i64::MAX);
const PORT: Kind = number(1, 65_535);

const fn number(min: i64, max: i64) -> Kind {
    Kind::Number { min, max }
}

/// With RocketMQ's default.
const fn honoured(name: &'static str, kind: Kind, java: &'static str) -> Key {
    honoured_with(name, kind, java, java)
}

/// With a default of our own.
const fn honoured_with(name: &'static str, kind: Kind, java: &'static str, default: &'static str) -> Key {
    key(name, kind, java, Fate::Honoured { default })
}

const fn key(name: &'static str, kind: Kind, java: &'static str, fate: Fate) -> Key {
    Key { name, kind, java, fate, change: Change::AtStart(READ_ONCE) }
}

const fn live(key: Key) -> Key {
    Key { change: Change::AtOnce, ..key }
}

const fn fixed(key: Key, why: &'static str) -> Key {
    Key { change: Change::AtStart(why), ..key }
}

const fn no(name: &'static str, kind: Kind, java: &'static str, why: &'static str) -> Key {
    key(name, kind, java, Fate::NoEffect(why))
}

const fn not_yet(name: &'static str, kind: Kind, java: &'static str, what: &'static str) -> Key {
    key(name, kind, java, Fate::NotYet(what))
}

const fn refused(name: &'static str, kind: Kind, java: &'static str, why: &'static str) -> Key {
    key(name, kind, java, Fate::Refused(why))
}

/// Why most keys cannot be changed at once.
pub(super) const READ_ONCE: &str = "it is read once, at the start";
const HOME: &str = "no such folder or file is used";
const REPLICATION: &str = "copies of the log on other brokers";

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_key_is_told_once_and_says_why() {
        for table in [&BROKER, &NAME_SERVER] {
            let mut names = BTreeSet::new();
            for key in table.keys() {
                assert!(names.insert(key.name), "{} is there twice", key.name);
                match key.fate {
                    Fate::Honoured { .. } => {}
                    Fate::NoEffect(why) | Fate::NotYet(why) | Fate::Refused(why) => assert!(!why.is_empty()),
                }
            }
        }
    }

    /// What RocketMQ's classes can set, by the file in which it may stand.
    fn of_rocketmq() -> Vec<(&'static Table, &'static str, &'static str)> {
        let mut keys = Vec::new();
        for line in include_str!("keys/rocketmq.txt").lines().filter(|line| !line.starts_with('#')) {
            let (class, names) = line.split_once(": ").unwrap();
            let tables: &[&Table] = match class.split_once(' ').unwrap().1 {
                "NamesrvConfig" | "ControllerConfig" => &[&NAME_SERVER],
                "NettyServerConfig" | "NettyClientConfig" => &[&BROKER, &NAME_SERVER],
                _ => &[&BROKER],
            };
            keys.extend(tables.iter().flat_map(|table| names.split(' ').map(move |name| (*table, class, name))));
        }
        keys
    }

    #[test]
    fn no_key_of_rocketmq_is_missing() {
        let missing =
            |(table, class, name): &(&Table, &str, &str)| match table.keys().filter(|key| key.name == *name).count() {
                1 => None,
                times => Some(format!("{name} of {class} is there {times} times")),
            };
        let keys = of_rocketmq();
        assert!(keys.len() > 700, "the list is whole");
        assert_eq!(keys.iter().filter_map(missing).collect::<Vec<_>>(), [] as [String; 0]);
    }

    #[test]
    fn what_changes_at_once_is_honoured_and_a_plain_word() {
        for table in [&BROKER, &NAME_SERVER] {
            for key in table.keys().filter(|key| key.change == Change::AtOnce) {
                // The file is edited without escaping anything.
                assert!(matches!(key.fate, Fate::Honoured { .. }) && !matches!(key.kind, Kind::Text | Kind::Secret));
            }
        }
    }

    #[test]
    fn a_slip_is_recognised_and_a_stranger_is_not() {
        for (typed, meant) in [
            ("flushDiskTyp", Some("flushDiskType")),
            ("flushdisktype", Some("flushDiskType")),
            ("mapedFileSizeCommitLog", Some("mappedFileSizeCommitLog")),
            ("nameSrvAddr", Some("namesrvAddr")),
            ("brokerIp1", Some("brokerIP1")),
            ("server.port", None),
            ("x", None),
        ] {
            assert_eq!(BROKER.nearest(typed), meant, "{typed}");
        }
    }

    #[test]
    fn distances() {
        assert_eq!(["abc", "", "axc", "ab", "xabc", "bca"].map(|word| distance("abc", word)), [0, 3, 1, 1, 1, 2]);
    }
}
