use super::*;
use keepmq_store::{Flush, LagPolicy};
use std::collections::BTreeMap;
use std::time::Duration;

fn read(table: &'static Table, text: &str) -> Result<Settings, Failure> {
    Settings::parse(table, text.as_bytes(), Path::new("broker.conf"), &[])
}

fn setup(text: &str) -> Result<BrokerSetup, Failure> {
    read(&BROKER, &format!("storePathRootDir=/data\nbrokerName=b\nbrokerIP1=10.0.0.5\n{text}"))
        .and_then(BrokerSetup::new)
}

fn said(failure: &Failure) -> String {
    assert_eq!(failure.exit, ExitCode::Configuration);
    failure.to_string()
}

#[test]
fn where_java_ignores_we_say_so() {
    // What stands in the file, the value that is taken, and what the warning says.
    for (line, key, value, warning) in [
        ("flushDiskType=sync_flush", "flushDiskType", "SYNC_FLUSH", "RocketMQ would have used ASYNC_FLUSH"),
        ("fileReservedTime=48 ", "fileReservedTime", "48", "RocketMQ would have used 72"),
        ("autoCreateTopicEnable=true ", "autoCreateTopicEnable", "true", "RocketMQ would have used false"),
        ("brokerId=3", "brokerId", "0", "broker.conf:1: brokerId=3 is taken as 0"),
        ("fileReservedTime=1\nfileReservedTime=2", "fileReservedTime", "2", "broker.conf:1 already"),
        ("registerNameServerPeriod=5", "registerNameServerPeriod", "10000", "is taken as 10000"),
        ("flushIntervalCommitLog=5000", "flushIntervalCommitLog", "500", "is taken as 500"),
    ] {
        let settings = read(&BROKER, &format!("{line}\nbrokerIP1=10.0.0.5\nstorePathRootDir=/data")).unwrap();
        let setup = BrokerSetup::new(settings).unwrap();
        assert_eq!(setup.settings.text(key), value, "{line}");
        let warnings = setup.settings.warnings();
        assert!(warnings.iter().any(|text| text.contains(warning)), "{line}: {warnings:?}");
    }
}

#[test]
fn what_java_reads_as_we_do_is_not_warned_of() {
    let text = "brokerClusterName = prod \nautoCreateTopicEnable=TRUE\nlistenPort:10911\nlongPollingEnable false\n";
    let setup = setup(text).unwrap();
    assert_eq!(setup.settings.warnings(), &[] as &[String]);
    assert_eq!(setup.broker.cluster, "prod");
    assert!(setup.broker.live.auto_create_topic && !setup.broker.live.long_polling);
}

#[test]
fn refusals_name_the_place_and_what_to_do() {
    for (line, expected) in [
        ("flushDiskTyp=SYNC_FLUSH", &["broker.conf:4", "did you mean flushDiskType?"][..]),
        ("mapedFileSizeCommitLog=1", &["did you mean mappedFileSizeCommitLog?"]),
        ("quarkus.port=1", &["the key quarkus.port is not known"]),
        (
            "flushDiskType=SOMETIMES",
            &["SYNC_FLUSH or ASYNC_FLUSH", "RocketMQ would have ignored it and used ASYNC_FLUSH"],
        ),
        ("listenPort=many", &["a whole number from 1 to 65535"]),
        ("listenPort=70000", &["a whole number from 1 to 65535"]),
        ("maxMessageSize=4M", &["without a unit"]),
        ("shards=65", &["a whole number from 0 to 64"]),
        ("mappedFileSizeCommitLog=-1", &["from 65536 to 2147483647"]),
        ("autoCreateTopicEnable=yes", &["true or false"]),
        ("brokerRole=SYNC_MASTER", &["brokerRole", "second machine", "ASYNC_MASTER"]),
        ("brokerRole=SLAVE", &["cannot copy to one yet"]),
        ("inSyncReplicas=2", &["is not built yet", "copies of the log", "set it to 1"]),
        ("enableControllerMode=true", &["is not built yet", "a controller"]),
        ("storeType=defaultRocksDB", &["is not supported", "set it to default"]),
        ("initAuthenticationUser={\"password\":\"geheim\"}\naclEnable=true", &["aclEnable is not built yet"]),
        ("storePathCommitLog=/elsewhere", &["/data/commitlog"]),
        ("namesrvAddr=ns1:9876,ns2:9876;", &["host:port", "semicolons"]),
        ("namesrvAddr=ns1", &["\"ns1\" is not host:port"]),
        ("brokerName=a b", &["brokerName", "illegal"]),
        ("bindAddress=eth0", &["an IP address"]),
        ("fileReservedTime=\\u00zz", &["broker.conf:4: an escape cannot be read"]),
    ] {
        let text = said(&setup(line).unwrap_err());
        for part in expected {
            assert!(text.contains(part), "{line}: {part:?} in {text}");
        }
        assert!(!text.contains("geheim"), "{text}");
    }
    let unspecified =
        read(&BROKER, "storePathRootDir=/data\nbrokerIP1=0.0.0.0").and_then(BrokerSetup::new).unwrap_err();
    assert!(said(&unspecified).contains("brokerIP1"));
}

