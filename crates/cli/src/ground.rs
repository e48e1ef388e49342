//! A name server and a broker of our own: processes of this program, which are killed and started again.

use crate::args::Connect;
use crate::cluster::Cluster;
use crate::problem;
use keepmq_client::Peer;
use keepmq_protocol::Request;
use keepmq_server::{ExitCode, Failure, Problem};
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use std::fs::OpenOptions;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Longest that a process may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked after.
const LOOK: Duration = Duration::from_millis(5);
/// Keys of `broker.conf` that are ours to set: where things are. All else is the user's.
const PLACES: [&str; 8] = [
    "namesrvAddr",
    "listenPort",
    "bindAddress",
    "brokerIP1",
    "advertisedAddress",
    "fastListenPort",
    "haListenPort",
    "metricsPromExporterPort",
];

/// A name server and a broker in a folder. Dropping it ends both.
pub(crate) struct Ground {
    folder: PathBuf,
    /// Where the name server listens.
    pub(crate) name_server: SocketAddr,
    /// Where the broker listens.
    pub(crate) broker_address: SocketAddr,
    cluster: Cluster,
    /// Before the name server: it takes its leave of it.
    broker: Process,
    name_server_process: Process,
}

impl Ground {
    /// Both on free ports of this machine, with everything in `folder`. Settings besides places are those of `conf`.
    pub(crate) async fn start(folder: &Path, conf: &str) -> Result<Self, Failure> {
        let unusable = |error| problem::io(&format!("the folder {} cannot be used", folder.display()), &error);
        std::fs::create_dir_all(folder).map_err(unusable)?;
        let folder = folder.canonicalize().map_err(unusable)?;
        let [name_server, broker] = free_ports(&folder)?.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let connect = Connect { name_servers: name_server.to_string(), timeout: Duration::from_secs(3) };
        let cluster = Cluster::connect(&connect).await?;
        let listen = ["nameserver", "--listen", &name_server.to_string(), "--data"].map(Into::into);
        let words = listen.into_iter().chain([folder.join("namesrv").into_os_string()]);
        let mut name_server_process = Process::start("the name server", words, folder.join("namesrv.log"))?;
        name_server_process.wait_until_it_answers(&cluster, name_server, Request::ClusterInfo).await?;
        let text = broker_conf(conf, &folder, name_server, broker);
        std::fs::write(folder.join("broker.conf"), text).map_err(unusable)?;
        let broker_process = start_broker(&folder)?;
        let mut ground =
            Self { folder, name_server, broker_address: broker, cluster, broker: broker_process, name_server_process };
        ground.broker_is_ready().await?;
        Ok(ground)
    }

    /// How the clients of this ground find it.
    pub(crate) fn connect(&self) -> Connect {
        Connect { name_servers: self.name_server.to_string(), timeout: Duration::from_secs(3) }
    }

    /// Whom to ask.
    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The numbers of the name server and of the broker that runs now.
    pub(crate) fn ids(&self) -> [u32; 2] {
        [self.name_server_process.child.id(), self.broker.child.id()]
    }

    /// SIGKILL: no time to write anything.
    pub(crate) fn kill_broker(&mut self) -> Result<(), Failure> {
        if let Some(status) = self.broker.ended()? {
            return Err(self.broker.failed(status, "while it was to work"));
        }
        self.broker.kill()
    }

    /// Starts it again, on the same store; how long it took until it answered.
    pub(crate) async fn start_broker(&mut self) -> Result<Duration, Failure> {
        let began = Instant::now();
        self.broker = start_broker(&self.folder)?;
        self.broker_is_ready().await?;
        Ok(began.elapsed())
    }

