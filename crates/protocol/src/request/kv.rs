use crate::header;
use crate::header::Str;

header! {
    /// PUT_KV_CONFIG 100.
    pub struct KvEntry<'b> {
        /// Its namespace; `ORDER_TOPIC_CONFIG` is RocketMQ's own.
        pub namespace: Str<'b> = "namespace",
        /// Its key.
        pub key: Str<'b> = "key",
        /// Its value.
        pub value: Str<'b> = "value",
    }
}
header! {
    /// GET_KV_CONFIG 101 and DELETE_KV_CONFIG 102.
    pub struct KvName<'b> {
        /// The namespace.
        pub namespace: Str<'b> = "namespace",
        /// The key.
        pub key: Str<'b> = "key",
    }
}
header! {
    /// GET_KVLIST_BY_NAMESPACE 219.
    pub struct KvNamespace<'b> {
        /// The namespace.
        pub namespace: Str<'b> = "namespace",
    }
}
