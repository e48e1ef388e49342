//! What strace has written down: the calls that concern a store.

use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

/// One call of a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its name.
    pub name: String,
    /// The how manyeth of this name it is in its thread, of those that concern the folder; so strace counts, too, when it is
    /// told which paths to look at.
    pub nth: usize,
    /// Since 1970.
    pub at: Duration,
    /// It was answered by strace.
    pub injected: bool,
    /// As it was written down.
    pub line: String,
}

/// The calls of a trace (`-f -ttt -y`) that name something in this folder, in their order; at the end, the last line's time.
pub fn read(trace: &Path, folder: &Path) -> Result<Vec<Call>> {
    let text = std::fs::read(trace).with_context(|| format!("cannot read {}", trace.display()))?;
    Ok(calls(&String::from_utf8_lossy(&text), &folder.display().to_string()))
}

/// Every path in this folder, and the folder, that some call names.
pub fn paths(calls: &[Call], folder: &Path) -> BTreeSet<String> {
    let folder = folder.display().to_string();
    let all = calls.iter().flat_map(|call| call.line.match_indices(&folder).map(|(at, _)| &call.line[at..]));
    // A file that has gone since is marked behind a blank.
    all.filter_map(|from| from.split(['"', '>', ' ']).next())
        .map(|path| path.trim_end_matches('/').to_owned())
        .collect()
}

fn calls(text: &str, folder: &str) -> Vec<Call> {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut found = Vec::new();
    // A call that another thread's interrupts stands in two lines; the second says how it was answered.
    let mut open: BTreeMap<&str, usize> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(thread), Some(at), Some(call)) = (words.next(), words.next(), words.next()) else { continue };
        let Ok(at) = at.parse().map(Duration::from_secs_f64) else { continue };
        let injected = line.ends_with("(INJECTED)");
        if call == "<..." {
            if let Some(index) = open.remove(thread)
                && let Some(Call { injected: answered, .. }) = found.get_mut(index)
            {
                *answered |= injected;
            }
            continue;
        }
        let Some((name, _)) = call.split_once('(') else {
            if line.contains("+++ exited") {
                found.push(Call { name: "exit".to_owned(), nth: 0, at, injected: false, line: line.to_owned() });
            }
            continue;
        };
        if line.contains(folder) {
            let count = counts.entry((thread, name)).or_default();
            *count += 1;
            if line.ends_with("<unfinished ...>") {
                open.insert(thread, found.len());
            }
            found.push(Call { name: name.to_owned(), nth: *count, at, injected, line: line.to_owned() });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_as_strace_counts_them() {
        let text = "\
7 100.5 openat(AT_FDCWD</>, \"/lib/libc.so\", O_RDONLY) = 3</lib/libc.so>
7 100.6 openat(AT_FDCWD</>, \"/s/keepmq/owner\", O_RDWR) = 3</s/keepmq/owner>
7 100.7 fdatasync(3</s/log> <unfinished ...>
8 100.8 fdatasync(4</s/next>) = 0
7 100.9 <... fdatasync resumed>) = -1 EIO (Input/output error) (INJECTED)
8 101.0 +++ exited with 9 +++";
        let found: Vec<_> = calls(text, "/s").into_iter().map(|call| (call.name, call.nth, call.injected)).collect();
        let call = |name: &str, nth, injected| (name.to_owned(), nth, injected);
        let all = [("openat", 1, false), ("fdatasync", 1, true), ("fdatasync", 1, false), ("exit", 0, false)];
        assert_eq!(found, all.map(|(name, nth, injected)| call(name, nth, injected)));
        let named = paths(&calls(text, "/s"), Path::new("/s"));
        assert_eq!(named.into_iter().collect::<Vec<_>>(), ["/s/keepmq/owner", "/s/log", "/s/next"]);
    }
}
