//! What happened, line by line, as a hash and on demand as text; and which rare things happened at all.

use std::fmt::Write;

/// Everything that happens goes through here. Equal hashes: equal runs.
pub(crate) struct Trace {
    hash: u64,
    lines: u64,
    print: bool,
    buffer: String,
}

impl Trace {
    pub(crate) fn new(print: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, lines: 0, print, buffer: String::new() }
    }

    /// One line.
    pub(crate) fn line(&mut self, now: u64, what: std::fmt::Arguments<'_>) {
        self.buffer.clear();
        self.buffer.write_fmt(what).expect("memory takes any text");
        self.lines += 1;
        self.hash = fold(self.hash ^ now, self.buffer.as_bytes());
        if self.print {
            println!("{:>12.6} {}", now as f64 / 1e9, self.buffer);
        }
    }

    /// Bytes that belong to the last line, too many to print.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.hash = fold(self.hash, bytes);
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn lines(&self) -> u64 {
        self.lines
    }
}

/// Eight bytes at a time: multiply, so that every bit of the input reaches the upper bits, and turn them down again.
fn fold(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut mix = |word: u64| {
        hash = (hash ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        hash ^= hash >> 29;
    };
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        mix(u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(u64::from_le_bytes(last) ^ (bytes.len() as u64) << 56);
    hash
}

macro_rules! rare {
    ($($name:ident = $text:literal,)*) => {
        /// Things that seldom happen. Over many seeds each must happen, or the seeds prove less than they seem to.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Rare {
            $($name,)*
        }

        /// Their names, in order.
        pub const RARE: &[&str] = &[$($text,)*];
    };
}

rare! {
    Rolled = "a segment was rolled",
    TornTailCut = "a torn tail was cut",
    BatchCut = "a batch was cut as a whole",
    SnapshotWritten = "a snapshot was written",
    SnapshotLoaded = "a snapshot was loaded",
    SecondGeneration = "the older snapshot was used",
    SegmentRemoved = "retention removed a segment",
    EmptiedQueueContinued = "a queue emptied by retention went on",
    CutInFlush = "the power was cut inside a flush",
    CutInRoll = "the power was cut inside a roll",
    CutInSnapshot = "the power was cut inside a snapshot",
    CutInRecovery = "the power was cut inside a recovery",
    KilledInRecovery = "the process was killed inside a recovery",
    Fenced = "an I/O error fenced the store",
    FencedWaiting = "an I/O error fenced a store that others waited for",
    FencedParked = "an I/O error fenced a store on which a pull was parked",
    FencedBoth = "an I/O error fenced a store while the other lane had a job under way",
    FailedWrite = "a write failed",
    ShortWrite = "a write failed in the middle",
    FailedSync = "a sync failed",
    FailedSyncLog = "a sync of the log failed",
    FailedSyncDir = "a sync of a folder failed",
    FailedCreate = "a file could not be made",
    FailedRename = "a rename failed",
    FailedRemove = "a removal failed",
    FailedRead = "a read failed",
    FailedInRecovery = "an I/O error ended a recovery",
    FailedKept = "what a failed flush was to write was there after the restart",
    FailedLost = "what a failed flush was to write was gone after the restart",
    FullRefused = "a full disk refused a new file",
    FullSegment = "there was no space for the next segment",
    FullBlocks = "there was no space for the queue index",
    FullSnapshot = "there was no space for a snapshot",
    FullSend = "a send was refused because the disk was full",
    FullTakenAgain = "a broker whose disk had been full took a message again without a restart",
    FullRecovered = "a disk that was full took messages again",
    BusyRefused = "SYSTEM_BUSY was answered",
    TakenAgain = "a message was taken after others were refused as too much",
    FlushTimeout = "FLUSH_DISK_TIMEOUT was answered",
    TimedOutAppeared = "a message answered with FLUSH_DISK_TIMEOUT appeared",
    TimedOutLost = "a message answered with FLUSH_DISK_TIMEOUT never appeared",
    LongPollWoken = "a long poll was woken",
    LongPollTimedOut = "a long poll timed out",
    IndexFileBegun = "a file of the queue index was begun",
    IndexFileRemoved = "a file of the queue index was removed",
    ColdIndex = "queue entries were read from disk while the broker ran",
    ServedLater = "a pull waited for the device",
    StaleClosed = "the end of an old broker connection reached a name server after the new registration",
    StaleUnregister = "an old unregistration reached a name server after the new registration",
    NameServerRestarted = "a name server lost everything",
    KvLate = "a name server was killed inside a save of its configuration, which was kept all the same",
    KvLost = "a name server was killed inside a save of its configuration, which was lost",
    KvRefused = "a name server could not save its configuration, and said so",
    KvUnknown = "a name server did not know whether its configuration was saved, and ended",
    KvTogether = "changes of a name server's configuration went to disk together",
    BinaryHeader = "a binary header was answered",
    BatchKept = "a batch was kept",
    OffsetMoved = "PULL_OFFSET_MOVED was answered",
    AsyncTailLost = "ASYNC_FLUSH lost its unsynced tail in a power cut",
    UnackedSurvived = "a message without an answer survived a crash",
    CleanStop = "a broker stopped cleanly",
    DeletedUnrouted = "a deleted topic was in no route",
    BrokerGone = "a stopped broker left the routes",
    TopicDeleted = "a topic was deleted",
    TopicCreatedAgain = "a deleted topic was created again",
    RotRefused = "a rotten store refused to open",
    RotReported = "a rotten message was reported by a read",
    RotCut = "rot above the durable mark was cut off",
    RotHarmless = "a store opened whose rot takes nothing away",
    NameLost = "a file's name was lost",
    IndexLost = "the whole index and every snapshot were lost",
    LogLost = "the whole folder of the log was lost",
    HalfOpen = "one end of a connection learned late of its end",
    Partitioned = "a partition began",
    WallSteppedBack = "a wall clock was set back",
    WallSteppedDays = "a wall clock was set by days",
    WallSteppedYears = "a wall clock was set by years",
    WallSteppedBetween = "a wall clock was set between two lives of a broker",
    StampHeld = "a message got the time of the one before it, later than the clock",
    FoundByTime = "a message was found by its time where the clock had been set",
    CommitSurvived = "a confirmed consumer offset survived a crash",
    ClientsTold = "a client was told that the members of its group changed",
    MemberExpired = "a silent member was forgotten",
    LockRefused = "a lock was refused",
    LockPassedOn = "a lock passed from one member to another",
    GroupSettled = "the members of a group agreed again",
    SentAgain = "a send was kept after an attempt that failed",
    UnknownFound = "a message whose end was unknown was found",
    UnknownAbsent = "a message whose end was unknown was not found",
    TwoCopies = "a send that was tried again left two copies",
    SendRefused = "a send was refused",
    WindowFull = "a send was refused because too many were under way",
    ClosedInFlight = "a producer was closed with sends in flight",
    ProducerCrashed = "a producer crashed with sends in flight",
    OnewayKept = "a oneway message was kept",
    BatchReceipts = "a batch gave a receipt for each message",
    Gathered = "sends of one turn shared a request",
    CompressedDelivered = "a compressed message was delivered",
    LostWhileRunning = "a queue was given away while a listener ran",
    LaterThenSuccess = "a message that a listener wanted later was processed",
    RepeatedAfterCrash = "a message came again because a consumer had crashed",
    RepeatedAfterRebalance = "a message came again because its queue had passed on",
    RepeatedUncommitted = "a message came again because a closed consumer could not commit it",
    ClosedUncommitted = "a consumer was closed that could not commit",
    CommitLowered = "a member that came late lowered its group's offset",
    MemberPaused = "a consumer stood still for longer than it is remembered",
    ProducerPaused = "a producer stood still",
    RouteKept = "a route was kept while a name server had only just started",
    TopicOfFirstMessage = "the first message created a topic",
    BeganAtEnd = "a new group began behind the last message",
    CommitSettled = "a closed consumer's offsets were found at the broker",
    PulledByHand = "a pull consumer read a queue to its end",
}

/// The first of [`RARE`] that only the world of clients has; it has none of the others.
pub const OF_CLIENTS: usize = Rare::SentAgain as usize;

/// How often each rare thing happened.
pub type Counts = [u64; RARE.len()];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_line_another_order_or_another_time_is_another_hash() {
        let hash = |lines: &[(u64, &str)]| {
            let mut trace = Trace::new(false);
            lines.iter().for_each(|(now, text)| trace.line(*now, format_args!("{text}")));
            trace.hash()
        };
        let one = hash(&[(1, "a"), (2, "b")]);
        assert_eq!(one, hash(&[(1, "a"), (2, "b")]));
        for other in
            [&[(1, "b"), (2, "a")][..], &[(1, "a"), (3, "b")], &[(1, "a")], &[(1, "ab")], &[(1, "a"), (2, "b\0")]]
        {
            assert_ne!(one, hash(other), "{other:?}");
        }
    }
}
