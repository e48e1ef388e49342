//! One request of a send: how it is written, and what its answer means.

use super::api::{ProducerConfig, Receipt};
use crate::message::Message;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use keepmq_protocol::header::Str;
use keepmq_protocol::message::{BatchItem, property, push, push_batch_item, sys_flag};
use keepmq_protocol::request::{Send, SendHeader, SendVia};
use keepmq_protocol::seam::{CallError, Outcome};
use keepmq_protocol::{MessageQueue, QueueOffset, Request, Response, ResponseCode};
use keepmq_world::{Timestamp, planted};
use std::io::Write;

/// Of a body: zlib. Source: RocketMQ `MessageSysFlag.COMPRESSION_ZLIB_TYPE`.
const ZLIB: i32 = 0x300;
/// RocketMQ's default level.
const LEVEL: u32 = 5;
/// Refusals of some of RocketMQ's brokers; ours never give them. Source: RocketMQ `ResponseCode`.
const NO_BUYER_ID: i32 = 204;
const NOT_IN_CURRENT_UNIT: i32 = 205;

/// A message with its id.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) send: super::SendId,
    pub(super) message_id: String,
    pub(super) message: Message,
}

/// What is known when an attempt has ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// All of it is kept: a receipt for each.
    Kept(Vec<Receipt>),
    /// Nothing was sent.
    NotSent(String),
    /// Not kept.
    Refused {
        code: i32,
        why: String,
        /// Another broker, or this one a little later, may take it.
        again: bool,
        /// The broker has too much to do just now, or is just starting or ending.
        busy: bool,
    },
    /// Nobody knows.
    Unknown { code: Option<i32>, why: String },
}

/// The request that carries these messages to a queue.
pub(super) fn request(
    config: &ProducerConfig,
    items: &[Item],
    queue: &MessageQueue,
    wall: Timestamp,
) -> Request<'static> {
    let mut header = SendHeader {
        producer_group: config.group.clone().into(),
        topic: queue.topic.as_str().to_owned().into(),
        default_topic: "TBW102".into(),
        default_topic_queues: i32::try_from(config.default_topic_queues).unwrap_or(i32::MAX),
        queue_id: i32::try_from(queue.id).expect("a route has at most 65,536 queues"),
        sys_flag: 0,
        born_at: wall.0,
        flag: 0,
        properties: None,
        reconsume_times: Some(0),
        unit_mode: false,
        max_reconsume_times: None,
        batch: items.len() > 1,
        broker_name: Some(queue.broker.as_str().to_owned().into()),
    };
    let (via, body) = if let [item] = items {
        header.flag = item.message.user_flag();
        header.properties = Some(properties(item).into());
        (SendVia::V2, body(config, item, &mut header.sys_flag))
    } else {
        header.properties = Some(String::new().into());
        let mut body = Vec::with_capacity(items.iter().map(size).sum());
        for item in items {
            let (flag, properties) = (item.message.user_flag(), properties(item));
            push_batch_item(&mut body, &BatchItem { flag, body: item.message.body(), properties: &properties });
        }
        (SendVia::Batch, body)
    };
    Request::Send(Send { via, header, body: body.into() })
}

/// Bytes that a message adds to a batch, or a little more.
pub(super) fn size(item: &Item) -> usize {
    64 + item.message.body().len() + item.message.properties().len() + item.message_id.len()
}

fn properties(item: &Item) -> String {
    let mut properties = String::with_capacity(properties_len(item));
    push(&mut properties, property::UNIQ_KEY, &item.message_id);
    push(&mut properties, property::WAIT, "true");
    properties.push_str(item.message.properties());
    properties
}

/// Bytes of the property string with all that is added to the user's.
pub(super) fn properties_len(item: &Item) -> usize {
    let added = [(property::UNIQ_KEY, item.message_id.as_str()), (property::WAIT, "true")];
    added.iter().map(|(name, value)| name.len() + value.len() + 2).sum::<usize>() + item.message.properties().len()
}

