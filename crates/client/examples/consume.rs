//! Consumes a topic as a member of a group until it has had so many messages. Arguments: name servers, topic, group, messages.

use keepmq_client::{ConsumeFrom, PushConsumer, Verdict};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    let mut word = |default: &str| words.next().unwrap_or_else(|| default.to_owned());
    let (name_servers, topic, group) = (word("127.0.0.1:9876"), word("demo"), word("examples"));
    let wanted: usize = word("10").parse()?;

    let (seen, mut had) = mpsc::unbounded_channel();
    let consumer = PushConsumer::builder(&name_servers, &group)
        .subscribe(&topic, "*")
        .from(ConsumeFrom::FirstOffset)
        .start(move |messages| {
            let seen = seen.clone();
            async move {
                for message in messages {
                    let text = String::from_utf8_lossy(&message.body).into_owned();
                    if seen.send(format!("queue {} offset {}: {text}", message.queue.id, message.offset)).is_err() {
                        // Nobody is there to have it: the group gets it again.
                        return Verdict::Later;
                    }
                }
                Verdict::Success
            }
        })
        .await?;
    for _ in 0..wanted {
        let line = timeout(Duration::from_secs(30), had.recv()).await?;
        println!("{}", line.unwrap_or_default());
    }
    let report = consumer.close(Duration::from_secs(5)).await;
    println!("{} processed, {} given up, {} queues uncommitted", report.processed, report.given_up, report.uncommitted);
    anyhow::ensure!(report.processed >= wanted as u64 && report.uncommitted == 0, "not everything was consumed");
    Ok(())
}
