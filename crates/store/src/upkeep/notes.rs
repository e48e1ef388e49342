//! The scrub's turn, and the small files that are replaced whole: what the scrub has seen, and how old the segments are.

use super::{Store, Upkeep};
use crate::disk::Disk;
use crate::files::OWN_DIR;
use crate::job::{Job, Lane, Step, Task, replace};
use crate::log::{AGES, Ages, SAVED_EVERY, UNWRITTEN};
use crate::scrub;
use keepmq_world::{Mono, Now};
use std::path::Path;
use std::time::Duration;

impl Upkeep {
    pub(super) fn notes_wait(&self) -> bool {
        self.clock.unsaved || self.scrub.unsaved
    }
}

impl<D: Disk> Store<D> {
    pub(super) fn scrub_job(&mut self, now: Now) -> Option<Job> {
        if self.upkeep.is_closing() {
            return None;
        }
        let running = self.upkeep.clock.at(now.mono);
        let piece = self.upkeep.scrub.next(self.files.min(), self.log.synced, now.mono, running)?;
        Some(Job::new(Lane::Background, Task::Scrub(piece), vec![Step::Scrub]))
    }

    /// When running time is written down again, if no segment is closed before.
    pub(super) fn note_due(&self) -> Option<Mono> {
        let clock = &self.upkeep.clock;
        (!self.upkeep.is_closing())
            .then(|| clock.opened + Duration::from_millis(clock.saved - clock.before) + SAVED_EVERY)
    }

    pub(super) fn note_job(&mut self, now: Now) -> Option<Job> {
        let late = self.note_due().is_some_and(|due| due <= now.mono);
        if !late && !self.upkeep.notes_wait() {
            return None;
        }
        let running = self.upkeep.clock.at(now.mono);
        let closed = self.log.closed.iter().filter(|age| age.closed != UNWRITTEN).map(|age| (age.base, age.closed));
        let ages = Ages { running, closed: closed.collect() };
        let mut steps = Vec::from(replace(Path::new(AGES), ages.encode(self.store_id).into()));
        (self.upkeep.clock.saved, self.upkeep.clock.unsaved) = (running, false);
        let scrub = std::mem::take(&mut self.upkeep.scrub.unsaved);
        if scrub {
            let bytes = self.upkeep.scrub.encode(self.store_id);
            steps.extend(replace(Path::new(scrub::PATH), bytes.into()));
        }
        steps.push(Step::SyncDir(OWN_DIR.into()));
        Some(Job::new(Lane::Background, Task::Notes { scrub }, steps))
    }

    /// There was no space for them.
    pub(super) fn not_noted(&mut self, scrub: bool) {
        self.upkeep.clock.unsaved = true;
        self.upkeep.scrub.unsaved |= scrub;
    }
}
