//! `keepmq store`: a store that nobody has open, looked at without changing it: info, verify, dump.

use crate::args::{Output, positive};
use crate::interrupt::Interrupt;
use crate::problem;
use crate::table::{Format, Table, say};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use keepmq_disk::{OsDisk, StoreLock};
use keepmq_protocol::LogOffset;
use keepmq_protocol::message::{self, property};
use keepmq_protocol::record::Record;
use keepmq_server::broker::{lock_refused, open_refused};
use keepmq_server::{ExitCode, Failure, Problem};
use keepmq_store::{Finding, Info, Looked, Missing, Report, Shown, SnapshotInfo, dump, inspect, verify};
use serde_json::{Value, json};
use std::fmt::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use tokio::sync::oneshot;

/// Findings that are printed for people.
const PRINTED: usize = 50;

/// Stores.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  keepmq store info ./keepmq-data\n  keepmq store verify ./keepmq-data\n  \
                  keepmq store dump ./keepmq-data --topic orders --count 20 --body\n\n\
                  No broker may have the store open: its lock is taken, and the two files of the lock are all that is written.")]
pub struct Stores {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Whose it is, how far it goes, what lies where, what was given up
    Info {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        output: Output,
    },
    /// Read everything: each record's checksum and place, the index against the log, snapshots and marks; ends with 8 if
    /// anything is damaged
    Verify {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        output: Output,
    },
    /// Records in the order of the log, past what is damaged
    Dump {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Clone, Debug, Args)]
struct Place {
    /// The store: the folder that storePathRootDir names
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

#[derive(Clone, Debug, Args)]
struct Which {
    /// Position in the log where to begin; if no record begins there, with the next
    #[arg(long, value_name = "POSITION", default_value_t = 0)]
    from: u64,
    /// How many records at most
    #[arg(long, value_name = "N", default_value = "100", value_parser = positive)]
    count: u64,
    /// Those of this topic only
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// With the bodies: as text, or in hexadecimal digits what is none
    #[arg(long)]
    body: bool,
}

impl Stores {
    pub(crate) async fn run(&self, interrupt: &mut Interrupt) -> Result<(), Failure> {
        match &self.verb {
            Verb::Info { place, output } => {
                let info = place.look(interrupt, inspect).await?;
                say(&match output.format {
                    Format::Table => words(&info),
                    Format::Json | Format::Ndjson => format!("{}\n", json!(info)),
                })
            }
            Verb::Verify { place, output } => {
                let bar = ProgressBar::new(0);
                let style =
                    ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left");
                bar.set_style(style.expect("the template is right"));
                let shown = bar.clone();
                let report = place.look(interrupt, move |disk| {
                    verify(disk, &mut |progress| {
                        shown.set_length(progress.total);
                        shown.set_position(progress.done);
                    })
                });
                let report = report.await;
                bar.finish_and_clear();
                judge(&report?, &place.dir, output.format)
            }
            Verb::Dump { place, which, output } => {
                let (asked, format) = (which.clone(), output.format);
                let shown = place.look(interrupt, move |disk| {
                    let mut rows = Rows { which: asked, format, table: Table::new(&COLUMNS), count: 0, end: Ok(()) };
                    dump(disk, LogOffset(rows.which.from), &mut |shown| rows.show(&shown)).map(|()| rows)
                });
                let Rows { table, end, .. } = shown.await?;
                end?;
                if output.format == Format::Ndjson { Ok(()) } else { table.print(output.format) }
            }
        }
    }
}

impl Place {
    /// Takes the store's lock and looks, in a thread of its own: the user may not want to wait for the end.
    async fn look<T: Send + 'static>(
        &self,
        interrupt: &mut Interrupt,
        look: impl FnOnce(OsDisk) -> Result<T, keepmq_store::OpenError> + Send + 'static,
    ) -> Result<T, Failure> {
        let disk = OsDisk::at(&self.dir).map_err(|error| no_store(&self.dir, &error.to_string()))?;
        let root = disk.root().to_owned();
        if !root.join("commitlog").exists() && !root.join("keepmq/identity").exists() {
            return Err(no_store(&self.dir, "there is neither a folder commitlog nor a file keepmq/identity in it"));
        }
        let lock = StoreLock::take(&root).map_err(lock_refused)?;
        let (tell, told) = oneshot::channel();
        let seen = move || {
            let seen = look(disk).map_err(|error| open_refused(error, &root));
            drop(lock);
            // When nobody waits any more the user has interrupted.
            let _ = tell.send(seen);
        };
        let thread = std::thread::Builder::new().name("store".to_owned()).spawn(seen);
        thread.map_err(|error| problem::io("the store cannot be looked at", &error))?;
        let seen = async { told.await.unwrap_or_else(|_| Err(Failure::said(ExitCode::Io))) };
        interrupt.unless(seen).await
    }
}

