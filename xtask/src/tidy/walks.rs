//! Walks: the lines of ARCHITECTURE.md that follow a message through the code.
//!
//! ```text
//! **Send.** `broker/broker.rs::handle` → `broker/send.rs::send` ⇢ `Work` ⇢ `broker/pending.rs::release` (prose) → …
//! ```
//! After `→` stands a function, which the file before must call. After `⇢` stands an effect or an event, which the file
//! before must name, or the function that takes it up. `broker/send.rs` is `crates/broker/src/send.rs`.

use super::Project;
use super::source::code_lines;

const DOCUMENT: &str = "ARCHITECTURE.md";
const FILES_MAX: usize = 6;

pub(super) fn walks(project: &Project) -> Vec<String> {
    let lines: Vec<_> = project
        .text(DOCUMENT)
        .lines()
        .filter_map(|line| line.strip_prefix("**")?.split_once(".** "))
        .filter(|(_, walk)| walk.contains('→') || walk.contains('⇢'))
        .collect();
    if lines.is_empty() {
        return vec![format!("{DOCUMENT} has no walk")];
    }
    let faults = lines.iter().flat_map(|(name, walk)| faults_of(project, walk).into_iter().map(move |f| (name, f)));
    faults.map(|(name, fault)| format!("{name}: {fault}")).collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Arrow {
    Call,
    Effect,
}

fn faults_of(project: &Project, walk: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut files: Vec<String> = Vec::new();
    for (arrow, word) in words(walk) {
        if arrow.is_none() && !files.is_empty() {
            // Prose between the arrows may name things.
            continue;
        }
        let last = files.last().map(|path| (path.clone(), project.text(path)));
        match (arrow, word.split_once("::").filter(|(path, _)| path.contains('/'))) {
            (_, Some((path, function))) => {
                let function = function.rsplit("::").next().unwrap_or(function);
                let path = in_crates(path);
                let text = project.text(&path);
                if text.is_empty() {
                    faults.push(format!("there is no {path}"));
                } else if !has(text, |line| defines(line, function)) {
                    faults.push(format!("{path} has no fn {function}"));
                }
                if let (Some(Arrow::Call), Some((before, text))) = (arrow, last)
                    && !has(text, |line| calls(line, function))
                {
                    faults.push(format!("{before} does not call {function}"));
                }
                files.push(path);
            }
            (Some(Arrow::Effect), None) => {
                let name = word.split(['(', ' ', '{']).next().unwrap_or(word);
                match last {
                    Some((_, text)) if has(text, |line| mentions(line, name)) => {}
                    Some((before, _)) => faults.push(format!("{before} does not name {name}")),
                    None => faults.push(format!("{name} stands before any file")),
                }
            }
            (_, None) => faults.push(format!("`{word}` is not of the form `crate/file.rs::function`")),
        }
    }
    files.sort();
    files.dedup();
    if files.len() > FILES_MAX {
        faults.push(format!("{} files; a walk has at most {FILES_MAX}", files.len()));
    }
    faults
}

/// The words in backticks, each with the arrow right before it.
fn words(walk: &str) -> Vec<(Option<Arrow>, &str)> {
    let mut words = Vec::new();
    for pair in walk.split('`').collect::<Vec<_>>().chunks(2) {
        let [before, word] = pair else { break };
        let arrow = match before.trim_end().chars().next_back() {
            Some('→') => Some(Arrow::Call),
            Some('⇢') => Some(Arrow::Effect),
            _ => None,
        };
        words.push((arrow, *word));
    }
    words
}

/// `broker/send.rs` is `crates/broker/src/send.rs`; a path that begins at the project's folder is taken as it is.
fn in_crates(path: &str) -> String {
    match path.split_once('/') {
        Some(("crates" | "sim" | "xtask", _)) => path.to_owned(),
        Some((name, rest)) => format!("crates/{name}/src/{rest}"),
        None => path.to_owned(),
    }
}

fn has(text: &str, holds: impl Fn(&str) -> bool) -> bool {
    code_lines(text).any(holds)
}

/// Where `name` stands as a whole word: what is before, and what is behind.
fn around<'l>(line: &'l str, name: &'l str) -> impl Iterator<Item = (&'l str, &'l str)> {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(name)
        .map(move |(at, _)| (&line[..at], &line[at + name.len()..]))
        .filter(move |(before, behind)| !before.ends_with(part_of_word) && !behind.starts_with(part_of_word))
}

fn mentions(line: &str, name: &str) -> bool {
    around(line, name).next().is_some()
}

fn defines(line: &str, function: &str) -> bool {
    around(line, function).any(|(before, _)| before.ends_with("fn "))
}

fn calls(line: &str, function: &str) -> bool {
    around(line, function).any(|(before, behind)| !before.ends_with("fn ") && behind.starts_with('('))
}

#[cfg(test)]
mod tests {
    use super::super::tests::project;
    use super::*;

    #[test]
    fn walks_that_the_code_does_not_take_are_found() {
        let faults = |walk: &str| {
            let document = format!("text\n\n**Send.** {walk}\n");
            let files = [
                (DOCUMENT, document.as_str()),
                ("crates/a/src/one.rs", "fn handle() {\n    self.send(1);\n    // other()\n    Effect::Work(job)\n}\n"),
                ("crates/a/src/two.rs", "pub fn send(x: u8) {}\nfn resend() {}\n"),
            ];
            walks(&project(&files, &[])).join("; ")
        };
        let good = "`a/one.rs::handle` → `a/two.rs::send` (`prose` about it)";
        assert_eq!(faults(good), "");
        assert_eq!(faults("`a/one.rs::Broker::handle` ⇢ `Work(job)` ⇢ `a/two.rs::resend`"), "");
        for (walk, fault) in [
            ("`a/one.rs::handle` → `a/three.rs::send`", "Send: there is no crates/a/src/three.rs"),
            (
                "`a/one.rs::handle` → `a/two.rs::sen`",
                "Send: crates/a/src/two.rs has no fn sen; Send: crates/a/src/one.rs does not call sen",
            ),
            ("`a/two.rs::send` → `a/one.rs::handle`", "Send: crates/a/src/two.rs does not call handle"),
            ("`a/two.rs::send` → `a/two.rs::send`", "Send: crates/a/src/two.rs does not call send"),
            ("`a/one.rs::handle` ⇢ `Reply`", "Send: crates/a/src/one.rs does not name Reply"),
            ("`a/one.rs::handle` → `send`", "Send: `send` is not of the form `crate/file.rs::function`"),
        ] {
            assert_eq!(faults(walk), fault, "{walk}");
        }
        let long: Vec<_> = (0..7).map(|n| format!("`a/f{n}.rs::f`")).collect();
        assert!(faults(&long.join(" ⇢ ")).ends_with("Send: 7 files; a walk has at most 6"));
        assert_eq!(walks(&project(&[(DOCUMENT, "**Bold.** no walk")], &[])), ["ARCHITECTURE.md has no walk"]);
    }
}
