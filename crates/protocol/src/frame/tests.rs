use super::*;
use crate::message::UniqKey;
use crate::request::RouteInfo;
use crate::response::{PullReply, ResponseHeader, SendReply};
use crate::{LogOffset, QueueOffset};
use proptest::prelude::*;
use smallvec::smallvec;

fn caller(form: Form) -> Caller {
    Caller { conn: Conn(1), opaque: 77, form, oneway: false, version: 479, language: Language::Java }
}

fn parse(bytes: &[u8]) -> Frame<'_> {
    let raw = cut(bytes, FRAME_MAX).unwrap().expect("a whole frame");
    assert_eq!(raw.size, bytes.len());
    read(&raw).unwrap()
}

fn json(header: &str) -> RawFrame<'_> {
    RawFrame { form: Form::Json, header: header.as_bytes(), body: b"body", size: 0 }
}

#[test]
fn a_request_is_written_as_the_test_vectors_say() {
    let request = Request::RouteInfo(RouteInfo { topic: "T".into(), standard_json: None });
    let mut out = Vec::new();
    write_request(&mut out, 1, Form::Json, false, &request);
    assert_eq!(out[..8], [0, 0, 0, 0x5e, 0, 0, 0, 0x5a]);
    assert_eq!(
        std::str::from_utf8(&out[8..]).unwrap(),
        r#"{"code":105,"extFields":{"topic":"T"},"flag":0,"language":"JAVA","opaque":1,"version":479}"#
    );
    assert_eq!(Request::read(&parse(&out)), Ok(request.clone()));

    out.clear();
    write_request(&mut out, 1, Form::Binary, false, &request);
    let hex: String = out.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "000000250100002100690001df0000000100000000000000000000000c0005746f7069630000000154");
    assert_eq!(Request::read(&parse(&out)), Ok(request.clone()));

    out.clear();
    write_request(&mut out, -5, Form::Json, true, &request);
    let caller = parse(&out).caller(Conn(3));
    assert!(caller.oneway && caller.opaque == -5 && caller.conn == Conn(3));
}

#[test]
fn illegal_lengths_are_found_before_the_frame_is_there() {
    let cases: [(&[u8], Result<bool, FrameError>); 12] = [
        (&[], Ok(false)),
        (&[0, 0, 0], Ok(false)),
        (&[0, 0, 0, 0], Err(FrameError::Short(0))),
        (&[0, 0, 0, 3], Err(FrameError::Short(3))),
        (&[0xFF, 0xFF, 0xFF, 0xFF], Err(FrameError::Short(-1))),
        (&[0x7F, 0xFF, 0xFF, 0xFF], Err(FrameError::TooLarge { len: 0x8000_0003, max: 100 })),
        (&[0, 0, 0, 97], Err(FrameError::TooLarge { len: 101, max: 100 })),
        (&[0, 0, 0, 96], Ok(false)),
        (&[0, 0, 0, 4, 0, 0, 0], Ok(false)),
        (&[0, 0, 0, 4, 0, 0, 0, 0], Ok(true)),
        (&[0, 0, 0, 9, 1, 0, 0, 6], Err(FrameError::HeaderTooLong { header: 6, room: 5 })),
        (&[0, 0, 0, 9, 2, 0, 0, 5], Err(FrameError::Form(2))),
    ];
    for (bytes, expected) in cases {
        assert_eq!(cut(bytes, 100).map(|raw| raw.is_some()), expected, "{bytes:?}");
    }
    let two = [0, 0, 0, 6, 0, 0, 0, 1, b'h', b'b', 0, 0];
    let raw = cut(&two, 100).unwrap().unwrap();
    assert_eq!((raw.header, raw.body, raw.size), (&b"h"[..], &b"b"[..], 10));
}

