//! Every kept input, given to its target: what was found once stays found, on any compiler.

use keepmq_fuzz::TARGETS;
use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

/// Most files, and most bytes, that a target keeps.
const KEPT: (usize, u64) = (200, 1 << 20);

#[test]
fn every_kept_input_is_taken_without_a_word() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut findings = Vec::new();
    for (name, target) in TARGETS {
        let mut paths: Vec<_> = fs::read_dir(corpus.join(name))
            .unwrap_or_else(|error| panic!("the corpus of {name}: {error}"))
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        let bytes: u64 = paths.iter().map(|path| path.metadata().unwrap().len()).sum();
        assert!(
            !paths.is_empty() && paths.len() <= KEPT.0 && bytes <= KEPT.1,
            "{name}: {} files, {bytes} bytes",
            paths.len()
        );
        for path in paths {
            let input = fs::read(&path).unwrap();
            if catch_unwind(|| target(&input)).is_err() {
                findings.push(path);
            }
        }
    }
    assert!(findings.is_empty(), "{findings:#?}");
}
