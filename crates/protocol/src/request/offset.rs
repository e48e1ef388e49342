use crate::header;
use crate::header::Str;

header! {
    /// QUERY_CONSUMER_OFFSET 14.
    pub struct QueryOffset<'b> {
        /// Whose offset.
        pub group: Str<'b> = "consumerGroup",
        /// In which topic.
        pub topic: Str<'b> = "topic",
        /// In which queue.
        pub queue_id: i32 = "queueId",
        /// 5.x: false asks for QUERY_NOT_FOUND instead of a guess of 0.
        pub zero_if_not_found: Option<bool> = "setZeroIfNotFound",
    }
}
header! {
    /// UPDATE_CONSUMER_OFFSET 15.
    pub struct UpdateOffset<'b> {
        /// Whose offset.
        pub group: Str<'b> = "consumerGroup",
        /// In which topic.
        pub topic: Str<'b> = "topic",
        /// In which queue.
        pub queue_id: i32 = "queueId",
        /// The next offset that the group wants.
        pub offset: i64 = "commitOffset",
        /// Ours; RocketMQ's brokers do not know it, and ignore it. True: when the group has an offset there, it stays as it is,
        /// and the answer is SUCCESS all the same.
        pub if_absent: Option<bool> = "keepmqIfAbsent",
    }
}
header! {
    /// SEARCH_OFFSET_BY_TIMESTAMP 29.
    pub struct SearchOffset<'b> {
        /// In which topic.
        pub topic: Str<'b> = "topic",
        /// In which queue.
        pub queue_id: i32 = "queueId",
        /// Store time, milliseconds.
        pub timestamp: i64 = "timestamp",
        /// `lower` (also absent): the first at or after; `upper`: the last at or before.
        pub boundary: Option<Str<'b>> = "boundaryType",
    }
}
header! {
    /// GET_MAX_OFFSET 30.
    pub struct MaxOffset<'b> {
        /// In which topic.
        pub topic: Str<'b> = "topic",
        /// In which queue.
        pub queue_id: i32 = "queueId",
        /// Ignored: nothing beyond the commit point is shown to anybody.
        pub committed: Option<bool> = "committed",
    }
}
header! {
    /// GET_MIN_OFFSET 31.
    pub struct MinOffset<'b> {
        /// In which topic.
        pub topic: Str<'b> = "topic",
        /// In which queue.
        pub queue_id: i32 = "queueId",
    }
}
header! {
    /// GET_EARLIEST_MSG_STORETIME 32.
    pub struct EarliestTime<'b> {
        /// In which topic.
        pub topic: Str<'b> = "topic",
        /// In which queue.
        pub queue_id: i32 = "queueId",
    }
}
header! {
    /// VIEW_MESSAGE_BY_ID 33.
    pub struct ViewMessage<'b> {
        /// 5.x.
        pub topic: Option<Str<'b>> = "topic",
        /// Position in the log.
        pub offset: i64 = "offset",
    }
}
