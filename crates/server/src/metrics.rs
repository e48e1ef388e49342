//! `/metrics`: a broker's numbers in Prometheus' text format. RocketMQ's names where the number is the same, `keepmq_` else.
//! Every family is named, also when there is nothing to say in it; a number that is not known is absent, never 0.

use keepmq_broker::{Answer, Histogram, Lag, Numbers, Serve, TopicNumbers, Traffic};
use keepmq_protocol::{LogOffset, RETRY_PREFIX};
use keepmq_store::{Flush, ReadError, Served};
use std::fmt::{Arguments, Display, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// In a second.
const NANOS: f64 = 1e9;
/// Stands for all topics that have no series of their own. No topic has such a name.
const OTHERS: &str = "<others>";

/// What the process knows of a broker, and the core does not.
#[derive(Clone)]
pub(crate) struct Facts {
    pub(crate) flush: Flush,
    /// Free bytes of the store's disk, looked at every few seconds.
    pub(crate) free: Arc<AtomicU64>,
    pub(crate) disk_bytes: u64,
    pub(crate) recovery: Recovery,
    pub(crate) sent: Arc<Sent>,
}

/// What the start had to do.
#[derive(Clone, Copy)]
pub(crate) struct Recovery {
    pub(crate) took: Duration,
    /// Read again.
    pub(crate) records: u64,
    /// Bytes of a torn tail.
    pub(crate) cut: u64,
}

/// What has been read for consumers: whoever reads counts it, because the core does not see it.
#[derive(Default)]
pub(crate) struct Sent {
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl Sent {
    /// Counts an answer, once for all its messages.
    pub(crate) fn count(&self, serve: &Serve, read: &Result<Served, ReadError>) {
        if let (Answer::Pull(_), Ok(Served::Records { bytes, count, .. })) = (serve.answer, read) {
            let bytes: usize = bytes.iter().map(|piece| piece.len()).sum();
            self.messages.fetch_add((*count).into(), Ordering::Relaxed);
            self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }
}

/// All of it.
pub(crate) fn page(numbers: &Numbers, facts: &Facts) -> String {
    let mut page = Page::new(&[("cluster", &numbers.cluster), ("node_type", "broker"), ("node_id", &numbers.name)]);
    messages(numbers, facts, &mut page);
    consumers(numbers, &mut page);
    promises(numbers, facts, &mut page);
    storage(numbers, facts, &mut page);
    process(numbers, &mut page);
    page.text
}

fn messages(numbers: &Numbers, facts: &Facts, page: &mut Page) {
    let counts = &numbers.counts;
    let mut by_topic = |name, meaning, of: fn(Traffic) -> u64| {
        let mut family = page.counter(name, meaning);
        for TopicNumbers { topic, system, traffic } in &numbers.topics {
            family.sample(&[("topic", topic.as_str()), ("is_system", truth(*system))], of(*traffic));
        }
        if of(counts.others) > 0 {
            family.sample(&[("topic", OTHERS), ("is_system", "false")], of(counts.others));
        }
    };
    by_topic("rocketmq_messages_in_total", "messages accepted since the start", |traffic| traffic.messages);
    by_topic("rocketmq_throughput_in_total", "bodies of the messages accepted since the start", |traffic| {
        traffic.bytes
    });
    page.counter("rocketmq_messages_out_total", "messages read for consumers since the start, of all topics")
        .sample(&[], facts.sent.messages.load(Ordering::Relaxed));
    page.counter("rocketmq_throughput_out_total", "records read for consumers since the start, of all topics")
        .sample(&[], facts.sent.bytes.load(Ordering::Relaxed));
    page.histogram("rocketmq_message_size", "bodies of the messages accepted since the start", &numbers.sizes, 1.0);
    page.gauge("keepmq_largest_message_bytes", "the largest of them").sample(&[], counts.largest);
}

fn consumers(numbers: &Numbers, page: &mut Page) {
    let counts = &numbers.counts;
    let mut pulls = page.counter("keepmq_pulls_total", "pulls, by what they found");
    pulls.sample(&[("result", "found")], counts.pulls_found).sample(&[("result", "nothing")], counts.pulls_missed);
    page.counter("keepmq_pulls_parked_total", "pulls that had to wait for messages").sample(&[], counts.pulls_parked);
    page.gauge("keepmq_parked_pulls", "pulls that wait for messages now").sample(&[], numbers.parked);
    let mut connections = page.gauge("rocketmq_consumer_connections", "members of a group on this broker");
    for (group, size) in &numbers.members {
        connections.sample(&[("consumer_group", group)], size);
    }
    let mut lag = page.gauge(
        "rocketmq_consumer_lag_messages",
        "messages behind a group's offsets; of a queue without an offset, all that are there",
    );
    for Lag { group, topic, messages } in &numbers.lags {
        let retry = truth(topic.starts_with(RETRY_PREFIX));
        lag.sample(&[("consumer_group", group), ("topic", topic), ("is_retry", retry)], messages);
    }
    page.counter(
        "keepmq_lost_by_retention_total",
        "messages that pulls asked for and retention had removed, each time they were asked for",
    )
    .sample(&[], counts.lost_by_retention);
    page.counter("keepmq_offsets_lowered_total", "committed offsets below the one before")
        .sample(&[], counts.offsets_lowered);
    page.counter("keepmq_offsets_ignored_total", "offset commits that name what does not exist, or found no room")
        .sample(&[], counts.offsets_ignored);
}

/// What was answered to sends, and how long it took to be able to.
fn promises(numbers: &Numbers, facts: &Facts, page: &mut Page) {
    let flush = match facts.flush {
        Flush::Sync => "SYNC_FLUSH",
        Flush::Async => "ASYNC_FLUSH",
    };
    page.counter(
        "keepmq_sends_acknowledged_total",
        "sends answered with SEND_OK, by what it means: on disk (SYNC_FLUSH), written (ASYNC_FLUSH), in memory (RELAXED, as the producer wished)",
    )
    .sample(&[("durability", flush)], numbers.sends_kept)
    .sample(&[("durability", "RELAXED")], numbers.counts.sends_relaxed);
    page.counter("keepmq_unknown_outcomes_total", "sends and changes answered with FLUSH_DISK_TIMEOUT: kept, or not")
        .sample(&[], numbers.unknown);
    let mut refused = page.counter("keepmq_sends_refused_total", "sends that were refused, by the answer's code");
    for (code, count) in &numbers.refused {
        refused.sample(&[("code", &code.to_string())], count);
    }
    page.histogram(
        "keepmq_commit_seconds",
        "time from append to answer, of sends and changes that were kept",
        &numbers.commit_times,
        NANOS,
    );
    page.histogram(
        "keepmq_flush_seconds",
        "time of a flush: under SYNC_FLUSH write and sync, under ASYNC_FLUSH the write",
        &numbers.flush_times,
        NANOS,
    );
    page.counter("keepmq_flushes_total", "flushes that have ended").sample(&[], numbers.store.flushes);
    page.counter("keepmq_flushed_records_total", "records they carried; divided by the flushes: how many share one")
        .sample(&[], numbers.store.flushed_records);
    page.gauge("rocketmq_processor_watermark", "requests that wait, by what for: send, for the disk")
        .sample(&[("processor", "send")], numbers.waiting);
}

fn storage(numbers: &Numbers, facts: &Facts, page: &mut Page) {
    let (store, local) = (&numbers.store, [("storage_type", "local"), ("storage_medium", "disk")]);
    let behind = |mark: LogOffset| store.appended.0 - mark.0;
    page.gauge("rocketmq_storage_size", "the log, from its first message that still exists to its end")
        .sample(&local, behind(store.min));
    page.gauge("rocketmq_storage_flush_behind_bytes", "appended and not synced: what a power cut can take")
        .sample(&local, behind(store.synced));
    page.gauge("rocketmq_storage_dispatch_behind_bytes", "appended and not yet visible to consumers")
        .sample(&local, behind(store.commit));
    page.gauge("keepmq_buffered_bytes", "appended and not yet written to a file").sample(&[], behind(store.written));
    page.gauge("keepmq_log_end_bytes", "position of the end of the log").sample(&[], store.appended);
    page.gauge("keepmq_disk_free_bytes", "free on the store's disk").sample(&[], facts.free.load(Ordering::Relaxed));
    page.gauge("keepmq_disk_size_bytes", "size of the store's disk, at the start").sample(&[], facts.disk_bytes);
    page.gauge("keepmq_disk_full", "1: no space could be reserved for the next segment")
        .sample(&[], u8::from(store.full));
    page.gauge("keepmq_store_stopped", "1: a write or sync has failed, nothing more is kept")
        .sample(&[], u8::from(store.stopped));
    page.counter("keepmq_segments_removed_total", "segments that retention has removed since the start")
        .sample(&[], store.removed_segments);
    page.gauge("keepmq_retention_held", "1: old segments stay because a group has not consumed them")
        .sample(&[], u8::from(store.held));
    let scrub = &store.scrub;
    page.counter("keepmq_scrub_bytes_total", "bytes of the log that were read again and checked since the start")
        .sample(&[], scrub.bytes);
    page.gauge("keepmq_scrub_rounds", "times that the whole log was checked, in all lives of the store")
        .sample(&[], scrub.rounds);
    page.gauge("keepmq_scrub_damaged", "damaged records that the round under way has found, or the one before if more")
        .sample(&[], scrub.round.damaged.max(scrub.last.damaged));
    let mut at =
        page.gauge("keepmq_scrub_position_bytes", "position of the log that is checked next; absent between rounds");
    if let Some(position) = scrub.at {
        at.sample(&[], position);
    }
    page.gauge("keepmq_recovery_seconds", "time that opening the store took")
        .sample(&[], facts.recovery.took.as_secs_f64());
    page.gauge("keepmq_recovery_records", "records that were read again for it").sample(&[], facts.recovery.records);
    page.gauge("keepmq_recovery_cut_bytes", "cut from the end of the log, which was torn")
        .sample(&[], facts.recovery.cut);
}

fn process(numbers: &Numbers, page: &mut Page) {
    page.gauge("rocketmq_broker_permission", "4: may be read, 2: may be written, 6: both").sample(&[], numbers.perm);
    page.gauge("rocketmq_topic_number", "topics, those of the system too").sample(&[], numbers.topic_count);
    page.gauge("rocketmq_consumer_group_number", "consumer groups, predefined ones too")
        .sample(&[], numbers.group_count);
    page.gauge("keepmq_connections", "connections of clients").sample(&[], numbers.connections);
    page.gauge(
        "keepmq_left_out",
        "topics without series of their own, and groups without members or lag among the series",
    )
    .sample(&[("what", "topics")], numbers.topic_count - numbers.topics.len())
    .sample(&[("what", "members")], numbers.members_left_out)
    .sample(&[("what", "lags")], numbers.lags_left_out);
    page.gauge("keepmq_start_time_seconds", "when the broker was opened, since 1970")
        .sample(&[], numbers.started.0 as f64 / 1e3);
    page.gauge("keepmq_build_info", "always 1; the version is a label")
        .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
}

fn truth(holds: bool) -> &'static str {
    if holds { "true" } else { "false" }
}

/// The text as it grows.
struct Page {
    text: String,
    /// Labels that every sample has.
    common: String,
}

/// A metric with all its samples.
struct Family<'p> {
    page: &'p mut Page,
    name: &'static str,
}

impl Page {
    fn new(common: &[(&str, &str)]) -> Self {
        let mut page = Self { text: String::new(), common: String::new() };
        for (name, value) in common {
            page.common.push_str(if page.common.is_empty() { "" } else { "," });
            write_label(&mut page.common, name, value);
        }
        page
    }

    fn gauge(&mut self, name: &'static str, meaning: &str) -> Family<'_> {
        self.family(name, "gauge", meaning)
    }

    fn counter(&mut self, name: &'static str, meaning: &str) -> Family<'_> {
        self.family(name, "counter", meaning)
    }

    fn family(&mut self, name: &'static str, kind: &str, meaning: &str) -> Family<'_> {
        self.line(format_args!("# HELP {name} {meaning}"));
        self.line(format_args!("# TYPE {name} {kind}"));
        Family { page: self, name }
    }

    /// `unit`: how many of what was recorded are one of what is shown.
    fn histogram(&mut self, name: &'static str, meaning: &str, histogram: &Histogram, unit: f64) {
        let family = self.family(name, "histogram", meaning);
        for (bound, count) in histogram.buckets() {
            let bound = (bound as f64 / unit).to_string();
            family.page.sample(name, "_bucket", &[("le", &bound)], count);
        }
        family.page.sample(name, "_bucket", &[("le", "+Inf")], histogram.count());
        family.page.sample(name, "_sum", &[], histogram.sum() as f64 / unit);
        family.page.sample(name, "_count", &[], histogram.count());
    }

    fn sample(&mut self, name: &str, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(name);
        self.text.push_str(suffix);
        self.text.push('{');
        self.text.push_str(&self.common);
        for (name, value) in labels {
            self.text.push(',');
            write_label(&mut self.text, name, value);
        }
        self.line(format_args!("}} {value}"));
    }

    fn line(&mut self, line: Arguments<'_>) {
        writeln!(self.text, "{line}").expect("memory takes any text");
    }
}

impl Family<'_> {
    fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) -> &mut Self {
        self.page.sample(self.name, "", labels, value);
        self
    }
}

fn write_label(text: &mut String, name: &str, value: &str) {
    text.push_str(name);
    text.push_str("=\"");
    for letter in value.chars() {
        match letter {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_named_and_its_labels_are_escaped() {
        let mut page = Page::new(&[("cluster", "C"), ("node_id", "a\"b\\c\nd")]);
        page.counter("x_total", "what it is").sample(&[], 1).sample(&[("topic", OTHERS)], 2.5);
        page.gauge("y", "nothing to say");
        let common = r#"cluster="C",node_id="a\"b\\c\nd""#;
        let expected = format!(
            "# HELP x_total what it is\n# TYPE x_total counter\nx_total{{{common}}} 1\n\
             x_total{{{common},topic=\"<others>\"}} 2.5\n# HELP y nothing to say\n# TYPE y gauge\n"
        );
        assert_eq!(page.text, expected);
    }

    #[test]
    fn a_histogram_is_cumulative_and_in_its_unit() {
        let mut histogram = Histogram::new(&[50_000, 5_000_000_000]);
        for nanos in [10_000, 50_000, 2_000_000_000, 9_000_000_000] {
            histogram.record(nanos);
        }
        let mut page = Page::new(&[("n", "a")]);
        page.histogram("t_seconds", "times", &histogram, NANOS);
        let expected = "# HELP t_seconds times\n# TYPE t_seconds histogram\nt_seconds_bucket{n=\"a\",le=\"0.00005\"} 2\n\
                        t_seconds_bucket{n=\"a\",le=\"5\"} 3\nt_seconds_bucket{n=\"a\",le=\"+Inf\"} 4\n\
                        t_seconds_sum{n=\"a\"} 11.00006\nt_seconds_count{n=\"a\"} 4\n";
        assert_eq!(page.text, expected);
    }
}
