//! Peers that are slow, silent, strange or too many.

use super::LIMITS;
use super::toy::{Client, running};
use crate::NetLimits;
use crate::connections::Connections;
use crate::crowd::Crowd;
use crate::sockets::Sockets;
use bytes::Bytes;
use keepmq_protocol::Response;
use keepmq_protocol::frame::{Caller, Form, Language};
use keepmq_protocol::seam::Conn;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[test]
fn a_stream_that_is_not_remoting_is_closed_and_others_go_on() {
    let shard = running(LIMITS);
    let mut bystander = shard.client();
    let (minus_one, too_large) = ((-1i32).to_be_bytes(), (2i32 << 20).to_be_bytes());
    let cases: [(&str, &[u8]); 5] = [
        ("a negative length", &minus_one),
        ("a length that is too large", &too_large),
        ("a length without room for a header length", &[0, 0, 0, 3]),
        ("a header longer than its frame", &[0, 0, 0, 8, 0, 0, 1, 0]),
        ("another protocol", b"GET / HTTP/1.1\r\n\r\n"),
    ];
    for (what, bytes) in cases {
        let mut client = shard.client();
        // What came before it is answered all the same.
        let mut stream = Client::request(1, "push before");
        stream.extend_from_slice(bytes);
        client.write(&stream);
        assert!(client.is_closed(), "{what}");
    }
    shard.until("all are told to be closed", |toy| toy.times("closed") == 5);
    assert_eq!(shard.core(|toy| toy.times("request push before")), 5);
    bystander.ask(9, "echo fine");
    assert_eq!(bystander.answer(), (9, "fine".to_owned()));
    shard.stop();
}

#[test]
fn a_header_that_cannot_be_read_costs_its_frame_and_not_the_connection() {
    let shard = running(LIMITS);
    let mut client = shard.client();
    client.write(&[0, 0, 0, 9, 0, 0, 0, 5]);
    client.write(b"{nope");
    client.ask(2, "echo alive");
    assert_eq!(client.answer(), (2, "alive".to_owned()));
    shard.stop();
}

#[test]
fn a_frame_in_small_pieces_is_one_request() {
    let shard = running(LIMITS);
    let mut client = shard.client();
    for byte in Client::request(1, "echo whole") {
        client.write(&[byte]);
    }
    assert_eq!(client.answer(), (1, "whole".to_owned()));
    shard.stop();
}

#[test]
fn a_peer_that_does_not_read_is_cut_off() {
    let shard = running(LIMITS);
    let mut client = shard.client();
    client.write(&(0..100).flat_map(|opaque| Client::request(opaque, "big 1000000")).collect::<Vec<_>>());
    shard.until("it is cut off", |toy| toy.heard("closed"));
    assert!(client.is_closed());
    let mut other = shard.client();
    other.ask(1, "echo fine");
    assert_eq!(other.answer(), (1, "fine".to_owned()));
    shard.stop();
}

#[test]
fn half_a_frame_and_then_silence_ends_at_the_idle_time() {
    let shard = running(NetLimits { idle: Duration::from_millis(200), ..LIMITS });
    let mut client = shard.client();
    let begin = Instant::now();
    client.write(&Client::request(1, "echo never")[..20]);
    assert!(client.is_closed());
    assert!(begin.elapsed() >= Duration::from_millis(190), "{:?}", begin.elapsed());
    shard.until("it is told", |toy| toy.heard("closed"));
    shard.stop();
}

#[test]
fn more_connections_than_may_be_are_closed_at_once() {
    let shard = running(NetLimits { connections: 2, ..LIMITS });
    let (mut one, mut two) = (shard.client(), shard.client());
    one.ask(1, "echo a");
    two.ask(1, "echo b");
    assert_eq!((one.answer().1, two.answer().1), ("a".to_owned(), "b".to_owned()));
    assert!(shard.client().is_closed());
    drop(one);
    shard.until("there is room again", |toy| toy.heard("closed"));
    let mut three = shard.client();
    three.ask(1, "echo c");
    assert_eq!(three.answer().1, "c");
    assert_eq!(shard.core(|toy| toy.times("opened")), 3);
    shard.stop();
}

