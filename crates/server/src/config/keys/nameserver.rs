//! Source: RocketMQ `NamesrvConfig`.

use super::{BOOL, HOME, INT, Key, PORT, TEXT, honoured, live, no, not_yet, number};

/// What they say is done.
pub(super) const HONOURED: &[Key] = &[
    honoured("listenPort", PORT, "9876"),
    honoured("bindAddress", TEXT, "0.0.0.0"),
    honoured("serverChannelMaxIdleTimeSeconds", number(1, 86_400), "120"),
    honoured("kvConfigPath", TEXT, ""),
    live(honoured("orderMessageEnable", BOOL, "false")),
    live(honoured("returnOrderTopicConfigToBroker", BOOL, "true")),
    live(honoured("scanNotActiveBrokerInterval", number(100, 3_600_000), "5000")),
    honoured("configBlackList", TEXT, "configBlackList;configStorePath;kvConfigPath"),
];

/// All others.
pub(super) const KEYS: &[Key] = &[
    no("rocketmqHome", TEXT, "", HOME),
    no("configStorePath", TEXT, "", NO_FILES),
    no("productEnvName", TEXT, "center", NO_FILES),
    not_yet("clusterTest", BOOL, "false", NS),
    no("clientRequestThreadPoolNums", INT, "8", POOLS),
    no("defaultThreadPoolNums", INT, "16", POOLS),
    no("clientRequestThreadPoolQueueCapacity", INT, "50000", POOLS),
    no("defaultThreadPoolQueueCapacity", INT, "10000", POOLS),
    no("unRegisterBrokerQueueCapacity", INT, "3000", POOLS),
    not_yet("supportActingMaster", BOOL, "false", NS),
    not_yet("enableAllTopicList", BOOL, "true", NS),
    not_yet("enableTopicList", BOOL, "true", NS),
    not_yet("notifyMinBrokerIdChanged", BOOL, "false", NS),
    not_yet("enableControllerInNamesrv", BOOL, "false", NS),
    not_yet("needWaitForService", BOOL, "false", NS),
    not_yet("waitSecondsForService", INT, "45", NS),
    not_yet("deleteTopicWithBrokerRegistration", BOOL, "false", NS),
];

const NO_FILES: &str = "a name server keeps nothing on disk but its key-value configuration";
const NS: &str = "this way to answer for routes";
const POOLS: &str = "requests are not handed between thread pools: one event loop serves them";
