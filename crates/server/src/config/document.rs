//! `docs/config.md`, made from the table. `KEEPMQ_WRITE_DOCS=1 cargo test -p keepmq-server config_md` writes it anew.

use super::keys::{BROKER, Change, Fate, Key, Kind, NAME_SERVER, READ_ONCE, Table};
use std::path::Path;

const INTRODUCTION: &str = "\
# Configuration

<!-- Made from the table in crates/server/src/config/keys: `KEEPMQ_WRITE_DOCS=1 cargo test -p keepmq-server config_md`. -->

`keepmq broker -c FILE` reads RocketMQ's `broker.conf`, `keepmq nameserver -c FILE` its `namesrv.conf`, as they are. Every key \
of RocketMQ 4.9.8 and 5.3.3 stands below, with what becomes of it:

- **honoured**: it does what it does in RocketMQ;
- **no effect**: it is accepted, and there is nothing here that it could change;
- **not yet**: accepted only with RocketMQ's default, because what it asks for is not built yet;
- **refused**: accepted only with RocketMQ's default, because what it asks for will not be built.

A key that is not known, and a value that a key cannot have, stop the start with a text that says what to do; RocketMQ ignores \
both. Blanks behind a value are taken off. A file that is no UTF-8 is read as ISO-8859-1. Where RocketMQ would have read a \
value differently, a warning says so. `-p` prints every effective key with its value, where it comes from, and RocketMQ's \
default where it differs, looks up no name, and exits.

## Changes while a server runs

UPDATE_BROKER_CONFIG (`mqadmin updateBrokerConfig -b ADDR -k KEY -v VALUE`) changes the keys marked **at once** below. A \
request is taken as a whole or not at all: a key that is unknown, cannot change, does nothing or has a bad value refuses it \
(INVALID_PARAMETER), and so does a key in `configBlackList` (NO_PERMISSION). The new values are first put into the file given \
with `-c`, where they stand, with everything else in it kept, and synced; then they hold, and then SUCCESS is answered. Without \
a file they hold until the restart, and the answer says so. If the file cannot be written, nothing changes (SYSTEM_ERROR).

`brokerPermission=4` takes a broker out of service gently, as in RocketMQ: routes lose the write permission at once, producers \
that have not seen that yet are still served, except on ordered topics. `brokerPermission=2` refuses pulls.

UPDATE_NAMESRV_CONFIG (`mqadmin updateNamesrvConfig`) does the same for a name server.

## When messages are removed

A segment of the log may go when it was closed `fileReservedTime` hours ago, counted while the broker runs: no clock that is set, \
no copied file and no night in which the broker was down makes anything older. It goes at the hours of `deleteWhen`, which are \
UTC here, or at once when more than `diskMaxUsedSpaceRatio` percent of the disk are in use or there is no space for the next \
segment. `cleanFileForciblyEnable=true` lets younger segments go, too, as long as more than `diskSpaceCleanForciblyRatio` \
percent are in use; it is off unless somebody asks for it. Whatever the reason, what a group has not consumed stays unless \
`retention.lagPolicy=delete`.

## Keys of KeepMQ's own

- `advertisedAddress`: where clients reach the broker, with the port that they must use where it is another one (`host:port`, \
for containers). `brokerIP1` wins. Without either, the broker advertises the address by which it reaches its name server.
- `allowClientRelax`: a producer's `WAIT=false` may then lower what SEND_OK promises.
- `maxTopics`, `maxGroups`: most topics and groups of a broker; more are refused.
- `log.io`: how a group of messages is made durable under SYNC_FLUSH. `direct` goes past the system's cache where the file \
system can (otherwise it is as `buffered`): about half the time and half the CPU for each group; what consumers read that is \
older than the broker's own memory (16 MiB) comes from the device. `buffered` writes into the system's cache and syncs.
- `retention.lagPolicy`: `keep`: what a group has not consumed stays, however old it is; a disk that fills up by that refuses \
sends, and says which group it waits for. `delete`: it goes like everything else, as in RocketMQ. A group counts in each topic in \
which it has committed an offset, until the group is deleted; a topic that no group consumes holds nothing.
- `scrub.bytesPerSecond` (0: never), `scrub.interval` (milliseconds): how fast the log is read again in the background to find \
bytes that have gone bad, and how long after the beginning of a round the next one begins.
- `adopt`: take over a store that another program has used since, as RocketMQ, or that is a copy. `keepmq broker --adopt` sets it \
for one start, which is all that is needed.
";