#[test]
fn too_many_incomplete_frames_cost_the_largest_its_connection() {
    let shard = running(LIMITS);
    let mut small = shard.client();
    let asked = Client::request(1, "echo small");
    small.write(&asked[..20]);
    let begun = |bytes: usize| {
        let mut frame = (1i32 << 19).to_be_bytes().to_vec();
        frame.resize(bytes, 0);
        frame
    };
    let mut large: Vec<Client> = (0..7).map(|_| shard.client()).collect();
    for client in &mut large {
        client.write(&begun(500_000));
    }
    shard.until("somebody goes", |toy| toy.heard("closed"));
    small.write(&asked[20..]);
    assert_eq!(small.answer(), (1, "small".to_owned()));
    assert!(shard.core(|toy| toy.times("closed")) < 7, "no more than needed");
    shard.stop();
}

#[test]
fn closing_by_the_core_lets_the_answer_out_first() {
    let shard = running(LIMITS);
    let mut client = shard.client();
    client.ask(1, "close");
    assert_eq!(client.answer(), (1, "closing".to_owned()));
    assert!(client.is_closed());
    shard.until("it is told", |toy| toy.heard("closed"));
    shard.stop();
}

#[test]
fn a_peer_with_too_much_unsent_is_not_read_until_it_has_taken_it() {
    let limit = 1 << 20;
    let mut sockets =
        Sockets::new(NetLimits { unsent_bytes: limit, ..LIMITS }, Connections::reserve(1), 0, Arc::new(Crowd::new(1)))
            .unwrap();
    let address = sockets.listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    let now = || crate::now().mono;
    while sockets.opened.is_empty() {
        sockets.wait(Duration::from_secs(5)).unwrap();
        sockets.accept(now());
    }
    let conn = sockets.opened[0].0;
    let to = Caller { conn, opaque: 1, form: Form::Json, oneway: false, version: 0, language: Language::Java };
    let response = Response::ok().with_body(Bytes::from(vec![0; limit / 4]));
    while sockets.connections.find(conn).unwrap().1.out.unsent() <= limit {
        sockets.reply(&to, &response, now());
        sockets.write(now());
    }
    let turn = |sockets: &mut Sockets| {
        sockets.wait(Duration::from_millis(20)).unwrap();
        let touched = sockets.read(now());
        sockets.write(now());
        touched.len()
    };
    client.write_all(b"more").unwrap();
    assert_eq!((0..5).map(|_| turn(&mut sockets)).sum::<usize>(), 0, "it is not read");
    client.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    let mut piece = vec![0; 1 << 20];
    while turn(&mut sockets) == 0 {
        assert!(Instant::now() < end, "it is read again when it has taken enough");
        while client.read(&mut piece).is_ok_and(|read| read > 0) {}
    }
    let connection = sockets.connections.find(conn).unwrap().1;
    assert_eq!(connection.incoming, b"more");
    assert!(connection.out.unsent() <= limit);
}

#[test]
fn of_too_many_who_take_no_answers_the_slowest_is_cut_off() {
    const PIECE: usize = 8 << 20;
    let limits = NetLimits { unsent_bytes: 64 << 20, owed_bytes: 4 * PIECE + (1 << 20), ..LIMITS };
    let mut sockets = Sockets::new(limits, Connections::reserve(1), 0, Arc::new(Crowd::new(1))).unwrap();
    let address = sockets.listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let clients: Vec<_> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
    let now = || crate::now().mono;
    while sockets.opened.len() < clients.len() {
        sockets.wait(Duration::from_secs(5)).unwrap();
        sockets.accept(now());
    }
    let conns: Vec<Conn> = sockets.opened.iter().map(|(conn, _)| *conn).collect();
    let mut owe = |which: usize, pieces: usize| {
        let (conn, form) = (conns[which], Form::Json);
        let to = Caller { conn, opaque: 1, form, oneway: false, version: 0, language: Language::Java };
        for _ in 0..pieces {
            sockets.reply(&to, &Response::ok().with_body(Bytes::from(vec![0; PIECE])), now());
        }
        sockets.write(now());
        let there: Vec<_> = conns.iter().map(|conn| sockets.connections.find(*conn).is_some()).collect();
        (there, sockets.connections.owed())
    };
    // The kernel takes some of it.
    for (which, pieces) in [(0, 1), (1, 2), (2, 1)] {
        assert_eq!(owe(which, pieces).0, [true; 3], "what waits is within the limit");
    }
    let (there, owed) = owe(1, 4);
    assert_eq!(there, [true, false, true]);
    assert!(owed <= 2 * PIECE, "{owed}");
    assert!(sockets.gone[0].why.contains("slowest"), "{:?}", sockets.gone);
    drop(clients);
}
