//! # keepmq-protocol: names, offsets, messages, records and every frame on the wire
//!
//! Floor 0: pure data and codecs. Nothing here waits, decides or remembers.
//!
//! The nouns: a [`Topic`] has queues; a [`MessageQueue`] is one of them, on one broker. A message in a queue is found by its
//! [`QueueOffset`] (counts messages), in the log by its [`LogOffset`] (counts bytes); the two never convert.
//! A [`frame`] carries a [`Request`] or a [`Response`]; a [`record`] is a message as it lies on disk and in pull replies.
//!
//! [`seam`] is the one contract between a core and whoever drives it.
//!
//! Sources of the formats: Apache RocketMQ 4.9 and 5.3 (remoting protocol, commit log), cited at each item.
#![forbid(unsafe_code)]

pub mod change;
pub mod seam;

mod name;
mod offset;
mod queue;
pub use name::{
    BrokerName, ConsumerGroup, DLQ_PREFIX, META_TOPIC, NameError, OWN_PREFIX, RETRY_PREFIX, Topic, retry_topic,
};
pub use offset::{LogOffset, QueueOffset};
pub use queue::MessageQueue;

pub mod message;
pub mod record;

pub mod frame;
pub mod header;
pub mod request;
pub mod response;
pub use request::Request;
pub use response::{Response, ResponseCode};

pub mod body;
pub mod json;
