//! A toy core behind real sockets.

mod calls;
mod peers;
mod several;
mod toy;

use crate::{NetLimits, Word};
use keepmq_protocol::seam::Exit;
use std::time::Duration;
use toy::{Client, Toy, running};

const LIMITS: NetLimits = NetLimits {
    frame_bytes: 1 << 20,
    connections: 8,
    unsent_bytes: 1 << 20,
    owed_bytes: 1 << 30,
    unread_bytes: 3 << 20,
    idle: Duration::from_secs(60),
};

#[test]
fn pipelined_requests_are_handled_under_one_lock_and_answered_in_one_write() {
    let shard = running(LIMITS);
    let mut client = shard.client();
    client.ask(0, "echo warm");
    assert_eq!(client.answer(), (0, "warm".to_owned()));
    let locks = shard.core(|toy| toy.locks.get());
    let mut frames = Vec::new();
    for opaque in 1..=100 {
        frames.extend(Client::request(opaque, &format!("echo {opaque}")));
    }
    client.write(&frames);
    // One write of this size arrives as one; a hundred would not.
    let mut first = vec![0; 60_000];
    let read = client.read_some(&mut first);
    let answers = Client::cut_all(&first[..read]);
    assert_eq!(answers, (1..=100).map(|n| (n, n.to_string())).collect::<Vec<_>>());
    assert_eq!(shard.core(|toy| toy.locks.get()) - locks, 1);
    shard.stop();
}

#[test]
fn work_that_ends_at_once_is_answered_in_the_same_turn_under_a_second_lock() {
    let shard = running(LIMITS);
    let mut client = shard.client();
    client.ask(0, "echo warm");
    client.answer();
    let locks = shard.core(|toy| toy.locks.get());
    let mut frames = Client::request(1, "work a");
    frames.extend(Client::request(2, "echo b"));
    frames.extend(Client::request(3, "read c"));
    frames.extend(Client::request(4, "work d"));
    client.write(&frames);
    let mut first = vec![0; 60_000];
    let read = client.read_some(&mut first);
    let mut answers = Client::cut_all(&first[..read]);
    answers.sort();
    assert_eq!(answers, [(1, "a"), (2, "b"), (3, "c"), (4, "d")].map(|(n, text)| (n, text.to_owned())));
    assert_eq!(shard.core(|toy| toy.locks.get()) - locks, 2);
    shard.stop();
}

#[test]
fn words_of_other_threads_and_deadlines_wake_the_shard() {
    let shard = running(LIMITS);
    let mut client = shard.client();
    client.ask(1, "slow a");
    assert_eq!(client.answer(), (1, "a".to_owned()));
    client.ask(2, "tick 30");
    assert_eq!(client.answer(), (2, "tick".to_owned()));
    shard.inbox.post(Word::Space { free: 77 });
    shard.until("the space is told", |toy| toy.heard("space 77"));
    shard.stop();
}

#[test]
fn a_oneway_request_is_handled_and_not_answered_and_a_push_comes_as_a_request() {
    let shard = running(LIMITS);
    let mut client = shard.client();
    client.write(&Client::oneway("echo nobody"));
    client.ask(2, "push hello");
    let (kind, text) = client.request_or_answer();
    assert_eq!((kind, text.as_str()), ("request", "hello"));
    assert_eq!(client.answer(), (2, "pushed".to_owned()));
    assert!(shard.core(|toy| toy.heard("request echo nobody")));
    shard.stop();
}

#[test]
fn a_stop_drains_and_a_second_one_cuts_short() {
    let shard = running(LIMITS);
    let mut client = shard.client();
    client.ask(1, "hold");
    shard.until("the request is there", |toy| toy.heard("request hold"));
    shard.inbox.post(Word::Stop);
    shard.until("the stop is told", |toy| toy.heard("stop"));
    // Nobody new comes in, but who is there is served.
    assert!(std::net::TcpStream::connect(shard.address).is_err());
    client.ask(2, "echo still here");
    assert_eq!(client.answer(), (2, "still here".to_owned()));
    shard.inbox.post(Word::Stop);
    assert_eq!(client.answer(), (1, "cut short".to_owned()));
    assert!(client.is_closed());
    assert_eq!(shard.end(), Exit::Clean);
}

#[test]
fn at_the_end_everything_queued_leaves_first() {
    let shard = running(NetLimits { unsent_bytes: 64 << 20, ..LIMITS });
    let mut client = shard.client();
    // More than the system's buffers take at once, then the end in the same turn.
    let mut frames = Client::request(1, "big 12000000");
    frames.extend(Client::request(2, "fail"));
    client.write(&frames);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(client.answer().1.len(), 12_000_000);
    assert_eq!(client.answer(), (2, "failing".to_owned()));
    assert!(client.is_closed());
    assert_eq!(shard.end(), Exit::Disk("broken".to_owned()));
}

#[test]
fn what_a_core_wants_before_anything_happens_is_done() {
    let mut toy = Toy::default();
    toy.want_exit();
    assert_eq!(toy::running_with(toy, LIMITS).end(), Exit::Clean);
}
