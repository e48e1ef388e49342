//! Sends many messages at once; each calls back with its end. Arguments: name servers, topic.

use keepmq_client::{Message, Producer};
use std::time::Duration;
use tokio::sync::mpsc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    let name_servers = words.next().unwrap_or_else(|| "127.0.0.1:9876".to_owned());
    let topic = words.next().unwrap_or_else(|| "demo".to_owned());

    let producer = Producer::builder(&name_servers, "examples-send-async").in_flight(1_000).start().await?;
    let (ends, mut ended) = mpsc::channel(1_000);
    for number in 0..1_000 {
        let ends = ends.clone();
        let message = Message::new(&topic, format!("order {number}"))?;
        producer.send_async(message, move |outcome| {
            // There is room for all of them: this never waits.
            ends.try_send((number, outcome)).expect("a place for each");
        });
    }
    drop(ends);
    let mut kept = 0;
    while let Some((number, outcome)) = ended.recv().await {
        match outcome {
            Ok(_) => kept += 1,
            Err(error) => println!("order {number}: {error}"),
        }
    }
    producer.close(Duration::from_secs(5)).await;
    println!("{kept} kept");
    anyhow::ensure!(kept == 1_000, "not everything was kept");
    Ok(())
}
