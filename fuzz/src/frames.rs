//! Frames, as anybody who connects may send them.

use crate::json::same;
use keepmq_protocol::frame::{
    FLAG_ONEWAY, FRAME_MAX, Form, Frame, RawFrame, cut, read, write_request, write_response_head,
};
use keepmq_protocol::seam::Conn;
use keepmq_protocol::{Request, Response};

/// Bytes in which the lengths of a frame lie; behind them only the end matters.
const LENGTHS: usize = 12;

/// A frame, cut and read; and what it says, written and read again.
pub(crate) fn frame(bytes: &[u8]) {
    let whole = cut(bytes, FRAME_MAX);
    let ends = whole.as_ref().ok().and_then(Option::as_ref).map_or(0, |raw| raw.size - 1);
    for len in (0..bytes.len().min(LENGTHS)).chain([ends]) {
        let early = cut(&bytes[..len], FRAME_MAX);
        assert!(early == Ok(None) || early == whole, "{len} bytes of it are {early:?}, all of it is {whole:?}");
    }
    let Ok(Some(raw)) = whole else { return };
    let Ok(frame) = read(&raw) else { return };
    if frame.is_response() { answer(&frame) } else { request(&frame) }
}

fn parse(bytes: &[u8]) -> Frame<'_> {
    let raw = cut(bytes, usize::MAX).expect("what we write can be cut").expect("and is whole");
    assert_eq!(raw.size, bytes.len());
    read(&raw).expect("what we write can be read")
}

fn request(frame: &Frame<'_>) {
    let Ok(mut request) = Request::read(frame) else { return };
    if let Request::RegisterBroker(register) = &mut request {
        // We write the plain form of a body, whichever it was read from; the checksum was that of the other.
        register.header.body_crc = None;
        register.header.compressed = false;
    }
    let oneway = frame.flag & FLAG_ONEWAY != 0;
    let mut written = Vec::new();
    write_request(&mut written, frame.opaque, frame.form, oneway, &request);
    let again = parse(&written);
    assert_eq!((again.code, again.opaque, again.form), (frame.code, frame.opaque, frame.form));
    match (Request::read(&again).expect("it was a request"), request) {
        (Request::CreateGroup(again), Request::CreateGroup(group)) => {
            assert!(same(&again, &group), "{again:?} {group:?}");
        }
        (again, request) => assert_eq!(again, request),
    }
}

fn answer(frame: &Frame<'_>) {
    let response = Response::read(frame);
    let mut written = Vec::new();
    write_response_head(&mut written, &frame.caller(Conn(1)), &response);
    response.body.iter().for_each(|piece| written.extend_from_slice(piece));
    assert_eq!(Response::read(&parse(&written)), response);
}

/// A header in JSON: the scanner and serde_json must read the same from it.
pub(crate) fn header(bytes: &[u8]) {
    let json = |header| read(&RawFrame { form: Form::Json, header, body: &[], size: 0 });
    // The scanner declines whatever begins with a blank, and serde_json passes over it.
    let blank = [b" ", bytes].concat();
    match (json(bytes), json(&blank)) {
        (Ok(scanned), Ok(general)) => assert_eq!(scanned, general),
        (Err(_), Err(_)) => {}
        (scanned, general) => panic!("as it is: {scanned:?}; by serde_json: {general:?}"),
    }
    // The other form, for nothing but that it holds.
    let binary = read(&RawFrame { form: Form::Binary, header: bytes, body: &[], size: 0 });
    if let Ok(frame) = binary {
        assert!(frame.fields.iter().all(|(name, value)| !name.is_empty() && !value.is_empty()), "empty is absent");
    }
}
