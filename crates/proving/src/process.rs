//! Processes that end with us.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// Longest that anything may take to start or to stop.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A process of ours. It is killed when this is dropped, and when we die.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts a program; both its outputs are appended to `log`. Call it on the main thread only: the kernel ends the
    /// process together with the thread that has started it.
    pub fn start(command: &Command, log: &Path) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let said = OpenOptions::new().create(true).append(true).open(log);
        let said = said.with_context(|| format!("cannot open {}", log.display()))?;
        let child = tied(command)
            .stdin(Stdio::null())
            .stdout(said.try_clone().context("cannot copy a file handle")?)
            .stderr(said)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { child, name, log: log.to_owned() })
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a process has a number")?;
        kill_process(pid, signal).with_context(|| format!("cannot send {signal:?} to {}", self.name))
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("cannot kill {}", self.name))?;
        self.child.wait().with_context(|| format!("cannot wait for {}", self.name))?;
        Ok(())
    }

    /// SIGTERM, and waits for its end.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.ended_within(PATIENCE)?.with_context(|| format!("{} did not end on SIGTERM{}", self.name, self.said()))
    }

    /// Waits for its end, but not longer than this.
    pub fn ended_within(&mut self, patience: Duration) -> Result<Option<ExitStatus>> {
        let end = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().context("cannot look after a process")? {
                return Ok(Some(status));
            }
            if Instant::now() > end {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until its port takes connections.
    pub fn wait_for(&mut self, addr: SocketAddr) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect(addr).is_err() {
            if let Some(status) = self.ended_within(Duration::ZERO)? {
                bail!("{} ended with {status} before its port {addr} was open{}", self.name, self.said());
            }
            if Instant::now() > end {
                bail!("{} has not opened {addr} within {PATIENCE:?}{}", self.name, self.said());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// The last lines of what it said.
    pub fn said(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_else(|error| error.to_string().into_bytes());
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<_> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(15)..];
        format!("; the end of {}:\n    {}", self.log.display(), last.join("\n    "))
    }

    /// A number from its status, in KiB: `VmRSS`, `RssAnon`.
    pub fn status_kib(&self, field: &str) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        value
            .and_then(|value| value.split_whitespace().next()?.parse().ok())
            .with_context(|| format!("{path} has no {field}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already: then killing it does nothing, and waiting only repeats what is known.
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            println!("      left behind: {} ({}): {error}", self.name, self.child.id());
        }
    }
}

/// The same program, killed by the kernel when our main thread ends in whichever way. `setpriv` is part of util-linux;
/// without it, dropping [`Process`] has to do.
pub fn tied(command: &Command) -> Command {
    let setpriv = on_path("setpriv");
    let mut words: Vec<OsString> = vec![command.get_program().to_owned()];
    words.extend(command.get_args().map(ToOwned::to_owned));
    let mut tied = match setpriv {
        Some(setpriv) => {
            let mut tied = Command::new(setpriv);
            tied.args(["--pdeathsig", "KILL", "--"]).args(&words);
            tied
        }
        None => {
            let mut plain = Command::new(&words[0]);
            plain.args(&words[1..]);
            plain
        }
    };
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => tied.env(name, value),
            None => tied.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        tied.current_dir(dir);
    }
    tied
}

/// Where a program is installed; `None` when it is not.
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// A port of which it and its neighbours (two below, one above) are free: RocketMQ's brokers use all of them. Outside the
/// range from which the kernel gives ports to clients.
pub fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Programs that run at the same time begin at different places.
    let start = 12_000 + u16::try_from(std::process::id() % 1_800).expect("below 1800") * 10;
    for _ in 0..1_800 {
        let step = NEXT.fetch_add(10, Ordering::Relaxed) % 18_000;
        let port = 12_000 + (start - 12_000 + step) % 18_000 + 2;
        let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if [port, port - 2, port + 1].into_iter().all(free) {
            return Ok(port);
        }
    }
    bail!("no free ports between 12000 and 30000")
}

/// Raises the limit of open files as far as it may be, for us and what we start; answers what it is then.
pub fn raise_files() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    current.unwrap_or(u64::MAX)
}

/// A folder of its own, removed when this is dropped, unless it was told to stay.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    stays: bool,
}

impl Folder {
    /// A new one among the temporary files.
    pub fn new(what: &str) -> Result<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("keepmq-{what}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path, stays: false })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Is not removed: somebody will want to look at what went wrong.
    pub fn keep(&mut self) -> &Path {
        self.stays = true;
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.stays {
            println!("      what is left of it is in {}", self.path.display());
        } else if let Err(error) = std::fs::remove_dir_all(&self.path) {
            println!("      cannot remove {}: {error}", self.path.display());
        }
    }
}