fn no_store(dir: &Path, what: &str) -> Failure {
    let title = format!("there is no store in {}", dir.display());
    let why = "a store has its log in the folder commitlog";
    let remedy = "give the folder that storePathRootDir names, or that keepmq dev has for --data";
    Failure::new(ExitCode::NotFound, Problem::new(title, what, why, remedy))
}

// ---- info --------------------------------------------------------------------------------------------------------------

fn words(info: &Info) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        writeln!(text, "{name:<14}{value}").expect("a text takes all");
    };
    match (&info.broker, &info.cluster, &info.store_id) {
        (Some(broker), Some(cluster), Some(id)) => line("broker", format!("{broker} of {cluster}, store {id}")),
        _ => line("broker", "none: the store has no identity of KeepMQ's".to_owned()),
    }
    if info.adopted > 0 {
        line("adopted", format!("records before {} may be RocketMQ's own", info.adopted));
    }
    line("log", format!("{} segments of {} bytes, from {}", info.segments.len(), info.segment_bytes, info.log_min));
    line(
        "durable",
        format!("everything before {} (mark {}, written up to {} ms)", info.durable, info.marks, info.last_stored),
    );
    line("index", format!("everything before {}: {} topics, {} queues", info.indexed, info.topics, info.queues));
    for (path, bytes) in &info.index_files {
        line("", format!("{path}, {bytes} bytes"));
    }
    for SnapshotInfo { generation, bytes, at } in &info.snapshots {
        let state = at.map_or("cannot be read".to_owned(), |at| format!("of position {at}"));
        line("snapshot", format!("{generation}, {bytes} bytes, {state}"));
    }
    line("last stop", if info.clean_stop { "in order" } else { "none: killed, or a broker has it" }.to_owned());
    match info.scrubbed {
        None => line("scrub", "no whole round yet".to_owned()),
        Some(Looked { records, bytes, damaged }) => {
            line("scrub", format!("last round: {records} records, {bytes} bytes, {damaged} damaged"));
        }
    }
    for loss in &info.losses {
        line("given up", format!("positions {} to {}, at {} ms", loss.from, loss.to, loss.accepted));
        for missing in &loss.missing {
            line("", missing.to_string());
        }
    }
    for wrong in &info.wrong {
        line("wrong", wrong.clone());
    }
    text
}

// ---- verify ------------------------------------------------------------------------------------------------------------

fn judge(report: &Report, dir: &Path, format: Format) -> Result<(), Failure> {
    say(&match format {
        Format::Table => verdict(report),
        Format::Json | Format::Ndjson => format!("{}\n", json!(report)),
    })?;
    if report.is_sound() {
        return Ok(());
    }
    let places = report.findings.len() as u64 + report.more;
    let missing: u64 = report.findings.iter().flat_map(|finding| &finding.missing).map(|missing| missing.count).sum();
    let what = format!("{places} findings; {missing} messages are known to be missing");
    let why = "what is written down does not agree with itself: some of it is not what was written";
    let remedy = "do what stands beside each finding; until then keep every file as it is";
    Err(Failure::new(
        ExitCode::Damaged,
        Problem::new(format!("the store {} is damaged", dir.display()), what, why, remedy),
    ))
}

