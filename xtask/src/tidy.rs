//! Reads the project itself and says where it disagrees with ARCHITECTURE.md and CONTRIBUTING.md.
//!
//! A rule is a function from the [`Project`] to its faults, so that its test can show it a bad one.

mod documents;
mod floors;
mod source;
mod walks;

use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Says every place at which a project breaks it.
type Rule = fn(&Project) -> Vec<String>;

/// Every rule.
pub(crate) const RULES: &[(&str, Rule)] = &[
    ("manifests keep to the floors of ARCHITECTURE.md", floors::manifests),
    ("nothing of the operating system below the waterline", floors::waterline),
    ("the cores' clippy.toml are equal", floors::clippy_files),
    ("unsafe code is forbidden", source::unsafe_code),
    ("crates keep their budgets", floors::budgets),
    ("files are short", source::long_files),
    ("nothing is half done", source::half_done),
    ("every planted bug is planted", source::planted),
    ("walks are in the code", walks::walks),
    ("links of documents lead somewhere", documents::links),
    ("commands of the README are run by a step", documents::commands),
];

/// What the rules look at.
pub(crate) struct Project {
    /// Every file under the project's folder, as `crates/x/src/y.rs`; the text of those that a rule reads, empty for others.
    pub(crate) files: BTreeMap<String, String>,
    /// From `cargo metadata`.
    pub(crate) packages: Vec<Package>,
}

/// A package of the workspace.
#[derive(Clone, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) dependencies: Vec<Dependency>,
}

/// One line of a manifest.
#[derive(Clone, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// `dev`, `build`; `None` for an ordinary one.
    pub(crate) kind: Option<String>,
}

/// Folders that hold what was built or stored, not what was written.
const BUILT: &[&str] = &["target", ".git", "keepmq-data"];
/// Files whose text a rule reads.
const READ: &[&str] = &[".rs", ".md", ".toml", ".java"];

impl Project {
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
                let entry = entry.with_context(|| format!("cannot list {}", folder.display()))?;
                let (path, name) = (entry.path(), entry.file_name());
                let name = name.to_string_lossy();
                let kind = entry.file_type().with_context(|| format!("cannot look at {}", path.display()))?;
                if kind.is_dir() {
                    if !BUILT.contains(&&*name) {
                        folders.push(path);
                    }
                    continue;
                }
                let inside = path.strip_prefix(root).expect("found below the root").to_string_lossy().into_owned();
                let text = match READ.iter().any(|end| name.ends_with(end)) {
                    true => std::fs::read_to_string(&path).with_context(|| format!("cannot read {inside}"))?,
                    false => String::new(),
                };
                files.insert(inside, text);
            }
        }
        Ok(Self { files, packages: packages()? })
    }

    /// The text of one file; empty when there is none, so that a rule finds nothing in it.
    pub(crate) fn text(&self, path: &str) -> &str {
        self.files.get(path).map_or("", String::as_str)
    }

    /// The files of one kind, by the end of their names.
    pub(crate) fn ending<'p>(&'p self, end: &'static str) -> impl Iterator<Item = (&'p str, &'p str)> {
        self.files
            .iter()
            .map(|(path, text)| (path.as_str(), text.as_str()))
            .filter(move |(path, _)| path.ends_with(end))
    }
}

fn packages() -> Result<Vec<Package>> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    let output =
        crate::run::cargo("metadata --no-deps --format-version 1").output().context("cannot start cargo metadata")?;
    anyhow::ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Metadata = serde_json::from_slice(&output.stdout).context("cannot read cargo metadata's answer")?;
    Ok(metadata.packages)
}

/// Names of the planted bugs, read from the list in `world`: xtask uses none of the project's crates.
pub(crate) fn planted_bugs(root: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(root.join(source::BUGS_FILE)).context("cannot read the list of planted bugs")?;
    let bugs = source::bugs(&text);
    anyhow::ensure!(!bugs.is_empty(), "{} lists no planted bug", source::BUGS_FILE);
    Ok(bugs)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A project of these files, and of packages written `name: dependency dependency`.
    pub(super) fn project(files: &[(&str, &str)], packages: &[&str]) -> Project {
        let package = |line: &&str| {
            let (name, dependencies) = line.split_once(':').unwrap();
            let dependencies = dependencies.split_whitespace();
            Package {
                name: name.to_owned(),
                dependencies: dependencies.map(|name| Dependency { name: name.to_owned(), kind: None }).collect(),
            }
        };
        Project {
            files: files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect(),
            packages: packages.iter().map(package).collect(),
        }
    }

    #[test]
    fn this_project_is_tidy() {
        let project = Project::read(&crate::run::root()).unwrap();
        let faults: Vec<_> = RULES
            .iter()
            .flat_map(|(rule, check)| check(&project).into_iter().map(move |f| format!("{rule}: {f}")))
            .collect();
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }
}