/// The body as it goes out. It is made anew from the message for every attempt: what was compressed must not be compressed again.
fn body(config: &ProducerConfig, item: &Item, flags: &mut i32) -> Vec<u8> {
    let body = item.message.body();
    if body.len() < config.compress_over {
        return body.to_vec();
    }
    let mut zlib = ZlibEncoder::new(Vec::with_capacity(body.len() / 2), Compression::new(LEVEL));
    zlib.write_all(body).and_then(|()| zlib.finish()).map_or_else(
        |_| body.to_vec(),
        |packed| {
            *flags |= sys_flag::COMPRESSED | ZLIB;
            packed
        },
    )
}

/// What the end of a call says of the messages that it carried to a queue.
pub(super) fn ended(outcome: &Outcome, items: &[Item], queue: &MessageQueue, attempts: u32) -> Ended {
    match outcome {
        Err(error @ CallError::Unreachable { .. }) => Ended::NotSent(error.to_string()),
        Err(error @ CallError::Lost { .. }) => Ended::Unknown { code: None, why: error.to_string() },
        Ok(response) => answered(response, items, queue, attempts),
    }
}

fn answered(response: &Response, items: &[Item], queue: &MessageQueue, attempts: u32) -> Ended {
    let code = response.code;
    let why = || {
        let remark = response.remark.as_deref().unwrap_or("no reason is given");
        format!("broker {} answers with code {code}: {remark}", queue.broker)
    };
    match ResponseCode::from_wire(code) {
        Some(ResponseCode::Success) => kept(response, items, queue, attempts),
        Some(ResponseCode::FlushDiskTimeout) if planted!("unknown-taken-for-ok") => {
            kept(response, items, queue, attempts)
        }
        Some(ResponseCode::SystemBusy | ResponseCode::ServiceNotAvailable) => {
            Ended::Refused { code, why: why(), again: true, busy: true }
        }
        // The last one: the queue does not exist, because the route is older than the topic's latest change.
        Some(ResponseCode::NoPermission | ResponseCode::TopicNotExist | ResponseCode::InvalidParameter) => {
            Ended::Refused { code, why: why(), again: true, busy: false }
        }
        Some(ResponseCode::MessageIllegal | ResponseCode::RequestCodeNotSupported) => {
            Ended::Refused { code, why: why(), again: false, busy: false }
        }
        None if [NO_BUYER_ID, NOT_IN_CURRENT_UNIT].contains(&code) => {
            Ended::Refused { code, why: why(), again: true, busy: false }
        }
        // Also SYSTEM_ERROR: RocketMQ gives it before and behind an append, and only its text would tell.
        _ => Ended::Unknown { code: Some(code), why: why() },
    }
}

/// Reads where it was kept. An answer that does not fit is not believed.
fn kept(response: &Response, items: &[Item], queue: &MessageQueue, attempts: u32) -> Ended {
    let fields = response.field::<i32>("queueId").and_then(|id| Ok((id, response.field::<i64>("queueOffset")?)));
    let unfit = |why: String| Ended::Unknown {
        code: Some(response.code),
        why: format!("broker {} says it is kept, but its answer does not fit: {why}", queue.broker),
    };
    let (id, first) = match fields {
        Ok(fields) => fields,
        Err(error) => return unfit(error.to_string()),
    };
    let Some(first) = u64::try_from(first).ok().filter(|_| u32::try_from(id) == Ok(queue.id)) else {
        return unfit(format!("queue {id}, offset {first}, where queue {} was asked", queue.id));
    };
    let ids = response.field::<Str<'_>>("msgId").unwrap_or_default();
    // A batch has an id for each message, separated by commas; some brokers give one for all.
    let mut ids = ids.split(',');
    let receipts = (first..).zip(items).map(|(offset, item)| Receipt {
        message_id: item.message_id.clone(),
        offset_message_id: ids.next().unwrap_or_default().to_owned(),
        queue: queue.clone(),
        offset: QueueOffset(offset),
        attempts,
    });
    Ended::Kept(receipts.collect())
}
