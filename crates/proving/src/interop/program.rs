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
/// How lines begin that tell what a member of a group takes.
const TOOK: &str = "took ";

/// A program that is running and takes commands.
pub(super) struct Program {
    child: Child,
    commands: ChildStdin,
    lines: Receiver<String>,
    log: PathBuf,
    /// Lines that came unasked: what a member of a group takes.
    took: Vec<String>,
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
        Ok(Self { child, commands, lines, log, took: Vec::new() })
    }

    /// Gives a command and counts its checks.
    pub(super) fn command(&mut self, tally: &mut Tally, client: &str, words: &str) -> Result<()> {
        self.run(words, |line| {
            if let Some(check) = line.strip_prefix("ok ") {
                tally.pass(&format!("interop {client}: {check}"));
            } else if let Some(failure) = line.strip_prefix("FAIL ") {
                let (check, why) = failure.split_once(": ").unwrap_or((failure, ""));
                tally.fail(&format!("interop {client}: {check}"), why);
            }
        })
    }

    /// Gives a command and answers its lines that begin with this word, without it.
    pub(super) fn ask(&mut self, words: &str, word: &str) -> Result<Vec<String>> {
        let mut answers = Vec::new();
        let mut failure = None;
        self.run(words, |line| match line.split_once(' ') {
            Some((first, rest)) if first == word => answers.push(rest.to_owned()),
            Some(("FAIL", why)) => failure = Some(why.to_owned()),
            _ => {}
        })?;
        match failure {
            Some(why) => bail!("{why}; see {}", self.log.display()),
            None => Ok(answers),
        }
    }

    /// Gives a command that has nothing to say.
    pub(super) fn tell(&mut self, words: &str) -> Result<()> {
        self.ask(words, "").map(|_| ())
    }

    /// Gives a command and shows its lines, up to its end. Anything that is not expected is what RocketMQ's libraries print.
    fn run(&mut self, words: &str, mut line: impl FnMut(&str)) -> Result<()> {
        writeln!(self.commands, "{words}").context("the program takes no commands any more")?;
        let end = Instant::now() + COMMAND;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(said) if said == "done" => return Ok(()),
                Ok(said) => match said.strip_prefix(TOOK) {
                    Some(took) => self.took.push(took.to_owned()),
                    None => line(&said),
                },
                Err(RecvTimeoutError::Timeout) => {
                    bail!("{words}: no end after {COMMAND:?}; see {}", self.log.display())
                }
                Err(RecvTimeoutError::Disconnected) => bail!("{words}: the program ended; see {}", self.log.display()),
            }
        }
    }

    /// What members of groups have taken, in its order, and was not told yet.
    pub(super) fn took(&mut self) -> Vec<String> {
        let mut took = std::mem::take(&mut self.took);
        took.extend(self.lines.try_iter().filter_map(|line| line.strip_prefix(TOOK).map(str::to_owned)));
        took
    }

    /// SIGKILL; answers what members have taken until then.
    pub(super) fn kill(mut self) -> Result<Vec<String>> {
        self.child.kill().context("cannot kill a program")?;
        self.child.wait().context("cannot wait for a program")?;
        let mut took = self.took();
        // Ends with the output, which has ended.
        took.extend(self.lines.iter().filter_map(|line| line.strip_prefix(TOOK).map(str::to_owned)));
        Ok(took)
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
