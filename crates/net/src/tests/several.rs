//! Several shards, one core. Connections are given out in turn, so with as many clients as shards each has a shard of its own.

use super::LIMITS;
use super::toy::{Client, Running, Toy, running_on};
use crate::connections::number_of;
use crate::{NetLimits, Word};
use keepmq_protocol::seam::Exit;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::{Duration, Instant};

const SHARDS: usize = 4;
const MANY: NetLimits = NetLimits { connections: 64, ..LIMITS };

fn several(limits: NetLimits) -> Running {
    running_on(SHARDS, Toy::default(), limits)
}

/// So many clients that have been heard, each before the next one came.
fn clients(shards: &Running, many: usize) -> Vec<Client> {
    (0..many)
        .map(|_| {
            let mut client = shards.client();
            client.ask(0, "echo hello");
            assert_eq!(client.answer(), (0, "hello".to_owned()));
            client
        })
        .collect()
}

/// How many connections each shard has been given.
fn given(toy: &Toy) -> Vec<usize> {
    let mut given = BTreeMap::new();
    for (conn, _) in toy.comings.iter().filter(|(_, what)| *what == "opened") {
        *given.entry(number_of(*conn)).or_insert(0) += 1;
    }
    given.into_values().collect()
}

#[test]
fn connections_are_given_out_evenly_and_room_is_used_again() {
    let shards = several(MANY);
    let mut all = clients(&shards, 8);
    assert_eq!(shards.core(given), [2; SHARDS]);
    // The two of one shard go: the next two come there.
    let mut kept = all.split_off(1);
    drop(all);
    drop(kept.remove(SHARDS - 1));
    shards.until("both are told to be gone", |toy| toy.times("closed") == 2);
    // Until the shard has counted them out, too.
    std::thread::sleep(Duration::from_millis(50));
    let _more = clients(&shards, 2);
    assert_eq!(shards.core(given), [4, 2, 2, 2]);
    shards.stop();
}

