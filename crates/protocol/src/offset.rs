use std::fmt;

/// A position in the commit log, in bytes since its beginning (RocketMQ: physical offset, commit log offset).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogOffset(pub u64);

/// A position in one queue, in messages since its beginning (RocketMQ: queue offset, logical offset).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct QueueOffset(pub u64);

impl QueueOffset {
    /// The offset behind this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// As RocketMQ writes it on the wire. Offsets stay below 2^63: a log would need centuries to get there.
    pub fn wire(self) -> i64 {
        i64::try_from(self.0).expect("queue offsets stay below 2^63")
    }
}

impl LogOffset {
    /// As RocketMQ writes it on the wire.
    pub fn wire(self) -> i64 {
        i64::try_from(self.0).expect("log offsets stay below 2^63")
    }
}

impl fmt::Display for LogOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for QueueOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
