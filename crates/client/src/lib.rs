//! # keepmq-client: send and consume, and know what became of it
//!
//! An async client for KeepMQ and for Apache RocketMQ 4.9 and 5.x, on tokio.
//!
//! ```no_run
//! use keepmq_client::{Message, Producer, PushConsumer, Verdict};
//! use std::time::Duration;
//!
//! # async fn story() -> Result<(), Box<dyn std::error::Error>> {
//! let producer = Producer::builder("127.0.0.1:9876", "orders-producer").start().await?;
//! let receipt = producer.send(Message::new("orders", "42")?.tag("created")?).await?; // Ok: it is kept
//! println!("{} at offset {}", receipt.message_id, receipt.offset);
//!
//! let consumer = PushConsumer::builder("127.0.0.1:9876", "billing")
//!     .subscribe("orders", "created || paid")
//!     .start(|messages| async move {
//!         println!("{} messages", messages.len());
//!         Verdict::Success // only now the group's offset passes them
//!     })
//!     .await?;
//! consumer.close(Duration::from_secs(10)).await;
//! producer.close(Duration::from_secs(10)).await;
//! # Ok(())
//! # }
//! ```
//!
//! - **`Ok` means SEND_OK**, nothing less. [`SendError::Refused`] means that the message was not stored and never will be;
//!   [`SendError::Unknown`] that nobody can say, and that sending it again may make a second copy, under another id.
//! - A consumer's offset passes a message only after the listener has said [`Verdict::Success`]; a panic is
//!   [`Verdict::Later`].
//! - What is closed says what it did. What is dropped instead ends at once, and logs what that cut off.
//!
//! Clients are started and awaited inside a tokio runtime of either kind, with its timers enabled (`enable_all`); listeners run
//! there. Callbacks of [`Producer::send_async`] run on the producer's own thread, and must not block.
//!
//! Each producer and each consumer is a state machine of its own (`keepmq-client-core`) on a thread of its own with its own
//! connections; two in one process share nothing. Decisions are made there, this crate only waits for them.
#![forbid(unsafe_code)]

mod admin;
mod driver;
mod error;
mod producer;
mod pull_consumer;
mod push_consumer;

pub use admin::{Admin, AdminError, QueueLag, QueueStats};
pub use error::StartError;
pub use producer::{Producer, ProducerBuilder};
pub use pull_consumer::{PullConsumer, PullConsumerBuilder, PullError};
pub use push_consumer::{PushConsumer, PushConsumerBuilder};

pub use keepmq_client_core::assign::Strategy;
pub use keepmq_client_core::{
    ClientConfig, ConsumeFrom, ConsumerReport, Message, MessageError, MessageExt, MessageModel, Peer, ProducerConfig,
    ProducerReport, PullConfig, PushConfig, Receipt, Received, Route, RouteError, SeekTo, SendError, Subscription,
    Target, Verdict,
};
pub use keepmq_protocol::body::{ClusterInfo, SubscriptionGroup, TopicConfig};
pub use keepmq_protocol::{BrokerName, MessageQueue, QueueOffset, Topic};
pub use keepmq_world::Timestamp;