#[test]
fn everybody_is_answered_on_the_own_connection_and_in_order() {
    let shards = several(MANY);
    let threads: Vec<_> = (0..12)
        .map(|who| {
            let mut client = shards.client();
            std::thread::spawn(move || {
                for round in 0..50 {
                    let frames = (0..20).map(|n| Client::request(round * 20 + n, &format!("echo {who} {round} {n}")));
                    client.write(&frames.flatten().collect::<Vec<_>>());
                    for n in 0..20 {
                        assert_eq!(client.answer(), (round * 20 + n, format!("{who} {round} {n}")));
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    shards.until("all are gone", |toy| toy.times("closed") == 12);
    // Nobody asks before having come, or after having gone.
    shards.core(|toy| {
        let mut stories: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (conn, what) in &toy.comings {
            stories.entry(*conn).or_default().push(*what);
        }
        for (conn, story) in stories {
            assert_eq!((story[0], story[story.len() - 1], story.len()), ("opened", "closed", 1002), "{conn:?}");
        }
    });
    shards.stop();
}

#[test]
fn what_another_shards_turn_releases_comes_in_the_order_of_effects() {
    let shards = several(MANY);
    let mut clients = clients(&shards, SHARDS);
    let (last, others) = clients.split_last_mut().unwrap();
    for round in 0..300 {
        let before = shards.core(|toy| toy.times("request hold"));
        for client in others.iter_mut() {
            client.ask(1, "hold");
        }
        shards.until("all are held", |toy| toy.times("request hold") == before + 3);
        // At the same time they go on asking.
        last.ask(2, "free");
        for (who, client) in others.iter_mut().enumerate() {
            let asked = (3..6).flat_map(|opaque| Client::request(opaque, &format!("echo {who}")));
            client.write(&asked.collect::<Vec<_>>());
        }
        assert_eq!(last.answer(), (2, "free".to_owned()));
        let answers: Vec<Vec<i32>> =
            others.iter_mut().map(|client| (0..4).map(|_| client.answer().0).collect()).collect();
        for (who, answers) in answers.into_iter().enumerate() {
            let mine = format!("request echo {who}");
            let heard: Vec<_> = shards.core(|toy| {
                let heard = toy.events().iter().rev().filter(|event| **event == mine || *event == "request free");
                heard.take(4).map(|event| event == "request free").collect()
            });
            // The number of his echoes that the core heard before it freed him.
            let freed = 3 - heard.iter().position(|free| *free).unwrap();
            let mut expected = vec![3, 4, 5];
            expected.insert(freed, 1);
            assert_eq!(answers, expected, "round {round}, client {who}");
        }
    }
    shards.stop();
}

#[test]
fn pushes_closings_and_answers_of_readers_reach_the_shard_of_the_connection() {
    let shards = several(MANY);
    let mut clients = clients(&shards, 2 * SHARDS);
    let (last, others) = clients.split_last_mut().unwrap();
    for client in others.iter_mut() {
        client.ask(1, "hold");
    }
    shards.until("all are held", |toy| toy.times("request hold") == 7);
    last.ask(2, "serve read for you");
    assert_eq!(last.answer(), (2, "served".to_owned()));
    for client in others.iter_mut() {
        assert_eq!(client.answer(), (1, "read for you".to_owned()));
        client.ask(3, "hold");
    }
    shards.until("all are held again", |toy| toy.times("request hold") == 14);
    last.ask(4, "evict leave");
    assert_eq!(last.answer(), (4, "evicted".to_owned()));
    for client in others.iter_mut() {
        assert_eq!(client.request_or_answer(), ("request", "leave".to_owned()));
        assert_eq!(client.request_or_answer(), ("answer", "go".to_owned()));
        assert!(client.is_closed());
    }
    shards.until("they are told to be gone", |toy| toy.times("closed") == 7);
    // An answer to somebody who has gone goes nowhere.
    let mut gone = shards.client();
    gone.ask(1, "hold");
    shards.until("it is held", |toy| toy.times("request hold") == 15);
    drop(gone);
    shards.until("it is told to be gone", |toy| toy.times("closed") == 8);
    last.ask(5, "free");
    assert_eq!(last.answer(), (5, "free".to_owned()));
    shards.stop();
}

#[test]
fn a_deadline_that_another_shard_sets_is_kept() {
    let shards = several(MANY);
    let mut clients = clients(&shards, SHARDS);
    // The head sleeps for a long time, then for a shorter one.
    for (millis, opaque) in [(3000, 1), (60, 2), (20, 3)] {
        std::thread::sleep(Duration::from_millis(20));
        let begin = Instant::now();
        clients[usize::try_from(opaque).unwrap()].ask(opaque, &format!("tick {millis}"));
        if millis < 1000 {
            assert_eq!(clients[usize::try_from(opaque).unwrap()].answer(), (opaque, "tick".to_owned()));
            assert!(begin.elapsed() < Duration::from_millis(1500), "{:?}", begin.elapsed());
        }
    }
    assert_eq!(clients[1].answer(), (1, "tick".to_owned()));
    shards.stop();
}

#[test]
fn calls_and_words_are_the_heads_whoever_asked() {
    let shards = several(MANY);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = listener.local_addr().unwrap();
    let mut clients = clients(&shards, SHARDS);
    clients[1].ask(1, &format!("call {peer} 9000 one"));
    let mut server = Client::new(listener.accept().unwrap().0);
    clients[2].ask(2, &format!("call {peer} 9000 two"));
    assert_eq!((server.order().1, server.order().1), ("one".to_owned(), "two".to_owned()));
    drop(server);
    assert_eq!(clients[1].answer(), (1, "lost the peer closed it".to_owned()));
    assert_eq!(clients[2].answer(), (2, "lost the peer closed it".to_owned()));
    for (opaque, client) in (5..).zip(&mut clients) {
        client.ask(opaque, "slow done elsewhere");
        client.ask(opaque + 10, "work done here");
        let mut answers = [client.answer(), client.answer()];
        answers.sort();
        assert_eq!(answers, [(opaque, "done elsewhere".to_owned()), (opaque + 10, "done here".to_owned())]);
    }
    let turns = shards.inbox.turns();
    shards.inbox.nudge();
    let end = Instant::now() + Duration::from_secs(10);
    while shards.inbox.turns().iter().zip(&turns).any(|(now, before)| now <= before) {
        assert!(Instant::now() < end, "every shard turns when it is told to");
        std::thread::sleep(Duration::from_millis(2));
    }
    shards.stop();
}

#[test]
fn a_stop_drains_all_shards() {
    let shards = several(NetLimits { unsent_bytes: 64 << 20, ..MANY });
    let mut clients = clients(&shards, SHARDS);
    for client in &mut clients {
        client.ask(1, "hold");
    }
    shards.until("all are held", |toy| toy.times("request hold") == SHARDS);
    shards.inbox.post(Word::Stop);
    shards.until("the stop is told", |toy| toy.heard("stop"));
    assert!(std::net::TcpStream::connect(shards.address).is_err());
    for client in &mut clients {
        client.ask(2, "echo still here");
        assert_eq!(client.answer(), (2, "still here".to_owned()));
    }
    // Answers that the system's buffers do not take at once, on every shard, and more behind them.
    for client in &mut clients {
        client.ask(3, "big 12000000");
    }
    shards.until("all have asked", |toy| toy.times("request big 12000000") == SHARDS);
    shards.inbox.post(Word::Stop);
    let readers: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            std::thread::spawn(move || {
                assert_eq!(client.answer().1.len(), 12_000_000);
                assert_eq!(client.answer(), (1, "cut short".to_owned()));
                assert!(client.is_closed());
            })
        })
        .collect();
    for reader in readers {
        reader.join().unwrap();
    }
    assert_eq!(shards.end(), Exit::Clean);
}

#[test]
fn an_exit_that_any_shard_drains_ends_all_and_nothing_owed_is_lost() {
    for who in 0..SHARDS {
        let shards = several(MANY);
        let mut clients = clients(&shards, SHARDS);
        for client in &mut clients {
            client.ask(1, "hold");
        }
        shards.until("all are held", |toy| toy.times("request hold") == SHARDS);
        let mut frames = Client::request(2, "free");
        frames.extend(Client::request(3, "fail"));
        clients[who].write(&frames);
        for (index, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.answer(), (1, "freed".to_owned()));
            if index == who {
                assert_eq!(client.answer(), (2, "free".to_owned()));
                assert_eq!(client.answer(), (3, "failing".to_owned()));
            }
            assert!(client.is_closed());
        }
        assert_eq!(shards.end(), Exit::Disk("broken".to_owned()));
    }
}

#[test]
fn limits_are_those_of_all_shards_together() {
    let shards = several(NetLimits { connections: SHARDS + 1, ..LIMITS });
    let mut some = clients(&shards, SHARDS + 1);
    assert!(shards.client().is_closed());
    // Incomplete frames: each shard alone holds less than what is too much.
    let mut begun = 1_000_000i32.to_be_bytes().to_vec();
    begun.resize(900_000, 0);
    for client in &mut some[..SHARDS] {
        client.write(&begun);
    }
    shards.until("somebody goes", |toy| toy.heard("closed"));
    some[SHARDS].ask(1, "echo fine");
    assert_eq!(some[SHARDS].answer(), (1, "fine".to_owned()));
    assert!(shards.core(|toy| toy.times("closed")) < SHARDS, "no more than needed");
    shards.stop();
}

#[test]
fn who_does_not_read_what_other_shards_release_is_cut_off() {
    let shards = several(NetLimits { unsent_bytes: 256 << 10, ..MANY });
    let mut clients = clients(&shards, 2);
    let (mut asks, mut never_reads) = (clients.remove(0), clients.remove(0));
    never_reads.write(&(0..1000).flat_map(|opaque| Client::request(opaque, "hold")).collect::<Vec<_>>());
    shards.until("all are held", |toy| toy.times("request hold") == 1000);
    asks.ask(1, &format!("serve {}", "x".repeat(20_000)));
    assert_eq!(asks.answer(), (1, "served".to_owned()));
    shards.until("it is cut off", |toy| toy.heard("closed"));
    asks.ask(2, "echo fine");
    assert_eq!(asks.answer(), (2, "fine".to_owned()));
    shards.stop();
}
