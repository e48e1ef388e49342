//! A disk in memory. It forgets nothing and fails at nothing but its size: what power cuts do is the simulator's to say.

use keepmq_store::{Disk, File};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Largest file. A store that asks for more has believed a number that it read.
const FILE_MAX: u64 = 8 << 20;

/// What it holds, by name.
pub(crate) type Content = BTreeMap<PathBuf, Vec<u8>>;

#[derive(Clone, Default)]
pub(crate) struct MemoryDisk(Arc<Mutex<BTreeMap<PathBuf, MemoryFile>>>);

#[derive(Clone, Default)]
pub(crate) struct MemoryFile(Arc<Mutex<Vec<u8>>>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn size(len: u64) -> io::Result<usize> {
    usize::try_from(len).ok().filter(|_| len <= FILE_MAX).ok_or_else(|| io::ErrorKind::StorageFull.into())
}

impl MemoryDisk {
    /// With these files on it.
    pub(crate) fn holding(content: Content) -> Self {
        let file = |(path, bytes)| (path, MemoryFile(Arc::new(Mutex::new(bytes))));
        Self(Arc::new(Mutex::new(content.into_iter().map(file).collect())))
    }

    /// All that is on it by now.
    pub(crate) fn content(&self) -> Content {
        lock(&self.0).iter().map(|(path, file)| (path.clone(), lock(&file.0).clone())).collect()
    }
}

impl Disk for MemoryDisk {
    type File = MemoryFile;

    fn open(&self, path: &Path) -> io::Result<MemoryFile> {
        lock(&self.0).get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn create(&self, path: &Path, len: u64) -> io::Result<MemoryFile> {
        let mut files = lock(&self.0);
        if files.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = MemoryFile(Arc::new(Mutex::new(vec![0; size(len)?])));
        files.insert(path.to_owned(), file.clone());
        Ok(file)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let files = lock(&self.0);
        let inside = files.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| path.file_name()).map(PathBuf::from).collect())
    }

    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = lock(&self.0);
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        lock(&self.0).remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

impl File for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.0).len() as u64)
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let bytes = lock(&self.0);
        let from = usize::try_from(at).ok().and_then(|at| bytes.get(at..at.checked_add(into.len())?));
        into.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn read_cached_at(&self, at: u64, into: &mut [u8]) -> io::Result<bool> {
        self.read_at(at, into).map(|()| true)
    }

    fn write_at(&self, at: u64, from: &[u8]) -> io::Result<()> {
        let mut bytes = lock(&self.0);
        let (at, end) = (size(at)?, size(at.saturating_add(from.len() as u64))?);
        let len = bytes.len().max(end);
        bytes.resize(len, 0);
        bytes[at..end].copy_from_slice(from);
        Ok(())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let len = size(len)?;
        lock(&self.0).resize(len, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
}
