//! Deliberate mistakes, to see that the checks bite.
//!
//! `if planted!("ack-before-flush") { … }` is `if false` unless the feature `planted` is on, which no shipped build has.
//! In a test build one mistake at a time is chosen at run time, for the whole process, with [`arm`].
//!
//! Many of them are mistakes that brokers have made, told here by what went wrong. What each does stands in [`BUGS`]; the
//! checker is the one of the simulator that finds it first.
//!
//! | what went wrong elsewhere | planted bug | found by |
//! |---|---|---|
//! | a message property switches off the wait for the disk | `wait-false-honoured` | `kept-not-lost` |
//! | an I/O error leaves the log neither usable nor stopped, and whoever waits hangs | `failed-job-forgotten`, `waiters-left-behind` | `liveness`, `fence` |
//! | two messages of a queue get one offset | `offset-given-twice` | `order` |
//! | what is answered lies in the memory of the process | `ack-from-memory` | `kept-not-lost` |
//! | a request is refused that is carried out all the same | `refusal-after-append`, `unknown-answered-as-refusal` | `ledger`, `fence` |
//! | a full disk needs a restart | `full-taken-for-failed` | `exit` |
//! | the result of a write is not looked at | `short-write-ignored` | `kept-not-lost` |
//! | the error of a sync is swallowed, and the mark moves on | `sync-error-ignored`, `ack-before-flush` | `fence`, `kept-not-lost` |
//! | a sync is tried again, and succeeds because the pages pass for clean | `second-sync-believed`, `lanes-fail-apart` | `fence` |
//! | consumers see what a power cut takes back | `unflushed-visible` | `visible` |
//! | a new file is there, its name is not | `directory-not-synced` | `kept-not-lost` |
//! | a checkpoint, or an index, is ahead of what it speaks of | `checkpoint-ahead`, `index-ahead-of-log` | `open` |
//! | a file replaces the old one before its content is durable | `snapshot-not-synced` | `open` |
//! | the first unreadable record ends the log, and what stands behind it is removed | `first-bad-record-ends-log` | `kept-not-lost` |
//! | messages are in the log and in no queue | `rebuild-begins-too-late` | `offset-reused` |
//! | an empty folder in the log's place is taken for a new store | `missing-log-starts-empty` | `missing` |
//! | a file is missing in the middle, and readers skip it | `missing-segment-skipped`, `damaged-record-skipped` | `missing`, `read` |
//! | a queue does not learn that its first messages were removed | `queue-minimum-stays`, `offsets-restart-after-retention` | `read`, `offset-reused` |
//! | a clock that is set decides about locks, times and order | `stamps-follow-the-clock`, `lock-by-wall-clock` | `stamps`, `lock-stuck` |
//! | bytes that have gone bad are served | `damaged-bytes-served` | `bad-bytes` |
//! | a record or a batch that a power cut tore counts | `torn-record-accepted`, `torn-tail-kept`, `batch-cut-in-the-middle` | `log-is-prefix`, `erased`, `batch-whole` |
//! | a broker whose disk has failed stays in the routes | `failed-broker-stays-registered` | `fence` |
//! | a consumer's offset is confirmed, and gone after a crash | `commit-answered-early` | `offset-kept` |

