//! The seam to the disk. Two implementations run: the real one (`keepmq-disk`) and the simulator's, which loses, tears and lies.

use std::io;
use std::path::{Path, PathBuf};

/// A file system that holds one store. Paths are relative to the store's root.
///
/// Crash promises: a created, renamed or removed name is durable only after [`Disk::sync_dir`] of its folder. Until then each
/// such change may survive a power cut or not, independently.
pub trait Disk: Clone + Send + Sync + 'static {
    /// An open file.
    type File: File;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Self::File>;
    /// Creates a file of `len` bytes that read as zero, with the space reserved. `AlreadyExists` when the name is taken;
    /// when it fails (`StorageFull`) no file is left.
    fn create(&self, path: &Path, len: u64) -> io::Result<Self::File>;
    /// Names in a folder, sorted, without the folder; empty when it does not exist.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;
    /// Makes a folder and those above it; nothing happens when it exists.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Gives a file another name, replacing what stands there, atomically.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// An open file.
///
/// Crash promises: until [`File::sync_data`] returns, each write may survive a power cut, vanish or be torn, independently and
/// in any order; a sector of 512 bytes holds its old or its new content, never anything else. After a kill everything written
/// is there. After a failed write or sync nothing is known about the bytes written since the last good sync: never try again.
#[expect(clippy::len_without_is_empty, reason = "nobody asks a file of ours whether it is empty")]
pub trait File: Send + Sync + 'static {
    /// Its length.
    fn len(&self) -> io::Result<u64>;
    /// Fills `into` from position `at`; `UnexpectedEof` when the file ends before.
    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()>;
    /// As `read_at`, but only if that needs no waiting for the device; false: it would have to wait, nothing was read.
    fn read_cached_at(&self, at: u64, into: &mut [u8]) -> io::Result<bool>;
    /// Writes all of `bytes` at position `at`; a short write is an error.
    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Writes all of `bytes` at position `at` and makes them durable, as `write_at` and `sync_data` do; a disk may do both in
    /// one call. Only at the end of what is written, and when all that was written before is synced: behind the bytes, up to
    /// the next multiple of 4096, stand zeroes, and zeroes may be written there again.
    fn write_durably_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_at(at, bytes)?;
        self.sync_data()
    }
    /// Cuts or extends (with zeroes) to `len`.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Makes everything written so far durable.
    fn sync_data(&self) -> io::Result<()>;
}
