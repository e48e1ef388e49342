//! Programs that check themselves, in whichever language.

use crate::process::tied;
use crate::tally::Tally;
use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Longest that one command of a program may take.
const COMMAND: Duration = Duration::from_secs(240);

/// A program that is running and takes commands.
pub(super) struct Program {
    child: Child,
    commands: ChildStdin,
    lines: Receiver<String>,
    log: PathBuf,
}

impl Program {
    /// What it has to say to nobody goes to the log.
    pub(super) fn start(command: &Command, log: PathBuf) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let errors = std::fs::File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let mut child = tied(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
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
    pub(super) fn command(&mut self, tally: &mut Tally, client: &str, words: &str) -> Result<()> {
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
                tally.pass(&format!("interop {client}: {check}"));
            } else if let Some(failure) = line.strip_prefix("FAIL ") {
                let (check, why) = failure.split_once(": ").unwrap_or((failure, ""));
                tally.fail(&format!("interop {client}: {check}"), why);
            }
            // Anything else is what RocketMQ's libraries print.
        }
    }

    /// No more commands: it ends by itself.
    pub(super) fn end(self) -> Result<()> {
        let Self { mut child, commands, .. } = self;
        drop(commands);
        let status = child.wait().context("cannot wait for a program")?;
        ensure!(status.success(), "the program ended with {status}");
        Ok(())
    }
}
