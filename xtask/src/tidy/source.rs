//! Rules about single files.

use super::Project;

/// Where the planted bugs are listed.
pub(super) const BUGS_FILE: &str = "crates/world/src/planted.rs";
const LINES_MAX: usize = 800;

/// Crate roots that may hold unsafe code, since the operating system offers what they need in no other way.
/// They still deny it outside the module that says why.
const UNSAFE: &[&str] = &["crates/proving/src/lib.rs"];

/// Whether a file is a test of the crate it lies in.
pub(super) fn is_test(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/") || path.contains("/examples/")
}

/// The lines that make up the product: neither blank, nor comment, nor test.
pub(super) fn code_lines(text: &str) -> impl Iterator<Item = &str> {
    let mut lines = text.lines().peekable();
    std::iter::from_fn(move || {
        loop {
            let line = lines.next()?;
            // rustfmt puts the attribute on a line of its own and the closing brace in the first column.
            if line == "#[cfg(test)]" {
                let block = lines.next_if(|next| next.ends_with('{')).is_some();
                while block && lines.next_if(|next| *next != "}").is_some() {}
                lines.next();
                continue;
            }
            let word = line.trim_start();
            if !word.is_empty() && !word.starts_with("//") {
                return Some(line);
            }
        }
    })
}

pub(super) fn unsafe_code(project: &Project) -> Vec<String> {
    let roots = project.ending(".rs").filter(|(path, _)| {
        path.ends_with("src/lib.rs") || path.ends_with("src/main.rs") || path.contains("/src/bin/")
    });
    roots
        .filter_map(|(path, text)| {
            let level = if UNSAFE.contains(&path) { "deny" } else { "forbid" };
            let attribute = format!("#![{level}(unsafe_code)]");
            (!text.lines().any(|line| line == attribute)).then(|| format!("{path} lacks {attribute}"))
        })
        .collect()
}

pub(super) fn long_files(project: &Project) -> Vec<String> {
    let lines = project.ending(".rs").chain(project.ending(".java")).map(|(path, text)| (path, text.lines().count()));
    lines
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(path, lines)| format!("{path} has {lines} lines; the limit is {LINES_MAX}"))
        .collect()
}

pub(super) fn half_done(project: &Project) -> Vec<String> {
    // Put together here, so that this file does not find itself.
    let marks = [concat!("to", "do!("), concat!("unimple", "mented!("), concat!("#[ig", "nore"), concat!("FIX", "ME")];
    let mut faults = Vec::new();
    for (path, text) in project.ending(".rs").chain(project.ending(".java")) {
        for (number, line) in text.lines().enumerate() {
            faults.extend(
                marks.iter().filter(|mark| line.contains(*mark)).map(|mark| format!("{path}:{}: {mark}", number + 1)),
            );
        }
    }
    faults
}

/// The names in the list of planted bugs: of its texts every other one, for each name is followed by what the bug does.
pub(super) fn bugs(text: &str) -> Vec<String> {
    let list = text.split_once("BUGS:").and_then(|(_, rest)| rest.split_once("\n];")).map_or("", |(list, _)| list);
    // Split at quotation marks, what was inside them stands at the odd places.
    list.split('"').skip(1).step_by(4).map(str::to_owned).collect()
}

pub(super) fn planted(project: &Project) -> Vec<String> {
    let bugs = bugs(project.text(BUGS_FILE));
    if bugs.is_empty() {
        return vec![format!("{BUGS_FILE} lists no bug")];
    }
    let in_product = |bug: &String| {
        let call = format!("planted!(\"{bug}\")");
        project
            .ending(".rs")
            .filter(|(path, _)| *path != BUGS_FILE && path.contains("/src/") && !is_test(path))
            .any(|(_, text)| code_lines(text).any(|line| line.contains(&call)))
    };
    bugs.iter().filter(|bug| !in_product(bug)).map(|bug| format!("{bug} is listed, but planted nowhere")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::project;
    use super::*;

    #[test]
    fn product_lines_leave_out_blanks_comments_and_tests() {
        let text = "//! front\nuse a;\n\n    // why\nfn f() {\n}\n#[cfg(test)]\nmod tests;\nfn g() {}\n#[cfg(test)]\nmod tests {\n    fn t() {\n    }\n}\nfn h() {}\n";
        assert_eq!(code_lines(text).collect::<Vec<_>>(), ["use a;", "fn f() {", "}", "fn g() {}", "fn h() {}"]);
    }

    #[test]
    fn a_crate_root_without_the_attribute_is_found() {
        let good = "#![forbid(unsafe_code)]\n";
        let files = [
            ("crates/a/src/lib.rs", good),
            ("crates/a/src/main.rs", "fn main() {}"),
            ("crates/proving/src/lib.rs", good),
            ("crates/a/src/other.rs", ""),
        ];
        let faults = unsafe_code(&project(&files, &[]));
        assert_eq!(
            faults,
            [
                "crates/a/src/main.rs lacks #![forbid(unsafe_code)]",
                "crates/proving/src/lib.rs lacks #![deny(unsafe_code)]"
            ]
        );
    }

    #[test]
    fn long_and_half_done_files_are_found() {
        let long = "x\n".repeat(LINES_MAX + 1);
        let half = concat!("fn f() {\n    to", "do!()\n}\n#[ig", "nore]\n// FIX", "ME later\n");
        let project = project(&[("a.rs", &long), ("b.rs", half), ("c.rs", "fn f() {}")], &[]);
        assert_eq!(long_files(&project), ["a.rs has 801 lines; the limit is 800"]);
        assert_eq!(half_done(&project).iter().map(|f| &f[..6]).collect::<Vec<_>>(), ["b.rs:2", "b.rs:4", "b.rs:5"]);
    }

    #[test]
    fn a_bug_that_is_planted_only_in_a_test_is_planted_nowhere() {
        let list = "pub const BUGS: &[(&str, &str)] = &[\n    (\"one\", \"a\"),\n    (\n        \"two\",\n        \"b\",\n    ),\n    (\"three\", \"c\"),\n];\n";
        assert_eq!(bugs(list), ["one", "two", "three"]);
        let files = [
            (BUGS_FILE, list),
            ("crates/a/src/x.rs", "if planted!(\"one\") {}\n// planted!(\"two\")\n"),
            ("crates/a/src/x/tests.rs", "planted!(\"two\")\n"),
            ("crates/a/src/y.rs", "#[cfg(test)]\nmod tests {\n    planted!(\"three\");\n}\n"),
        ];
        let faults = planted(&project(&files, &[]));
        assert_eq!(faults, ["two is listed, but planted nowhere", "three is listed, but planted nowhere"]);
        assert_eq!(planted(&project(&[], &[])).len(), 1);
    }
}