#[test]
fn all_problems_are_told_at_once() {
    let failure = setup("flushDiskTyp=SYNC_FLUSH\nlistenPort=x\ntransactionCheckMax=3").unwrap_err();
    assert_eq!(failure.problems.len(), 3, "{failure}");
}

#[test]
fn every_key_takes_its_java_default() {
    for table in [&BROKER, &NAME_SERVER] {
        for key in table.keys().filter(|key| !key.java.is_empty()) {
            let settings = read(table, &format!("{}={}", key.name, key.java)).unwrap();
            assert!(settings.warnings().is_empty(), "{}: {:?}", key.name, settings.warnings());
        }
    }
}

#[test]
fn our_defaults_are_javas_except_where_that_would_lose_messages() {
    let setup = setup("").unwrap();
    assert_eq!(setup.store.flush, Flush::Sync);
    let differing: Vec<_> =
        BROKER.keys().filter(|key| matches!(key.fate, Fate::Honoured { default } if default != key.java)).collect();
    let names: Vec<_> = differing.iter().map(|key| key.name).collect();
    assert_eq!(
        names,
        [
            "metricsPromExporterHost",
            "allowClientRelax",
            "adopt",
            "maxTopics",
            "maxGroups",
            "flushDiskType",
            "cleanFileForciblyEnable",
            "log.io",
            "retention.lagPolicy",
            "scrub.bytesPerSecond",
            "scrub.interval",
            "shards"
        ]
    );
    let rules = setup.store.retention;
    assert_eq!((rules.lag, rules.forced_above, rules.hours), (LagPolicy::Keep, None, 1 << 4));
}

#[test]
fn the_hours_of_removal_are_hours() {
    let hours = |text: &str| setup(&format!("deleteWhen={text}")).map(|setup| setup.store.retention.hours);
    assert_eq!(hours("04; 23").unwrap(), 1 << 4 | 1 << 23);
    assert_eq!(hours("").unwrap(), 0, "only when space runs short");
    for bad in ["24", "4h", "-1", "04,05"] {
        assert!(said(&hours(bad).unwrap_err()).contains("no hour of the day"), "{bad}");
    }
}

/// What cores and shells are given, as text, so that any difference shows. Random parts are left out.
fn effects(setup: &BrokerSetup) -> String {
    let store = keepmq_store::StoreConfig { new_id: [0; 16], seed: 0, ..setup.store.clone() };
    let live = keepmq_broker::LiveConfig { shown: Vec::new(), ..setup.broker.live.clone() };
    let broker = keepmq_broker::BrokerConfig { live, ..setup.broker.clone() };
    let net = (&setup.listen, &setup.health, &setup.limits, setup.shards, setup.log_io);
    format!("{broker:?} {store:?} {:?} {net:?}", setup.root)
}

