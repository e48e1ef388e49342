//! Sending: the closed loop and the open one.

use super::Load;
use super::figures::{Figures, bar};
use crate::interrupt::Interrupt;
use crate::problem;
use crate::verb::send::known;
use bytes::Bytes;
use indicatif::ProgressBar;
use keepmq_client::{Message, Producer, Receipt, SendError, Topic};
use keepmq_server::{ExitCode, Failure};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc};

/// How often the progress is drawn.
const DRAW: Duration = Duration::from_millis(200);
/// A sender that was refused waits so long before it tries again.
const PAUSE: Duration = Duration::from_millis(10);

pub(super) async fn run(load: &Load, interrupt: &mut Interrupt) -> Result<(), Failure> {
    let sender = Sender::start(load).await?;
    let (figures, took) = sender.send(load, interrupt, &|_| {}).await?;
    figures.print("send", &bound(load), took, load.json)?;
    verdict(&figures, interrupt)
}

/// What was asked for, in words.
pub(super) fn bound(load: &Load) -> String {
    let Load { size, producers, in_flight, .. } = load;
    match load.rate {
        Some(rate) => format!("open loop: {rate}/s of {size} bytes, {producers} producers, at most {in_flight} under way"),
        None => format!("closed loop: {in_flight} under way of {size} bytes, {producers} producers"),
    }
}

/// A run is good when every send was.
pub(super) fn verdict(figures: &Figures, interrupt: &Interrupt) -> Result<(), Failure> {
    if figures.refused + figures.unknown > 0 {
        return Err(Failure::said(ExitCode::NotAllKept));
    }
    if interrupt.is_asked() { Err(Failure::said(ExitCode::Interrupted)) } else { Ok(()) }
}

/// The producers of a run.
pub(super) struct Sender {
    producers: Vec<Producer>,
    topic: Topic,
    began: Instant,
}

/// What the callbacks of one producer share.
struct Slots {
    producer: Producer,
    message: Box<dyn Fn(u64) -> Message + Send + Sync>,
    figures: Mutex<Figures>,
    size: usize,
    began: Instant,
    /// Messages that may still be sent, by all producers.
    left: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    /// A slot that has ended; true: it was not kept, and goes on after a pause.
    ended: mpsc::Sender<bool>,
}

impl Sender {
    pub(super) async fn start(load: &Load) -> Result<Self, Failure> {
        let topic = Topic::new(&load.topic).map_err(|error| {
            problem::usage(format!("{:?} is no name of a topic", load.topic), error, "choose another name")
        })?;
        let mut producers = Vec::new();
        for _ in 0..load.producers {
            let builder = Producer::builder(&load.connect.name_servers, "keepmq-bench").send_timeout(load.connect.timeout);
            let builder = builder.in_flight(usize::try_from(load.in_flight).unwrap_or(usize::MAX)).configure(|config| {
                config.max_message_bytes = 15 << 20;
                // The window is counted in messages: with large ones it must not be the bytes that wait.
                config.in_flight_bytes = usize::MAX / 8;
                // Bodies are random to nobody: compressed they would be small.
                config.compress_over = usize::MAX;
            });
            producers.push(builder.start().await.map_err(|error| problem::start(&error))?);
        }
        known(&producers[0], &topic, load.connect.timeout).await?;
        Ok(Self { producers, topic, began: Instant::now() })
    }

    /// Where the moments in messages count from.
    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// Sends until time or count are over, or the user has had enough; waits for all answers. `sent` hears how many were kept.
    pub(super) async fn send(
        self,
        load: &Load,
        interrupt: &mut Interrupt,
        sent: &dyn Fn(u64),
    ) -> Result<(Figures, Duration), Failure> {
        let progress = bar(load.count);
        let began = Instant::now();
        let figures = match load.rate {
            None => self.closed(load, interrupt, &progress).await,
            Some(rate) => self.open(load, rate, interrupt, &progress).await,
        };
        let took = began.elapsed();
        progress.finish_and_clear();
        for producer in &self.producers {
            producer.close(Duration::from_secs(1)).await;
        }
        sent(figures.good);
        Ok((figures, took))
    }

    fn slots(&self, load: &Load, left: &Arc<AtomicU64>, over: &Arc<AtomicBool>, ended: &mpsc::Sender<bool>) -> Vec<Arc<Slots>> {
        let each = |producer: &Producer| {
            let (topic, filler) = (self.topic.clone(), vec![b'x'; load.size - 8]);
            let message = move |nanos: u64| {
                let mut body = Vec::with_capacity(8 + filler.len());
                body.extend(nanos.to_be_bytes());
                body.extend(&filler);
                Message::new(topic.as_str(), Bytes::from(body)).expect("a legal topic and a body")
            };
            Arc::new(Slots {
                producer: producer.clone(),
                message: Box::new(message),
                figures: Mutex::new(Figures::new()),
                size: load.size,
                began: self.began,
                left: Arc::clone(left),
                over: Arc::clone(over),
                ended: ended.clone(),
            })
        };
        self.producers.iter().map(each).collect()
    }

