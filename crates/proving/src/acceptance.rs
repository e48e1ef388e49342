//! RocketMQ's own integration tests, unchanged, against our servers.

use crate::interop::{lacking, wait_for_route};
use crate::process::Folder;
use crate::scene::Scene;
use crate::tally::Tally;
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Command;

/// Classes of RocketMQ's integration tests that need what is not built yet; all others are run.
const NOT_YET: &[(&str, &str)] = &[
    ("client.consumer.filter.SqlFilterIT", "SQL filters"),
    ("client.producer.batch.BatchSendIT", "queries by key"),
    ("client.producer.querymsg.QueryMsgByKeyIT", "queries by key"),
    ("client.producer.transaction.", "transactions"),
    ("delay.", "delayed messages"),
    ("tls.", "TLS"),
];

/// RocketMQ's own integration tests.
pub fn run(tally: &mut Tally, binary: &Path, suite: &Path) -> Result<()> {
    let what = "interop: RocketMQ's integration tests";
    if let Some(lack) = lacking(&["javac", "mvn"]) {
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
