use crate::header;
use crate::header::Str;

header! {
    /// PULL_MESSAGE 11, LITE_PULL_MESSAGE 361. Source: RocketMQ `PullMessageRequestHeader`, `PullSysFlag`.
    pub struct Pull<'b> {
        /// Who pulls.
        pub group: Str<'b> = "consumerGroup",
        /// From which topic.
        pub topic: Str<'b> = "topic",
        /// From which queue.
        pub queue_id: i32 = "queueId",
        /// From which offset on.
        pub offset: i64 = "queueOffset",
        /// At most so many messages.
        pub max_messages: i32 = "maxMsgNums",
        /// See [`PullFlags`].
        pub sys_flag: i32 = "sysFlag",
        /// The group's offset, when the flag says so.
        pub commit_offset: i64 = "commitOffset",
        /// How long the broker may hold the request, milliseconds.
        pub suspend_ms: i64 = "suspendTimeoutMillis",
        /// Filter, when the flag says so.
        pub subscription: Option<Str<'b>> = "subscription",
        /// Version of the subscription that the client has.
        pub sub_version: i64 = "subVersion",
        /// `TAG` (also absent, empty) or `SQL92`.
        pub expression_type: Option<Str<'b>> = "expressionType",
        /// At most so many bytes (5.x).
        pub max_bytes: Option<i32> = "maxMsgBytes",
    }
}

impl Pull<'_> {
    /// As one that came under the code of a lite pull, whatever its flag says.
    pub(super) fn lite(self) -> Self {
        Self { sys_flag: self.sys_flag | LITE, ..self }
    }
}

/// Bit of a pull that is sent with LITE_PULL_MESSAGE 361.
const LITE: i32 = 0x10;

/// Bits of [`Pull::sys_flag`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PullFlags(pub i32);

impl PullFlags {
    /// `commit_offset` is to be stored.
    pub fn commit(self) -> bool {
        self.0 & 1 != 0
    }
    /// The request may be held until there is something.
    pub fn suspend(self) -> bool {
        self.0 & 2 != 0
    }
    /// The filter in the header holds, not the one in the heartbeat.
    pub fn subscription(self) -> bool {
        self.0 & 4 != 0
    }
    /// From a consumer that polls by itself: LITE_PULL_MESSAGE 361.
    pub fn lite(self) -> bool {
        self.0 & LITE != 0
    }
}
