//! RocketMQ's own clients and its own broker: the programs in `interop/java` and `interop/go` check themselves, this drives
//! them and lets servers end and come back between their commands.

mod program;

use crate::client::Client;
use crate::process::{Folder, PATIENCE, Process, on_path};
use crate::scene::Scene;
use crate::tally::Tally;
use anyhow::{Context, Result, bail, ensure};
use keepmq_protocol::Request;
use keepmq_protocol::request::RouteInfo;
use program::Program;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Versions of the Java client.
const CLIENTS: &[&str] = &["4.9.8", "5.3.3"];
/// Version of the broker that opens our store.
const BROKER: &str = "5.3.3";
/// Small segments, so that the store that Java opens has several. They must hold the largest message.
const SEGMENT: u64 = 8 * 1024 * 1024;
/// Messages that a Java broker must find in our store.
const KNOWN: u32 = 1_000;
const KNOWN_TOPIC: &str = "Known";

/// What the programs need.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Where the Java programs lie.
    #[arg(long, default_value = "interop/java")]
    java: PathBuf,
    /// Where the Go program lies.
    #[arg(long, default_value = "interop/go")]
    go: PathBuf,
    /// Files that our encoders have written, for Java to read.
    #[arg(long)]
    golden: Option<PathBuf>,
}

/// Runs everything.
pub fn run(tally: &mut Tally, binary: &Path, options: &Options) -> Result<()> {
    for version in CLIENTS {
        story(tally, &format!("interop: Java client {version}"), &["javac", "mvn"], |tally, folder| {
            java_clients(tally, binary, options, version, folder)
        })?;
    }
    story(tally, "interop: Go client", &["go"], |tally, folder| go_clients(tally, binary, options, folder))
}

fn story(
    tally: &mut Tally,
    what: &str,
    programs: &[&str],
    play: impl FnOnce(&mut Tally, &Path) -> Result<()>,
) -> Result<()> {
    if let Some(lack) = lacking(programs) {
        tally.skip(what, &lack);
        return Ok(());
    }
    let mut folder = Folder::new("interop")?;
    if let Err(error) = play(tally, folder.path()) {
        tally.fail(what, &format!("{error:#}"));
        folder.keep();
    }
    Ok(())
}

/// What the machine has not got.
pub(crate) fn lacking(programs: &[&str]) -> Option<String> {
    let lack = programs.iter().find(|program| on_path(program).is_none());
    lack.map(|program| format!("there is no `{program}`"))
}

fn java_clients(tally: &mut Tally, binary: &Path, options: &Options, version: &str, folder: &Path) -> Result<()> {
    let class_path = built(&options.java, version)?;
    let scene = Scene::new(binary, folder)?.registering().with("mappedFileSizeCommitLog", &SEGMENT);
    let mut name_server = scene.start_name_server()?;
    let (mut broker, _) = scene.start_broker()?;
    wait_for_route(scene.name_server, "TBW102")?;
    let start = |what: &str| start_java(&class_path, &scene, folder, &format!("{what}{}", version.replace('.', "")));
    let mut program = start("run")?;
    let mut command = |program: &mut Program, words: &str| program.command(tally, version, words);
    if let Some(golden) = &options.golden {
        command(&mut program, &format!("golden {}", golden.display()))?;
    }
    for words in ["send", "consume", "broadcast", "pull", "rebalance", "orderly"] {
        command(&mut program, words)?;
    }

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

fn go_clients(tally: &mut Tally, binary: &Path, options: &Options, folder: &Path) -> Result<()> {
    let program = absolute(&options.go.join("target/interop"))?;
    let mut build = Command::new("go");
    build.current_dir(&options.go).envs([("GOTOOLCHAIN", "local"), ("CGO_ENABLED", "0")]);
    let output = build.args(["build", "-buildvcs=false", "-o"]).arg(&program).arg(".").output();
    let output = output.context("cannot start go")?;
    ensure!(output.status.success(), "go build failed: {}", String::from_utf8_lossy(&output.stderr));
    let scene = Scene::new(binary, folder)?.registering();
    let mut name_server = scene.start_name_server()?;
    let (mut broker, _) = scene.start_broker()?;
    wait_for_route(scene.name_server, "TBW102")?;
    let mut command = Command::new(program);
    command.env("HOME", folder).args([&scene.name_server.to_string(), &scene.broker.to_string(), "go"]);
    let mut program = Program::start(&command, folder.join("go.log"))?;
    for words in ["admin", "send", "consume", "broadcast", "pull", "orderly", "across"] {
        program.command(tally, "Go", words)?;
    }
    broker.kill()?;
    broker = scene.start_broker()?.0;
    program.command(tally, "Go", "restarted")?;
    program.end()?;
    for (what, server) in [("broker", &mut broker), ("name server", &mut name_server)] {
        let status = server.stop()?;
        ensure!(status.success(), "the {what} ended with {status} on SIGTERM{}", server.said());
    }
    Ok(())
}

/// Compiles the programs against one version; answers their class path.
pub(crate) fn built(java: &Path, version: &str) -> Result<String> {
    maven(java, &[&format!("-Drocketmq.version={version}"), "compile"])?;
    let target = absolute(&java.join("target").join(version))?.display().to_string();
    Ok(format!("{target}/classes:{target}/lib/*"))
}

fn start_java(class_path: &str, scene: &Scene, folder: &Path, run: &str) -> Result<Program> {
    let home = folder.join(format!("{run}-home")).display().to_string();
    let mut command = Command::new("java");
    command.args(["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
    command.arg(format!("-Duser.home={home}")).arg(format!("-Drocketmq.client.logRoot={home}"));
    command.args(["-cp", class_path, "keepmq.interop.Interop", &scene.name_server.to_string(), run]);
    Program::start(&command, folder.join(format!("{run}.log")))
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
pub(crate) fn wait_for_route(name_server: SocketAddr, topic: &str) -> Result<()> {
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
