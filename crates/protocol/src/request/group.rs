use crate::header;
use crate::header::Str;

header! {
    /// UNREGISTER_CLIENT 35.
    pub struct Unregister<'b> {
        /// The client.
        pub client_id: Str<'b> = "clientID",
        /// A producer group that it leaves.
        pub producer_group: Option<Str<'b>> = "producerGroup",
        /// A consumer group that it leaves.
        pub consumer_group: Option<Str<'b>> = "consumerGroup",
    }
}
header! {
    /// GET_CONSUMER_LIST_BY_GROUP 38.
    pub struct ConsumerList<'b> {
        /// The group.
        pub group: Str<'b> = "consumerGroup",
    }
}
header! {
    /// NOTIFY_CONSUMER_IDS_CHANGED 40.
    pub struct ConsumersChanged<'b> {
        /// The group whose members have changed.
        pub group: Str<'b> = "consumerGroup",
    }
}