/// Every planted bug, with what it does and the checker that must find it.
pub const BUGS: &[(&str, &str)] = &[
    ("ack-before-flush", "answers SEND_OK before the sync it promises has happened"),
    ("ack-without-writing", "answers SEND_OK to a message that it never appends"),
    ("sync-error-ignored", "takes a write or sync of the log that has failed for one that has not"),
    (
        "torn-tail-kept",
        "recovery cuts a torn tail but leaves its bytes, so that a record behind it can come back to life",
    ),
    ("index-ahead-of-log", "the durable queue index may name records that the log has not synced"),
    ("directory-not-synced", "a new segment is used without syncing the directory that names it"),
    ("recovery-trusts-names", "recovery builds on names that a killed process has left without syncing their folder"),
    ("damaged-snapshot-believed", "a metadata snapshot is taken for what it says, whatever its checksum says"),
    ("offsets-restart-after-retention", "a queue emptied by retention starts again at offset 0 after a restart"),
    ("reply-to-wrong-request", "two replies that wait for the same flush are swapped"),
    ("stale-unregister-wins", "a late unregistration removes a fresh registration"),
    ("batch-cut-in-the-middle", "recovery keeps the first messages of a batch whose end is torn"),
    ("lock-granted-twice", "a queue's lock is given to a second client while the first one holds it"),
    ("lock-survives-unlock", "a lock that its owner gives back stays its owner's"),
    (
        "lock-at-once-after-restart",
        "a broker that has just started gives locks to groups whose members may still hold some",
    ),
    ("notice-forgotten", "the members of a group are not told that one of them has left"),
    ("silent-member-stays", "a client that says nothing any more is never forgotten"),
    ("gathered-commit-forgotten", "a group's offset is answered without the commits that wait to be written together"),
    ("deleted-topic-keeps-offsets", "a topic that is made again finds the offsets that groups had in the deleted one"),
    ("parked-pull-forgotten", "a new message wakes only one of those who wait for it"),
    ("refusal-after-append", "a send is refused as too much when its message has been appended"),
    ("unknown-comes-late", "nothing wakes the broker to give up on answers that the disk keeps waiting"),
    ("expired-broker-stays", "a name server never forgets a broker that says nothing any more"),
    ("kv-answered-before-saved", "a name server answers a change of its key-value configuration before it is on disk"),
    (
        "empty-route-accepted",
        "a client gives a route up because one of its name servers, just started, knows nothing yet",
    ),
    ("responses-swapped", "a producer takes the answer to one send for that of another to the same queue"),
    ("retry-without-time", "a producer tries again although the time of the send is over"),
    ("close-drops-in-flight", "a producer that is closed does not end what is under way"),
    ("unknown-taken-for-ok", "a producer takes FLUSH_DISK_TIMEOUT for a message that is kept"),
    ("offset-before-processing", "a consumer commits what it has handed out, not what was processed"),
    ("pull-started-twice", "a consumer that keeps a queue when queues are shared anew begins a second pull of it"),
    (
        "last-offset-skips",
        "a new group that begins at the end asks for it before it is announced, keeps it nowhere, and passes over the first messages of new queues",
    ),
    ("removed-queue-still-delivers", "a consumer goes on to deliver messages of a queue that it has given away"),
    ("later-moves-offset", "a message that a listener wants again later does not hold the offset"),
    ("second-sync-believed", "a sync that failed is tried again, and its second answer believed"),
    (
        "lanes-fail-apart",
        "a lane goes on after a call of the other one has failed, and syncs the file whose error that one was told",
    ),
    ("short-write-ignored", "a write that failed in the middle counts as done"),
    ("failed-job-forgotten", "a job that failed is forgotten: the store neither stops nor goes on"),
    ("waiters-left-behind", "when the disk has failed, nobody tells those who wait for it"),
    ("unknown-answered-as-refusal", "what was appended and is not known to be kept is answered as refused"),
    ("failed-broker-stays-registered", "a broker whose disk has failed does not leave the name servers"),
    ("full-taken-for-failed", "no space for something that can wait is taken for a failed disk"),
    ("unflushed-visible", "consumers are shown what is appended and not yet flushed"),
    ("wait-false-honoured", "a message that says WAIT=false is answered before it is kept"),
    ("ack-from-memory", "under ASYNC_FLUSH a message is answered before it is written"),
    ("offset-given-twice", "messages that wait for the same flush get the same offset"),
    ("commit-answered-early", "a consumer's offset is confirmed before it is kept"),
    ("checkpoint-ahead", "the checkpoint says of bytes that they are durable when they are only appended"),
    ("snapshot-not-synced", "a snapshot gets its name before its content is durable"),
    ("rebuild-begins-too-late", "recovery begins where the log was durable, not where the index ends"),
    (
        "first-bad-record-ends-log",
        "recovery takes the first bad record for the end of the log, whatever stands behind it",
    ),
    ("torn-record-accepted", "recovery takes a record whose checksum fails"),
    ("missing-log-starts-empty", "a store whose log is gone starts anew"),
    ("missing-segment-skipped", "recovery does not mind a segment that is missing in the middle"),
    ("damaged-bytes-served", "consumers are served records whose checksum fails"),
    ("damaged-record-skipped", "a pull that comes upon a damaged record says to go on behind it"),
    ("queue-minimum-stays", "retention removes segments, and queues still begin in them"),
    ("stamps-follow-the-clock", "a record is stamped with a clock that was set back"),
    ("lock-by-wall-clock", "queue locks end by the wall clock"),
];

#[cfg(feature = "planted")]
mod armed {
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Index into `BUGS` plus one; zero is none.
    static ARMED: AtomicUsize = AtomicUsize::new(0);

    /// Switches `bug` on for the whole process, or every bug off with `None`. False: there is no bug of that name.
    pub fn arm(bug: Option<&str>) -> bool {
        let index = match bug {
            None => 0,
            Some(name) => match super::BUGS.iter().position(|(n, _)| *n == name) {
                None => return false,
                Some(index) => index + 1,
            },
        };
        ARMED.store(index, Ordering::Relaxed);
        true
    }

    /// Whether `bug` is the one that is switched on.
    pub fn is_armed(bug: &str) -> bool {
        match ARMED.load(Ordering::Relaxed) {
            0 => false,
            index => super::BUGS[index - 1].0 == bug,
        }
    }
}

#[cfg(feature = "planted")]
pub use armed::{arm, is_armed};

/// In a shipped build no bug is ever armed; the branch that asks is compiled away.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn is_armed(_bug: &str) -> bool {
    false
}

/// Whether the named deliberate mistake is switched on; `false` and free of cost in every shipped build.
#[macro_export]
macro_rules! planted {
    ($bug:literal) => {
        $crate::planted::is_armed($bug)
    };
}