    async fn closed(&self, load: &Load, interrupt: &mut Interrupt, progress: &ProgressBar) -> Figures {
        let (left, over) = (Arc::new(AtomicU64::new(load.count.unwrap_or(u64::MAX))), Arc::new(AtomicBool::new(false)));
        let room = usize::try_from(load.in_flight).expect("a window fits memory");
        let (ended, mut ends) = mpsc::channel(room);
        let slots = self.slots(load, &left, &over, &ended);
        for slot in 0..room {
            next(&slots[slot % slots.len()]);
        }
        let (end, mut open, mut turn) = (tokio::time::sleep(load.secs), load.in_flight, 0);
        tokio::pin!(end);
        while open > 0 {
            tokio::select! {
                () = &mut end, if !over.load(Ordering::Relaxed) => over.store(true, Ordering::Relaxed),
                () = interrupt.asked(), if !over.load(Ordering::Relaxed) => over.store(true, Ordering::Relaxed),
                slot = ends.recv() => match slot {
                    Some(true) if !over.load(Ordering::Relaxed) => {
                        tokio::time::sleep(PAUSE).await;
                        turn += 1;
                        next(&slots[turn % slots.len()]);
                    }
                    _ => open -= 1,
                },
                () = tokio::time::sleep(DRAW) => {}
            }
            progress.set_position(slots.iter().map(|slots| slots.figures().good).sum());
        }
        sum(&slots)
    }

    async fn open(&self, load: &Load, rate: u64, interrupt: &mut Interrupt, progress: &ProgressBar) -> Figures {
        let (left, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(true)));
        let (ended, _ends) = mpsc::channel(1);
        let slots = self.slots(load, &left, &over, &ended);
        let room = usize::try_from(load.in_flight).expect("a window fits memory");
        let window = Arc::new(Semaphore::new(room));
        let most = load.count.unwrap_or(u64::MAX);
        let began = Instant::now();
        let mut drawn = began;
        for number in 0..most {
            let due = due(began, number, rate);
            if due.duration_since(began) >= load.secs || interrupt.is_asked() {
                break;
            }
            // Timers are as fine as a millisecond: everything that is due by then goes at once.
            if due > Instant::now() {
                tokio::time::sleep_until(due.into()).await;
            }
            let Ok(permit) = Arc::clone(&window).acquire_owned().await else { break };
            let slots = Arc::clone(&slots[usize::try_from(number % slots.len() as u64).expect("few producers")]);
            let message = slots.message(due);
            let producer = slots.producer.clone();
            producer.send_async(message, move |outcome| {
                slots.took(due, &outcome);
                drop(permit);
            });
            if drawn.elapsed() > DRAW {
                drawn = Instant::now();
                progress.set_position(number);
            }
        }
        // Whoever can have the whole window has all answers.
        let all = u32::try_from(room).unwrap_or(u32::MAX);
        drop(window.acquire_many(all).await);
        sum(&slots)
    }
}

/// When a message of an open loop is due.
fn due(began: Instant, number: u64, rate: u64) -> Instant {
    let nanos = u128::from(number) * 1_000_000_000 / u128::from(rate);
    began + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 2))
}

fn sum(slots: &[Arc<Slots>]) -> Figures {
    let mut all = Figures::new();
    slots.iter().for_each(|slots| all.merge(&slots.figures()));
    all
}

/// Sends the next message of a slot, unless it is over. What ends well sends the one behind it from its callback, on the
/// producer's own thread: a loop through this task would cost each message two wake-ups.
fn next(slots: &Arc<Slots>) {
    let more = || slots.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
    if slots.over.load(Ordering::Relaxed) || !more() {
        return slots.end(false);
    }
    let (again, since) = (Arc::clone(slots), Instant::now());
    slots.producer.send_async(slots.message(since), move |outcome| {
        again.took(since, &outcome);
        if outcome.is_ok() { next(&again) } else { again.end(true) }
    });
}

impl Slots {
    /// A panic ends the process anyway.
    fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn message(&self, due: Instant) -> Message {
        (self.message)(u64::try_from(due.saturating_duration_since(self.began).as_nanos()).unwrap_or(u64::MAX))
    }

    fn took(&self, since: Instant, outcome: &Result<Receipt, SendError>) {
        let latency = since.elapsed();
        let mut figures = self.figures();
        match outcome {
            Ok(_) => figures.add(latency, self.size),
            Err(error) => {
                match error {
                    SendError::Refused { .. } => figures.refused += 1,
                    SendError::Unknown { .. } => figures.unknown += 1,
                }
                figures.why.get_or_insert_with(|| error.to_string());
            }
        }
    }

    fn end(&self, again: bool) {
        // Each slot ends once before it is started again, and there is room for all of them.
        self.ended.try_send(again).expect("there is room for every slot");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_due_at_an_even_pace() {
        let began = Instant::now();
        let at = |number, rate| due(began, number, rate).duration_since(began);
        assert_eq!(at(0, 3), Duration::ZERO);
        assert_eq!(at(3, 3), Duration::from_secs(1));
        assert_eq!(at(1, 3), Duration::from_nanos(333_333_333), "no error adds up");
        assert_eq!(at(10_000_000_000, 100_000), Duration::from_secs(100_000));
    }
}
