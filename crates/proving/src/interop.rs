//! RocketMQ's own clients and its own broker: the programs in `interop/java` check themselves, this drives them and lets
//! servers end and come back between their commands.

use crate::client::Client;
use crate::process::{Folder, PATIENCE, Process, on_path, tied};
use crate::scene::Scene;
use crate::tally::Tally;
use anyhow::{Context, Result, bail, ensure};
use keepmq_protocol::Request;
use keepmq_protocol::request::RouteInfo;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Versions of the client.
const CLIENTS: &[&str] = &["4.9.8", "5.3.3"];
/// Version of the broker that opens our store.
const BROKER: &str = "5.3.3";
/// Small segments, so that the store that Java opens has several. They must hold the largest message.
const SEGMENT: u64 = 8 * 1024 * 1024;
/// Longest that one command of a program may take.
const COMMAND: Duration = Duration::from_secs(240);
/// Messages that a Java broker must find in our store.
const KNOWN: u32 = 1_000;
const KNOWN_TOPIC: &str = "Known";

/// What the programs need.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Where the Java programs lie.
    #[arg(long, default_value = "interop/java")]
    java: PathBuf,
    /// Files that our encoders have written, for Java to read.
    #[arg(long)]
    golden: Option<PathBuf>,
}

/// Runs everything.
pub fn run(tally: &mut Tally, binary: &Path, options: &Options) -> Result<()> {
    if let Some(lack) = lacking() {
        for version in CLIENTS {
            tally.skip(&format!("interop: Java client {version}"), &lack);
        }
        tally.skip(&format!("interop: Java broker {BROKER} on our store"), &lack);
        return Ok(());
    }
    for version in CLIENTS {
        let what = format!("interop: Java client {version}");
        let mut folder = Folder::new("interop")?;
        if let Err(error) = clients(tally, binary, options, version, folder.path()) {
            tally.fail(&what, &format!("{error:#}"));
            folder.keep();
        }
    }
    Ok(())
}

/// What the machine has not got.
fn lacking() -> Option<String> {
    [("javac", "no JDK"), ("mvn", "no Maven")]
        .into_iter()
        .find(|(program, _)| on_path(program).is_none())
        .map(|(_, lack)| lack.to_owned())
}

fn clients(tally: &mut Tally, binary: &Path, options: &Options, version: &str, folder: &Path) -> Result<()> {
    let class_path = built(&options.java, version)?;
    let scene = Scene::new(binary, folder)?.registering().with("mappedFileSizeCommitLog", &SEGMENT);
    let mut name_server = scene.start_name_server()?;
    let (mut broker, _) = scene.start_broker()?;
    wait_for_route(scene.name_server, "TBW102")?;
    let start =
        |what: &str| Program::start(&class_path, &scene, folder, &format!("{what}{}", version.replace('.', "")));
    let mut program = start("run")?;
    let mut command = |program: &mut Program, words: &str| program.command(tally, version, words);
    if let Some(golden) = &options.golden {
        command(&mut program, &format!("golden {}", golden.display()))?;
    }
    command(&mut program, "send")?;
    command(&mut program, "consume")?;

    command(&mut program, "offsets-begin restart")?;
    let status = broker.stop()?;
    ensure!(status.success(), "the broker ended with {status} on SIGTERM{}", broker.said());
    broker = scene.start_broker()?.0;
    command(&mut program, "offsets-end restart")?;

    command(&mut program, "offsets-begin kill")?;
    broker.kill()?;
    broker = scene.start_broker()?.0;
    command(&mut program, "offsets-end kill")?;

    command(&mut program, "clients-begin kill")?;
    broker.kill()?;
    broker = scene.start_broker()?.0;
    command(&mut program, "clients-end kill")?;

    command(&mut program, "clients-begin nameserver")?;
    name_server.kill()?;
    name_server = scene.start_name_server()?;
    wait_for_route(scene.name_server, "TBW102")?;
    command(&mut program, "clients-end nameserver")?;

    if version == BROKER {
        command(&mut program, &format!("known-send {KNOWN_TOPIC} {KNOWN}"))?;
        program.end()?;
        let status = broker.stop()?;
        ensure!(status.success(), "the broker ended with {status} on SIGTERM{}", broker.said());
        let java = java_broker(&options.java, &scene, folder)?;
        wait_for_route(scene.name_server, KNOWN_TOPIC).with_context(|| format!("Java's broker{}", java.said()))?;
        let mut reader = start("read")?;
        command(&mut reader, &format!("known-read {KNOWN_TOPIC} {KNOWN}"))?;
        reader.end()?;
    } else {
        program.end()?;
        let status = broker.stop()?;
        ensure!(status.success(), "the broker ended with {status} on SIGTERM{}", broker.said());
    }
    let status = name_server.stop()?;
    ensure!(status.success(), "the name server ended with {status} on SIGTERM{}", name_server.said());
    Ok(())
}

