//! Configurations and folders that a broker must refuse to work with.

use super::cases::judge;
use crate::client::{Client, send_request, unique_key};
use crate::process::{Folder, PATIENCE, Process};
use crate::scene::Scene;
use crate::tally::Tally;
use anyhow::{Context, Result};
use std::path::Path;
use std::process::Command;

/// All of them.
pub(super) fn run(tally: &mut Tally, binary: &Path) -> Result<()> {
    let folder = Folder::new("refusals")?;
    let scene = Scene::new(binary, folder.path())?;
    for (key, value, says) in [
        ("flushDiskTyp", "SYNC_FLUSH", "flushDiskTyp"),
        ("listenPort", "many", "listenPort"),
        ("listenPort", "70000", "listenPort"),
        ("flushDiskType", "SOMETIMES", "flushDiskType"),
        ("mappedFileSizeCommitLog", "-1", "mappedFileSizeCommitLog"),
        ("maxMessageSize", "99999999999", "maxMessageSize"),
        ("brokerRole", "SYNC_MASTER", "brokerRole"),
        ("brokerRole", "SLAVE", "brokerRole"),
    ] {
        let refused = ended(&scene.clone().with(key, value), 3, says);
        tally.check(&format!("hostile: broker.conf with {key}={value} is refused"), refused);
    }
    let (mut broker, _) = scene.start_broker()?;
    let other = Scene::new(binary, folder.path())?.with("storePathRootDir", &scene.store().display());
    tally.check("hostile: a store in use is refused", ended(&other, 7, "in use"));
    broker.stop()?;

    let file = folder.path().join("file");
    std::fs::write(&file, "no folder").context("cannot write a file")?;
    let blocked = scene.clone().with("storePathRootDir", &file.join("store").display());
    tally.check("hostile: a store that cannot be created is refused", ended(&blocked, 9, "file"));
    if rustix::process::geteuid().is_root() {
        let what = "hostile: a store on a read-only file system is refused";
        tally.check(what, on_tmpfs(&scene, folder.path(), "ro", |scene| ended(scene, 9, "ead-only")));
        let what = "hostile: on a full disk nothing is accepted, and it says so";
        tally.check(what, on_tmpfs(&scene, folder.path(), "size=3m", full_disk));
    } else {
        tally.skip("hostile: a read-only and a full disk", "not root, so no tmpfs can be mounted");
    }
    Ok(())
}

/// The broker must end by itself with this exit code, and say this.
fn ended(scene: &Scene, code: i32, says: &str) -> Result<(), String> {
    let story = || {
        let log = scene.folder.join(format!("refused-{}.log", scene.broker.port()));
        std::fs::write(&log, "").context("cannot empty a log")?;
        let mut process = Process::start(&scene.broker_command()?, &log)?;
        let status = process.ended_within(PATIENCE)?.context("it runs instead of ending")?;
        let said = std::fs::read_to_string(&log).context("cannot read a log")?;
        anyhow::ensure!(status.code() == Some(code), "expected exit code {code}, seen {status}: {said}");
        anyhow::ensure!(said.contains(says), "expected {says:?} in: {said}");
        Ok(())
    };
    story().map_err(|error: anyhow::Error| format!("{error:#}"))
}

fn full_disk(scene: &Scene) -> Result<(), String> {
    let scene = scene.clone().with("mappedFileSizeCommitLog", &(16 << 20));
    let story = || {
        let Ok((_broker, _)) = scene.start_broker() else {
            // It may refuse to start; then the text must say why.
            return ended(&scene, 9, "space").map_err(|why| anyhow::anyhow!(why));
        };
        let response = Client::connect(scene.broker)?.ask(&send_request("Full", 0, &[0; 4096], &unique_key(1)))?;
        judge(&response, 14, "")
    };
    story().map_err(|error: anyhow::Error| format!("{error:#}"))
}

/// With a store below a tmpfs that is mounted with these options.
fn on_tmpfs(
    scene: &Scene,
    folder: &Path,
    options: &str,
    then: impl Fn(&Scene) -> Result<(), String>,
) -> Result<(), String> {
    let mount = folder.join("tmpfs");
    let run = |program: &str, words: &[&str]| match Command::new(program).args(words).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("cannot start {program}: {error}")),
    };
    std::fs::create_dir_all(&mount).map_err(|error| format!("cannot create {}: {error}", mount.display()))?;
    let path = mount.to_string_lossy().into_owned();
    run("mount", &["-t", "tmpfs", "-o", options, "tmpfs", &path])?;
    let seen = then(&scene.clone().with("storePathRootDir", &mount.join("store").display()));
    run("umount", &[&path])?;
    seen
}
