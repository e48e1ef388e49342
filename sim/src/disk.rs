//! A disk that keeps what it promised and nothing more: unsynced sectors and names survive a power cut or not, each by
//! itself; calls fail when the plan says so; synced bytes rot.

use keepmq_store::{Disk, File};
use keepmq_world::Chance;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

const SECTOR: usize = 512;
/// Versions of one sector between two syncs that are told apart. The first is the durable one.
const VERSIONS: usize = 4;

/// A disk with one store on it. Clones are the same disk, as seen by the same process.
#[derive(Clone)]
pub(crate) struct SimDisk {
    state: Arc<Mutex<State>>,
    /// The process that holds it; after its end its handles are dead.
    life: u32,
}

/// An open file.
pub(crate) struct SimFile {
    disk: SimDisk,
    inode: usize,
}

/// What the disk does wrong.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// A call that fails, once.
    pub(crate) fails: Option<Failing>,
    /// No space for new files.
    pub(crate) full: bool,
    /// Power goes, and nothing is done any more, after so many changes.
    pub(crate) fuse: u32,
}

/// The call that fails: the `nth` of its kind from now on (the first is 1) below this folder ("": anywhere).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failing {
    pub(crate) call: Call,
    pub(crate) below: &'static str,
    pub(crate) nth: u32,
}

/// What a disk can fail to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Read,
    Write,
    Sync,
    SyncDir,
    Create,
    Rename,
    Remove,
}

/// What was done, for the trace and for those who count rare things.
#[derive(Clone, Debug)]
pub(crate) enum DiskOp {
    Open(Arc<str>),
    /// Of a file of the queue index.
    ReadIndex(Arc<str>),
    Create(Arc<str>, u64),
    Rename(Arc<str>, Arc<str>),
    /// With the content that is gone now, when it was a segment.
    Remove(Arc<str>, Vec<u8>),
    SyncDir(Arc<str>),
    Write(Arc<str>, u64, usize),
    Sync(Arc<str>),
    Truncate(Arc<str>, u64),
    Failed(Call, Arc<str>),
    /// A write failed after these many of its bytes.
    Short(Arc<str>, usize),
    Full(Arc<str>),
}

impl DiskOp {
    /// Whether it changes what a later process may find.
    pub(crate) fn changes(&self) -> bool {
        match self {
            Self::Open(_) | Self::ReadIndex(_) | Self::Failed(..) | Self::Short(..) | Self::Full(_) => false,
            Self::Create(..)
            | Self::Rename(..)
            | Self::Remove(..)
            | Self::SyncDir(_)
            | Self::Write(..)
            | Self::Sync(_)
            | Self::Truncate(..) => true,
        }
    }
}

impl fmt::Display for DiskOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(path) => write!(f, "open {path}"),
            Self::ReadIndex(path) => write!(f, "read {path}"),
            Self::Create(path, len) => write!(f, "create {path}, {len} bytes"),
            Self::Rename(from, to) => write!(f, "rename {from} to {to}"),
            Self::Remove(path, _) => write!(f, "remove {path}"),
            Self::SyncDir(path) => write!(f, "sync folder {path:?}"),
            Self::Write(path, at, len) => write!(f, "write {path} at {at}, {len} bytes"),
            Self::Sync(path) => write!(f, "sync {path}"),
            Self::Truncate(path, len) => write!(f, "truncate {path} to {len}"),
            Self::Failed(call, path) => write!(f, "{call:?} of {path} fails"),
            Self::Short(path, done) => write!(f, "of what was to be written to {path}, {done} bytes are"),
            Self::Full(path) => write!(f, "no space for {path}"),
        }
    }
}

struct State {
    inodes: Vec<Inode>,
    /// As the running process sees them.
    names: BTreeMap<PathBuf, Node>,
    /// As they are after a power cut in which nothing pending survives.
    durable: BTreeMap<PathBuf, Node>,
    pending: Vec<Change>,
    faults: Faults,
    fuse_blown: bool,
    chance: Chance,
    life: u32,
    ops: Vec<DiskOp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Dir,
    File(usize),
}

