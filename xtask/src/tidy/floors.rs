//! Rules about crates: the table of ARCHITECTURE.md is what holds.

use super::source::{code_lines, is_test};
use super::{Package, Project};
use std::collections::BTreeMap;

const DOCUMENT: &str = "ARCHITECTURE.md";
/// Floors below the waterline.
const CORES: u32 = 2;
/// What belongs to the operating system, or rolls dice.
const FORBIDDEN: &[&str] = &["tokio", "mio", "rustix", "rand", "tempfile", "libc", "nix", "socket2", "getrandom"];
/// What a core may not name either, though the standard library has it.
const NAMES: &[&str] = &[
    "std::fs",
    "std::thread",
    "std::env",
    "std::process",
    "std::time::Instant",
    "SystemTime",
    "TcpStream",
    "TcpListener",
];

/// One line of the floor table.
#[derive(Debug, PartialEq, Eq)]
struct Crate {
    floor: u32,
    may_use: Vec<String>,
    budget: usize,
}

/// The floor table: `| floor | `crate` | charter | may depend on | budget |`.
fn table(project: &Project) -> Result<BTreeMap<String, Crate>, Vec<String>> {
    let mut crates = BTreeMap::new();
    let mut faults = Vec::new();
    for line in project.text(DOCUMENT).lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, floor, name, _, may_use, budget, _] = cells[..] else { continue };
        let Ok(floor) = floor.parse() else { continue };
        let Ok(budget) = budget.replace(',', "").parse() else {
            faults.push(format!("{DOCUMENT}: the budget of {name} is {budget:?}, not a number"));
            continue;
        };
        let may_use = may_use.split(',').map(str::trim).filter(|name| !matches!(*name, "" | "–"));
        let row = Crate { floor, may_use: may_use.map(str::to_owned).collect(), budget };
        crates.insert(name.trim_matches('`').to_owned(), row);
    }
    if crates.is_empty() {
        faults.push(format!("{DOCUMENT} has no floor table"));
    }
    if faults.is_empty() { Ok(crates) } else { Err(faults) }
}

/// What programs beside the house may use: the highest floor of it.
fn beside(name: &str) -> Option<u32> {
    match name {
        "sim" => Some(CORES),
        "proving" => Some(3),
        // It gives bytes to whatever reads bytes.
        "fuzz" => Some(4),
        // It is a user of the library.
        "interop" => Some(4),
        _ => None,
    }
}

pub(super) fn manifests(project: &Project) -> Vec<String> {
    let crates = match table(project) {
        Ok(crates) => crates,
        Err(faults) => return faults,
    };
    let mut faults = Vec::new();
    for package in &project.packages {
        let ours = |name: &str| name.strip_prefix("keepmq-").or((name == "keepmq").then_some(name)).map(str::to_owned);
        let Some(name) = ours(&package.name) else {
            faults.extend(
                uses_of(package)
                    .filter_map(|(used, _)| ours(used))
                    .map(|used| format!("{} stands beside the house, and uses {used}", package.name)),
            );
            continue;
        };
        let row = crates.get(&name);
        if row.is_none() && beside(&name).is_none() {
            faults.push(format!("{name} is not in the table of {DOCUMENT}"));
            continue;
        }
        for (used, kind) in uses_of(package) {
            if row.is_some_and(|row| row.floor <= CORES) && FORBIDDEN.contains(&used) {
                faults.push(format!("{name} is below the waterline, and uses {used}"));
            }
            let Some(used) = ours(used) else { continue };
            let Some(other) = crates.get(&used) else {
                faults.push(format!("{name} uses {used}, which is not in the table of {DOCUMENT}"));
                continue;
            };
            match row {
                Some(row) if !row.may_use.contains(&used) && kind != Some("dev") => {
                    faults.push(format!("{name} uses {used}; the table of {DOCUMENT} does not allow it"));
                }
                // Everything may know what it is given of the world.
                Some(row) if other.floor >= row.floor && used != "world" => {
                    faults.push(format!("{name} (floor {}) uses {used} (floor {})", row.floor, other.floor));
                }
                None if Some(other.floor) > beside(&name) => {
                    faults.push(format!("{name} uses {used} (floor {}), which it may not know", other.floor));
                }
                Some(_) | None => {}
            }
        }
    }
    let known: Vec<_> = project.packages.iter().map(|package| package.name.as_str()).collect();
    let exists = |name: &str| known.contains(&name) || known.contains(&format!("keepmq-{name}").as_str());
    faults.extend(
        crates
            .keys()
            .filter(|name| !exists(name))
            .map(|name| format!("{DOCUMENT} has a crate {name} that does not exist")),
    );
    faults
}

fn uses_of(package: &Package) -> impl Iterator<Item = (&str, Option<&str>)> {
    package.dependencies.iter().map(|used| (used.name.as_str(), used.kind.as_deref()))
}

/// The sources of a crate, tests aside.
fn sources<'p>(project: &'p Project, name: &str) -> impl Iterator<Item = (&'p str, &'p str)> {
    let folder = format!("crates/{name}/src/");
    project.ending(".rs").filter(move |(path, _)| path.starts_with(&folder) && !is_test(path))
}

pub(super) fn waterline(project: &Project) -> Vec<String> {
    let crates = match table(project) {
        Ok(crates) => crates,
        Err(faults) => return faults,
    };
    let mut faults = Vec::new();
    for (name, _) in crates.iter().filter(|(_, row)| row.floor <= CORES) {
        for (path, text) in sources(project, name) {
            for line in code_lines(text) {
                faults.extend(
                    NAMES.iter().filter(|named| line.contains(*named)).map(|named| format!("{path} names {named}")),
                );
            }
        }
    }
    faults
}

