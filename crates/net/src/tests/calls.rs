//! Calls that a core makes, and what becomes of them.

use super::LIMITS;
use super::toy::{Client, running};
use keepmq_protocol::Response;
use keepmq_protocol::frame::{self, Caller, Form, Language};
use keepmq_protocol::seam::Conn;
use std::net::TcpListener;

fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

fn accept(listener: &TcpListener) -> Client {
    Client::new(listener.accept().unwrap().0)
}

fn answer(server: &mut Client, opaque: i32, text: &str) {
    let (conn, form, oneway) = (Conn(0), Form::Json, false);
    let to = Caller { conn, opaque, form, oneway, version: 0, language: Language::Java };
    let mut out = Vec::new();
    frame::write_response_head(&mut out, &to, &Response::ok().with_body(text.to_owned()));
    out.extend_from_slice(text.as_bytes());
    server.write(&out);
}

#[test]
fn calls_share_a_connection_and_are_answered_in_any_order() {
    let shard = running(LIMITS);
    let (listener, peer) = listener();
    let mut client = shard.client();
    client.ask(1, &format!("call {peer} 9000 one"));
    client.ask(2, &format!("call {peer} 9000 two"));
    let mut server = accept(&listener);
    let (one, two) = (server.order(), server.order());
    assert_eq!((one.1.as_str(), two.1.as_str()), ("one", "two"));
    answer(&mut server, 12345, "an answer to nothing");
    answer(&mut server, two.0, "second");
    answer(&mut server, one.0, "first");
    assert_eq!(client.answer(), (2, "ok second".to_owned()));
    assert_eq!(client.answer(), (1, "ok first".to_owned()));
    client.ask(3, &format!("call {peer} 9000 three"));
    let three = server.order();
    answer(&mut server, three.0, "third");
    answer(&mut server, three.0, "third again");
    assert_eq!(client.answer(), (3, "ok third".to_owned()));
    assert_eq!(shard.core(|toy| toy.times("opened")), 1, "the core hears only of the client");

    // Its other side may ask, too: then the core hears of the connection first.
    server.ask(7, "echo back");
    assert_eq!(server.answer(), (7, "back".to_owned()));
    drop(server);
    shard.until("it is told", |toy| toy.heard("closed"));
    let told = shard.core(|toy| {
        toy.events().iter().filter(|event| !event.starts_with("request call")).cloned().collect::<Vec<_>>()
    });
    let expected = ["opened", "answered 1", "answered 0", "answered 2", "opened", "request echo back", "closed"];
    assert_eq!(told, expected);
    shard.stop();
}

#[test]
fn a_call_is_lost_with_its_connection_and_the_next_one_connects_anew() {
    let shard = running(LIMITS);
    let (listener, peer) = listener();
    let mut client = shard.client();
    client.ask(1, &format!("call {peer} 9000 one"));
    let mut server = accept(&listener);
    server.order();
    drop(server);
    assert_eq!(client.answer(), (1, "lost the peer closed it".to_owned()));
    client.ask(2, &format!("call {peer} 9000 two"));
    let mut server = accept(&listener);
    let two = server.order();
    // An answer that comes together with the end still counts.
    answer(&mut server, two.0, "and goodbye");
    drop(server);
    assert_eq!(client.answer(), (2, "ok and goodbye".to_owned()));
    shard.stop();
}

#[test]
fn a_call_without_an_answer_is_lost_in_time_and_so_is_a_peer_that_says_nothing() {
    let shard = running(LIMITS);
    let (listener, peer) = listener();
    let mut client = shard.client();
    client.ask(1, &format!("call {peer} 9000 one"));
    let mut server = accept(&listener);
    let one = server.order();
    // Alive: an answer to another call comes while this one runs out of time.
    client.ask(2, &format!("call {peer} 1500 two"));
    let two = server.order();
    answer(&mut server, one.0, "first");
    assert_eq!(client.answer(), (1, "ok first".to_owned()));
    assert_eq!(client.answer(), (2, "lost time ran out".to_owned()));
    answer(&mut server, two.0, "too late");
    server.ask(7, "echo all read");
    assert_eq!(server.answer(), (7, "all read".to_owned()));
    // Now it says nothing: the connection is given up with the call.
    client.ask(3, &format!("call {peer} 100 three"));
    server.order();
    assert_eq!(client.answer(), (3, "lost time ran out".to_owned()));
    assert!(server.is_closed());
    assert_eq!(shard.core(|toy| toy.times("answered 1")), 1);
    shard.stop();
}

#[test]
fn a_peer_that_is_not_there_is_unreachable() {
    let shard = running(LIMITS);
    let (closed, peer) = listener();
    drop(closed);
    let mut client = shard.client();
    for (opaque, peer) in [(1, peer.as_str()), (2, "no port"), (3, "127.0.0.1:99999")] {
        client.ask(opaque, &format!("call {} 9000 x", peer.replace(' ', "-")));
        let (answered, text) = client.answer();
        assert!(answered == opaque && text.starts_with("unreachable "), "{text}");
    }
    shard.stop();
}

#[test]
fn what_is_told_arrives_in_its_order_and_nobody_waits_for_an_answer() {
    let shard = running(LIMITS);
    let (listener, peer) = listener();
    let mut client = shard.client();
    // The connection is not made yet: all three wait for it.
    let mut frames = Client::request(1, &format!("tell {peer} one"));
    frames.extend(Client::request(2, &format!("call {peer} 9000 two")));
    frames.extend(Client::request(3, &format!("tell {peer} three")));
    client.write(&frames);
    assert_eq!([client.answer(), client.answer()], [(1, "told".to_owned()), (3, "told".to_owned())]);
    let mut server = accept(&listener);
    assert_eq!(server.told(), "one");
    let two = server.order();
    assert_eq!((two.1.as_str(), server.told().as_str()), ("two", "three"));
    answer(&mut server, two.0, "second");
    assert_eq!(client.answer(), (2, "ok second".to_owned()));
    client.ask(4, &format!("tell {peer} four"));
    assert_eq!(server.told(), "four");
    assert_eq!(client.answer(), (4, "told".to_owned()));

    // A notice of its own, which wants no answer either, reaches the core.
    server.write(&Client::oneway("echo a notice"));
    shard.until("the notice is there", |toy| toy.heard("request echo a notice"));
    server.ask(7, "echo back");
    assert_eq!(server.answer(), (7, "back".to_owned()), "and it was answered nothing before");
    assert_eq!(shard.core(|toy| toy.times("answered 0")), 1, "only the call has an end");
    shard.stop();
}

#[test]
fn what_is_told_to_nobody_is_lost_without_a_word() {
    let shard = running(LIMITS);
    let (closed, peer) = listener();
    drop(closed);
    let mut client = shard.client();
    client.ask(1, &format!("tell {peer} one"));
    client.ask(2, &format!("call {peer} 9000 two"));
    assert_eq!(client.answer(), (1, "told".to_owned()));
    // The call hears of it when both have failed.
    let (answered, text) = client.answer();
    assert!(answered == 2 && text.starts_with("unreachable "), "{text}");
    assert_eq!(shard.core(|toy| toy.events().iter().filter(|event| event.starts_with("answered")).count()), 1);
    shard.stop();
}
