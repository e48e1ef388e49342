//! Running other programs.

use anyhow::{Context, Result};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The project's folder.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the project").to_owned()
}

/// Where Cargo builds.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// A program that is started in the project's folder.
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    // What cargo tells xtask about itself is not meant for what xtask starts.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_PKG_VERSION", "RUST_RECURSION_COUNT"] {
        command.env_remove(name);
    }
    command
}

/// Cargo with these words.
pub(crate) fn cargo(words: &str) -> Command {
    let mut cargo = command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(words.split_whitespace());
    cargo
}

/// Runs to the end and gives every line, of both outputs in their order, to `each`. Answers whether it exited with 0.
pub(crate) fn lines(command: &mut Command, mut each: impl FnMut(&str)) -> Result<bool> {
    let what = format!("{command:?}");
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    let mut child = command
        .stdin(std::process::Stdio::null())
        .stdout(writer.try_clone().context("cannot copy a pipe")?)
        .stderr(writer)
        .spawn()
        .with_context(|| format!("cannot start {what}"))?;
    // The command holds the writing ends; they must go, or the reader never sees the end.
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).with_context(|| format!("cannot read what {what} says"))? > 0 {
        each(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
    Ok(child.wait().with_context(|| format!("cannot wait for {what}"))?.success())
}

/// Runs to the end; the last lines of what it said are the reason when it failed.
pub(crate) fn quiet(command: &mut Command) -> Result<std::result::Result<(), String>> {
    const SHOWN: usize = 40;
    let mut said = std::collections::VecDeque::new();
    let good = lines(command, |line| {
        said.push_back(line.to_owned());
        if said.len() > SHOWN {
            said.pop_front();
        }
    })?;
    Ok(if good { Ok(()) } else { Err(format!("{command:?} failed\n  {}", said.make_contiguous().join("\n  "))) })
}