    async fn broker_is_ready(&mut self) -> Result<(), Failure> {
        self.broker.wait_until_it_answers(&self.cluster, self.broker_address, Request::RuntimeInfo).await?;
        // It is found through the name server from its first registration on, within a second.
        let began = Instant::now();
        while self.cluster.masters(None).await?.is_empty() {
            if began.elapsed() > PATIENCE {
                let why = format!("the broker {} is not found through the name server", self.broker_address);
                return Err(self.broker.silent(&why));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// SIGTERM to both, and their ends.
    pub(crate) async fn stop(mut self) -> Result<(), Failure> {
        self.broker.stop().await?;
        self.name_server_process.stop().await
    }
}

fn start_broker(folder: &Path) -> Result<Process, Failure> {
    let words = ["broker".into(), "-c".into(), folder.join("broker.conf").into_os_string()];
    Process::start("the broker", words, folder.join("broker.log"))
}

/// The user's settings, and our places.
fn broker_conf(conf: &str, folder: &Path, name_server: SocketAddr, broker: SocketAddr) -> String {
    let theirs = |line: &&str| {
        let key = line.split(['=', ':']).next().unwrap_or_default().trim();
        // All folders are below ours: no proof is made in a store that somebody needs.
        !PLACES.contains(&key) && !key.starts_with("storePath")
    };
    let mut text: String = conf.lines().filter(theirs).map(|line| format!("{line}\n")).collect();
    let local = Ipv4Addr::LOCALHOST;
    let (port, health, store) = (broker.port(), broker.port() + 2, folder.join("store"));
    text += &format!(
        "namesrvAddr={name_server}\nlistenPort={port}\nbindAddress={local}\nbrokerIP1={local}\n\
         storePathRootDir={}\nmetricsPromExporterPort={health}\n",
        store.display()
    );
    text
}

/// A process of this program.
struct Process {
    child: Child,
    name: &'static str,
    log: PathBuf,
}

impl Process {
    /// What it says goes to `log`, behind what is there.
    fn start(
        name: &'static str,
        words: impl IntoIterator<Item = std::ffi::OsString>,
        log: PathBuf,
    ) -> Result<Self, Failure> {
        let refused = |error| problem::io(&format!("{name} cannot be started"), &error);
        let said = OpenOptions::new().create(true).append(true).open(&log).map_err(refused)?;
        let child = Command::new(std::env::current_exe().map_err(refused)?)
            .args(["--end-with", &std::process::id().to_string()])
            .args(words)
            .stdin(Stdio::null())
            .stdout(said.try_clone().map_err(refused)?)
            .stderr(said)
            // Ctrl-C is ours to hear: a terminal sends it to the whole group.
            .process_group(0)
            .spawn()
            .map_err(refused)?;
        Ok(Self { child, name, log })
    }

    async fn wait_until_it_answers(
        &mut self,
        cluster: &Cluster,
        at: SocketAddr,
        ask: Request<'static>,
    ) -> Result<(), Failure> {
        let began = Instant::now();
        loop {
            if cluster.admin().must(&Peer::At(at.to_string()), ask.clone()).await.is_ok() {
                return Ok(());
            }
            if let Some(status) = self.ended()? {
                return Err(self.failed(status, "before it answered"));
            }
            if began.elapsed() > PATIENCE {
                return Err(self.silent(&format!("{at} has not answered within {PATIENCE:?}")));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>, Failure> {
        self.child.try_wait().map_err(|error| problem::io(&format!("{} cannot be looked after", self.name), &error))
    }

    fn kill(&mut self) -> Result<(), Failure> {
        let killed = self.child.kill().and_then(|()| self.child.wait());
        killed.map(drop).map_err(|error| problem::io(&format!("{} cannot be killed", self.name), &error))
    }

    async fn stop(&mut self) -> Result<(), Failure> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process has a number");
        kill_process(pid, Signal::TERM)
            .map_err(|error| problem::io(&format!("{} cannot be stopped", self.name), &error.into()))?;
        let began = Instant::now();
        loop {
            match self.ended()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(self.failed(status, "when it was to stop")),
                None if began.elapsed() > PATIENCE => return Err(self.silent("it does not end on SIGTERM")),
                None => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// It has ended by itself. Its exit code is ours: it has said why.
    fn failed(&self, status: ExitStatus, when: &str) -> Failure {
        let exit = match status.code() {
            Some(3) => ExitCode::Configuration,
            Some(7) => ExitCode::InUse,
            Some(8) => ExitCode::Damaged,
            Some(9) => ExitCode::Io,
            _ => ExitCode::Failed,
        };
        let title = format!("{} has ended with {status} {when}", self.name);
        Failure::new(exit, Problem::new(title, self.said(), "nothing can be compared without it", self.remedy()))
    }

    fn silent(&self, what: &str) -> Failure {
        let what = format!("{what}\n{}", self.said());
        let title = format!("{} does not do what it is to do", self.name);
        Failure::new(ExitCode::Failed, Problem::new(title, what, "nothing can be compared without it", self.remedy()))
    }

    fn remedy(&self) -> String {
        format!("do as it says; all that it has said is in {}", self.log.display())
    }

    /// The last lines of what it said.
    fn said(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_else(|error| error.to_string().into_bytes());
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already: then killing it does nothing, and waiting only repeats what is known.
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("left behind: {}, process {}: {error}", self.name, self.child.id());
        }
    }
}

/// Has the kernel end this process together with the one that has started it, in whichever way that ends.
///
/// # Errors
/// The parent is another one by now, or the kernel does not know such a thing.
pub fn end_with_parent(parent: u32) -> Result<(), Failure> {
    let refused = |error: std::io::Error| problem::io("this process cannot be bound to its parent", &error);
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| refused(error.into()))?;
    let now = getppid().map(|pid| pid.as_raw_nonzero().get());
    if now != i32::try_from(parent).ok() {
        return Err(refused(std::io::Error::other(format!("process {parent}, which has started it, is gone"))));
    }
    Ok(())
}

/// One for a name server and one for a broker: of the latter the neighbours (two below, two above) are free as well.
/// Outside the range from which the kernel gives ports to clients.
fn free_ports(folder: &Path) -> Result<[u16; 2], Failure> {
    const BASES: u32 = 1_500;
    let start = std::process::id() % BASES;
    let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    (0..BASES)
        .map(|step| 15_000 + u16::try_from((start + step) % BASES).expect("below 1500") * 10)
        .find(|base| [0, 3, 5, 6, 7].into_iter().all(|above| free(base + above)))
        .map(|base| [base, base + 5])
        .ok_or_else(|| {
            let error = std::io::Error::other("none between 15000 and 30000");
            problem::io(&format!("no ports are free for {}", folder.display()), &error)
        })
}

/// A folder that goes when this is dropped, unless it is to stay.
pub(crate) struct Folder {
    path: PathBuf,
    stays: bool,
}

impl Folder {
    /// This one, which stays; else one among the temporary files.
    pub(crate) fn new(given: Option<&Path>, what: &str) -> Self {
        match given {
            Some(path) => Self { path: path.to_owned(), stays: true },
            None => {
                let name = format!("keepmq-{what}-{}-{}", std::process::id(), crate::load::wall());
                Self { path: std::env::temp_dir().join(name), stays: false }
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Somebody will want to look at what went wrong.
    pub(crate) fn keep(&mut self) {
        self.stays = true;
    }

    pub(crate) fn fate(&self) -> &'static str {
        if self.stays { "kept" } else { "removed at the end" }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.stays
            && self.path.exists()
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            eprintln!("{} could not be removed: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_settings_and_our_places() {
        let theirs =
            "# mine\nbrokerName = payments\nlistenPort=10911\nflushDiskType=SYNC_FLUSH\nstorePathRootDir: /data\n";
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let conf = broker_conf(theirs, Path::new("/tmp/x"), at(15_000), at(15_005));
        assert_eq!(
            conf,
            "# mine\nbrokerName = payments\nflushDiskType=SYNC_FLUSH\nnamesrvAddr=127.0.0.1:15000\nlistenPort=15005\n\
             bindAddress=127.0.0.1\nbrokerIP1=127.0.0.1\nstorePathRootDir=/tmp/x/store\nmetricsPromExporterPort=15007\n"
        );
    }
}