/// Compiles the programs against one version; answers their class path.
fn built(java: &Path, version: &str) -> Result<String> {
    maven(java, &[&format!("-Drocketmq.version={version}"), "compile"])?;
    let target = absolute(&java.join("target").join(version))?.display().to_string();
    Ok(format!("{target}/classes:{target}/lib/*"))
}

fn maven(java: &Path, words: &[&str]) -> Result<()> {
    let pom = java.join("pom.xml").display().to_string();
    let output = Command::new("mvn").args(["-B", "-ntp", "-q", "-f", &pom]).args(words).output();
    let output = output.context("cannot start Maven")?;
    if !output.status.success() {
        bail!("Maven failed: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot find {}", path.display()))
}

/// Waits until the name server has a route for the topic.
fn wait_for_route(name_server: SocketAddr, topic: &str) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    let asked = Request::RouteInfo(RouteInfo { topic: topic.into(), standard_json: Some(true) });
    loop {
        // It may still be starting, and end connections it cannot serve yet.
        let seen = match Client::connect(name_server).and_then(|mut client| client.ask(&asked)) {
            Ok(response) if response.is_ok() => return Ok(()),
            Ok(response) => format!("code {}", response.code),
            Err(error) => format!("{error:#}"),
        };
        ensure!(Instant::now() < end, "the name server has no route for {topic} after {PATIENCE:?}: {seen}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Starts RocketMQ's broker on a copy of our store, in our broker's place.
fn java_broker(java: &Path, scene: &Scene, folder: &Path) -> Result<Process> {
    maven(java, &["-Pbroker", &format!("-Drocketmq.version={BROKER}"), "compile"])?;
    let library = absolute(&java.join(format!("target/broker-{BROKER}/lib")))?;
    let home = folder.join("java-broker");
    let store = home.join("store");
    copy(&scene.store(), &store)?;
    let conf = home.join("broker.conf");
    std::fs::create_dir_all(home.join("conf")).context("cannot create a folder")?;
    let lines = [
        "brokerClusterName=DefaultCluster".to_owned(),
        format!("brokerName={}", crate::scene::BROKER),
        "brokerId=0".to_owned(),
        "brokerIP1=127.0.0.1".to_owned(),
        format!("listenPort={}", scene.broker.port()),
        format!("haListenPort={}", scene.broker.port() + 1),
        format!("namesrvAddr={}", scene.name_server),
        format!("storePathRootDir={}", store.display()),
        format!("storePathCommitLog={}", store.join("commitlog").display()),
        format!("mappedFileSizeCommitLog={SEGMENT}"),
        "mappedFileSizeConsumeQueue=60000".to_owned(),
        "maxHashSlotNum=50000".to_owned(),
        "maxIndexNum=200000".to_owned(),
        "diskMaxUsedSpaceRatio=98".to_owned(),
    ];
    std::fs::write(&conf, lines.join("\n")).context("cannot write Java's broker.conf")?;
    let mut command = Command::new("java");
    command.env("ROCKETMQ_HOME", &home).args(["-Xmx768m", "-XX:+UseSerialGC", "-XX:MaxDirectMemorySize=512m"]);
    command.args(["--add-exports", "java.base/sun.nio.ch=ALL-UNNAMED"]);
    for package in ["java.nio", "sun.nio.ch", "jdk.internal.ref", "java.lang"] {
        command.args(["--add-opens", &format!("java.base/{package}=ALL-UNNAMED")]);
    }
    command.arg(format!("-Duser.home={}", home.display())).arg("-cp").arg(library.join("*"));
    command.arg("org.apache.rocketmq.broker.BrokerStartup").arg("-c").arg(&conf);
    let mut process = Process::start(&command, &folder.join("java-broker.log"))?;
    process.wait_for(scene.broker)?;
    Ok(process)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    for entry in std::fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
        let entry = entry.with_context(|| format!("cannot list {}", from.display()))?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target).with_context(|| format!("cannot copy {}", entry.path().display()))?;
        }
    }
    Ok(())
}

/// A running Java program that takes commands.
struct Program {
    child: Child,
    commands: ChildStdin,
    lines: Receiver<String>,
    log: PathBuf,
}

