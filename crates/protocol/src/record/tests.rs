use super::*;
use proptest::prelude::*;

const PLACE: Place = Place { at: LogOffset(4096), queue_offset: QueueOffset(7), stored: Timestamp(1_700_000_000_123) };

fn draft<'a>(topic: &'a str, body: &'a [u8], properties: &'a str, added: &'a str) -> Draft<'a> {
    Draft {
        topic,
        queue_id: 3,
        flag: -1,
        sys_flag: 0x31,
        born_at: 1_700_000_000_000,
        born_host: "10.0.0.1:5000".parse().unwrap(),
        store_host: "127.0.0.1:10911".parse().unwrap(),
        reconsume_times: 2,
        prepared: 99,
        body,
        body_crc: crc(body),
        properties,
        added,
    }
}

fn encode(draft: &Draft<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    draft.encode(PLACE, &mut out);
    out
}

fn record<'b>(bytes: &'b [u8]) -> Record<'b> {
    match decode(bytes, PLACE.at) {
        Ok(Found::Record(record)) => record,
        other => panic!("no record: {other:?}"),
    }
}

#[test]
fn the_bytes_stand_where_rocketmq_looks_for_them() {
    let bytes = encode(&draft("T", b"body", "K\u{1}v\u{2}", ""));
    let word = |at: usize| u32::from_be_bytes(*bytes[at..].first_chunk().unwrap());
    let long = |at: usize| u64::from_be_bytes(*bytes[at..].first_chunk().unwrap());
    assert_eq!((word(0) as usize, word(4)), (bytes.len(), MAGIC_V1));
    assert_eq!(bytes.len(), MIN_BYTES + 4 + 1 + 4 + CRC_BYTES);
    assert_eq!((word(8), word(12), word(16)), (crc(b"body"), 3, u32::MAX));
    assert_eq!((long(20), long(28), word(36)), (7, 4096, 1), "the address bits follow the addresses");
    assert_eq!((long(40), word(48), word(52)), (1_700_000_000_000, 0x0A00_0001, 5000));
    assert_eq!((long(56), word(64), word(68)), (1_700_000_000_123, 0x7F00_0001, 10911));
    assert_eq!((word(72), long(76), word(84)), (2, 99, 4));
    assert_eq!(&bytes[88..100], b"body\x01T\x00\x18K\x01v\x02");
    assert_eq!(&bytes[100..109], CRC_NAME);
    let value: String = crc(&bytes[..100]).to_string().chars().rev().collect();
    assert_eq!(std::str::from_utf8(&bytes[109..]).unwrap(), format!("{value:0<10}\u{2}"));
    assert_eq!(&crc_property(123), b"__CRC32#\x013210000000\x02");
}

#[test]
fn missing_separators_are_put_in() {
    for (properties, added, stored) in [
        ("", "", ""),
        ("a\u{1}b", "", "a\u{1}b\u{2}"),
        ("a\u{1}b\u{2}", "", "a\u{1}b\u{2}"),
        ("a\u{1}b", "c\u{1}d\u{2}", "a\u{1}b\u{2}c\u{1}d\u{2}"),
        ("a\u{1}b\u{2}", "c\u{1}d", "a\u{1}b\u{2}c\u{1}d\u{2}"),
        ("", "c\u{1}d\u{2}", "c\u{1}d\u{2}"),
    ] {
        let draft = draft("T", b"", properties, added);
        let bytes = encode(&draft);
        let record = record(&bytes);
        assert_eq!(record.properties.strip_suffix(|_: char| true).unwrap().split("__CRC32#").next(), Some(stored));
        assert_eq!(record.properties.len(), draft.properties_size());
        assert_eq!(bytes.len(), draft.size());
    }
}

#[test]
fn a_topic_beyond_127_bytes_takes_the_second_version() {
    for (len, magic) in [(127, MAGIC_V1), (128, MAGIC_V2), (255, MAGIC_V2)] {
        let topic = "t".repeat(len);
        let bytes = encode(&draft(&topic, b"x", "", ""));
        assert_eq!(bytes[4..8], magic.to_be_bytes());
        assert_eq!(record(&bytes).topic, topic);
    }
}

