//! Source: RocketMQ `ControllerConfig`: a name server reads it, too, when it shall be a controller.

use super::{BOOL, INT, Key, LONG, SECRET, TEXT, no, not_yet};

/// Those that are not a name server's already.
pub(super) const KEYS: &[Key] = &[
    no("jraftConfig", TEXT, "", TUNING),
    no("controllerType", TEXT, "DLedger", TUNING),
    no("controllerThreadPoolNums", INT, "16", TUNING),
    no("controllerRequestThreadPoolQueueCapacity", INT, "50000", TUNING),
    not_yet("controllerDLegerGroup", TEXT, "", CONTROLLER),
    not_yet("controllerDLegerPeers", TEXT, "", CONTROLLER),
    not_yet("controllerDLegerSelfId", TEXT, "", CONTROLLER),
    no("mappedFileSize", INT, "1073741824", TUNING),
    not_yet("controllerStorePath", TEXT, "", CONTROLLER),
    no("electMasterMaxRetryCount", INT, "3", TUNING),
    not_yet("enableElectUncleanMaster", BOOL, "false", CONTROLLER),
    no("processReadEvent", BOOL, "false", TUNING),
    no("notifyBrokerRoleChanged", BOOL, "true", TUNING),
    no("scanInactiveMasterInterval", LONG, "5000", TUNING),
    not_yet("metricsExporterType", TEXT, "DISABLE", METRICS),
    not_yet("metricsGrpcExporterTarget", TEXT, "", METRICS),
    not_yet("metricsGrpcExporterHeader", SECRET, "", METRICS),
    no("metricGrpcExporterTimeOutInMills", LONG, "3000", TUNING),
    no("metricGrpcExporterIntervalInMills", LONG, "60000", TUNING),
    no("metricLoggingExporterIntervalInMills", LONG, "10000", TUNING),
    no("metricsPromExporterPort", INT, "5557", TUNING),
    no("metricsPromExporterHost", TEXT, "", TUNING),
    not_yet("metricsLabel", TEXT, "", METRICS),
    not_yet("metricsInDelta", BOOL, "false", METRICS),
];

const CONTROLLER: &str = "a controller that says who leads";
const METRICS: &str = "metrics of a controller";
const TUNING: &str = "it belongs to a controller, which is not built yet";
