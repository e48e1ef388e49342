//! What came of a proof, for people and for programs.

use crate::books::lost;
use crate::table::say;
use keepmq_ledger::{Ledger, Verdict};
use keepmq_server::{ExitCode, Failure, Problem};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// Kills that are printed one by one; JSON has all of them.
const SHOWN: usize = 40;

/// One kill, and what followed.
pub(super) struct Kill {
    /// When, in the load's own time.
    pub(super) at: Duration,
    /// Messages that were acknowledged before it.
    pub(super) acknowledged: u64,
    /// Sends that waited for their answer.
    pub(super) under_way: u64,
    /// How long it took from the start of the new process until it answered.
    pub(super) restart: Duration,
}

/// What came of it.
pub(super) struct Outcome {
    verdict: Verdict,
    /// Queue, how many messages were found in it, and the offset behind the last.
    queues: Vec<(String, u64, u64)>,
    /// Chose the moments.
    pub(super) seed: Option<u64>,
    /// With how many bytes the log was filled first, and how long that took.
    pub(super) filled: Option<(u64, Duration)>,
    pub(super) kills: Vec<Kill>,
}

impl Outcome {
    /// Of a ledger that everything which is there has been read into.
    pub(super) fn compared(ledger: &Ledger) -> Self {
        let queue = |(queue, found, behind): (&keepmq_client::MessageQueue, u64, keepmq_client::QueueOffset)| {
            (format!("{}/{}/q{}", queue.topic, queue.broker, queue.id), found, behind.0)
        };
        let queues = ledger.queues().map(queue).collect();
        Self { verdict: ledger.verdict(), queues, seed: None, filled: None, kills: Vec::new() }
    }

    /// Whether everything is as it must be.
    pub(super) fn is_clean(&self) -> bool {
        self.verdict.is_clean()
    }

    pub(super) fn print(&self, json: bool) -> Result<(), Failure> {
        say(&if json { format!("{}\n", self.json()) } else { self.text() })
    }

