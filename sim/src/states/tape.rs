//! A disk in memory that writes down every call that changes it.

use super::image::{Content, Image, Node, folder};
use bytes::Bytes;
use keepmq_store::{Disk, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// A call that has changed the disk, or made a change durable.
#[derive(Clone, Debug)]
pub(super) struct Op {
    /// The name that the file had then; of a rename the new one.
    pub(super) path: Arc<Path>,
    pub(super) act: Act,
}

/// What it has done. Files are known by number: names change.
#[derive(Clone, Debug)]
pub(super) enum Act {
    Create { file: usize, len: usize },
    CreateDir,
    Rename { from: PathBuf, file: usize },
    Remove,
    SyncDir,
    Write { file: usize, at: usize, bytes: Bytes },
    Truncate { file: usize, len: usize },
    Sync { file: usize },
}

impl Act {
    pub(super) fn call(&self) -> &'static str {
        match self {
            Self::Create { .. } => "create",
            Self::CreateDir => "create folder",
            Self::Rename { .. } => "rename to",
            Self::Remove => "remove",
            Self::SyncDir => "sync folder",
            Self::Write { .. } => "write",
            Self::Truncate { .. } => "truncate",
            Self::Sync { .. } => "sync",
        }
    }
}

/// The disk; clones are the same one.
#[derive(Clone)]
pub(super) struct TapeDisk(Arc<Mutex<State>>);

struct State {
    image: Image,
    next_file: usize,
    tape: Vec<Op>,
}

/// An open file.
pub(super) struct TapeFile {
    disk: TapeDisk,
    file: usize,
    path: Arc<Path>,
}

impl TapeDisk {
    /// A disk that holds this, and whose tape is empty.
    pub(super) fn new(image: Image) -> Self {
        let next_file = image.files.keys().next_back().map_or(0, |last| last + 1);
        Self::numbering(image, next_file)
    }

    /// The same; the next file that is made has this number.
    pub(super) fn numbering(image: Image, next_file: usize) -> Self {
        Self(Arc::new(Mutex::new(State { image, next_file, tape: Vec::new() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nobody panics while holding the disk")
    }

    /// Calls so far.
    pub(super) fn calls(&self) -> usize {
        self.state().tape.len()
    }

    /// The calls so far.
    pub(super) fn tape(&self) -> Vec<Op> {
        self.state().tape.clone()
    }

    /// What it holds now, as the running process sees it.
    pub(super) fn image(&self) -> Image {
        self.state().image.clone()
    }
}

impl State {
    fn record(&mut self, path: &Path, act: Act) {
        self.tape.push(Op { path: path.into(), act });
    }

    fn parent_exists(&self, path: &Path) -> io::Result<()> {
        let dir = folder(path);
        match dir == Path::new("") || self.image.names.get(dir) == Some(&Node::Dir) {
            true => Ok(()),
            false => Err(ErrorKind::NotFound.into()),
        }
    }

    fn look(&self, file: usize) -> &Content {
        self.image.files.get(&file).expect("an open file has a content")
    }

    fn content(&mut self, file: usize) -> &mut Content {
        Arc::make_mut(self.image.files.get_mut(&file).expect("an open file has a content"))
    }
}

/// A position or length as memory counts.
fn size(of: u64) -> io::Result<usize> {
    usize::try_from(of).map_err(io::Error::other)
}

impl Disk for TapeDisk {
    type File = TapeFile;

    fn open(&self, path: &Path) -> io::Result<TapeFile> {
        match self.state().image.names.get(path) {
            Some(Node::File(file)) => Ok(TapeFile { disk: self.clone(), file: *file, path: path.into() }),
            _ => Err(ErrorKind::NotFound.into()),
        }
    }

    fn create(&self, path: &Path, len: u64) -> io::Result<TapeFile> {
        let (mut state, len) = (self.state(), size(len)?);
        state.parent_exists(path)?;
        if state.image.names.contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let file = state.next_file;
        state.next_file += 1;
        state.image.names.insert(path.to_owned(), Node::File(file));
        state.image.files.insert(file, Arc::new(Content::zeroes(len)));
        state.record(path, Act::Create { file, len });
        Ok(TapeFile { disk: self.clone(), file, path: path.into() })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let state = self.state();
        let inside = state.image.names.keys().filter(|path| folder(path) == dir);
        Ok(inside.filter_map(|path| path.file_name()).map(PathBuf::from).collect())
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        if !state.image.names.contains_key(dir) {
            state.image.names.insert(dir.to_owned(), Node::Dir);
            state.record(dir, Act::CreateDir);
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.parent_exists(to)?;
        let Some(Node::File(file)) = state.image.names.get(from).copied() else {
            return Err(ErrorKind::NotFound.into());
        };
        state.image.names.remove(from);
        state.image.names.insert(to.to_owned(), Node::File(file));
        state.record(to, Act::Rename { from: from.to_owned(), file });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let Some(Node::File(_)) = state.image.names.remove(path) else {
            return Err(ErrorKind::NotFound.into());
        };
        state.record(path, Act::Remove);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.state().record(dir, Act::SyncDir);
        Ok(())
    }
}

impl File for TapeFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().look(self.file).len() as u64)
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        match self.disk.state().look(self.file).read(size(at)?, into) {
            true => Ok(()),
            false => Err(ErrorKind::UnexpectedEof.into()),
        }
    }

    fn read_cached_at(&self, at: u64, into: &mut [u8]) -> io::Result<bool> {
        self.read_at(at, into).map(|()| true)
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let (mut state, at) = (self.disk.state(), size(at)?);
        state.content(self.file).write(at, bytes);
        state.record(&self.path, Act::Write { file: self.file, at, bytes: Bytes::copy_from_slice(bytes) });
        Ok(())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let (mut state, len) = (self.disk.state(), size(len)?);
        state.content(self.file).resize(len);
        state.record(&self.path, Act::Truncate { file: self.file, len });
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.state().record(&self.path, Act::Sync { file: self.file });
        Ok(())
    }
}
