//! `keepmq tour` and `keepmq prove`, which prove things themselves: here it is proved that they can fail.

use crate::process::{Folder, PATIENCE};
use crate::tally::Tally;
use anyhow::{Context, Result, ensure};
use keepmq_ledger::{Answer, Entry, entries};
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

/// Longest that a tour may take on a machine that does other things as well.
const TOUR: f64 = 20.0;

/// `keepmq tour`. With a deliberate mistake that loses messages it must say so.
pub fn tour(tally: &mut Tally, binary: &Path, planted: Option<&str>) -> Result<()> {
    let what = match planted {
        None => "tour: the books balance".to_owned(),
        Some(bug) => format!("tour: finds the planted bug {bug}"),
    };
    let folder = Folder::new("tour")?;
    let began = Instant::now();
    let mut command = Command::new(binary);
    command.arg("tour").arg("--data").arg(folder.path().join("data"));
    match planted {
        None => {}
        Some(bug) => drop(command.arg("--fast").env("KEEPMQ_PLANTED", bug)),
    }
    let (code, said) = run(command)?;
    let seconds = began.elapsed().as_secs_f64();
    let as_wanted = match planted {
        None => code == Some(0) && said.contains("the books balance") && seconds < TOUR,
        Some(_) => code == Some(1) && said.contains("lost: message"),
    };
    let told = format!("it ended with {code:?} after {seconds:.1} s:\n{said}");
    tally.check(&what, if as_wanted { Ok(()) } else { Err(told) });
    Ok(())
}

/// `keepmq prove`: balances after kills, in a log that was filled before, and without any at a broker that runs already; and once
/// the end of the log is gone behind its back, says so.
pub fn prove(tally: &mut Tally, binary: &Path) -> Result<()> {
    let folder = Folder::new("prove-filled")?;
    let told = filled(binary, folder.path()).map_err(|error| format!("{error:#}"));
    tally.check("prove: with a log that was filled, every kill and every queue is told", told);
    let mut folder = Folder::new("prove")?;
    match cut(binary, folder.path()) {
        Ok(told) => tally.pass(&format!("prove: sees what is missing from a log that was cut; {told}")),
        Err(error) => {
            tally.fail("prove: sees what is missing from a log that was cut", &format!("{error:#}"));
            folder.keep();
        }
    }
    Ok(())
}

fn filled(binary: &Path, folder: &Path) -> Result<()> {
    const WORDS: [&str; 11] =
        ["--kills", "3", "--secs", "2", "--connections", "16", "--log-size", "32MiB", "--seed", "5", "--json"];
    let data = folder.join("data");
    let mut command = Command::new(binary);
    command.arg("prove").arg("--data").arg(&data).args(WORDS);
    let (code, said) = run(command)?;
    ensure!(code == Some(0), "it ended with {code:?}: {said}");
    let told: serde_json::Value = serde_json::from_str(&said).with_context(|| format!("no JSON: {said}"))?;
    let number = |value: &serde_json::Value| value.as_u64().with_context(|| format!("{value} is no number: {said}"));
    let kills = told["kills"].as_array().context("there are kills")?;
    ensure!(kills.len() == 3 && told["seed"] == 5 && told["clean"] == true, "{said}");
    ensure!(number(&kills[0]["acknowledged"])? >= 2048, "32 MiB in messages of 16 KiB come first: {said}");
    ensure!(number(&told["restart_ms"]["min"])? <= number(&told["restart_ms"]["max"])?, "{said}");
    let found: Vec<_> = told["queues"].as_array().context("there are queues")?.iter().collect();
    ensure!(found.len() == 4 && found.iter().all(|queue| queue["found"] == queue["next_offset"]), "{said}");
    Ok(())
}

fn cut(binary: &Path, folder: &Path) -> Result<String> {
    let data = folder.join("data");
    let prove = |words: &[&str]| {
        let mut command = Command::new(binary);
        command.arg("prove").arg("--data").arg(&data).args(words);
        run(command)
    };
    let (code, said) = prove(&["--kills", "2", "--secs", "2"])?;
    ensure!(code == Some(0) && said.contains("nothing that was acknowledged is missing"), "{code:?}: {said}");
    let ledger = data.join("ledger");
    let ledger = ledger.to_str().context("the folder has a plain name")?;
    let (code, said) = prove(&["--check", ledger])?;
    ensure!(code == Some(0), "the check of a store that is whole ended with {code:?}: {said}");

    let highest = highest_acknowledged(&data.join("ledger"))?;
    let (segment, base) = segment_of(&data.join("store/commitlog"), highest)?;
    let mut file = OpenOptions::new().write(true).open(&segment)?;
    let len = file.metadata()?.len();
    // From the last acknowledged record on there is nothing, as if it had never been written.
    file.seek(SeekFrom::Start(highest - base))?;
    zero(&mut file, len - (highest - base))?;
    file.sync_all()?;
    let (code, said) = prove(&["--check", ledger])?;
    // Either the broker starts, and a message is missing; or it sees for itself that its log is damaged, and says where.
    let seen = code == Some(1) && said.contains("lost: message") || code == Some(8) && said.contains("has ended");
    ensure!(seen, "the log was cut at {highest}, and the check ended with {code:?}: {said}");
    Ok(format!("cut at {highest}, exit {}", code.unwrap_or_default()))
}

fn run(mut command: Command) -> Result<(Option<i32>, String)> {
    let began = Instant::now();
    let Output { status, stdout, stderr } = command.output().context("cannot start keepmq")?;
    ensure!(began.elapsed() < PATIENCE, "it has taken {:?}", began.elapsed());
    let said = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    Ok((status.code(), said))
}

fn highest_acknowledged(ledger: &Path) -> Result<u64> {
    let text = std::fs::read_to_string(ledger)?;
    let kept = |entry| match entry {
        Entry::Answered { answer: Answer::Kept { position, .. }, .. } => Some(position.0),
        _ => None,
    };
    entries(&text)?.into_iter().filter_map(kept).max().context("nothing was acknowledged")
}

/// The segment that holds a position, and where it begins.
fn segment_of(log: &Path, position: u64) -> Result<(PathBuf, u64)> {
    let mut found = None;
    for entry in std::fs::read_dir(log)? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let base = name.parse::<u64>().ok().filter(|base| *base <= position);
        found = found.max(base.map(|base| (base, path)));
    }
    let (base, path) = found.context("there is no segment")?;
    Ok((path, base))
}

fn zero(file: &mut File, mut len: u64) -> Result<()> {
    let zeros = [0; 65_536];
    while len > 0 {
        let piece = len.min(zeros.len() as u64);
        file.write_all(&zeros[..usize::try_from(piece)?])?;
        len -= piece;
    }
    Ok(())
}
