//! Rules about documents.

use super::Project;

/// Every command that the README asks its reader to type, and where it is run so that it cannot rot.
const COMMANDS: &[(&str, &str)] = &[
    ("cargo run --release -- tour", "crash (keepmq-proving tour)"),
    ("cargo run --release -- dev", "crash (keepmq-proving dev)"),
    ("cargo xtask test", "this run itself"),
    ("cargo xtask bench", "by hand: a bench needs a quiet machine"),
];

/// The verbs of the binary that the README shows, and where each is run.
const VERBS: &[(&str, &str)] = &[
    ("nameserver", "crash (keepmq-proving, nearly every step)"),
    ("broker", "crash (keepmq-proving, nearly every step)"),
    ("send", "unit (keepmq/tests/process/client.rs)"),
    ("consume", "unit (keepmq/tests/process/client.rs)"),
    ("topic", "unit (keepmq/tests/process/client.rs)"),
    ("group", "unit (keepmq/tests/process/client.rs)"),
    ("bench", "unit (keepmq/tests/process/client.rs)"),
    ("prove", "crash (keepmq-proving prove)"),
    ("store", "unit (keepmq/tests/process/store.rs)"),
];

pub(super) fn links(project: &Project) -> Vec<String> {
    let mut faults = Vec::new();
    for (path, text) in project.ending(".md") {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            let link = link.split('#').next().unwrap_or(link);
            if link.is_empty() || link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            if !leads_somewhere(project, folder, link) {
                faults.push(format!("{path}: {link} does not exist"));
            }
        }
    }
    faults
}

fn leads_somewhere(project: &Project, folder: &str, link: &str) -> bool {
    let mut parts: Vec<_> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in link.trim_end_matches('/').split('/') {
        match part {
            "." => {}
            ".." if parts.pop().is_none() => return false,
            ".." => {}
            part => parts.push(part),
        }
    }
    let path = parts.join("/");
    let inside = format!("{path}/");
    project.files.contains_key(&path) || project.files.keys().any(|file| file.starts_with(&inside))
}

pub(super) fn commands(project: &Project) -> Vec<String> {
    let mut shell = false;
    let mut faults = Vec::new();
    for line in project.text("README.md").lines() {
        if let Some(language) = line.strip_prefix("```") {
            shell = language == "sh";
        } else if shell && (line.starts_with("cargo ") || line.starts_with("./")) {
            let command = line.split(" #").next().unwrap_or(line).trim_end();
            if !COMMANDS.iter().any(|(known, _)| *known == command) {
                faults.push(format!("no step runs `{command}`"));
            }
        } else if shell && let Some(words) = line.strip_prefix("keepmq ") {
            let verb = words.split_whitespace().next().unwrap_or_default();
            if !VERBS.iter().any(|(known, _)| *known == verb) {
                faults.push(format!("no step runs `keepmq {verb}`"));
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::super::tests::project;
    use super::*;

    #[test]
    fn links_into_nothing_are_found() {
        let text =
            "[a](other.md#x) [b](../README.md) [c](https://x.y/z) [d](#here) [e](missing.md) [f](../..) [g](sub/)";
        let project =
            project(&[("README.md", ""), ("docs/a.md", text), ("docs/other.md", ""), ("docs/sub/x", "")], &[]);
        assert_eq!(links(&project), ["docs/a.md: missing.md does not exist", "docs/a.md: ../.. does not exist"]);
    }

    #[test]
    fn commands_that_nobody_runs_are_found() {
        let text = "```sh\ncargo xtask test   # all\ncargo xtask launch\nkeepmq x\n```\n```java\n./not a command\n```\n```sh\n./go\n```\n";
        let faults = commands(&project(&[("README.md", text)], &[]));
        assert_eq!(faults, ["no step runs `cargo xtask launch`", "no step runs `keepmq x`", "no step runs `./go`"]);
    }
}