#[test]
fn each_kind_of_damage_has_its_name() {
    let good = encode(&draft("T", b"body", "K\u{1}v\u{2}", ""));
    let with = |at: usize, new: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        decode(&bytes, PLACE.at).map(|_| ())
    };
    let len = u32::try_from(good.len()).unwrap();
    assert_eq!(with(0, &[]), Ok(()));
    assert_eq!(with(0, &[0; 8]), Err(RecordError::Nothing));
    assert_eq!(with(0, &[0; 4]), Err(RecordError::Size { size: 0, left: good.len() }));
    assert_eq!(with(0, &(len + 1).to_be_bytes()), Err(RecordError::Size { size: len + 1, left: good.len() }));
    assert_eq!(with(0, &(len - 1).to_be_bytes()), Err(RecordError::Layout { size: len - 1 }));
    assert_eq!(with(4, &[0; 4]), Err(RecordError::Magic(0)));
    assert_eq!(with(87, &[5]), Err(RecordError::Layout { size: len }));
    assert_eq!(with(92, &[0x80]), Err(RecordError::Layout { size: len }), "Java's length is signed");
    assert_eq!(with(93, &[0xFF]), Err(RecordError::Text));
    assert_eq!(with(35, &[1]), Err(RecordError::Place { says: 4097, stands: 4096 }));
    assert!(matches!(with(88, b"B"), Err(RecordError::Crc { .. })));
    assert!(matches!(with(good.len() - 2, b"x"), Err(RecordError::Crc { stored: u32::MAX, .. })));
    assert!(decode(&good, LogOffset(0)).is_err());
    assert!(decode_unchecked(&good).is_ok());
    assert_eq!(decode(&[], PLACE.at), Err(RecordError::Nothing));
    assert_eq!(decode(&[0; 5], PLACE.at), Err(RecordError::Nothing));
    assert_eq!(decode(&[0, 1], PLACE.at), Err(RecordError::Size { size: 0, left: 2 }));
    let blank = [&100u32.to_be_bytes()[..], &MAGIC_BLANK.to_be_bytes()].concat();
    assert_eq!(decode(&blank, PLACE.at), Ok(Found::Blank));
    assert!(decode_unchecked(&blank).is_err());
}

#[test]
fn a_write_torn_anywhere_is_noticed() {
    let good = encode(&draft("T", b"body", "K\u{1}v\u{2}", ""));
    for cut in 0..good.len() {
        let (mut head, mut tail) = (good.clone(), good.clone());
        head[cut..].fill(0);
        tail[..=cut].fill(0);
        assert!(decode(&head, PLACE.at).is_err(), "nothing written from {cut} on");
        assert!(tail == good || decode(&tail, PLACE.at).is_err(), "nothing written up to {cut}");
    }
}

#[test]
fn a_record_without_the_property_is_checked_by_its_body() {
    let with = encode(&draft("T", b"body", "K\u{1}v\u{2}", ""));
    let end = with.len() - CRC_BYTES;
    let mut java = with[..end].to_vec();
    java[..4].copy_from_slice(&u32::try_from(end).unwrap().to_be_bytes());
    java[94..96].copy_from_slice(&[0, 4]);
    assert_eq!(record(&java).properties, "K\u{1}v\u{2}");
    assert_eq!(verify(&java, PLACE.at), Ok(()));
    java[88] ^= 1;
    assert!(matches!(verify(&java, PLACE.at), Err(RecordError::Crc { .. })));
    assert!(matches!(decode(&java, PLACE.at), Err(RecordError::Crc { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_record_comes_back_and_any_flipped_bit_is_noticed(
        topic in "[a-zA-Z%_-]{1,200}", body in prop::collection::vec(any::<u8>(), 0..80),
        properties in "[a-z\u{1}\u{2}]{0,20}", added in "([a-z]\u{1}[a-z]\u{2}){0,3}",
        born_v6: bool, store_v6: bool, bit: prop::sample::Index,
    ) {
        let mut draft = draft(&topic, &body, &properties, &added);
        if born_v6 { draft.born_host = "[2001:db8::1]:5000".parse().unwrap(); }
        if store_v6 { draft.store_host = "[::1]:10911".parse().unwrap(); }
        let mut bytes = encode(&draft);
        prop_assert_eq!(bytes.len(), draft.size());
        bytes.extend_from_slice(b"next record");
        let record = record(&bytes);
        prop_assert_eq!((record.topic, record.body, record.bytes.len()), (&*topic, &*body, draft.size()));
        prop_assert!(record.properties.starts_with(&properties) && record.properties.contains(&added));
        prop_assert_eq!((record.born_host, record.store_host), (draft.born_host, draft.store_host));
        prop_assert_eq!((record.stored, record.queue_offset, record.at), (PLACE.stored, PLACE.queue_offset, PLACE.at));

        prop_assert_eq!(verify(&bytes[..draft.size()], PLACE.at), Ok(()));
        prop_assert!(verify(&bytes, PLACE.at).is_err(), "more than a record");
        prop_assert!(verify(&bytes[..draft.size()], LogOffset(PLACE.at.0 + 1)).is_err());
        let bit = bit.index(draft.size() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(decode(&bytes, PLACE.at).is_err(), "bit {} of {}", bit, draft.size() * 8);
        prop_assert!(verify(&bytes[..draft.size()], PLACE.at).is_err(), "bit {} of {}", bit, draft.size() * 8);
    }

    #[test]
    fn no_bytes_bring_the_reader_down(
        random in prop::collection::vec(any::<u8>(), 0..200),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        end: prop::sample::Index,
    ) {
        prop_assert!(!matches!(decode(&random, PLACE.at), Ok(Found::Record(_))), "chance makes no CRC");
        let mut bytes = encode(&draft("Topic", b"the body", "K\u{1}v\u{2}", ""));
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(end.index(bytes.len() + 1));
        if let Ok(record) = decode_unchecked(&bytes) {
            prop_assert!(record.bytes.len() <= bytes.len() && record.bytes.len() >= MIN_BYTES);
            prop_assert!(record.queue_offset.wire() >= 0 && record.at.wire() >= 0);
        }
    }
}
