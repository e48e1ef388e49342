//! Messages that keep coming until they are stopped, and where each one lies that was acknowledged.

use crate::CLOSE;
use anyhow::{Context, Result};
use keepmq_client::{Message, Producer, Receipt, SendError};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// Queues of the topic that the first message creates.
const QUEUES: u32 = 8;

pub(crate) struct Flow {
    stopped: Arc<AtomicBool>,
    task: JoinHandle<Result<Vec<(String, Receipt)>, SendError>>,
}

impl Flow {
    /// The first message has been acknowledged: the topic exists.
    pub(crate) async fn start(name_server: &str, topic: &str) -> Result<Self> {
        let builder = Producer::builder(name_server, "producers-of-a-flow").send_timeout(Duration::from_secs(5));
        let producer = builder.configure(|config| config.default_topic_queues = QUEUES).start().await?;
        let first = Message::new(topic, "body-0")?;
        let mut kept = vec![("body-0".to_owned(), producer.send(first).await.context("the first message")?)];
        let stopped = Arc::new(AtomicBool::new(false));
        let topic = topic.to_owned();
        let flag = Arc::clone(&stopped);
        let task = tokio::spawn(async move {
            for number in 1_u64.. {
                if flag.load(Ordering::Relaxed) {
                    break;
                }
                let body = format!("body-{number}");
                let message = Message::new(&topic, body.clone()).expect("the first one was legal");
                kept.push((body, producer.send(message).await?));
                // Slow enough for two cores, fast enough to show within moments who owns a queue.
                sleep(Duration::from_millis(1)).await;
            }
            producer.close(CLOSE).await;
            Ok(kept)
        });
        Ok(Self { stopped, task })
    }

    /// Ends it, and prints what was kept; a send that failed is an error.
    pub(crate) async fn end(self) -> Result<()> {
        self.stopped.store(true, Ordering::Relaxed);
        let kept = self.task.await.context("the flow panicked")?.context("a send of the flow")?;
        for (body, receipt) in kept {
            println!("kept {} {} {body}", receipt.queue.id, receipt.offset);
        }
        Ok(())
    }
}
