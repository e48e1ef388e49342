//! Configuration files.

use keepmq_server::config::properties::{edit, read};
use keepmq_server::config::{BROKER, NAME_SERVER, Settings};
use std::path::Path;

/// A properties file: read, changed and read again; and taken for the configuration of either server.
pub(crate) fn properties(bytes: &[u8]) {
    for table in [&BROKER, &NAME_SERVER] {
        match Settings::parse(table, bytes, Path::new("fuzz.conf"), &[]) {
            Ok(settings) => assert!(!settings.print().is_empty()),
            Err(failure) => assert!(!failure.problems.is_empty()),
        }
    }
    let Ok(file) = read(bytes) else {
        assert!(edit(bytes, &[("flag", "true")]).is_err(), "what cannot be read is not changed");
        return;
    };
    let plain = |key: &str| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let there = file.entries.iter().map(|entry| entry.key.as_str()).find(|key| plain(key));
    for key in ["flag"].into_iter().chain(there) {
        let edited = edit(bytes, &[(key, "true")]).expect("what can be read can be changed");
        let again = read(&edited).expect("what was changed can be read");
        let mut expected: Vec<_> = file.entries.iter().map(|entry| (entry.key.clone(), entry.value.clone())).collect();
        match expected.iter_mut().rfind(|(known, _)| known == key) {
            Some((_, value)) => "true".clone_into(value),
            None => expected.push((key.to_owned(), "true".to_owned())),
        }
        let found: Vec<_> = again.entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
        assert_eq!(found, expected, "{key}=true in {:?}", String::from_utf8_lossy(bytes));
    }
}
