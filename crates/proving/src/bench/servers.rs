//! Who is measured: our broker, and what it is compared with.

use super::{Options, Scenario, Work};
use crate::java_servers::JavaServers;
use crate::process::{Folder, Process, free_port};
use crate::scene::{Mode, Scene};
use anyhow::{Context, Result};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
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
    Java(JavaServers),
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
            let java = JavaServers::start(script, &options.java_version, scenario.mode, &folder.path().join("java"))?;
            vec![Server { addr: java.broker, pid: java.pid, warms_up: true, _process: Alive::Java(java) }]
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
