//! Deliberate mistakes, to see that the checks bite.
//!
//! `if planted!("ack-before-flush") { … }` is `if false` unless the feature `planted` is on, which no shipped build has.
//! In a test build one mistake at a time is chosen at run time, for the whole process, with [`arm`].

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
    ("mark-ahead-of-log", "the checkpoint says that more of the log is durable than was synced"),
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