fn verdict(report: &Report) -> String {
    let Report { records, bytes, entries, log_min, end, durable, .. } = report;
    let mut text = format!(
        "{records} records, {bytes} bytes, at {log_min} to {end}; durable to {durable}; {entries} of them held against the index\n"
    );
    if let Some(torn) = &report.torn {
        text += &format!(
            "torn end: {} bytes at {} were being written when the last broker ended; the next start cuts them off\n",
            torn.bytes, torn.at
        );
    }
    for loss in &report.losses {
        let (exact, perhaps) = loss.messages();
        text += &format!("given up: {} to {}, {exact} messages, perhaps {perhaps} more\n", loss.from, loss.to);
    }
    report.notes.iter().for_each(|note| text += &format!("note: {note}\n"));
    if report.is_sound() {
        text += "sound\n";
    }
    for Finding { file, position, byte, bytes, what, missing, durable, todo } in report.findings.iter().take(PRINTED) {
        let position = position.map_or(String::new(), |position| format!(", position {position}"));
        let below = if *durable { "" } else { ", above the durable mark" };
        text += &format!("damaged: {file}, byte {byte}{position}, {bytes} bytes{below}\n  what     {what}\n");
        let runs: Vec<String> = missing.iter().take(PRINTED).map(Missing::to_string).collect();
        runs.iter().for_each(|run| text += &format!("  missing  {run}\n"));
        text += &format!("  do       {todo}\n");
    }
    let more = (report.findings.len().saturating_sub(PRINTED)) as u64 + report.more;
    if more > 0 {
        text += &format!("and {more} more; -o json has up to 1000 of them\n");
    }
    text
}

// ---- dump --------------------------------------------------------------------------------------------------------------

const COLUMNS: [&str; 12] =
    ["POSITION", "BYTES", "TOPIC", "QUEUE", "OFFSET", "STORED", "BORN", "TAG", "KEYS", "BODY BYTES", "BODY", "NOTE"];

/// Rows on their way out.
struct Rows {
    which: Which,
    format: Format,
    table: Table,
    count: u64,
    end: Result<(), Failure>,
}

impl Rows {
    fn show(&mut self, shown: &Shown<'_>) -> ControlFlow<()> {
        let row = match shown {
            Shown::Record(record) => {
                if self.which.topic.as_ref().is_some_and(|topic| topic != record.topic) {
                    return ControlFlow::Continue(());
                }
                self.count += 1;
                self.record(record)
            }
            Shown::Damaged { from, to, why } => {
                let mut row = vec![Value::Null; COLUMNS.len()];
                row[0] = json!(from);
                row[1] = json!(to - from);
                row[COLUMNS.len() - 1] = json!(why);
                row
            }
        };
        if self.format == Format::Ndjson {
            // Line by line, so that a large log needs no memory.
            let mut one = Table::new(&COLUMNS);
            one.push(row);
            self.end = one.print(Format::Ndjson);
        } else {
            self.table.push(row);
        }
        if self.count < self.which.count && self.end.is_ok() {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    }

    fn record(&self, record: &Record<'_>) -> Vec<Value> {
        let property = |name| message::find(record.properties, name).map_or(Value::Null, |value| json!(value));
        let body = if self.which.body { json!(readable(record.body)) } else { Value::Null };
        vec![
            json!(record.at.0),
            json!(record.bytes.len()),
            json!(record.topic),
            json!(record.queue_id),
            json!(record.queue_offset.0),
            json!(record.stored.0),
            json!(record.born_at),
            property(property::TAGS),
            property(property::KEYS),
            json!(record.body.len()),
            body,
            Value::Null,
        ]
    }
}

/// Text as it is; anything else in hexadecimal digits.
fn readable(body: &[u8]) -> String {
    let text = std::str::from_utf8(body)
        .ok()
        .filter(|text| !text.chars().any(|char| char.is_control() && !char.is_whitespace()));
    text.map_or_else(|| body.iter().map(|byte| format!("{byte:02x}")).collect(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_shown_as_text_only_if_it_is_text() {
        assert_eq!(readable("grün\n".as_bytes()), "grün\n");
        assert_eq!(readable(b"a\x1b[2J"), "611b5b324a");
        assert_eq!(readable(&[0xff, 0]), "ff00");
    }
}