#[test]
fn every_honoured_key_has_an_effect() {
    let others = BTreeMap::from([
        ("brokerClusterName", "other"),
        ("brokerName", "other"),
        ("namesrvAddr", "127.0.0.1:1"),
        ("listenPort", "20911"),
        ("brokerIP1", "10.0.0.6"),
        ("defaultTopicQueueNums", "4"),
        ("autoCreateTopicEnable", "false"),
        ("autoCreateSubscriptionGroup", "false"),
        ("longPollingEnable", "false"),
        ("brokerPermission", "4"),
        ("litePullMessageEnable", "false"),
        ("regionId", "other"),
        ("registerNameServerPeriod", "20000"),
        ("metricsPromExporterPort", "5558"),
        ("metricsPromExporterHost", "0.0.0.0"),
        ("channelExpiredTimeout", "60000"),
        ("allowClientRelax", "true"),
        ("adopt", "true"),
        ("maxTopics", "100"),
        ("maxGroups", "100"),
        ("storePathRootDir", "/other"),
        ("mappedFileSizeCommitLog", "67108864"),
        ("flushDiskType", "ASYNC_FLUSH"),
        ("log.io", "buffered"),
        ("flushIntervalCommitLog", "100"),
        ("syncFlushTimeout", "1000"),
        ("fileReservedTime", "48"),
        ("deleteWhen", "05"),
        ("diskMaxUsedSpaceRatio", "80"),
        ("cleanFileForciblyEnable", "true"),
        ("retention.lagPolicy", "delete"),
        ("scrub.bytesPerSecond", "0"),
        ("scrub.interval", "3600000"),
        ("maxMessageSize", "65536"),
        ("maxTransferBytesOnMessageInMemory", "65536"),
        ("maxTransferCountOnMessageInMemory", "64"),
        ("bindAddress", "127.0.0.1"),
        ("serverChannelMaxIdleTimeSeconds", "60"),
        // Not what any machine has by itself.
        ("shards", "64"),
    ]);
    let before = effects(&setup("").unwrap());
    for key in BROKER.keys().filter(|key| matches!(key.fate, Fate::Honoured { .. })) {
        match (key.name, others.get(key.name)) {
            // Checked above: these say which values are refused, or follow from others.
            ("brokerRole" | "brokerId" | "storePathCommitLog", _) => {}
            // In `change/tests.rs`.
            ("configBlackList", _) => {}
            ("advertisedAddress", _) => {
                let text = "storePathRootDir=/data\nbrokerName=b\nadvertisedAddress=10.0.0.7:30911";
                let setup = read(&BROKER, text).and_then(BrokerSetup::new).unwrap();
                assert_eq!(setup.broker.address, ([10, 0, 0, 7], 30911).into());
            }
            // Of `cleanFileForciblyEnable`, which is off.
            ("diskSpaceCleanForciblyRatio", _) => {
                let forced =
                    |text: &str| setup(&format!("cleanFileForciblyEnable=true\n{text}")).unwrap().store.retention;
                assert_eq!(forced("").forced_above, Some(85));
                assert_eq!(forced("diskSpaceCleanForciblyRatio=60").forced_above, Some(60));
            }
            (name, None) => panic!("no other value to try for {name}"),
            (name, Some(value)) => {
                let after = setup(&format!("{name}={value}")).unwrap();
                assert_ne!(effects(&after), before, "{name}={value} changes nothing");
                assert!(after.broker.live.shown.contains(&(name.to_owned(), (*value).to_owned())), "{name} is shown");
            }
        }
    }
}

#[test]
fn a_name_server_reads_its_file() {
    let text = "listenPort=9877\nbindAddress=127.0.0.1\nscanNotActiveBrokerInterval=1000\nkvConfigPath=/x\nuseEpollNativeSelector=true\n";
    let setup = read(&NAME_SERVER, text).and_then(NameServerSetup::new).unwrap();
    assert_eq!(setup.listen, ([127, 0, 0, 1], 9877).into());
    assert_eq!(setup.config.live.scan_every, Duration::from_secs(1));
    assert_eq!(setup.settings.without_effect().count(), 1);
    assert_eq!(setup.kv_path, Path::new("/x"));
    assert!(setup.config.live.order_to_brokers && !setup.config.live.order_in_routes);
    let text = "orderMessageEnable=true\nreturnOrderTopicConfigToBroker=false\n";
    let setup = read(&NAME_SERVER, text).and_then(NameServerSetup::new).unwrap();
    assert!(!setup.config.live.order_to_brokers && setup.config.live.order_in_routes);
    assert!(setup.kv_path.is_absolute() && setup.kv_path.ends_with("namesrv/kvConfig.json"), "{:?}", setup.kv_path);
    assert!(said(&read(&NAME_SERVER, "supportActingMaster=true").unwrap_err()).contains("is not built yet"));
}

