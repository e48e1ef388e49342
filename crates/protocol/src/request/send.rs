use crate::header;
use crate::header::{Fields, HeaderError, Str};
use std::borrow::Cow;

/// Which of the three codes carries a send. All mean the same; whether it is a batch says [`SendHeader::batch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendVia {
    /// SEND_MESSAGE 10, long names. Go's default.
    V1,
    /// SEND_MESSAGE_V2 310, short names. Java's default.
    V2,
    /// SEND_BATCH_MESSAGE 320, short names.
    Batch,
}

/// A message, or a batch of them, to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Send<'b> {
    /// The code it came with.
    pub via: SendVia,
    /// What the header says.
    pub header: SendHeader<'b>,
    /// The message's body, or the batch's items one behind the other.
    pub body: Cow<'b, [u8]>,
}

header! {
    /// Source: RocketMQ `SendMessageRequestHeader`, `SendMessageRequestHeaderV2`.
    pub struct SendHeader<'b> {
        /// Producer group.
        pub producer_group: Str<'b> = "producerGroup" | "a",
        /// Where to.
        pub topic: Str<'b> = "topic" | "b",
        /// The topic whose settings a new topic inherits; `TBW102` by default.
        pub default_topic: Str<'b> = "defaultTopic" | "c",
        /// Queues of a topic created by this send.
        pub default_topic_queues: i32 = "defaultTopicQueueNums" | "d",
        /// Queue; negative: any.
        pub queue_id: i32 = "queueId" | "e",
        /// Compression, transaction type.
        pub sys_flag: i32 = "sysFlag" | "f",
        /// Milliseconds, by the producer's clock.
        pub born_at: i64 = "bornTimestamp" | "g",
        /// The user's own.
        pub flag: i32 = "flag" | "h",
        /// Property string.
        pub properties: Option<Str<'b>> = "properties" | "i",
        /// Deliveries that failed before.
        pub reconsume_times: Option<i32> = "reconsumeTimes" | "j",
        /// Unit mode.
        pub unit_mode: bool = "unitMode" | "k",
        /// For retry topics: when to give up.
        pub max_reconsume_times: Option<i32> = "maxReconsumeTimes" | "l",
        /// The body is a batch.
        pub batch: bool = "batch" | "m",
        /// The broker meant.
        pub broker_name: Option<Str<'b>> = "bname" | "n",
    }
}

impl<'b> Send<'b> {
    /// Reads it.
    pub fn read(via: SendVia, fields: &Fields<'b>, body: &'b [u8]) -> Result<Self, HeaderError> {
        Ok(Self { via, header: SendHeader::read(fields)?, body: Cow::Borrowed(body) })
    }
}