#[test]
fn json_that_clients_write_is_scanned_without_the_general_reader() {
    let java = r#"{"code":310,"extFields":{"a":"g","i":"KEYS\u0001k\u0002\u00e4\ud83d\ude00\"\\\/\b\f\n\r\t","e":"-1"},"flag":2,"language":"JAVA","opaque":-7,"remark":"r","serializeTypeCurrentRPC":"JSON","version":479}"#;
    let frame = scan::read(&json(java)).expect("not declined");
    assert_eq!((frame.code, frame.flag, frame.opaque, frame.version), (310, 2, -7, 479));
    assert_eq!((frame.language, frame.remark.as_deref(), frame.body), (Language::Java, Some("r"), &b"body"[..]));
    let fields: Vec<(&str, &str)> = frame.fields.iter().map(|(name, value)| (&**name, &**value)).collect();
    let properties = "KEYS\u{1}k\u{2}ä😀\"\\/\u{8}\u{c}\n\r\t";
    assert_eq!(fields, [("a", "g"), ("i", properties), ("e", "-1")]);
    assert!(matches!(frame.fields[0].1, Str::Borrowed(_)));
    assert_eq!(text::read(&json(java)), Ok(frame));

    let go = r#"{"code":105,"language":"GO","version":317,"opaque":2147483647,"flag":-2147483648,"remark":"","extFields":{}}"#;
    let frame = scan::read(&json(go)).expect("not declined");
    assert_eq!((frame.language, frame.version, frame.opaque, frame.flag), (Language::Go, 317, i32::MAX, i32::MIN));
    assert_eq!(text::read(&json(go)), Ok(frame));
}

