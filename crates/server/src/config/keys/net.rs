//! Source: RocketMQ `NettyServerConfig`, `NettyClientConfig`, `AuthConfig`.

use super::{BOOL, INT, Key, LONG, SECRET, TEXT, honoured, honoured_with, no, not_yet, number};

/// What they say is done.
pub(super) const HONOURED: &[Key] = &[
    honoured("bindAddress", TEXT, "0.0.0.0"),
    honoured("serverChannelMaxIdleTimeSeconds", number(1, 86_400), "120"),
    // Ours: event loops, each with a share of the connections. 0: as many as suit this machine.
    honoured_with("shards", number(0, 64), "", "0"),
];

/// All others of connections.
pub(super) const KEYS: &[Key] = &[
    no("serverWorkerThreads", INT, "8", NETTY),
    no("serverCallbackExecutorThreads", INT, "0", NETTY),
    no("serverSelectorThreads", INT, "3", NETTY),
    no("serverOnewaySemaphoreValue", INT, "256", NETTY),
    no("serverAsyncSemaphoreValue", INT, "64", NETTY),
    no("serverSocketSndBufSize", INT, "0", NETTY),
    no("serverSocketRcvBufSize", INT, "0", NETTY),
    no("writeBufferHighWaterMark", INT, "0", NETTY),
    no("writeBufferLowWaterMark", INT, "0", NETTY),
    no("serverSocketBacklog", INT, "1024", NETTY),
    no("serverNettyWorkerGroupEnable", BOOL, "true", NETTY),
    no("serverPooledByteBufAllocatorEnable", BOOL, "true", NETTY),
    not_yet("enableShutdownGracefully", BOOL, "false", GO_AWAY),
    no("shutdownWaitTimeSeconds", INT, "30", NETTY),
    no("useEpollNativeSelector", BOOL, "false", NETTY),
    no("clientWorkerThreads", INT, "4", NETTY),
    no("clientCallbackExecutorThreads", INT, "", NETTY),
    no("clientOnewaySemaphoreValue", INT, "65535", NETTY),
    no("clientAsyncSemaphoreValue", INT, "65535", NETTY),
    no("connectTimeoutMillis", INT, "3000", CALLS),
    no("channelNotActiveInterval", LONG, "60000", CALLS),
    no("scanAvailableNameSrv", BOOL, "true", CALLS),
    no("clientChannelMaxIdleTimeSeconds", INT, "120", CALLS),
    no("clientSocketSndBufSize", INT, "0", NETTY),
    no("clientSocketRcvBufSize", INT, "0", NETTY),
    no("clientPooledByteBufAllocatorEnable", BOOL, "false", NETTY),
    no("clientCloseSocketIfTimeout", BOOL, "true", CALLS),
    not_yet("useTLS", BOOL, "false", TLS),
    not_yet("socksProxyConfig", SECRET, "{}", PROXY),
    no("disableCallbackExecutor", BOOL, "false", NETTY),
    no("disableNettyWorkerGroup", BOOL, "false", NETTY),
    no("maxReconnectIntervalTimeSeconds", LONG, "60", CALLS),
    no("enableReconnectForGoAway", BOOL, "true", CALLS),
];

/// Of access control.
pub(super) const ACCESS: &[Key] = &[
    no("configName", TEXT, "", ACL_TUNING),
    no("clusterName", TEXT, "", ACL_TUNING),
    no("authConfigPath", TEXT, "", ACL_TUNING),
    not_yet("authenticationEnabled", BOOL, "false", ACL),
    no("authenticationProvider", TEXT, "", ACL_TUNING),
    no("authenticationMetadataProvider", TEXT, "", ACL_TUNING),
    no("authenticationStrategy", TEXT, "", ACL_TUNING),
    no("authenticationWhitelist", TEXT, "", ACL_TUNING),
    no("initAuthenticationUser", SECRET, "", ACL_TUNING),
    no("innerClientAuthenticationCredentials", SECRET, "", ACL_TUNING),
    not_yet("authorizationEnabled", BOOL, "false", ACL),
    no("authorizationProvider", TEXT, "", ACL_TUNING),
    no("authorizationMetadataProvider", TEXT, "", ACL_TUNING),
    no("authorizationStrategy", TEXT, "", ACL_TUNING),
    no("authorizationWhitelist", TEXT, "", ACL_TUNING),
    not_yet("migrateAuthFromV1Enabled", BOOL, "false", ACL),
    no("userCacheMaxNum", INT, "1000", ACL_TUNING),
    no("userCacheExpiredSecond", INT, "600", ACL_TUNING),
    no("userCacheRefreshSecond", INT, "60", ACL_TUNING),
    no("aclCacheMaxNum", INT, "1000", ACL_TUNING),
    no("aclCacheExpiredSecond", INT, "600", ACL_TUNING),
    no("aclCacheRefreshSecond", INT, "60", ACL_TUNING),
    no("statefulAuthenticationCacheMaxNum", INT, "10000", ACL_TUNING),
    no("statefulAuthenticationCacheExpiredSecond", INT, "60", ACL_TUNING),
    no("statefulAuthorizationCacheMaxNum", INT, "10000", ACL_TUNING),
    no("statefulAuthorizationCacheExpiredSecond", INT, "60", ACL_TUNING),
];

const ACL: &str = "access control";
const ACL_TUNING: &str = "it belongs to access control, which is not built yet";
const CALLS: &str = "the broker's own connections are made again when they are needed";
const GO_AWAY: &str = "telling clients to go away before a stop";
const NETTY: &str = "it tunes Netty, which is not used";
const PROXY: &str = "reaching other servers through a proxy";
const TLS: &str = "TLS";