/// What RocketMQ 4.9.8 and 5.3.3 ship in their folder `conf`, in the form of those files, and what a refusal names.
#[test]
fn the_files_that_rocketmq_ships_load_or_are_refused_for_a_reason() {
    let pair = |name: &str, id: i32, role: &str| {
        format!(
            "# Licence\n\nbrokerClusterName = DefaultCluster\nbrokerName = {name}\nbrokerId = {id}\ndeleteWhen = 04\n\
             fileReservedTime = 48\nbrokerRole = {role}\nflushDiskType = ASYNC_FLUSH\n"
        )
    };
    let raft = "brokerClusterName = RaftCluster\nbrokerName=RaftNode00\nlistenPort=30911\nnamesrvAddr=127.0.0.1:9876\n\
                storePathRootDir=/tmp/rmqstore/node00\nstorePathCommitLog=/tmp/rmqstore/node00/commitlog\n\
                enableDLegerCommitLog=true\ndLegerGroup=RaftNode00\n\
                dLegerPeers=n0-127.0.0.1:40911;n1-127.0.0.1:40912;n2-127.0.0.1:40913\ndLegerSelfId=n0\n\
                sendMessageThreadPoolNums=16\n";
    let led = "brokerClusterName = DefaultCluster\nbrokerName = broker-a\nbrokerId = -1\nbrokerRole = SLAVE\ndeleteWhen = 04\n\
               fileReservedTime = 48\nenableControllerMode = true\ncontrollerAddr = 127.0.0.1:9878\n\
               namesrvAddr = 127.0.0.1:9876\nallAckInSyncStateSet=true\nlistenPort=30911\n\
               storePathRootDir=/tmp/rmqstore/node00\nstorePathCommitLog=/tmp/rmqstore/node00/commitlog\n";
    let contained = "brokerClusterName=DefaultCluster\nbrokerName=broker-a\nbrokerId=0\nbrokerRole=SYNC_MASTER\n\
                     flushDiskType=ASYNC_FLUSH\nstorePathRootDir=/root/broker-a/store\n\
                     storePathCommitLog=/root/broker-a/store/commitlog\nlistenPort=10911\nhaListenPort=10912\n\
                     totalReplicas=2\ninSyncReplicas=2\nminInSyncReplicas=1\nenableAutoInSyncReplicas=true\n\
                     slaveReadEnable=true\nbrokerHeartbeatInterval=1000\nbrokerNotActiveTimeoutMillis=5000\n\
                     sendHeartbeatTimeoutMillis=1000\nenableSlaveActingMaster=true\n";
    let container = "listenPort=10811\nnamesrvAddr=127.0.0.1:9876\nfetchNamesrvAddrByAddressServer=false\n\
                     brokerConfigPaths=/root/a.conf:/root/b.conf\n";
    for (file, text, refused) in [
        ("broker.conf", pair("broker-a", 0, "ASYNC_MASTER"), &[][..]),
        ("2m-2s-async/broker-a.properties", pair("broker-a", 0, "ASYNC_MASTER"), &[]),
        ("2m-noslave/broker-trace.properties", pair("broker-trace", 0, "ASYNC_MASTER"), &[]),
        ("2m-2s-async/broker-a-s.properties", pair("broker-a", 1, "SLAVE"), &["brokerRole", "cannot copy to one yet"]),
        ("2m-2s-sync/broker-b.properties", pair("broker-b", 0, "SYNC_MASTER"), &["brokerRole", "ASYNC_MASTER"]),
        ("dledger/broker-n0.conf", raft.to_owned(), &["enableDLegerCommitLog is not supported", "dLegerPeers"]),
        (
            "controller/quick-start/broker-n0.conf",
            led.to_owned(),
            &["a controller that says who leads", "controllerAddr"],
        ),
        ("container/broker-a-in-container1.conf", contained.to_owned(), &["totalReplicas", "copies of the log"]),
        (
            "container/broker-container1.conf",
            container.to_owned(),
            &["brokerConfigPaths", "several brokers in one process"],
        ),
    ] {
        let loaded = read(&BROKER, &format!("{text}brokerIP1=10.0.0.5\n")).and_then(BrokerSetup::new);
        match (loaded, refused) {
            (Ok(setup), []) => {
                assert_eq!(
                    (setup.store.flush, setup.store.retention.keep),
                    (Flush::Async, Duration::from_secs(48 * 3600))
                );
                assert!(setup.durability().contains("500 ms"), "{}", setup.durability());
            }
            (Err(failure), [_, ..]) => {
                let text = said(&failure);
                refused.iter().for_each(|part| assert!(text.contains(part), "{file}: {part:?} in {text}"));
                assert!(!text.contains("is not known"), "{file}: {text}");
            }
            (loaded, _) => panic!("{file}: {:?}", loaded.map(|setup| setup.settings)),
        }
    }
    let controller =
        "controllerDLegerGroup = group1\ncontrollerDLegerPeers = n0-127.0.0.1:9878\ncontrollerDLegerSelfId = n0\n";
    for (file, text, problems) in [
        ("container/nameserver.conf", "supportActingMaster=true\n".to_owned(), 1),
        ("controller/quick-start/namesrv.conf", format!("enableControllerInNamesrv = true\n{controller}"), 4),
        (
            "controller/cluster-3n-namesrv-plugin/namesrv-n0.conf",
            format!(
                "<!--\n  Licensed to nobody\n  in particular: listenPort=1\n  -->\nlistenPort = 9876\n\
                 enableControllerInNamesrv = true\n{controller}"
            ),
            5,
        ),
    ] {
        let failure = read(&NAME_SERVER, &text).unwrap_err();
        assert_eq!(failure.problems.len(), problems, "{file}: {failure}");
        assert!(!said(&failure).contains("is not known"), "{file}: {failure}");
    }
}

