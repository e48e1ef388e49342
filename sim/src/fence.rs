//! What a broker owes once a call of its disk has failed: that call was the last one, nobody hears OK any more, everybody who
//! waits hears that the outcome is unknown, and the name servers hear that it goes.

use crate::disk::{Call, DiskOp};
use crate::stage::{NodeId, Stage};
use crate::trace::Rare;
use keepmq_protocol::ResponseCode;
use std::collections::BTreeSet;

/// SEND_MESSAGE, SEND_MESSAGE_V2, SEND_BATCH_MESSAGE.
const SENDS: [i32; 3] = [10, 310, 320];
/// UPDATE_CONSUMER_OFFSET.
const COMMIT: i32 = 15;
/// PULL_MESSAGE, LITE_PULL_MESSAGE.
const PULLS: [i32; 2] = [11, 361];

/// Of one life of a broker.
#[derive(Default)]
pub(crate) struct Fence {
    /// The call that failed.
    failed: Option<String>,
    heard: Heard,
}

/// Whether its core knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Heard {
    #[default]
    Nothing,
    /// It has just been told, and answers those who wait.
    Now,
    Before,
}

pub(crate) fn is_send(code: i32) -> bool {
    SENDS.contains(&code)
}

impl Fence {
    /// What a job did. Behind a failed call nothing may be changed any more, whatever lane tries: a file's error is told once,
    /// and the next sync would say that all is well.
    pub(crate) fn watch(&mut self, stage: &mut Stage, node: NodeId, op: &DiskOp) {
        match (&self.failed, op) {
            (Some(failed), op) if op.changes() => {
                stage.blame("fence", format!("{node:?} goes on with \"{op}\" although \"{failed}\""));
            }
            // A reader may read again.
            (None, DiskOp::Failed(call, _)) if *call != Call::Read => self.failed = Some(op.to_string()),
            _ => {}
        }
    }

    /// The core hears that a job has failed. `waiting`: the codes of the requests that wait for the store.
    pub(crate) fn hears(&mut self, stage: &mut Stage, waiting: &[i32], other_lane: bool) {
        self.heard = Heard::Now;
        if waiting.iter().any(|code| is_send(*code)) {
            stage.happened(Rare::FencedWaiting);
        }
        if waiting.iter().any(|code| PULLS.contains(code)) {
            stage.happened(Rare::FencedParked);
        }
        if other_lane {
            stage.happened(Rare::FencedBoth);
        }
    }

    /// Somebody is answered.
    pub(crate) fn answered(&self, stage: &mut Stage, node: NodeId, code: i32, response_code: i32) {
        use ResponseCode::{FlushDiskTimeout, ServiceNotAvailable, SystemBusy};
        let may_be: &[ResponseCode] = match self.heard {
            Heard::Nothing => return,
            Heard::Now if is_send(code) => &[FlushDiskTimeout],
            // One that repeats what is there already has written nothing.
            Heard::Now if code == COMMIT => &[FlushDiskTimeout, SystemBusy],
            Heard::Before if is_send(code) || code == COMMIT => &[ServiceNotAvailable],
            Heard::Now | Heard::Before => return,
        };
        if !may_be.iter().any(|code| *code as i32 == response_code) {
            let what =
                format!("{node:?} answers a {code} with {response_code} when its disk has failed, not {may_be:?}");
            stage.blame("fence", what);
        }
    }

    /// The core has said what it has to say. `waiting`: who has no answer yet; `left`: the name servers that it takes leave of.
    pub(crate) fn has_told(
        &mut self,
        stage: &mut Stage,
        node: NodeId,
        waiting: &[i32],
        left: &BTreeSet<String>,
        name_servers: &[String],
    ) {
        self.heard = Heard::Before;
        if !waiting.is_empty() {
            stage.blame(
                "fence",
                format!("the disk of {node:?} has failed, and nobody tells those who wait: {waiting:?}"),
            );
        }
        if let Some(one) = name_servers.iter().find(|one| !left.contains(*one)) {
            stage.blame("fence", format!("the disk of {node:?} has failed, and name server {one} does not hear of it"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keepmq_world::Chance;

    const NODE: NodeId = NodeId(0);

    /// What the checker says when `story` has happened.
    fn said(story: impl FnOnce(&mut Fence, &mut Stage)) -> Option<String> {
        let mut stage = Stage::new(1, Chance::new(1), false);
        story(&mut Fence::default(), &mut stage);
        stage.violation.map(|violation| violation.what)
    }

    fn tell(fence: &mut Fence, stage: &mut Stage, waiting: &[i32], left: &[&str]) {
        fence.hears(stage, &[], false);
        let left = left.iter().map(|one| (*one).to_owned()).collect();
        fence.has_told(stage, NODE, waiting, &left, &["n1".to_owned(), "n2".to_owned()]);
    }

    #[test]
    fn behind_a_failed_call_nothing_is_changed_but_readers_may_read_again() {
        let sync = DiskOp::Sync("commitlog/0".into());
        for (call, blamed) in [(Call::Sync, true), (Call::Create, true), (Call::Read, false)] {
            let what = said(|fence, stage| {
                fence.watch(stage, NODE, &sync);
                fence.watch(stage, NODE, &DiskOp::Failed(call, "f".into()));
                fence.watch(stage, NODE, &DiskOp::Open("f".into()));
                fence.watch(stage, NODE, &sync);
            });
            assert_eq!(what.is_some(), blamed, "{call:?}: {what:?}");
        }
    }

    #[test]
    fn nobody_hears_ok_and_everybody_hears_something() {
        use ResponseCode::{FlushDiskTimeout, ServiceNotAvailable, Success};
        let answer = |code: i32, response: ResponseCode, late: bool| {
            said(|fence, stage| {
                fence.answered(stage, NODE, code, Success as i32);
                if late {
                    tell(fence, stage, &[], &["n1", "n2"]);
                } else {
                    fence.hears(stage, &[], false);
                }
                fence.answered(stage, NODE, code, response as i32);
            })
            .is_some()
        };
        for send in SENDS {
            let wrong = [Success, FlushDiskTimeout, ServiceNotAvailable].map(|code| answer(send, code, false));
            assert_eq!(wrong, [true, false, true], "{send}, when the core hears of it");
            let wrong = [Success, FlushDiskTimeout, ServiceNotAvailable].map(|code| answer(send, code, true));
            assert_eq!(wrong, [true, true, false], "{send}, later");
        }
        assert!(!answer(PULLS[0], Success, true), "what is kept may be read");
        assert_eq!(said(|fence, stage| tell(fence, stage, &[], &["n1", "n2"])), None);
        assert!(
            said(|fence, stage| tell(fence, stage, &[310], &["n1", "n2"])).is_some_and(|what| what.contains("[310]"))
        );
        assert!(said(|fence, stage| tell(fence, stage, &[], &["n1"])).is_some_and(|what| what.contains("n2")));
    }
}
