use super::{cases, mutated, topic};
use crate::Route;
use keepmq_protocol::body::{BrokerData, QueueData, RouteData};
use keepmq_world::Chance;
use proptest::prelude::{any, prop, prop_assert, proptest};
use std::collections::BTreeMap;

/// A route as nobody should write it.
fn strange(chance: &mut Chance) -> RouteData {
    let names = ["a", "b", "", "a/b", "é", "x y", &"n".repeat(300)];
    let number = |chance: &mut Chance| *chance.pick(&[0, 1, 2, 16, 65_536, u32::MAX]);
    let brokers = (0..chance.below(4)).map(|_| BrokerData {
        broker_addrs: [(*chance.pick(&[0, 1, -1, i64::MAX]), (*chance.pick(&["a:1", "", "\0", ":::"])).to_owned())]
            .into(),
        broker_name: (*chance.pick(&names[..3])).to_owned(),
        ..BrokerData::default()
    });
    let broker_datas = brokers.collect();
    let queues = (0..chance.below(5)).map(|_| QueueData {
        broker_name: (*chance.pick(&names)).to_owned(),
        perm: *chance.pick(&[6, 4, 2, 0, -1, i32::MIN, i32::MAX]),
        read_queue_nums: number(chance),
        write_queue_nums: number(chance),
        topic_sys_flag: 0,
    });
    RouteData {
        queue_datas: queues.collect(),
        broker_datas,
        filter_server_table: BTreeMap::new(),
        order_topic_conf: None,
    }
}

fn check(body: &[u8]) {
    let Ok(route) = Route::read(&topic(), body) else { return };
    for queues in [&route.writable, &route.readable] {
        assert!(queues.len() <= 65_536, "{} queues", queues.len());
        assert!(queues.is_sorted() && queues.windows(2).all(|pair| pair[0] != pair[1]), "in order, each once");
        assert!(queues.iter().all(|queue| route.brokers.contains_key(&queue.broker)), "of brokers that are there");
    }
    assert!(route.writable.iter().all(|queue| route.master(&queue.broker).is_some()), "only masters take messages");
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn bytes_that_are_no_route_are_refused_and_not_feared(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let read = Route::read(&topic(), &bytes);
        // A route is an object, and an empty one is a route to nowhere.
        prop_assert!(read.is_err() || read.is_ok_and(|route| route.is_empty()));
    }

    #[test]
    fn a_route_that_is_believed_can_be_used(seed in any::<u64>()) {
        let mut chance = Chance::new(seed);
        let body = serde_json::to_vec(&strange(&mut chance)).unwrap();
        check(&body);
        check(&mutated(&mut chance, body));
    }

    #[test]
    fn values_of_the_wrong_type_are_refused(seed in any::<u64>()) {
        let mut chance = Chance::new(seed);
        let wrong = ["-1", "4294967296", "1e99", "[]", "{}", "\"x\"", "true", "18446744073709551616"];
        let fields = [r#""readQueueNums":"#, r#""perm":"#, r#""brokerName":"#];
        let (field, value) = (*chance.pick(&fields), *chance.pick(&wrong));
        let text = format!(r#"{{"brokerDatas":[{{"brokerAddrs":{{"0":"a:1"}},"brokerName":"a"}}],"queueDatas":[{{{field}{value}}}]}}"#);
        let fits = field.contains("perm") && value == "-1" || field.contains("Name") && value == "\"x\"";
        prop_assert!(fits || Route::read(&topic(), text.as_bytes()).is_err(), "{}", text);
    }
}
