//! Sends messages one by one, and says what became of each. Arguments: name servers, topic.

use keepmq_client::{Message, Producer, SendError};
use std::time::Duration;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    let name_servers = words.next().unwrap_or_else(|| "127.0.0.1:9876".to_owned());
    let topic = words.next().unwrap_or_else(|| "demo".to_owned());

    let producer = Producer::builder(&name_servers, "examples-send").start().await?;
    for number in 0..10 {
        let message = Message::new(&topic, format!("order {number}"))?.tag("created")?.keys([&*number.to_string()])?;
        match producer.send(message).await {
            Ok(receipt) => {
                let (queue, offset) = (receipt.queue.id, receipt.offset);
                println!("kept: queue {queue} offset {offset}, {}", receipt.message_id);
            }
            // Not stored: it can be sent again without a second thought.
            Err(error @ SendError::Refused { .. }) => println!("{error}"),
            // It may have been stored: look it up by its id, or let the consumer expect it twice.
            Err(error @ SendError::Unknown { .. }) => println!("{error}"),
        }
    }
    let report = producer.close(Duration::from_secs(5)).await;
    println!("{} kept, {} refused, {} unknown", report.kept, report.refused, report.unknown);
    anyhow::ensure!(report.kept == 10, "not everything was kept");
    Ok(())
}