#[test]
fn a_file_that_is_no_utf8_is_read_as_java_does_and_said_so() {
    let text = b"# f\xFCr alle\nregionId=S\xFCd\nstorePathRootDir=/data\nbrokerIP1=10.0.0.5\n";
    let settings = Settings::parse(&BROKER, text, Path::new("b.conf"), &[]).unwrap();
    assert_eq!(settings.text("regionId"), "S\u{fc}d");
    assert_eq!(settings.warnings(), ["b.conf is no UTF-8: it was read as ISO-8859-1, as RocketMQ does"]);
    let settings = Settings::parse(&BROKER, "regionId=S\u{fc}d".as_bytes(), Path::new("b.conf"), &[]).unwrap();
    assert_eq!((settings.text("regionId"), settings.warnings().len()), ("S\u{fc}d", 0));
}

#[test]
fn a_preview_asks_nobody_for_the_address_of_a_name() {
    let preview = |text: &str| {
        let settings = read(&BROKER, &format!("storePathRootDir=/data\n{text}")).and_then(BrokerSetup::preview);
        let printed = settings.unwrap().print();
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        printed.lines().map(words).collect::<Vec<_>>().join("\n")
    };
    let by_name = preview("namesrvAddr=no.such.name.invalid:9876\nlistenPort=20911");
    for line in [
        "advertisedAddress (at the start) derived: the address by which the name server is reached then",
        "fastListenPort 20909 derived: listenPort - 2",
        "haListenPort 20912 derived: listenPort + 1, advertised only: nobody listens there yet",
    ] {
        assert!(by_name.contains(line), "{line} in {by_name}");
    }
    let by_number = preview("namesrvAddr=no.such.name.invalid:9876;127.0.0.1:9876\nhaListenPort=5");
    assert!(by_number.contains("advertisedAddress 127.0.0.1 derived"), "{by_number}");
    assert!(by_number.contains("haListenPort 5 broker.conf:3; no effect"), "{by_number}");
    assert!(preview("brokerIP1=no.such.name.invalid").contains("brokerIP1 no.such.name.invalid broker.conf:2"));
    let refused = read(&BROKER, "storePathRootDir=/data\nbrokerIP1=0.0.0.0").and_then(BrokerSetup::preview);
    assert!(said(&refused.unwrap_err()).contains("brokerIP1"));
}

#[test]
fn each_value_is_printed_with_its_origin() {
    let flags: [Flag; 1] = [("namesrvAddr", "127.0.0.1:9876".to_owned(), "-n")];
    let text = b"# mine\nflushDiskType=SYNC_FLUSH\nnamesrvAddr=10.0.0.1:9876\nsendMessageThreadPoolNums=16\n\
                 initAuthenticationUser=geheim\nstorePathRootDir=/data\n";
    let settings = Settings::parse(&BROKER, text, Path::new("b.conf"), &flags).unwrap();
    assert_eq!(settings.warnings(), &[] as &[String]);
    let printed = BrokerSetup::new(settings).unwrap().settings.print();
    let line = |key: &str| {
        let found = printed.lines().find(|line| line.split_whitespace().next() == Some(key));
        found.unwrap_or_else(|| panic!("{key} is printed: {printed}")).split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("flushDiskType"), "flushDiskType SYNC_FLUSH b.conf:2; RocketMQ's default: ASYNC_FLUSH");
    assert_eq!(line("namesrvAddr"), "namesrvAddr 127.0.0.1:9876 -n");
    assert_eq!(line("listenPort"), "listenPort 10911 default");
    assert_eq!(line("storePathCommitLog"), "storePathCommitLog /data/commitlog derived: storePathRootDir");
    assert!(line("sendMessageThreadPoolNums").contains("no effect"), "{printed}");
    assert!(line("advertisedAddress").contains("127.0.0.1 derived: the address by which"), "{printed}");
    assert!(!printed.contains("geheim"), "{printed}");
}

#[test]
fn without_a_name_server_clients_are_here() {
    let setup = read(&BROKER, "storePathRootDir=/data\nlistenPort=2").and_then(BrokerSetup::new).unwrap();
    assert_eq!(setup.broker.address, ([127, 0, 0, 1], 2).into());
    assert_eq!(setup.listen, [([0, 0, 0, 0], 2).into()], "there is no port 0 for the VIP channel");
    assert!(setup.address_origin().contains("no name server"));
}
