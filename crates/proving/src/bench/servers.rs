//! Who is measured: our broker, and what it is compared with.

use super::{Options, Scenario, Work};
use crate::process::{Folder, Process, free_port};
use crate::scene::{Mode, Scene};
use anyhow::{Context, Result, ensure};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A server that is measured.
pub(super) struct Server {
    pub(super) addr: SocketAddr,
    pub(super) pid: u32,
    /// It is slow at first.
    pub(super) warms_up: bool,
    /// Ends it when it is dropped.
    _process: Alive,
}

#[expect(dead_code, reason = "what they hold ends the process when it is dropped")]
enum Alive {
    Ours(Process),
    Java(Peer),
}

impl Server {
    fn of(process: Process, addr: SocketAddr) -> Self {
        Self { addr, pid: process.id(), warms_up: false, _process: Alive::Ours(process) }
    }
}

/// Our broker, and the references of one scenario.
pub(super) struct Contest {
    pub(super) ours: Server,
    pub(super) references: Vec<Server>,
    /// Goes last.
    _folder: Folder,
}

impl Contest {
    pub(super) fn new(binary: &Path, options: &Options, scenario: &Scenario) -> Result<Self> {
        let folder = Folder::new("bench")?;
        let ours = broker(binary, &folder.path().join("ours"), scenario.mode)?;
        let references = if matches!(scenario.work, Work::Durability { .. }) {
            vec![broker(binary, &folder.path().join("other"), Mode::Async)?]
        } else if let Some(script) = &options.java {
            vec![java(script, &options.java_version, scenario.mode, folder.path())?]
        } else {
            // The better of the prototype's ways to keep the same promise.
            let ways: &[&str] = if scenario.mode == Mode::Sync { &["sync", "inline"] } else { &["write"] };
            ways.iter().map(|way| prototype(options, way, folder.path())).collect::<Result<_>>()?
        };
        Ok(Self { ours, references, _folder: folder })
    }
}

fn broker(binary: &Path, folder: &Path, mode: Mode) -> Result<Server> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let scene = Scene::new(binary, folder)?.flushing(mode);
    let (process, _) = scene.start_broker()?;
    Ok(Server::of(process, scene.broker))
}

fn prototype(options: &Options, way: &str, folder: &Path) -> Result<Server> {
    let port = free_port()?;
    let mut command = Command::new(&options.proto);
    command.args(["--mode", way, "--port", &port.to_string(), "--prezero", "1024", "--file"]);
    command.arg(folder.join(format!("proto-{way}.log")));
    let mut process = Process::start(&command, &folder.join(format!("proto-{way}.said")))?;
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    process.wait_for(addr)?;
    Ok(Server::of(process, addr))
}

/// A Java name server and broker, with the folder they live in.
struct Peer {
    script: PathBuf,
    folder: PathBuf,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let stopped = Command::new(&self.script).arg("stop").arg(&self.folder).env("STOP_TIMEOUT", "2").output();
        if !stopped.as_ref().is_ok_and(|output| output.status.success()) {
            println!("      left behind: the Java broker in {}: {stopped:?}", self.folder.display());
        }
    }
}

fn java(script: &Path, version: &str, mode: Mode, folder: &Path) -> Result<Server> {
    let folder = folder.join("java");
    let (name_server, port) = (free_port()?, free_port()?);
    let said = |command: &mut Command| -> Result<String> {
        let output = command.output().with_context(|| format!("cannot start {}", script.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        Ok(text)
    };
    said(Command::new(script).args(["prepare", version]))?;
    let peer = Peer { script: script.to_owned(), folder: folder.clone() };
    let way = if mode == Mode::Sync { "sync" } else { "async" };
    let log = folder.with_extension("said");
    // Its output goes to a file: the servers that it leaves running would hold a pipe open.
    let file = std::fs::File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
    let mut start = Command::new(script);
    start.args(["start", version, way]).arg(&folder);
    start.env("NS_PORT", name_server.to_string()).env("BROKER_PORT", port.to_string());
    start.env("HA_PORT", free_port()?.to_string());
    start.stdout(file.try_clone().context("cannot copy a file handle")?).stderr(file);
    let status = start.status().with_context(|| format!("cannot start {}", script.display()))?;
    ensure!(status.success(), "{start:?}: {}", std::fs::read_to_string(&log).unwrap_or_else(|error| error.to_string()));
    let pids = said(Command::new(script).arg("pids").arg(&folder))?;
    let pid = pids.lines().find_map(|line| line.strip_prefix("broker ")?.trim().parse().ok());
    let pid = pid.with_context(|| format!("the Java broker does not run: {pids}"))?;
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    Ok(Server { addr, pid, warms_up: true, _process: Alive::Java(peer) })
}