#[derive(Clone, Debug)]
enum Change {
    Add { path: PathBuf, node: Node },
    Remove { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf, node: Node },
}

#[derive(Default)]
struct Inode {
    path: Arc<str>,
    data: Vec<u8>,
    /// Earlier contents of sectors that were changed since the last sync.
    dirty: BTreeMap<usize, Vec<Sector>>,
    /// Earlier lengths since the last sync.
    lengths: Vec<usize>,
    /// Sectors that the operating system takes for written although the platter holds this.
    lies: BTreeMap<usize, Sector>,
}

/// `None`: zeroes.
type Sector = Option<Box<[u8; SECTOR]>>;

impl Change {
    /// The folder whose sync makes it durable.
    fn dir(&self) -> &Path {
        let (Self::Add { path, .. } | Self::Remove { path } | Self::Rename { to: path, .. }) = self;
        parent(path)
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Self::Add { path, node } => {
                names.insert(path.clone(), *node);
            }
            Self::Remove { path } => {
                names.remove(path);
            }
            Self::Rename { from, to, node } => {
                if names.get(from) == Some(node) {
                    names.remove(from);
                }
                names.insert(to.clone(), *node);
            }
        }
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

fn label(path: &Path) -> Arc<str> {
    path.to_string_lossy().into()
}

impl Inode {
    fn sector(&self, index: usize) -> Sector {
        let from = index * SECTOR;
        let bytes = self.data.get(from..).unwrap_or_default();
        let bytes = &bytes[..bytes.len().min(SECTOR)];
        if bytes.iter().all(|byte| *byte == 0) {
            return None;
        }
        let mut sector = Box::new([0; SECTOR]);
        sector[..bytes.len()].copy_from_slice(bytes);
        Some(sector)
    }

    fn put_sector(&mut self, index: usize, sector: &Sector) {
        let from = index * SECTOR;
        let to = self.data.len().min(from + SECTOR);
        if from < to {
            match sector {
                Some(bytes) => self.data[from..to].copy_from_slice(&bytes[..to - from]),
                None => self.data[from..to].fill(0),
            }
        }
    }

    /// Remembers what the sectors of `from..to` hold before they change.
    fn remember(&mut self, from: usize, to: usize) {
        for index in from / SECTOR..to.div_ceil(SECTOR) {
            let old = match self.lies.remove(&index) {
                Some(lie) => lie,
                None => self.sector(index),
            };
            let versions = self.dirty.entry(index).or_default();
            if versions.len() < VERSIONS {
                versions.push(old);
            }
        }
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        self.remember(at, end);
        if end > self.data.len() {
            self.lengths.push(self.data.len());
            self.data.resize(end, 0);
        }
        self.data[at..end].copy_from_slice(bytes);
    }

    fn truncate(&mut self, len: usize) {
        if len == self.data.len() {
            return;
        }
        self.remember(len, self.data.len());
        self.lengths.push(self.data.len());
        self.data.resize(len, 0);
    }

    fn synced(&mut self) {
        self.dirty.clear();
        self.lengths.clear();
    }

    /// A sync that failed: what of it reached the platter is anybody's guess, and so is what the operating system thinks.
    fn sync_failed(&mut self, chance: &mut Chance) {
        let forgets = chance.below(3);
        for (index, versions) in std::mem::take(&mut self.dirty) {
            let durable = versions.into_iter().next().flatten();
            match forgets {
                // Page marked clean, content only in memory: what Linux does on ext4 and xfs.
                0 if chance.one_in(2) => {
                    self.lies.insert(index, durable);
                }
                // Page dropped: the old content is back.
                1 if chance.one_in(2) => self.put_sector(index, &durable),
                2 => {
                    self.dirty.insert(index, vec![durable]);
                }
                _ => {}
            }
        }
    }