impl Program {
    fn start(class_path: &str, scene: &Scene, folder: &Path, run: &str) -> Result<Self> {
        let log = folder.join(format!("{run}.log"));
        let errors = std::fs::File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let home = folder.join(format!("{run}-home")).display().to_string();
        let mut command = Command::new("java");
        command.args(["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
        command.arg(format!("-Duser.home={home}")).arg(format!("-Drocketmq.client.logRoot={home}"));
        command.args(["-cp", class_path, "keepmq.interop.Interop", &scene.name_server.to_string(), run]);
        let mut child = tied(&command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .context("cannot start java")?;
        let commands = child.stdin.take().context("its input is a pipe")?;
        let output = BufReader::new(child.stdout.take().context("its output is a pipe")?);
        let (sender, lines) = channel();
        // Ends with the program, whose output ends then.
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, commands, lines, log })
    }

    /// Gives a command and counts its checks.
    fn command(&mut self, tally: &mut Tally, version: &str, words: &str) -> Result<()> {
        writeln!(self.commands, "{words}").context("the program takes no commands any more")?;
        let end = Instant::now() + COMMAND;
        loop {
            let line = match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => {
                    bail!("{words}: no end after {COMMAND:?}; see {}", self.log.display())
                }
                Err(RecvTimeoutError::Disconnected) => bail!("{words}: the program ended; see {}", self.log.display()),
            };
            if line == "done" {
                return Ok(());
            }
            if let Some(check) = line.strip_prefix("ok ") {
                tally.pass(&format!("interop {version}: {check}"));
            } else if let Some(failure) = line.strip_prefix("FAIL ") {
                let (check, why) = failure.split_once(": ").unwrap_or((failure, ""));
                tally.fail(&format!("interop {version}: {check}"), why);
            }
            // Anything else is what RocketMQ's libraries print.
        }
    }

    /// No more commands: it ends by itself.
    fn end(self) -> Result<()> {
        let Self { mut child, commands, .. } = self;
        drop(commands);
        let status = child.wait().context("cannot wait for java")?;
        ensure!(status.success(), "the program ended with {status}");
        Ok(())
    }
}

/// Classes of RocketMQ's integration tests that need what is not built yet; all others are run.
const NOT_YET: &[(&str, &str)] = &[
    ("client.consumer.broadcast.normal.BroadCastNormalMsgRecvFailIT", "send-back"),
    ("client.consumer.broadcast.order.", "queue locks"),
    ("client.consumer.filter.SqlFilterIT", "SQL filters"),
    ("client.producer.batch.BatchSendIT", "queries by key"),
    ("client.producer.order.", "queue locks"),
    ("client.producer.querymsg.QueryMsgByKeyIT", "queries by key"),
    ("client.producer.transaction.", "transactions"),
    ("delay.", "delayed messages"),
    ("tls.", "TLS"),
];

/// RocketMQ's own integration tests.
pub fn acceptance(tally: &mut Tally, binary: &Path, suite: &Path) -> Result<()> {
    let what = "interop: RocketMQ's integration tests";
    if let Some(lack) = lacking() {
        tally.skip(what, &lack);
        return Ok(());
    }
    let mut folder = Folder::new("acceptance")?;
    let scene = Scene::new(binary, folder.path())?.registering();
    let _name_server = scene.start_name_server()?;
    let _broker = scene.start_broker()?;
    wait_for_route(scene.name_server, "TBW102")?;
    let listed = Command::new(suite).arg("--list").output();
    let listed = listed.with_context(|| format!("cannot start {}", suite.display()))?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let needs = |class: &str| NOT_YET.iter().find(|(name, _)| class.starts_with(name)).map(|(_, need)| *need);
    let (later, now): (Vec<_>, Vec<_>) = listed.lines().partition(|class| needs(class).is_some());
    for class in later {
        println!("      {class} waits for {}", needs(class).unwrap_or_default());
    }
    let mut command = Command::new(suite);
    let out = folder.path().join("suite").display().to_string();
    command.args(["--namesrv", &scene.name_server.to_string(), "--jobs", "4", "--timeout", "150", "--out", &out]);
    let output = command.args(&now).output().with_context(|| format!("cannot start {}", suite.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let mut classes = 0;
    let mut lines = said.lines().peekable();
    while let Some(line) = lines.next() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("ok"), Some(class)) => tally.pass(&format!("{what}: {class}")),
            (Some("FAIL"), Some(class)) => {
                // The reasons stand below, indented.
                let mut why = format!("see {out}");
                while let Some(reason) = lines.next_if(|line| line.starts_with("   ")) {
                    why.push_str("\n  ");
                    why.push_str(reason.trim());
                }
                tally.fail(&format!("{what}: {class}"), &why);
            }
            _ => continue,
        }
        classes += 1;
    }
    if !output.status.success() {
        folder.keep();
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(classes == now.len(), "{} ran {classes} of {} classes: {said}{errors}", suite.display(), now.len());
    Ok(())
}
