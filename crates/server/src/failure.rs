//! Why a process does not start, or ends: what happened, why, and what to do about it.

use std::fmt;

/// How a process ends when it does not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// A check or a comparison has failed.
    Failed = 1,
    /// The command line cannot be understood.
    Usage = 2,
    /// The configuration is refused.
    Configuration = 3,
    /// Another process cannot be reached.
    Unreachable = 4,
    /// A broker or a name server says no.
    Refused = 5,
    /// There is no such topic, group or message.
    NotFound = 6,
    /// The store is in use.
    InUse = 7,
    /// The store is damaged.
    Damaged = 8,
    /// An I/O error has stopped it.
    Io = 9,
    /// Messages were sent, and not every one of them ended with SEND_OK.
    NotAllKept = 12,
    /// The user has interrupted it.
    Interrupted = 130,
}

/// Why it ended: one problem or several of a kind.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What the process ends with.
    pub exit: ExitCode,
    /// None when all has been said already.
    pub problems: Vec<Problem>,
}

/// One problem, in words for whoever must solve it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// In one line, with the place.
    pub title: String,
    /// What was found.
    pub what: String,
    /// Why that cannot go on.
    pub why: String,
    /// What to do.
    pub remedy: String,
}

impl Problem {
    /// From its four parts.
    pub fn new(
        title: impl Into<String>,
        what: impl Into<String>,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { title: title.into(), what: what.into(), why: why.into(), remedy: remedy.into() }
    }
}

impl Failure {
    /// Of one problem.
    pub fn new(exit: ExitCode, problem: Problem) -> Self {
        Self { exit, problems: vec![problem] }
    }

    /// Whose reason has been shown already.
    pub fn said(exit: ExitCode) -> Self {
        Self { exit, problems: Vec::new() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "error: {}", problem.title)?;
            for (name, text) in [("what", &problem.what), ("why", &problem.why), ("do", &problem.remedy)] {
                write!(f, "\n  {name:<5} {}", text.replace('\n', "\n        "))?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}
