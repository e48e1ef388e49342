use crate::header;
use crate::header::Str;

header! {
    /// UPDATE_AND_CREATE_TOPIC 17.
    pub struct CreateTopic<'b> {
        /// The topic.
        pub topic: Str<'b> = "topic",
        /// The topic it is made after.
        pub default_topic: Option<Str<'b>> = "defaultTopic",
        /// Queues to read from.
        pub read_queues: i32 = "readQueueNums",
        /// Queues to write to.
        pub write_queues: i32 = "writeQueueNums",
        /// Permission bits: 4 read, 2 write, 1 inherit.
        pub perm: i32 = "perm",
        /// `SINGLE_TAG` or `MULTI_TAG`.
        pub filter_type: Option<Str<'b>> = "topicFilterType",
        /// Unit bits.
        pub sys_flag: Option<i32> = "topicSysFlag",
        /// Ordered topic.
        pub order: bool = "order",
        /// `+name=value,-name` (5.x).
        pub attributes: Option<Str<'b>> = "attributes",
    }
}
header! {
    /// DELETE_TOPIC_IN_BROKER 215 and DELETE_TOPIC_IN_NAMESRV 216.
    pub struct DeleteTopic<'b> {
        /// The topic.
        pub topic: Str<'b> = "topic",
        /// 216 only: in this cluster alone.
        pub cluster: Option<Str<'b>> = "clusterName",
    }
}
header! {
    /// DELETE_SUBSCRIPTIONGROUP 207.
    pub struct DeleteGroup<'b> {
        /// The group.
        pub group: Str<'b> = "groupName",
        /// Its offsets, too.
        pub clean_offsets: bool = "cleanOffset",
    }
}
header! {
    /// GET_TOPIC_STATS_INFO 202.
    pub struct TopicStats<'b> {
        /// The topic.
        pub topic: Str<'b> = "topic",
    }
}
header! {
    /// GET_CONSUME_STATS 208.
    pub struct GroupStats<'b> {
        /// The group.
        pub group: Str<'b> = "consumerGroup",
        /// One topic; absent or empty: all.
        pub topic: Option<Str<'b>> = "topic",
    }
}