    fn power_cut(&mut self, chance: &mut Chance, mode: u64) {
        let mut length = self.data.len();
        if !self.lengths.is_empty() && chance.one_in(2) {
            length = *chance.pick(&self.lengths);
        }
        self.lengths.clear();
        self.data.resize(length.max(self.data.len()), 0);
        for (index, versions) in std::mem::take(&mut self.dirty) {
            // All new, all old, or each its own way.
            let old = match mode {
                0 => false,
                1 => true,
                _ => chance.one_in(2),
            };
            if old {
                let version = if mode == 1 { &versions[0] } else { chance.pick(&versions) };
                self.put_sector(index, version);
            }
        }
        for (index, lie) in std::mem::take(&mut self.lies) {
            self.put_sector(index, &lie);
        }
        self.data.truncate(length);
    }
}

impl SimDisk {
    pub(crate) fn new(chance: Chance) -> Self {
        let state = State {
            inodes: Vec::new(),
            names: BTreeMap::new(),
            durable: BTreeMap::new(),
            pending: Vec::new(),
            faults: Faults::default(),
            fuse_blown: false,
            chance,
            life: 0,
            ops: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), life: 0 }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("one thread runs a universe")
    }

    /// The process that held the disk is gone: all that it wrote is there. The disk for the next one.
    pub(crate) fn killed(&self) -> Self {
        let mut state = self.state();
        state.life += 1;
        state.faults.fuse = 0;
        state.fuse_blown = false;
        Self { state: Arc::clone(&self.state), life: state.life }
    }

    /// The power is gone: of what was not synced, each sector and each name is there or not. The disk for the next process.
    pub(crate) fn power_cut(&self) -> Self {
        let mut guard = self.state();
        let state = &mut *guard;
        let mode = state.chance.below(4);
        for change in std::mem::take(&mut state.pending) {
            if mode == 0 || (mode != 1 && state.chance.one_in(2)) {
                change.apply(&mut state.durable);
            }
        }
        // What lies in a folder whose own name did not survive is gone with it.
        let durable = &state.durable;
        let reachable = |path: &Path| {
            path.ancestors().skip(1).all(|dir| dir == Path::new("") || durable.get(dir) == Some(&Node::Dir))
        };
        let names: BTreeMap<_, _> =
            durable.iter().filter(|(path, _)| reachable(path)).map(|(path, node)| (path.clone(), *node)).collect();
        for inode in &mut state.inodes {
            inode.power_cut(&mut state.chance, mode);
        }
        for (path, node) in &names {
            if let Node::File(inode) = node {
                state.inodes[*inode].path = label(path);
            }
        }
        state.durable.clone_from(&names);
        state.names = names;
        drop(guard);
        self.killed()
    }

    /// What is wrong with it, to be changed.
    pub(crate) fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.state().faults);
    }

    /// Whether the power went in the middle of what the process did.
    pub(crate) fn fuse_blown(&self) -> bool {
        self.state().fuse_blown
    }

    /// Takes what was done since the last call.
    pub(crate) fn take_ops(&self, into: &mut Vec<DiskOp>) {
        into.append(&mut self.state().ops);
    }

    /// The files of a folder, as the process sees them.
    pub(crate) fn files(&self, dir: &str) -> Vec<(String, Vec<u8>)> {
        let state = self.state();
        let in_dir = state.names.iter().filter(|(path, _)| parent(path) == Path::new(dir));
        in_dir
            .filter_map(|(path, node)| match node {
                Node::File(inode) => {
                    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    Some((name, state.inodes[*inode].data.clone()))
                }
                Node::Dir => None,
            })
            .collect()
    }

    /// A name is lost although its folder was synced; of a folder, everything below it.
    pub(crate) fn lose(&self, path: &str) {
        let state = &mut *self.state();
        for names in [&mut state.names, &mut state.durable] {
            names.retain(|name, _| !name.starts_with(path));
        }
        state.pending.retain(|change| {
            let (Change::Add { path: name, .. } | Change::Remove { path: name } | Change::Rename { to: name, .. }) =
                change;
            !name.starts_with(path)
        });
    }

    /// Synced bytes go bad: `change` gets the content of a file.
    pub(crate) fn rot(&self, path: &str, change: impl FnOnce(&mut [u8])) {
        let mut state = self.state();
        if let Some(Node::File(inode)) = state.names.get(Path::new(path)).copied() {
            change(&mut state.inodes[inode].data);
        }
    }

    /// Every call of a process that still lives; a change costs a step of the fuse.
    fn call(&self, changes: bool) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        if state.life != self.life {
            return Err(io::Error::other("the process that held this file has ended"));
        }
        if changes && state.faults.fuse > 0 {
            state.faults.fuse -= 1;
            state.fuse_blown |= state.faults.fuse == 0;
        }
        if state.fuse_blown {
            return Err(io::Error::other("the power is gone"));
        }
        Ok(state)
    }
}

