//! A broker with its folder and its configuration.

use crate::client::Client;
use crate::process::{PATIENCE, Process, free_port};
use anyhow::{Context, Result};
use keepmq_protocol::Request;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What a broker is started with, again and again.
#[derive(Clone, Debug)]
pub struct Scene {
    /// The `keepmq` to start.
    pub binary: PathBuf,
    /// Where configuration and what it says are kept.
    pub folder: PathBuf,
    /// Where the broker listens.
    pub broker: SocketAddr,
    /// Where a name server listens, should one be started.
    pub name_server: SocketAddr,
    /// A deliberate mistake to arm, in a build that has them.
    pub planted: Option<String>,
    conf: Vec<(String, String)>,
    flags: Vec<&'static str>,
}

/// How a broker flushes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `SYNC_FLUSH`.
    Sync,
    /// `ASYNC_FLUSH`.
    Async,
}

/// Name of every broker we start.
pub const BROKER: &str = "proving";

impl Scene {
    /// On free ports of this machine. The store is `folder/store`.
    pub fn new(binary: &Path, folder: &Path) -> Result<Self> {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (broker, name_server, health) = (free_port()?, free_port()?, free_port()?);
        let conf = [
            ("brokerClusterName", "DefaultCluster".to_owned()),
            ("brokerName", BROKER.to_owned()),
            ("brokerIP1", Ipv4Addr::LOCALHOST.to_string()),
            ("listenPort", broker.to_string()),
            ("metricsPromExporterPort", health.to_string()),
            ("storePathRootDir", folder.join("store").display().to_string()),
        ];
        Ok(Self {
            binary: binary.to_owned(),
            folder: folder.to_owned(),
            broker: local(broker),
            name_server: local(name_server),
            planted: None,
            conf: conf.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            flags: Vec::new(),
        })
    }

    /// With this key of `broker.conf`, in place of an earlier one.
    #[must_use]
    pub fn with(mut self, key: &str, value: &(impl ToString + ?Sized)) -> Self {
        self.conf.retain(|(known, _)| known != key);
        self.conf.push((key.to_owned(), value.to_string()));
        self
    }

    /// With this kind of flushing.
    #[must_use]
    pub fn flushing(self, mode: Mode) -> Self {
        self.with("flushDiskType", if mode == Mode::Sync { "SYNC_FLUSH" } else { "ASYNC_FLUSH" })
    }

    /// Where the store lies.
    pub fn store(&self) -> PathBuf {
        let dir = self.conf.iter().find(|(key, _)| key == "storePathRootDir");
        PathBuf::from(&dir.expect("`new` sets it").1)
    }

    /// Writes `broker.conf` and answers the command that starts the broker with it.
    pub fn broker_command(&self) -> Result<Command> {
        let path = self.folder.join("broker.conf");
        let lines: String = self.conf.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
        std::fs::write(&path, lines).with_context(|| format!("cannot write {}", path.display()))?;
        let mut command = Command::new(&self.binary);
        command.arg("broker").arg("-c").arg(path).args(&self.flags);
        if let Some(bug) = &self.planted {
            command.env("KEEPMQ_PLANTED", bug);
        }
        Ok(command)
    }

    /// Starts the broker and waits until it answers. Also says how long that took.
    pub fn start_broker(&self) -> Result<(Process, Duration)> {
        let began = Instant::now();
        let mut process = Process::start(&self.broker_command()?, &self.folder.join("broker.log"))?;
        process.wait_for(self.broker)?;
        while let Err(error) = Client::connect(self.broker).and_then(|mut client| client.must(&Request::RuntimeInfo)) {
            if began.elapsed() > PATIENCE || process.ended_within(Duration::ZERO)?.is_some() {
                return Err(error.context(format!("the broker does not answer{}", process.said())));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok((process, began.elapsed()))
    }

    /// Starts the name server and waits until its port is open.
    pub fn start_name_server(&self) -> Result<Process> {
        let mut command = Command::new(&self.binary);
        command.args(["nameserver", "--listen", &self.name_server.to_string()]);
        let mut process = Process::start(&command, &self.folder.join("nameserver.log"))?;
        process.wait_for(self.name_server)?;
        Ok(process)
    }

    /// With a broker that takes a store over from RocketMQ.
    #[must_use]
    pub fn taking_over(mut self) -> Self {
        self.flags.push("--adopt");
        self
    }

    /// With a broker that registers at our name server.
    #[must_use]
    pub fn registering(self) -> Self {
        let addr = self.name_server;
        self.with("namesrvAddr", &addr)
    }
}