pub(super) fn clippy_files(project: &Project) -> Vec<String> {
    let crates = match table(project) {
        Ok(crates) => crates,
        Err(faults) => return faults,
    };
    let copies: Vec<_> = crates
        .iter()
        .filter(|(_, row)| row.floor <= CORES)
        .map(|(name, _)| format!("crates/{name}/clippy.toml"))
        .map(|path| (project.text(&path), path))
        .collect();
    let missing = copies.iter().filter(|(text, _)| text.is_empty()).map(|(_, path)| format!("{path} is missing"));
    let differing = copies.windows(2).filter(|pair| pair[0].0 != pair[1].0);
    missing.chain(differing.map(|pair| format!("{} and {} differ", pair[0].1, pair[1].1))).collect()
}

pub(super) fn budgets(project: &Project) -> Vec<String> {
    let crates = match table(project) {
        Ok(crates) => crates,
        Err(faults) => return faults,
    };
    let spent = |name: &str| sources(project, name).map(|(_, text)| code_lines(text).count()).sum::<usize>();
    crates
        .iter()
        .map(|(name, row)| (name, spent(name), row.budget))
        .filter(|(_, spent, budget)| spent > budget)
        .map(|(name, spent, budget)| format!("{name} has {spent} lines; its budget is {budget}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::project;
    use super::*;

    const TABLE: &str = "| floor | crate | charter | may depend on | budget |\n|--:|---|---|---|--:|\n\
        | 0 | `world` | a | – | 300 |\n| 0 | `protocol` | b | world | 4,500 |\n| 1 | `store` | c | world, protocol | 2 |\n\
        | 2 | `broker` | d | world, protocol, store | 9 |\n| 4 | `server` | e | broker | 9 |\n";
    const GOOD: &[&str] = &[
        "keepmq-world: siphasher",
        "keepmq-protocol: keepmq-world serde",
        "keepmq-store: keepmq-world keepmq-protocol",
        "keepmq-broker: keepmq-store",
        "keepmq-server: keepmq-broker mio",
        "keepmq-sim: keepmq-broker",
        "xtask: serde",
    ];

    #[test]
    fn dependencies_that_climb_are_found() {
        let faults = |package: &str| {
            let name = package.split_once(':').unwrap().0;
            let mut packages: Vec<_> =
                GOOD.iter().copied().filter(|line| !line.starts_with(&format!("{name}:"))).collect();
            packages.push(package);
            manifests(&project(&[(DOCUMENT, TABLE)], &packages)).join("; ")
        };
        assert_eq!(faults(GOOD[0]), "");
        for (package, fault) in [
            ("keepmq-store: keepmq-broker", "store uses broker; the table of ARCHITECTURE.md does not allow it"),
            ("keepmq-store: tokio", "store is below the waterline, and uses tokio"),
            ("keepmq-sim: keepmq-server", "sim uses server (floor 4), which it may not know"),
            ("keepmq-extra: serde", "extra is not in the table of ARCHITECTURE.md"),
            ("keepmq-broker: keepmq-extra", "broker uses extra, which is not in the table of ARCHITECTURE.md"),
            ("xtask: keepmq-world", "xtask stands beside the house, and uses world"),
        ] {
            assert_eq!(faults(package), fault);
        }
        let neighbours = TABLE.replace("world, protocol | 2", "world, protocol, broker | 2").replace("| 1 |", "| 2 |");
        let packages = [&GOOD[..2], &["keepmq-store: keepmq-broker"], &GOOD[3..]].concat();
        let faults = manifests(&project(&[(DOCUMENT, &neighbours)], &packages));
        assert_eq!(faults[0], "store (floor 2) uses broker (floor 2)", "also when the table allows it");
        assert_eq!(
            manifests(&project(&[(DOCUMENT, TABLE)], &GOOD[1..])),
            ["ARCHITECTURE.md has a crate world that does not exist"]
        );
        assert_eq!(manifests(&project(&[], GOOD)), ["ARCHITECTURE.md has no floor table"]);
    }

    #[test]
    fn the_operating_system_below_the_waterline_is_found() {
        let files = [
            (DOCUMENT, TABLE),
            ("crates/store/src/a.rs", "use std::fs;\n// std::thread\n"),
            ("crates/store/src/tests.rs", "use std::fs;\n"),
            ("crates/server/src/lib.rs", "use std::fs;\n"),
        ];
        assert_eq!(waterline(&project(&files, &[])), ["crates/store/src/a.rs names std::fs"]);
    }

    #[test]
    fn differing_and_missing_clippy_files_are_found() {
        let files = |store: &'static str| {
            [
                (DOCUMENT, TABLE),
                ("crates/world/clippy.toml", "a"),
                ("crates/protocol/clippy.toml", "a"),
                ("crates/broker/clippy.toml", "a"),
                ("crates/store/clippy.toml", store),
            ]
        };
        assert!(clippy_files(&project(&files("a"), &[])).is_empty());
        assert_eq!(
            clippy_files(&project(&files("b"), &[])).len(),
            2,
            "it differs from both its neighbours in the list"
        );
        assert_eq!(clippy_files(&project(&files("a")[..4], &[]))[0], "crates/store/clippy.toml is missing");
    }

    #[test]
    fn a_crate_over_its_budget_is_found() {
        let files = |text| [(DOCUMENT, TABLE), ("crates/store/src/a.rs", text)];
        assert!(budgets(&project(&files("a\nb\n\n// c\n"), &[])).is_empty());
        assert_eq!(budgets(&project(&files("a\nb\nc\n"), &[])), ["store has 3 lines; its budget is 2"]);
    }
}
