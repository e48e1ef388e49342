//! RocketMQ's own name server and broker, started by the script that keeps them.

use crate::process::free_port;
use crate::scene::Mode;
use anyhow::{Context, Result, bail, ensure};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A Java name server and a broker, which end when this is dropped.
#[derive(Debug)]
pub(crate) struct JavaServers {
    script: PathBuf,
    /// They live in it.
    folder: PathBuf,
    pub(crate) name_server: SocketAddr,
    pub(crate) broker: SocketAddr,
    /// Of the broker.
    pub(crate) pid: u32,
}

impl Drop for JavaServers {
    fn drop(&mut self) {
        stop(&self.script, &self.folder);
    }
}

fn stop(script: &Path, folder: &Path) {
    let stopped = Command::new(script).arg("stop").arg(folder).env("STOP_TIMEOUT", "2").output();
    if !stopped.as_ref().is_ok_and(|output| output.status.success()) {
        println!("      left behind: the Java broker in {}: {stopped:?}", folder.display());
    }
}

fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

/// Longest that a broker may take for a clean end.
const CLEAN_STOP: &str = "90";

impl JavaServers {
    /// Stops them as an operator does, and waits for a clean end.
    pub(crate) fn stop_cleanly(self) -> Result<()> {
        let mut stop = Command::new(&self.script);
        let text = said(stop.arg("stop").arg(&self.folder).env("STOP_TIMEOUT", CLEAN_STOP))?;
        ensure!(!self.folder.join("store/abort").exists(), "the Java broker has not ended cleanly: {text}");
        Ok(())
    }

    /// Starts them on free ports, and waits until the broker is registered. A version that was never prepared is: that may
    /// take minutes, since some are built from their source.
    pub(crate) fn start(script: &Path, version: &str, mode: Mode, folder: &Path) -> Result<Self> {
        Self::start_with(script, version, mode, folder, "")
    }

    /// As [`Self::start`], with more lines of the broker's configuration. The store is `folder/store`; one that is there is
    /// opened.
    pub(crate) fn start_with(script: &Path, version: &str, mode: Mode, folder: &Path, conf: &str) -> Result<Self> {
        let extra = folder.with_extension("conf");
        std::fs::write(&extra, conf).with_context(|| format!("cannot write {}", extra.display()))?;
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (name_server, broker) = (local(free_port()?), local(free_port()?));
        let way = if mode == Mode::Sync { "sync" } else { "async" };
        let log = folder.with_extension("said");
        let mut start = Command::new(script);
        start.args(["start", version, way]).arg(folder);
        start.env("NS_PORT", name_server.port().to_string()).env("BROKER_PORT", broker.port().to_string());
        start.env("HA_PORT", free_port()?.to_string()).env("EXTRA_CONF", &extra);
        let mut started = || -> Result<(bool, String)> {
            // Its output goes to a file: the servers that it leaves running would hold a pipe open.
            let file = std::fs::File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
            start.stdout(file.try_clone().context("cannot copy a file handle")?).stderr(file);
            let status = start.status().with_context(|| format!("cannot start {}", script.display()))?;
            Ok((status.success(), std::fs::read_to_string(&log).unwrap_or_else(|error| error.to_string())))
        };
        let (mut good, mut text) = started()?;
        if !good && text.contains("is not prepared") {
            said(Command::new(script).args(["prepare", version]))?;
            (good, text) = started()?;
        }
        if !good {
            stop(script, folder);
            bail!("Java {version} does not start: {text}");
        }
        let mut servers = Self { script: script.to_owned(), folder: folder.to_owned(), name_server, broker, pid: 0 };
        let pids = said(Command::new(script).arg("pids").arg(folder))?;
        let pid = pids.lines().find_map(|line| line.strip_prefix("broker ")?.trim().parse().ok());
        servers.pid = pid.with_context(|| format!("the Java broker does not run: {pids}"))?;
        Ok(servers)
    }
}
