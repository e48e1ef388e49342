//! What was measured.

use crate::table::say;
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use keepmq_server::Failure;
use serde_json::json;
use std::time::Duration;

/// Longest time that is told apart from longer ones, in µs: ten minutes.
const MOST: u64 = 600_000_000;
const PERCENTILES: [f64; 5] = [50.0, 90.0, 99.0, 99.9, 99.99];

/// Latencies and counts of one run.
pub(super) struct Figures {
    micros: Histogram<u64>,
    /// Ended with SEND_OK, or consumed.
    pub(super) good: u64,
    pub(super) refused: u64,
    pub(super) unknown: u64,
    /// Of bodies.
    pub(super) bytes: u64,
    /// The first text of a failure.
    pub(super) why: Option<String>,
}

impl Figures {
    pub(super) fn new() -> Self {
        let micros = Histogram::new_with_bounds(1, MOST, 3).expect("bounds and digits are legal");
        Self { micros, good: 0, refused: 0, unknown: 0, bytes: 0, why: None }
    }

    pub(super) fn add(&mut self, latency: Duration, bytes: usize) {
        self.good += 1;
        self.bytes += bytes as u64;
        self.micros.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(MOST).max(1));
    }

    /// Of several producers.
    pub(super) fn merge(&mut self, other: &Self) {
        self.micros.add(&other.micros).expect("both have the same bounds");
        self.good += other.good;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.bytes += other.bytes;
        self.why = self.why.take().or_else(|| other.why.clone());
    }

    fn percentiles(&self) -> [(f64, u64); 5] {
        PERCENTILES.map(|percent| (percent, self.micros.value_at_percentile(percent)))
    }

    /// `what`: send, consume or e2e. `bound`: what was asked for, in words.
    pub(super) fn print(&self, what: &str, bound: &str, took: Duration, as_json: bool) -> Result<(), Failure> {
        let seconds = took.as_secs_f64().max(1e-9);
        let (a_second, bytes) = (self.good as f64 / seconds, self.bytes as f64 / seconds / 1e6);
        if as_json {
            let percentiles: serde_json::Map<_, _> =
                self.percentiles().into_iter().map(|(percent, micros)| (format!("p{percent}"), json!(micros))).collect();
            let result = json!({
                "what": what, "load": bound, "seconds": seconds, "messages": self.good, "refused": self.refused,
                "unknown": self.unknown, "messages_per_second": a_second, "megabytes_per_second": bytes,
                "latency_us": percentiles, "max_us": self.micros.max(), "mean_us": self.micros.mean(), "why": self.why,
            });
            return say(&format!("{result}\n"));
        }
        let mut text = format!("{what}, {bound}\n  {} messages in {seconds:.2} s: {a_second:.0}/s, {bytes:.2} MB/s\n", self.good);
        if !self.micros.is_empty() {
            let times = self.percentiles().map(|(percent, micros)| format!("p{percent} {}", ms(micros)));
            text += &format!("  latency  {}  max {}\n", times.join("  "), ms(self.micros.max()));
        }
        if self.refused + self.unknown > 0 {
            let why = self.why.as_deref().unwrap_or_default();
            text += &format!("  {} refused, {} unknown; the first: {why}\n", self.refused, self.unknown);
        }
        say(&text)
    }
}

fn ms(micros: u64) -> String {
    format!("{:.2} ms", micros as f64 / 1e3)
}

/// On a terminal; elsewhere it draws nothing.
pub(super) fn bar(most: Option<u64>) -> ProgressBar {
    let template = if most.is_some() { "{elapsed} {bar:40} {pos} of {len}, {per_sec}" } else { "{elapsed} {pos} messages, {per_sec}" };
    let style = ProgressStyle::with_template(template).expect("the template is legal");
    most.map_or_else(ProgressBar::no_length, ProgressBar::new).with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_several_producers() {
        let (mut first, mut second) = (Figures::new(), Figures::new());
        (1..=50).for_each(|ms| first.add(Duration::from_millis(ms), 10));
        (51..=100).for_each(|ms| second.add(Duration::from_millis(ms), 10));
        second.add(Duration::from_secs(3_600), 10);
        second.why = Some("busy".to_owned());
        first.merge(&second);
        let [(_, p50), .., (_, most)] = first.percentiles();
        // Three digits are kept.
        assert!((50_900..=51_100).contains(&p50) && (599_000_000..=600_999_999).contains(&most), "{p50} {most}");
        assert_eq!((first.good, first.bytes, first.why.as_deref()), (101, 1_010, Some("busy")));
    }
}