fn document() -> String {
    let mut out = INTRODUCTION.to_owned();
    section(&mut out, "broker.conf", &BROKER);
    section(&mut out, "namesrv.conf", &NAME_SERVER);
    out
}

fn section(out: &mut String, file: &str, table: &Table) {
    let honoured: Vec<_> = table.keys().filter_map(|key| Some((key, default(key)?))).collect();
    *out += &format!("\n## `{file}`: {} keys\n\n### Honoured: {}\n\n", table.keys().count(), honoured.len());
    *out += "| key | value | default | RocketMQ's default | a change holds |\n|---|---|---|---|---|\n";
    for (key, default) in honoured {
        let java = match key.java {
            _ if !is_rocketmqs(key.name) => "(KeepMQ's own)",
            java if java == default => "the same",
            java => or_none(java),
        };
        let change = match key.change {
            Change::AtOnce => "**at once**".to_owned(),
            Change::AtStart(READ_ONCE) => "after a restart".to_owned(),
            Change::AtStart(why) => format!("after a restart: {why}"),
        };
        *out += &format!("| `{}` | {} | {} | {java} | {change} |\n", key.name, value(key.kind), or_none(default));
    }
    type Why = fn(Fate) -> Option<&'static str>;
    let fates: [(&str, Why); 3] = [
        ("No effect", |fate| if let Fate::NoEffect(why) = fate { Some(why) } else { None }),
        ("Not yet", |fate| if let Fate::NotYet(what) = fate { Some(what) } else { None }),
        ("Refused", |fate| if let Fate::Refused(why) = fate { Some(why) } else { None }),
    ];
    for (title, why) in fates {
        let keys: Vec<_> = table.keys().filter_map(|key| Some((why(key.fate)?, key))).collect();
        if keys.is_empty() {
            continue;
        }
        *out += &format!("\n### {title}: {}\n\n", keys.len());
        let mut reasons: Vec<_> = keys.iter().map(|(why, _)| *why).collect();
        reasons.sort_unstable();
        reasons.dedup();
        for reason in reasons {
            let named = keys.iter().filter(|(why, _)| *why == reason).map(|(_, key)| named(key));
            *out += &format!("- {reason}: {}\n", named.collect::<Vec<_>>().join(", "));
        }
    }
}

fn is_rocketmqs(name: &str) -> bool {
    include_str!("keys/rocketmq.txt").split_whitespace().any(|word| word == name)
}

fn default(key: &Key) -> Option<&'static str> {
    if let Fate::Honoured { default } = key.fate { Some(default) } else { None }
}

/// Only the default is accepted where nothing is built, so it is worth knowing.
fn named(key: &Key) -> String {
    match key.fate {
        Fate::NotYet(_) | Fate::Refused(_) if !key.java.is_empty() => format!("`{}` ({})", key.name, key.java),
        _ => format!("`{}`", key.name),
    }
}

fn or_none(value: &str) -> &str {
    if value.is_empty() { "–" } else { value }
}

fn value(kind: Kind) -> String {
    match kind {
        Kind::Text => "text".to_owned(),
        Kind::Secret => "text, never shown".to_owned(),
        Kind::Flag => "true, false".to_owned(),
        Kind::Number { min, max } if (min, max) == (i64::MIN, i64::MAX) => "a number".to_owned(),
        Kind::Number { min, max } => format!("{min} to {max}"),
        Kind::Real => "a number".to_owned(),
        Kind::Choice(words) => words.join(", "),
    }
}

#[test]
fn config_md_is_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/config.md");
    if std::env::var_os("KEEPMQ_WRITE_DOCS").is_some() {
        std::fs::write(&path, document()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(
        written == document(),
        "docs/config.md is stale: KEEPMQ_WRITE_DOCS=1 cargo test -p keepmq-server config_md"
    );
}
