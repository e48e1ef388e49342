//! What befalls a broker's machine.

use super::{BrokerNode, Wanted};
use crate::decay::{Duty, Harm, decay};
use crate::disk::{Call, Failing, Faults};
use crate::faults::When;
use crate::fence::is_send;
use crate::net::Goodbye;
use crate::stage::{Due, SECOND, Stage};
use crate::trace::Rare;
use crate::workload::Lent;
use keepmq_protocol::ResponseCode;
use std::mem;

/// Milliseconds of a day.
const DAY: u64 = 86_400_000;

/// What was refused space.
pub(super) fn note_full(stage: &mut Stage, path: &str) {
    let name = path.strip_prefix("keepmq/").unwrap_or_default();
    if name == "next" {
        stage.happened(Rare::FullSegment);
    } else if name.starts_with("queues-") {
        stage.happened(Rare::FullBlocks);
    } else if name.starts_with("meta-") {
        stage.happened(Rare::FullSnapshot);
    }
}

/// What could not be done.
pub(super) fn note_failed(stage: &mut Stage, call: Call, path: &str) {
    if call == Call::Sync && path.starts_with("commitlog/") {
        stage.happened(Rare::FailedSyncLog);
    }
    stage.happened(match call {
        Call::Read => Rare::FailedRead,
        Call::Write => Rare::FailedWrite,
        Call::Sync => Rare::FailedSync,
        Call::SyncDir => Rare::FailedSyncDir,
        Call::Create => Rare::FailedCreate,
        Call::Rename => Rare::FailedRename,
        Call::Remove => Rare::FailedRemove,
    });
}

impl BrokerNode {
    // ---- its clock ------------------------------------------------------------------------------------------------------

    pub(crate) fn step_clock(&mut self, stage: &mut Stage, by: i64, when: When) {
        if when == When::AtStart {
            self.skew_at_start += by;
            return;
        }
        if by < 0 {
            stage.happened(Rare::WallSteppedBack);
        }
        match by.unsigned_abs() / DAY {
            0 => {}
            1..300 => stage.happened(Rare::WallSteppedDays),
            _ => stage.happened(Rare::WallSteppedYears),
        }
        self.skew += by;
        if let Some(running) = &mut self.running {
            running.host.skew = self.skew;
        }
    }

    // ---- its disk, while it runs ----------------------------------------------------------------------------------------

    pub(crate) fn slow(&mut self, until: u64) {
        self.slow_until = self.slow_until.max(until);
    }

    pub(crate) fn full(&mut self, stage: &mut Stage, until: u64) {
        self.full_until = self.full_until.max(until);
        self.disk.faults(|faults| faults.full = true);
        stage.at(until, Due::Space { node: self.node, life: u32::MAX });
    }

    /// Looks whether there is space again.
    pub(crate) fn look_at_space(&mut self, stage: &mut Stage) {
        if stage.now >= self.full_until {
            self.disk.faults(|faults| faults.full = false);
        }
    }

    pub(crate) fn break_disk(&mut self, failing: Failing, when: When) {
        self.broken = true;
        match when {
            When::Now => self.disk.faults(|faults| faults.fails = Some(failing)),
            When::AtStart => self.fails_at_start.push_back(failing),
        }
    }

    /// An answer to a send tells whether a full disk refused it, and whether it was taken again.
    pub(super) fn sent(&mut self, stage: &mut Stage, code: i32, response_code: i32) {
        let Some(running) = self.running.as_ref().filter(|_| is_send(code)) else { return };
        match ResponseCode::from_wire(response_code) {
            Some(ResponseCode::ServiceNotAvailable) if running.host.core.store().state().full => {
                stage.happened(Rare::FullSend);
                self.full_send = true;
            }
            Some(ResponseCode::Success) if mem::take(&mut self.full_send) => stage.happened(Rare::FullTakenAgain),
            _ => {}
        }
    }

    // ---- between two lives ----------------------------------------------------------------------------------------------

    /// A process is about to start: what waited for that happens now.
    pub(super) fn before_start(&mut self, stage: &mut Stage, fuse: u32) {
        let fails = self.fails_at_start.pop_front();
        self.disk.faults(|faults| {
            faults.fuse = fuse;
            faults.fails = fails.or(faults.fails);
        });
        let by = mem::take(&mut self.skew_at_start);
        if by != 0 && self.exists {
            stage.happened(Rare::WallSteppedBetween);
        }
        self.step_clock(stage, by, When::Now);
        self.fence = Default::default();
        self.full_send = false;
    }

    /// Its store has been opened, and the log ends here.
    pub(super) fn has_opened(&mut self, stage: &mut Stage, end: u64) {
        if mem::replace(&mut self.duty, Duty::Tell) == Duty::Refuse {
            stage.blame("missing", "a store opens that has lost a segment, its whole log or its identity".to_owned());
        }
        if let Some(failed_end) = self.failed_end.take() {
            stage.happened(if end < failed_end { Rare::FailedLost } else { Rare::FailedKept });
        }
    }

    /// It is stopped or killed, and its store is harmed meanwhile.
    pub(crate) fn decay(&mut self, lent: &mut Lent<'_>, harm: Harm) {
        if harm == Harm::Above {
            self.lurks = true;
            return;
        }
        // The durable mark follows the syncs at a small distance.
        let long_ago = lent.stage.now.saturating_sub(SECOND);
        let sure = self.synced.iter().rfind(|(at, _)| *at <= long_ago).map(|(_, synced)| *synced);
        match sure {
            Some(sure) if self.serves() && self.state == Wanted::Running && self.chance.one_in(2) => {
                self.kill_and_harm(lent, harm, (sure.saturating_sub(2 * 512), u64::MAX));
            }
            _ => self.stop(lent, Wanted::Rotting(harm)),
        }
    }

    /// A flush has just ended, and the durable mark does not know it yet: if harm lies in wait, it befalls those bytes.
    pub(super) fn strike(&mut self, lent: &mut Lent<'_>, flushed_from: u64) {
        if self.lurks && self.serves() && self.chance.one_in(4) {
            self.lurks = false;
            let end = self.running.as_ref().map_or(0, |running| running.host.core.store().state().synced.0);
            self.kill_and_harm(lent, Harm::Above, (flushed_from, end));
        }
    }

    fn kill_and_harm(&mut self, lent: &mut Lent<'_>, harm: Harm, known: (u64, u64)) {
        self.process_ended(lent, Goodbye::Said);
        self.disk = self.disk.killed();
        self.harm(lent, harm, known);
        self.boot_later(lent.stage);
    }

    /// Harms a store that nobody has open. `sure`: so far the durable mark has come at least; `end`: so far it was synced.
    pub(super) fn harm(&mut self, lent: &mut Lent<'_>, harm: Harm, (sure, end): (u64, u64)) {
        self.state = Wanted::Running;
        let Some(duty) = decay(lent.stage, &mut self.chance, &self.disk, harm, (sure, end)) else { return };
        self.duty = duty;
        lent.books.shelves[self.node.0].harmed(if harm == Harm::Above { sure } else { u64::MAX });
    }

    // ---- and all is well again ------------------------------------------------------------------------------------------

    /// Everything is well from now on.
    pub(crate) fn heal(&mut self, stage: &mut Stage) {
        (self.slow_until, self.full_until) = (0, 0);
        self.fails_at_start.clear();
        self.lurks = false;
        self.disk.faults(|faults| *faults = Faults::default());
        self.boot_later(stage);
    }
}
