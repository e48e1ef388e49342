use std::io;
use std::path::Path;

/// Bytes that an unprivileged process may still allocate on the file system that holds `path`.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(path)?;
    // `f_bavail` leaves out what only root may use, and counts in units of `f_frsize`.
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Size of the file system that holds `path`, in bytes.
pub fn total_bytes(path: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(path)?;
    Ok(found.f_blocks.saturating_mul(found.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_has_some_space_and_a_missing_folder_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(free_bytes(dir.path()).unwrap() > 0);
        assert!(total_bytes(dir.path()).unwrap() > free_bytes(dir.path()).unwrap());
        assert_eq!(free_bytes(&dir.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