impl State {
    /// Whether this call is the one that fails.
    fn fails(&mut self, call: Call, path: &Arc<str>) -> bool {
        let Some(failing) = self.faults.fails.as_mut() else { return false };
        if failing.call != call || !path.starts_with(failing.below) {
            return false;
        }
        failing.nth -= 1;
        let fails = failing.nth == 0;
        if fails {
            self.faults.fails = None;
            self.ops.push(DiskOp::Failed(call, Arc::clone(path)));
        }
        fails
    }

    fn full(&mut self, path: Arc<str>) -> io::Error {
        self.ops.push(DiskOp::Full(path));
        ErrorKind::StorageFull.into()
    }

    fn add(&mut self, path: &Path, node: Node) {
        self.names.insert(path.to_owned(), node);
        self.pending.push(Change::Add { path: path.to_owned(), node });
    }

    fn parent_exists(&self, path: &Path) -> io::Result<()> {
        let dir = parent(path);
        match dir == Path::new("") || self.names.get(dir) == Some(&Node::Dir) {
            true => Ok(()),
            false => Err(ErrorKind::NotFound.into()),
        }
    }
}

/// What an injected failure says.
fn broken() -> io::Error {
    io::Error::other("input/output error (injected)")
}

impl Disk for SimDisk {
    type File = SimFile;

    fn open(&self, path: &Path) -> io::Result<SimFile> {
        let mut state = self.call(false)?;
        let Some(Node::File(inode)) = state.names.get(path).copied() else {
            return Err(ErrorKind::NotFound.into());
        };
        state.ops.push(DiskOp::Open(label(path)));
        Ok(SimFile { disk: self.clone(), inode })
    }