    /// How often each kind of finding was made.
    fn kinds(&self) -> BTreeMap<&'static str, u64> {
        let mut kinds: BTreeMap<_, _> =
            ["lost", "phantom", "altered", "misplaced", "reused", "gap", "disordered"].map(|kind| (kind, 0)).into();
        for finding in &self.verdict.findings {
            *kinds.entry(finding.kind()).or_default() += 1;
        }
        kinds
    }

    fn hits(&self) -> usize {
        self.kills.iter().filter(|kill| kill.under_way > 0).count()
    }

    /// Milliseconds of the restarts: least, median, 90 and 99 of a hundred, most.
    fn restarts(&self) -> [(&'static str, u64); 5] {
        let mut times: Vec<u64> =
            self.kills.iter().map(|kill| u64::try_from(kill.restart.as_millis()).unwrap_or(u64::MAX)).collect();
        times.sort_unstable();
        [("min", 0), ("p50", 50), ("p90", 90), ("p99", 99), ("max", 100)]
            .map(|(name, part)| (name, times[(times.len() * part).div_ceil(100).max(1) - 1]))
    }

    fn json(&self) -> Value {
        let Verdict { attempted, kept, refused, unknown, removed, observed, duplicated, findings, .. } = &self.verdict;
        let kills: Vec<_> = self
            .kills
            .iter()
            .map(|kill| {
                json!({
                    "at_ms": ms(kill.at), "acknowledged": kill.acknowledged, "under_way": kill.under_way,
                    "restart_ms": ms(kill.restart),
                })
            })
            .collect();
        let queues: Vec<_> = self
            .queues
            .iter()
            .map(|(queue, found, behind)| json!({ "queue": queue, "found": found, "next_offset": behind }))
            .collect();
        let restarts = (!self.kills.is_empty()).then(|| self.restarts().into_iter().collect::<BTreeMap<_, _>>());
        json!({
            "attempted": attempted, "acknowledged": kept, "refused": refused, "unknown": unknown, "found": observed,
            "duplicated": duplicated, "removed": removed, "lost": lost(&self.verdict), "clean": self.is_clean(),
            "kinds": self.kinds(), "findings": findings.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "queues": queues, "seed": self.seed, "kills": kills, "kills_under_way": self.hits(), "restart_ms": restarts,
            "filled_bytes": self.filled.map(|(bytes, _)| bytes), "filled_ms": self.filled.map(|(_, took)| ms(took)),
        })
    }

    fn text(&self) -> String {
        let mut text = String::new();
        if let Some((bytes, took)) = self.filled {
            text += &format!("log filled    {bytes:>8}   bytes, in {:.1} s\n", took.as_secs_f64());
        }
        if let Some(seed) = self.seed.filter(|_| !self.kills.is_empty()) {
            let at = |kill: &Kill| format!("{:.3}", kill.at.as_secs_f64());
            let shown: Vec<_> = self.kills.iter().take(SHOWN).map(at).collect();
            let more = if self.kills.len() > SHOWN { " …" } else { "" };
            let restarts = self.restarts().map(|(name, ms)| format!("{name} {ms}")).join("  ");
            text += &format!(
                "kills         {:>8}   {} with sends under way; at {}{more} s; --seed {seed} chooses the same moments\n\
                 restarts            ms   {restarts}\n",
                self.kills.len(),
                self.hits(),
                shown.join(" "),
            );
        }
        let Verdict { attempted, kept, refused, unknown, duplicated, .. } = &self.verdict;
        let kinds = self.kinds();
        text += &format!(
            "attempted     {attempted:>8}\nacknowledged  {kept:>8}   SEND_OK\nlost          {:>8}\nduplicated    {duplicated:>8}   \
             kept twice: sent again because the first answer did not come\nunknown       {unknown:>8}   no answer: kept or not\n\
             refused       {refused:>8}\nqueues        {:>8}   {} gaps, {} out of order\n",
            lost(&self.verdict),
            self.queues.len(),
            kinds["gap"],
            kinds["disordered"],
        );
        if self.is_clean() {
            text += "nothing that was acknowledged is missing\n";
        }
        text
    }

    /// The failure that findings are.
    pub(super) fn judge(&self) -> Result<(), Failure> {
        if self.is_clean() {
            return Ok(());
        }
        let (lost, all) = (lost(&self.verdict), self.verdict.findings.len());
        let title = format!("{lost} acknowledged messages are missing, {all} findings in all");
        let why = "SEND_OK is a promise; with ASYNC_FLUSH it covers the end of the process, not that of the machine";
        let remedy = "keep the folder; look whether the disk, or somebody, has cut or changed files of the store";
        Err(Failure::new(ExitCode::Failed, Problem::new(title, self.verdict.to_string(), why, remedy)))
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(restarts: &[u64], entries: &str) -> Outcome {
        let mut ledger = Ledger::default();
        for entry in keepmq_ledger::entries(entries).unwrap() {
            ledger.record(entry).unwrap();
        }
        let kill = |ms: &u64| Kill {
            at: Duration::from_millis(250),
            acknowledged: 9,
            under_way: ms % 2,
            restart: Duration::from_millis(*ms),
        };
        Outcome { seed: Some(77), kills: restarts.iter().map(kill).collect(), ..Outcome::compared(&ledger) }
    }

    #[test]
    fn restarts_are_told_by_their_ranks() {
        let of = |restarts: &[u64]| outcome(restarts, "").restarts().map(|(_, ms)| ms);
        assert_eq!(of(&[7]), [7, 7, 7, 7, 7]);
        assert_eq!(of(&[30, 10, 20]), [10, 20, 30, 30, 30]);
        let hundred: Vec<u64> = (1..=200).rev().collect();
        assert_eq!(of(&hundred), [1, 100, 180, 198, 200]);
    }

    #[test]
    fn both_forms_say_what_came_of_it() {
        let good = outcome(&[10, 21], "A 1 T 5\nK 1 T b 0 0 0\nO T b 0 0 1 5\n");
        let text = good.text();
        assert!(text.contains("1 with sends under way; at 0.250 0.250 s; --seed 77"), "{text}");
        assert!(text.contains("min 10  p50 10  p90 21  p99 21  max 21"), "{text}");
        assert!(text.ends_with("nothing that was acknowledged is missing\n") && good.judge().is_ok(), "{text}");
        let said = good.json();
        assert_eq!((&said["seed"], &said["restart_ms"]["p50"], &said["clean"]), (&77.into(), &10.into(), &true.into()));
        assert_eq!(said["queues"], json!([{ "queue": "T/b/q0", "found": 1, "next_offset": 1 }]));

        let bad = outcome(&[], "A 1 T 5\nK 1 T b 0 0 0\nA 2 T 6\nK 2 T b 0 2 9\nO T b 0 2 2 6\n");
        assert_eq!(bad.judge().err().map(|failure| failure.exit), Some(ExitCode::Failed));
        let said = bad.json();
        assert_eq!((&said["lost"], &said["kinds"]["gap"], &said["restart_ms"]), (&1.into(), &1.into(), &Value::Null));
        assert!(!bad.text().contains("nothing that was acknowledged is missing"));
    }
}
