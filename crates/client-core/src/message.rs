//! A message on its way out. Source: RocketMQ `Message`, `Validators`, `MessageConst`.

use bytes::Bytes;
use keepmq_protocol::message::{NAME_END, VALUE_END, push};
use keepmq_protocol::{NameError, Topic};

/// Names of properties that only RocketMQ's own parts may set; a user's property of such a name would change what happens to
/// the message, or be lost. Source: RocketMQ `MessageConst.STRING_HASH_SET`.
const RESERVED: &[&str] = &[
    "TRACE_ON",
    "MSG_REGION",
    "KEYS",
    "TAGS",
    "WAIT",
    "DELAY",
    "RETRY_TOPIC",
    "REAL_TOPIC",
    "REAL_QID",
    "TRAN_MSG",
    "PGROUP",
    "MIN_OFFSET",
    "MAX_OFFSET",
    "BUYER_ID",
    "ORIGIN_MESSAGE_ID",
    "TRANSFER_FLAG",
    "CORRECTION_FLAG",
    "MQ2_FLAG",
    "RECONSUME_TIME",
    "UNIQ_KEY",
    "MAX_RECONSUME_TIMES",
    "CONSUME_START_TIME",
    "POP_CK",
    "POP_CK_OFFSET",
    "1ST_POP_TIME",
    "TRAN_PREPARED_QUEUE_OFFSET",
    "DUP_INFO",
    "EXTEND_UNIQ_INFO",
    "INSTANCE_ID",
    "CORRELATION_ID",
    "REPLY_TO_CLIENT",
    "TTL",
    "ARRIVE_TIME",
    "PUSH_REPLY_TIME",
    "CLUSTER",
    "MSG_TYPE",
    "INNER_MULTI_QUEUE_OFFSET",
    "INNER_MULTI_DISPATCH",
    "INNER_NUM",
    "INNER_BASE",
    "TIMER_DELAY_SEC",
    "TIMER_DELIVER_MS",
    "TIMER_DELAY_MS",
    "__CRC32#",
    "__BATCHN#",
    "__SHARDINGKEY",
];
/// Where a sharding key stands, for consumers that want to see it. Source: RocketMQ `PROPERTY_SHARDING_KEY`.
const SHARDING_KEY: &str = "__SHARDINGKEY";
/// Longest property string: its length has 15 bits in a record.
pub(crate) const PROPERTIES_MAX: usize = 32_767;

/// A message to be sent. Cheap to clone: the body is shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    topic: Topic,
    body: Bytes,
    /// The property string as it goes out, without the id.
    properties: String,
    flag: i32,
    sharding_key: Option<String>,
}

/// Why a message cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The topic has no legal name.
    #[error(transparent)]
    Topic(#[from] NameError),
    /// RocketMQ stores no message without a body.
    #[error("the body is empty; a message has at least one byte")]
    Empty,
    /// More than this producer sends (maxMessageSize).
    #[error("the body has {len} bytes; the limit is {max}")]
    TooLarge {
        /// Bytes of the body.
        len: usize,
        /// What is allowed.
        max: usize,
    },
    /// The name or the value of a property.
    #[error("the property {name:?} is illegal: {why}")]
    Property {
        /// Its name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// All properties together.
    #[error("the properties have {len} bytes; the limit is {PROPERTIES_MAX}")]
    Properties {
        /// Bytes of the property string.
        len: usize,
    },
    /// Messages of different topics cannot go as one batch.
    #[error("a batch has one topic; this one has {0} and {1}")]
    Topics(Topic, Topic),
}

impl Message {
    /// A message for `topic`.
    pub fn new(topic: &str, body: impl Into<Bytes>) -> Result<Self, MessageError> {
        let body = body.into();
        if body.is_empty() {
            return Err(MessageError::Empty);
        }
        Ok(Self { topic: Topic::new(topic)?, body, properties: String::new(), flag: 0, sharding_key: None })
    }

    /// With this tag, by which consumers choose. A message has one.
    pub fn tag(self, tag: &str) -> Result<Self, MessageError> {
        self.with("TAGS", tag)
    }

    /// With these keys, by which it is found. They are separated by spaces, so none may have one.
    pub fn keys<'k>(self, keys: impl IntoIterator<Item = &'k str>) -> Result<Self, MessageError> {
        let keys: Vec<&str> = keys.into_iter().collect();
        if keys.iter().any(|key| key.is_empty() || key.contains(' ')) {
            return Err(MessageError::Property { name: "KEYS".to_owned(), why: "a key is empty or has a space in it" });
        }
        self.with("KEYS", &keys.join(" "))
    }

    /// With a property of the user's own.
    pub fn property(self, name: &str, value: &str) -> Result<Self, MessageError> {
        if RESERVED.contains(&name) || name.starts_with("__RMQ.") {
            return Err(MessageError::Property { name: name.to_owned(), why: "the name belongs to RocketMQ" });
        }
        self.with(name, value)
    }

    /// Messages of one key go to one queue, and are consumed in the order in which they were kept.
    pub fn sharding_key(mut self, key: &str) -> Result<Self, MessageError> {
        self.sharding_key = Some(key.to_owned());
        self.with(SHARDING_KEY, key)
    }

    /// With the user's own number.
    #[must_use]
    pub fn flag(self, flag: i32) -> Self {
        Self { flag, ..self }
    }

    fn with(mut self, name: &str, value: &str) -> Result<Self, MessageError> {
        let illegal = |why| MessageError::Property { name: name.chars().take(100).collect(), why };
        if name.trim().is_empty() || value.trim().is_empty() {
            return Err(illegal("name and value must not be blank"));
        }
        let separator = |byte| byte == NAME_END || byte == VALUE_END;
        if name.bytes().any(separator) || value.bytes().any(separator) {
            return Err(illegal("the characters U+0001 and U+0002 separate properties"));
        }
        push(&mut self.properties, name, value);
        match self.properties.len() {
            len if len > PROPERTIES_MAX => Err(MessageError::Properties { len }),
            _ => Ok(self),
        }
    }

    /// Where it goes.
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// What it says.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The property string, without the id.
    pub(crate) fn properties(&self) -> &str {
        &self.properties
    }

    /// The user's own number.
    pub(crate) fn user_flag(&self) -> i32 {
        self.flag
    }

    /// The key that chooses its queue.
    pub(crate) fn shard(&self) -> Option<&str> {
        self.sharding_key.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_misread_is_refused() {
        let message = || Message::new("T", "body").unwrap();
        for (name, value) in
            [("", "v"), (" ", "v"), ("n", ""), ("a\u{1}b", "v"), ("n", "v\u{2}"), ("UNIQ_KEY", "v"), ("TAGS", "v")]
        {
            assert!(
                matches!(message().property(name, value), Err(MessageError::Property { .. })),
                "{name:?}={value:?}"
            );
        }
        assert!(message().keys(["a b"]).is_err());
        assert_eq!(Message::new("T", ""), Err(MessageError::Empty));
        assert!(matches!(Message::new("a/b", "x"), Err(MessageError::Topic(_))));
        let full =
            message().tag("t").and_then(|m| m.keys(["k1", "k2"])).and_then(|m| m.property("colour", "red")).unwrap();
        assert_eq!(full.properties(), "TAGS\u{1}t\u{2}KEYS\u{1}k1 k2\u{2}colour\u{1}red\u{2}");
        let long = "x".repeat(PROPERTIES_MAX);
        assert!(matches!(message().property("n", &long), Err(MessageError::Properties { .. })));
    }
}
