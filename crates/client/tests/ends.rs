//! How things end when nobody answers: every send has its end, its room comes back, and nobody waits for a thread that is gone.

use keepmq_client::{Message, Producer, ProducerBuilder, PullConsumer, PushConsumer, SendError, Topic, Verdict};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// Nobody listens there: route questions fail at once, and sends wait until their time is over.
const NOBODY: &str = "127.0.0.1:1";
const TIME: Duration = Duration::from_millis(300);
/// Much longer than anything here takes, and much shorter than forever.
const PATIENCE: Duration = Duration::from_secs(10);

fn producer(in_flight: usize) -> ProducerBuilder {
    Producer::builder(NOBODY, "ends").send_timeout(TIME).in_flight(in_flight)
}

fn message() -> Message {
    Message::new("Ends", "x").expect("a legal topic")
}

fn refused<T: std::fmt::Debug>(outcome: &Result<T, SendError>, word: &str) -> bool {
    matches!(outcome, Err(SendError::Refused { why, .. }) if why.contains(word))
}

/// Whether there is room for one more message: a send without room has its refusal before the call returns.
fn has_room(producer: &Producer) -> bool {
    let (sender, ended) = channel();
    producer.send_async(message(), move |outcome| drop(sender.send(outcome)));
    ended.try_recv().is_err()
}

#[tokio::test]
async fn a_window_that_is_full_refuses_who_cannot_wait_and_bounds_the_time_of_who_can() {
    let producer = producer(1).start().await.unwrap();
    assert!(has_room(&producer) && !has_room(&producer));
    let begin = Instant::now();
    let waited = producer.send(message()).await;
    assert!(refused(&waited, "") && begin.elapsed() < 2 * TIME, "{waited:?} after {:?}", begin.elapsed());
    sleep(TIME).await;
    assert!(has_room(&producer), "what has ended gave its room back");
    producer.close(Duration::ZERO).await;
}

#[tokio::test]
async fn a_batch_larger_than_the_window_goes_in_pieces_and_ends() {
    let producer = producer(10).start().await.unwrap();
    let outcomes = timeout(PATIENCE, producer.send_batch(vec![message(); 25])).await.unwrap();
    assert_eq!(outcomes.len(), 25);
    assert!(outcomes.iter().all(|outcome| refused(outcome, "")), "{outcomes:?}");
    assert_eq!(producer.close(Duration::ZERO).await.unknown, 0);
}

#[tokio::test]
async fn a_batch_that_nobody_waits_for_any_more_gives_its_room_back() {
    let producer = producer(10).start().await.unwrap();
    assert!(timeout(TIME / 6, producer.send_batch(vec![message(); 15])).await.is_err(), "it waits for room");
    assert!(!has_room(&producer));
    sleep(2 * TIME).await;
    assert!((0..10).all(|_| has_room(&producer)), "room for ten, as before");
    producer.close(Duration::ZERO).await;
}

#[tokio::test]
async fn a_callback_that_panics_costs_nobody_else_an_answer() {
    let producer = producer(10).start().await.unwrap();
    producer.send_async(message(), |_| panic!("as the test wants it"));
    assert!(refused(&producer.send(message()).await, "no name server has answered"));
    assert_eq!(producer.close(PATIENCE).await.refused, 2);
}

#[tokio::test]
async fn what_is_under_way_when_a_producer_is_dropped_has_an_end() {
    let producer = producer(10).send_timeout(PATIENCE).start().await.unwrap();
    let (sender, ended) = channel();
    producer.send_async(message(), move |outcome| drop(sender.send(outcome)));
    drop(producer);
    let outcome = ended.recv_timeout(PATIENCE / 2).expect("an end, long before its time is over");
    assert!(outcome.is_err(), "{outcome:?}");
}

#[tokio::test]
async fn nobody_waits_for_a_client_that_has_ended() {
    let producer = producer(10).start().await.unwrap();
    let other = producer.clone();
    let all = async {
        producer.close(TIME).await;
        assert_eq!(other.close(TIME).await, Default::default(), "the report was given to the first who asked");
        assert!(refused(&other.send(message()).await, "ended"));
        assert!(other.queues(&Topic::new("Ends").unwrap()).await.is_err());
        assert!(refused(&other.send_batch(vec![message(); 2]).await[1], "ended"));

        let consumer = PushConsumer::builder(NOBODY, "ends").subscribe("Ends", "*");
        let consumer = consumer.start(|_| async { Verdict::Success }).await.unwrap();
        assert_eq!(consumer.close(TIME).await, consumer.close(TIME).await);

        PullConsumer::builder(NOBODY).start().await.unwrap().close().await;
    };
    timeout(PATIENCE, all).await.unwrap();
}

#[test]
fn a_client_is_not_started_without_a_runtime() {
    let start = std::pin::pin!(producer(1).start());
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    match start.poll(&mut cx) {
        std::task::Poll::Ready(Err(error)) => assert!(error.to_string().contains("runtime"), "{error}"),
        other => panic!("it was started: {}", other.is_ready()),
    }
}
