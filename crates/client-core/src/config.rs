use std::time::Duration;

/// What every client must know. Names and defaults are RocketMQ's `ClientConfig`.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `host:port` of each name server; at least one.
    pub name_servers: Vec<String>,
    /// Names this client among all others: `<ip>@<pid>#<something that no other client of the process has>`. Members of a group
    /// share queues by the order of these, so no two may be equal.
    pub client_id: String,
    /// What message ids begin with: this machine's address, in 4 or 16 bytes.
    pub host: Vec<u8>,
    /// What goes into message ids behind it.
    pub pid: u16,
    /// Seeds chance: jitter, the first queue, the part of message ids that tells clients of one process apart.
    pub seed: u64,
    /// How often the routes of all topics in use are asked for (pollNameServerInterval).
    pub poll_name_servers: Duration,
    /// How often brokers hear that this client lives (heartbeatBrokerInterval).
    pub heartbeat: Duration,
    /// What one question may take (mqClientApiTimeout).
    pub api_timeout: Duration,
}

impl ClientConfig {
    /// RocketMQ's defaults.
    pub fn new(name_servers: Vec<String>, client_id: String, host: Vec<u8>, pid: u16, seed: u64) -> Self {
        Self {
            name_servers,
            client_id,
            host,
            pid,
            seed,
            poll_name_servers: Duration::from_secs(30),
            heartbeat: Duration::from_secs(30),
            api_timeout: Duration::from_secs(3),
        }
    }
}