#[test]
fn unusual_json_is_read_by_the_general_reader() {
    let field = |header: &str| {
        assert_eq!(scan::read(&json(header)), None, "the scanner leaves this to the general reader: {header}");
        let frame = read(&json(header)).unwrap();
        frame.fields.iter().map(|(name, value)| format!("{name}={value};")).collect::<String>()
    };
    assert_eq!(field(r#"{"code":1,"extFields":{"n":1,"b":true,"z":null,"s":"t","f":1.5}}"#), "n=1;b=true;s=t;f=1.5;");
    assert_eq!(field(r#" { "code" : "1", "extFields" : {"a":"b"} } "#), "a=b;");
    assert_eq!(field(r#"{"code":1,"other":{"x":[1,{"y":2}]},"extFields":{"a\u0062":"c"}}"#), "ab=c;");
    assert_eq!(field(r#"{"code":1,"extFields":{"a":"1"},"extFields":{"b":"2"}}"#), "b=2;");
    assert_eq!(
        field(r#"{"code":1,"extFields":{"a":[],"b":{"c":1}}}"#),
        "a=[];b={\"c\":1};",
        "mistyped, but answerable"
    );
    assert_eq!(field("{\"code\":1,\n\"extFields\":null,\"language\":null,\"remark\":null}"), "");

    for bad in [
        "",
        "[]",
        "{}",
        r#"{"code":1"#,
        r#"{"code":1}}"#,
        r#"{"code":1.5}"#,
        r#"{"code":2147483648}"#,
        r#"{"code":01}"#,
        r#"{"code":1,"extFields":{"a":"\x"}}"#,
        r#"{"code":1,"extFields":{"a":"\ud800"}}"#,
        r#"{"code":1,"extFields":[]}"#,
        "{\"code\":1,\"remark\":\"\u{1}\"}",
    ] {
        assert!(matches!(read(&json(bad)), Err(FrameError::Header(_))), "{bad}");
    }
    let bytes = b"{\"code\":1,\"remark\":\"\xFF\"}";
    assert!(read(&RawFrame { header: bytes, ..json("") }).is_err(), "not UTF-8");
    let many = |count: usize| {
        let fields: Vec<String> = (0..count).map(|number| format!("\"{number}\":\"\"")).collect();
        format!(r#"{{"code":1,"extFields":{{{}}}}}"#, fields.join(","))
    };
    assert_eq!(read(&json(&many(FIELDS_MAX))).unwrap().fields.len(), FIELDS_MAX);
    assert!(read(&json(&many(FIELDS_MAX + 1))).is_err());
}

#[test]
fn binary_headers_have_their_quirks() {
    let binary = |header: &[u8]| {
        read(&RawFrame { form: Form::Binary, header, body: &[], size: 0 }).map(|frame| {
            let fields: String = frame.fields.iter().map(|(name, value)| format!("{name}={value};")).collect();
            (frame.code, frame.language, frame.remark.map(Str::into_owned), fields)
        })
    };
    let head = [0x0D, 0x72, 9, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0];
    let with = |rest: &[u8]| [&head[..], rest].concat();
    let ok =
        |remark: Option<&str>, fields: &str| Ok((3442, Language::Go, remark.map(str::to_owned), fields.to_owned()));
    assert_eq!(binary(&with(&[0, 0, 0, 0, 0, 0, 0, 0])), ok(None, ""), "200050 arrives cut to 16 bits");
    assert_eq!(binary(&with(&[0, 0, 0, 1, b'r', 0, 0, 0, 0, 99])), ok(Some("r"), ""), "what follows is ignored");
    let fields =
        with(&[0, 0, 0, 0, 0, 0, 0, 22, 0, 1, b'a', 0, 0, 0, 1, b'b', 0, 1, b'c', 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, b'd']);
    assert_eq!(binary(&fields), ok(None, "a=b;"), "an empty name or value is none");
    for end in 0..fields.len() {
        assert!(matches!(binary(&fields[..end]), Err(FrameError::Header(_))), "cut at {end}");
    }
    for bad in [[0xFF; 4], [0, 0, 0, 23], [0x7F, 0xFF, 0xFF, 0xFF]] {
        let mut damaged = fields.clone();
        damaged[17..21].copy_from_slice(&bad);
        assert!(binary(&damaged).is_err(), "{bad:?}");
    }
    let mut unknown = with(&[0; 8]);
    unknown[2] = 200;
    assert_eq!(binary(&unknown).unwrap().1, Language::Other);
}

#[test]
fn a_response_head_counts_the_pieces_of_the_body() {
    let response = Response::ok()
        .with_header(ResponseHeader::Pull(PullReply {
            suggest_broker: 0,
            next: QueueOffset(5),
            min: QueueOffset(0),
            max: QueueOffset(9),
        }))
        .with_body(&b"abc"[..])
        .with_body(&b"de"[..]);
    for form in [Form::Json, Form::Binary] {
        let mut out = b"before".to_vec();
        write_response_head(&mut out, &caller(form), &response);
        out.extend_from_slice(b"abcde");
        let frame = parse(&out[6..]);
        assert!(frame.is_response());
        assert_eq!(
            (frame.opaque, frame.version, frame.language, frame.body),
            (77, VERSION, Language::Java, &b"abcde"[..])
        );
        let read = Response::read(&frame);
        assert!(read.is_ok());
        for (name, value) in [("suggestWhichBrokerId", 0), ("nextBeginOffset", 5), ("minOffset", 0), ("maxOffset", 9)] {
            assert_eq!(read.field::<i64>(name), Ok(value));
            assert_eq!(response.field::<i64>(name), Ok(value), "an answer that never was on a wire reads alike");
        }
        assert_eq!(read.field::<Option<i64>>("offsetDelta"), Ok(None));
        assert!(read.field::<i64>("offsetDelta").is_err());
    }
}

#[test]
fn a_send_reply_has_all_that_java_and_go_read() {
    let response = Response::ok().with_header(ResponseHeader::Send(SendReply {
        store_host: "127.0.0.1:10911".parse().unwrap(),
        positions: smallvec![LogOffset(0), LogOffset(255)],
        queue_id: 3,
        queue_offset: QueueOffset(42),
        transaction_id: UniqKey::new("a\"b\\c\u{1}"),
        region: "DefaultRegion".into(),
    }));
    let mut out = Vec::new();
    write_response_head(&mut out, &caller(Form::Json), &response);
    assert_eq!(
        std::str::from_utf8(&out[8..]).unwrap(),
        concat!(
            r#"{"code":0,"extFields":{"msgId":"7F00000100002A9F0000000000000000,7F00000100002A9F00000000000000FF","#,
            r#""queueId":"3","queueOffset":"42","transactionId":"a\"b\\c\u0001","MSG_REGION":"DefaultRegion","#,
            r#""TRACE_ON":"true"},"flag":1,"language":"JAVA","opaque":77,"version":479}"#
        )
    );
    out.clear();
    write_response_head(&mut out, &caller(Form::Json), &Response::refuse(crate::ResponseCode::SystemBusy, "wait"));
    assert_eq!(
        std::str::from_utf8(&out[8..]).unwrap(),
        r#"{"code":2,"extFields":{},"flag":1,"language":"JAVA","opaque":77,"remark":"wait","version":479}"#
    );
}

#[test]
fn languages_have_their_wire_numbers() {
    for code in 0..14u8 {
        let language = Language::from_wire(code);
        assert_eq!((language as u8, Language::from_name(language.name())), (code, language));
    }
}

/// Text full of what headers must escape.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![any::<char>(), Just('"'), Just('\\'), Just('\u{1}'), Just('\u{2}'), Just('a'), Just('u')];
    prop::collection::vec(piece, 0..12).prop_map(|chars| chars.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn scanner_and_general_reader_agree(
        code: i32, flag: i32, opaque: i32,
        remark in proptest::option::of(text()),
        fields in prop::collection::vec((text(), text()), 0..5),
        at: proptest::sample::Index, change: Option<u8>, cut_off in 0usize..3,
    ) {
        let fields: serde_json::Map<_, _> = fields.into_iter().map(|(name, value)| (name, value.into())).collect();
        let plain = fields.keys().all(|name| serde_json::to_string(name).unwrap().len() == name.len() + 2);
        let mut value = serde_json::json!({"code": code, "flag": flag, "opaque": opaque, "extFields": fields});
        if let Some(remark) = remark {
            value["remark"] = remark.into();
        }
        let mut header = value.to_string().into_bytes();
        let untouched = change.is_none() && cut_off == 0;
        if let Some(byte) = change {
            let at = at.index(header.len());
            header[at] = byte;
        }
        header.truncate(header.len() - cut_off);
        let raw = RawFrame { form: Form::Json, header: &header, body: &[], size: 0 };
        match scan::read(&raw) {
            Some(scanned) => prop_assert_eq!(text::read(&raw), Ok(scanned)),
            None => prop_assert!(!(untouched && plain), "declined what clients write: {}", value),
        }
    }

    #[test]
    fn what_is_written_is_read_back(remark in text(), values in prop::collection::vec(text(), 0..6), binary: bool) {
        let form = if binary { Form::Binary } else { Form::Json };
        let fields = values.iter().map(|value| ("name".into(), value.clone())).collect();
        let response = Response { header: ResponseHeader::Fields(fields), ..Response::refuse(crate::ResponseCode::SystemError, remark.clone()) };
        let mut out = Vec::new();
        write_response_head(&mut out, &caller(form), &response);
        let frame = parse(&out);
        // What is empty is absent in the binary form.
        let there = |text: &&String| !(binary && text.is_empty());
        prop_assert_eq!(frame.remark.as_deref(), Some(&remark).filter(there).map(String::as_str));
        let read: Vec<&str> = frame.fields.iter().map(|(_, value)| &**value).collect();
        let expected: Vec<&str> = values.iter().filter(there).map(String::as_str).collect();
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn no_bytes_bring_the_reader_down(mut bytes in prop::collection::vec(any::<u8>(), 8..200), binary: bool) {
        let total = u32::try_from(bytes.len() - 4).unwrap();
        bytes[..4].copy_from_slice(&total.to_be_bytes());
        bytes[4..7].copy_from_slice(&[u8::from(binary), 0, 0]);
        if let Some(raw) = cut(&bytes, FRAME_MAX).ok().flatten() {
            prop_assert_eq!(raw.header.len() + raw.body.len() + 8, bytes.len());
            if let Ok(frame) = read(&raw)
                && let Ok(request) = Request::read(&frame)
            {
                prop_assert_eq!(request.code(), frame.code);
            }
        }
    }
}
