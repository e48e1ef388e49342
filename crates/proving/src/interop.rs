//! RocketMQ's own clients and its own broker: the programs in `interop/java` and `interop/go` check themselves, this drives
//! them and lets servers end and come back between their commands.

mod pairs;
mod program;

use crate::client::Client;
use crate::java_servers::JavaServers;
use crate::process::{Folder, PATIENCE, Process, on_path};
use crate::scene::{Mode, Scene};
use crate::tally::Tally;
use anyhow::{Context, Result, bail, ensure};
use keepmq_protocol::Request;
use keepmq_protocol::request::RouteInfo;
use pairs::Half;
use program::Program;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Versions of the Java client.
const CLIENTS: &[&str] = &["4.9.8", "5.3.3"];
/// Version of the broker that opens our store.
const BROKER: &str = "5.3.3";
/// Versions of RocketMQ's servers that our client is tried against.
const SERVERS: &[&str] = &["5.3.3", "4.9.8"];
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
    /// The program that drives our own client.
    #[arg(long, default_value = "target/release/keepmq-interop")]
    ours: PathBuf,
    /// The script that starts RocketMQ's own servers.
    #[arg(long)]
    java_servers: Option<PathBuf>,
    /// Only what has this in its name.
    #[arg(long, default_value = "")]
    only: String,
    /// Files that our encoders have written, for Java to read.
    #[arg(long)]
    golden: Option<PathBuf>,
}

/// Runs everything.
pub fn run(tally: &mut Tally, binary: &Path, options: &Options) -> Result<()> {
    for version in CLIENTS {
        story(tally, options, &format!("interop: Java client {version}"), &["javac", "mvn"], |tally, folder| {
            java_clients(tally, binary, options, version, folder)
        })?;
    }
    story(tally, options, "interop: Go client", &["go"], |tally, folder| go_clients(tally, binary, options, folder))?;
    our_client(tally, binary, options)
}

/// Our own client: alone against every kind of servers, and in pairs with every other client.
fn our_client(tally: &mut Tally, binary: &Path, options: &Options) -> Result<()> {
    story(tally, options, "interop: our client alone", &[], |tally, folder| {
        let scene = Scene::new(binary, folder)?.registering();
        let (mut name_server, mut broker) = (scene.start_name_server()?, scene.start_broker()?.0);
        wait_for_route(scene.name_server, "TBW102")?;
        let mut program = start_ours(options, scene.name_server, folder, "alone")?;
        program.command(tally, "our client", "alone")?;
        let gone_on = pairs::killed(&mut program, || {
            broker.kill()?;
            broker = scene.start_broker()?.0;
            name_server.kill()?;
            broker.kill()?;
            name_server = scene.start_name_server()?;
            broker = scene.start_broker()?.0;
            Ok(())
        });
        let what = "interop our client: servers are killed twice under load, nothing acknowledged is missing";
        tally.check(what, gone_on.map_err(|error| format!("{error:#}")));
        program.end()
    })?;
    for version in SERVERS {
        let what = format!("interop: our client against Java servers {version}");
        story(tally, options, &what, &["java", "mvn", "bash"], |tally, folder| {
            let Some(script) = &options.java_servers else {
                tally.skip(&what, "there is no script that starts them (--java-servers)");
                return Ok(());
            };
            let servers = JavaServers::start(script, version, Mode::Sync, &folder.join("java"))?;
            let mut program = start_ours(options, servers.name_server, folder, "alone")?;
            program.command(tally, &format!("our client, Java servers {version}"), "alone")?;
            program.end()
        })?;
    }
    for version in CLIENTS {
        let name = format!("java-{}", version.replace('.', ""));
        story(tally, options, &format!("interop: ours and Java {version}"), &["javac", "mvn"], |tally, folder| {
            let class_path = built(&options.java, version)?;
            beside(tally, binary, options, folder, &name, &|scene, run| start_java(&class_path, scene, folder, run))
        })?;
    }
    story(tally, options, "interop: ours and Go", &["go"], |tally, folder| {
        let program = go_program(options)?;
        beside(tally, binary, options, folder, "go", &|scene, run| start_go(&program, scene, folder, run))
    })
}

/// Our client beside one of the others: whole messages both ways, and a group of both.
fn beside(
    tally: &mut Tally,
    binary: &Path,
    options: &Options,
    folder: &Path,
    name: &str,
    start: &dyn Fn(&Scene, &str) -> Result<Program>,
) -> Result<()> {
    let scene = Scene::new(binary, folder)?.registering();
    let (_name_server, _broker) = (scene.start_name_server()?, scene.start_broker()?);
    wait_for_route(scene.name_server, "TBW102")?;
    let start_ours = |run: &str| start_ours(options, scene.name_server, folder, run);
    let (mut ours, mut theirs) = (start_ours("ours")?, start(&scene, name)?);
    let mut ours_half = Half { name: "ours", program: &mut ours };
    let mut theirs_half = Half { name, program: &mut theirs };
    pairs::exchange(tally, &mut ours_half, &mut theirs_half)?;
    pairs::exchange(tally, &mut theirs_half, &mut ours_half)?;
    ours.end()?;
    theirs.end()?;
    pairs::shared_group(tally, name, &scene, &start_ours, &|run| start(&scene, run))
}

fn start_ours(options: &Options, name_server: SocketAddr, folder: &Path, run: &str) -> Result<Program> {
    let mut command = Command::new(absolute(&options.ours)?);
    command.args([&name_server.to_string(), run]);
    Program::start(&command, folder.join(format!("{run}.log")))
}

fn story(
    tally: &mut Tally,
    options: &Options,
    what: &str,
    programs: &[&str],
    play: impl FnOnce(&mut Tally, &Path) -> Result<()>,
) -> Result<()> {
    if !what.contains(&options.only) {
        return Ok(());
    }
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
    let program = go_program(options)?;
    let scene = Scene::new(binary, folder)?.registering();
    let mut name_server = scene.start_name_server()?;
    let (mut broker, _) = scene.start_broker()?;
    wait_for_route(scene.name_server, "TBW102")?;
    let mut program = start_go(&program, &scene, folder, "go")?;
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

/// Compiles the program; answers where it is.
fn go_program(options: &Options) -> Result<PathBuf> {
    let program = absolute(&options.go.join("target/interop"))?;
    let mut build = Command::new("go");
    build.current_dir(&options.go).envs([("GOTOOLCHAIN", "local"), ("CGO_ENABLED", "0")]);
    let output = build.args(["build", "-buildvcs=false", "-o"]).arg(&program).arg(".").output();
    let output = output.context("cannot start go")?;
    ensure!(output.status.success(), "go build failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(program)
}

fn start_go(program: &Path, scene: &Scene, folder: &Path, run: &str) -> Result<Program> {
    let mut command = Command::new(program);
    command.env("HOME", folder).args([&scene.name_server.to_string(), &scene.broker.to_string(), run]);
    Program::start(&command, folder.join(format!("{run}.log")))
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

/// Copies a folder with everything in it.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
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