    fn create(&self, path: &Path, len: u64) -> io::Result<SimFile> {
        let mut state = self.call(true)?;
        if state.names.contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        state.parent_exists(path)?;
        let name = label(path);
        if state.fails(Call::Create, &name) {
            return Err(broken());
        }
        if state.faults.full {
            return Err(state.full(name));
        }
        let inode = state.inodes.len();
        let data = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        // Until it is synced, the length is not durable either.
        state.inodes.push(Inode { path: Arc::clone(&name), data, lengths: vec![0], ..Inode::default() });
        state.add(path, Node::File(inode));
        state.ops.push(DiskOp::Create(name, len));
        Ok(SimFile { disk: self.clone(), inode })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let state = self.call(false)?;
        let in_dir = state.names.keys().filter(|path| parent(path) == dir && *path != Path::new(""));
        Ok(in_dir.filter_map(|path| path.file_name()).map(PathBuf::from).collect())
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.call(true)?;
        let mut above: Vec<_> = dir.ancestors().filter(|dir| *dir != Path::new("")).collect();
        above.reverse();
        for dir in above {
            match state.names.get(dir) {
                Some(Node::Dir) => {}
                Some(Node::File(_)) => return Err(ErrorKind::AlreadyExists.into()),
                None => state.add(dir, Node::Dir),
            }
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.call(true)?;
        if state.fails(Call::Rename, &label(from)) {
            return Err(broken());
        }
        let node = state.names.get(from).copied().ok_or(ErrorKind::NotFound)?;
        state.parent_exists(to)?;
        state.names.remove(from);
        state.names.insert(to.to_owned(), node);
        if let Node::File(inode) = node {
            state.inodes[inode].path = label(to);
        }
        state.pending.push(Change::Rename { from: from.to_owned(), to: to.to_owned(), node });
        state.ops.push(DiskOp::Rename(label(from), label(to)));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.call(true)?;
        if state.fails(Call::Remove, &label(path)) {
            return Err(broken());
        }
        let Some(Node::File(inode)) = state.names.remove(path) else {
            return Err(ErrorKind::NotFound.into());
        };
        state.pending.push(Change::Remove { path: path.to_owned() });
        let content = if path.starts_with("commitlog") { state.inodes[inode].data.clone() } else { Vec::new() };
        state.ops.push(DiskOp::Remove(label(path), content));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut guard = self.call(true)?;
        let state = &mut *guard;
        if state.fails(Call::SyncDir, &label(dir)) {
            return Err(broken());
        }
        let (now, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.pending).into_iter().partition(|change| change.dir() == dir);
        state.pending = later;
        for change in now {
            change.apply(&mut state.durable);
            // A name that has durably moved cannot come back where it came from.
            if let Change::Rename { from, node, .. } = &change {
                state.pending.retain(
                    |other| !matches!(other, Change::Add { path, node: added } if path == from && added == node),
                );
            }
        }
        state.ops.push(DiskOp::SyncDir(label(dir)));
        Ok(())
    }
}

impl SimFile {
    fn read(&self, state: &mut State, at: u64, into: &mut [u8]) -> io::Result<()> {
        let path = Arc::clone(&state.inodes[self.inode].path);
        if state.fails(Call::Read, &path) {
            return Err(broken());
        }
        let data = &state.inodes[self.inode].data;
        let at = usize::try_from(at).map_err(io::Error::other)?;
        let bytes = data.get(at..).and_then(|rest| rest.get(..into.len())).ok_or(ErrorKind::UnexpectedEof)?;
        into.copy_from_slice(bytes);
        if path.starts_with("keepmq/queues-") {
            state.ops.push(DiskOp::ReadIndex(path));
        }
        Ok(())
    }
}

impl File for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.call(false)?.inodes[self.inode].data.len() as u64)
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.read(&mut *self.disk.call(false)?, at, into)
    }

    fn read_cached_at(&self, at: u64, into: &mut [u8]) -> io::Result<bool> {
        let mut state = self.disk.call(false)?;
        if state.chance.one_in(4) {
            return Ok(false);
        }
        self.read(&mut state, at, into).map(|()| true)
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut guard = self.disk.call(true)?;
        let state = &mut *guard;
        let at = usize::try_from(at).map_err(io::Error::other)?;
        let path = Arc::clone(&state.inodes[self.inode].path);
        if state.fails(Call::Write, &path) {
            let done = usize::try_from(state.chance.below(bytes.len() as u64 + 1)).map_err(io::Error::other)?;
            state.inodes[self.inode].write(at, &bytes[..done]);
            state.ops.push(DiskOp::Short(path, done));
            return Err(broken());
        }
        if state.faults.full && at + bytes.len() > state.inodes[self.inode].data.len() {
            return Err(state.full(path));
        }
        state.inodes[self.inode].write(at, bytes);
        state.ops.push(DiskOp::Write(path, at as u64, bytes.len()));
        Ok(())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.call(true)?;
        let inode = &mut state.inodes[self.inode];
        inode.truncate(usize::try_from(len).map_err(io::Error::other)?);
        let path = Arc::clone(&inode.path);
        state.ops.push(DiskOp::Truncate(path, len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut guard = self.disk.call(true)?;
        let state = &mut *guard;
        let path = Arc::clone(&state.inodes[self.inode].path);
        if state.fails(Call::Sync, &path) {
            state.inodes[self.inode].sync_failed(&mut state.chance);
            return Err(broken());
        }
        state.inodes[self.inode].synced();
        state.ops.push(DiskOp::Sync(path));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
