//! The removal of old segments: who may go is asked now and then, then one step waits for the next.

use super::Store;
use crate::disk::Disk;
use crate::files::{LOG_DIR, segment_path};
use crate::job::{Job, Lane, Step, Task};
use crate::log::{Need, Reserved, Retention, Situation, choose, spare};
use crate::meta::{MetaRecord, QueueEnd};
use crate::queues::QueueIx;
use keepmq_protocol::{LogOffset, QueueOffset};
use keepmq_world::Now;
use std::fmt::Write;
use std::time::Duration;

/// Time between two looks for segments that are old enough to go.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(10);
/// The same while there is no space for the next segment.
const LOOK_FULL: Duration = Duration::from_secs(1);
/// Queue ends in one record.
const ENDS_PER_RECORD: usize = 500;
/// Queues that one text names.
const NAMED: usize = 10;

impl<D: Disk> Store<D> {
    /// Where the log may begin if nobody needed what lies before: looked at every ten seconds, else `None`. Whoever asks
    /// finds out who does need it, and calls [`Store::retire`].
    pub fn may_retire(&mut self, now: Now) -> Option<LogOffset> {
        let upkeep = &mut self.upkeep;
        if upkeep.retention != Retention::Idle || now.mono < upkeep.retention_at || self.stopped.is_some() {
            return None;
        }
        let full = matches!(self.log.reserved, Reserved::NoSpace(_));
        upkeep.retention_at = now.mono + if full { LOOK_FULL } else { LOOK_EVERY };
        if self.log.closed.is_empty() || upkeep.is_closing() {
            return None;
        }
        let situation = Situation {
            closed: &self.log.closed,
            segment_bytes: self.config.segment_bytes,
            running: upkeep.clock.at(now.mono),
            wall: now.wall,
            upto: self.log.synced,
            space: upkeep.space,
            full,
        };
        let target = choose(&self.config.retention, &situation).map(LogOffset);
        if target.is_none() {
            upkeep.held = None;
        }
        target
    }

    /// Lets the log begin at `target`, which [`Store::may_retire`] has answered, or before, when `need` stays; in the
    /// background. Writes down where the queues go on that are emptied by it.
    pub fn retire(&mut self, target: LogOffset, need: Option<Need>, now: Now) {
        let (target, held) = spare(self.config.retention.lag, target.0, need.as_ref(), self.config.segment_bytes);
        self.upkeep.held = need.filter(|_| held);
        if target <= self.files.min() {
            return;
        }
        let end = |ix| {
            let (topic, queue_id) = self.queues.name(ix);
            QueueEnd { topic: topic.to_string(), queue_id, next: self.queues.next(ix).0 }
        };
        let ends: Vec<QueueEnd> = self.queues.emptied_by(LogOffset(target)).into_iter().map(end).collect();
        for ends in ends.chunks(ENDS_PER_RECORD) {
            if self.append_meta(&MetaRecord::QueueEnds(ends.to_vec()), now).is_err() {
                // Busy: at the next look, from the beginning. What was written twice does no harm.
                return;
            }
        }
        self.upkeep.retention = Retention::Saving { target, ends: self.log.appended() };
    }

    /// Reads where the queues begin that have messages on both sides of the target.
    pub(super) fn survey_job(&mut self) -> Option<Job> {
        let Retention::Saving { target, .. } = self.upkeep.retention else { return None };
        if self.upkeep.retention_waits() || self.upkeep.indexed < target {
            return None;
        }
        let queues = self.queues.straddling(LogOffset(target));
        let step = |(queue, block)| Step::FirstIn { queue, block, min: target };
        let steps: Vec<_> = queues.into_iter().map(step).collect();
        if steps.is_empty() {
            self.begin_at(target, &[]);
            return self.retire_job();
        }
        self.upkeep.retention = Retention::Surveying;
        Some(Job::new(Lane::Background, Task::Survey { min: target, firsts: Vec::new() }, steps))
    }

    /// The log begins at `min` for everybody from here on.
    pub(super) fn begin_at(&mut self, min: u64, firsts: &[(QueueIx, QueueOffset)]) {
        self.upkeep.moved = self.queues.retire(LogOffset(min), firsts);
        self.files.set_min(min);
        self.upkeep.retention = Retention::Removing { target: min };
    }

    pub(super) fn retire_job(&mut self) -> Option<Job> {
        let Retention::Removing { target } = self.upkeep.retention else { return None };
        // The mark first: after it, a segment that is still there is left over, one that is missing is not missed.
        let (slot, steps) = self.next_slot(target);
        let mut steps = Vec::from(steps);
        let bases: Vec<u64> = self.log.closed.iter().map(|age| age.base).take_while(|base| *base < target).collect();
        for base in &bases {
            steps.push(Step::ForgetSegment(*base));
            steps.push(Step::Remove(segment_path(*base)));
        }
        steps.push(Step::SyncDir(LOG_DIR.into()));
        let told = self.told(bases.len(), target);
        Some(Job::new(Lane::Background, Task::Retire { slot, bases, told }, steps))
    }

    /// What is removed, in words.
    fn told(&self, segments: usize, target: u64) -> String {
        let ages = || self.log.closed.iter().take(segments);
        let (first, last) = (ages().next(), ages().next_back());
        let mut text = format!("retention removes {segments} segments");
        if let (Some(first), Some(last)) = (first, last) {
            let (from, until) = (first.last_stored, last.last_stored);
            write!(text, ", positions {} to {target}, stored at the latest {from} to {until} (ms)", first.base)
                .expect("a string takes any text");
        }
        let moved = &self.upkeep.moved;
        write!(text, "; {} queues begin later now", moved.len()).expect("a string takes any text");
        for (ix, first) in moved.iter().take(NAMED) {
            let (topic, queue_id) = self.queues.name(*ix);
            write!(text, ", queue {queue_id} of {topic} at {first}").expect("a string takes any text");
        }
        text.push_str(if moved.len() > NAMED { ", …" } else { "" });
        text
    }
}
