//! A disk in memory that forgets like a real one: what was not synced may survive a power cut or not, sector by sector.

use crate::disk::{Disk, File};
use keepmq_world::Chance;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

const SECTOR: usize = 512;

#[derive(Clone, Default)]
pub(crate) struct TestDisk(Arc<Mutex<State>>);

pub(crate) struct TestFile {
    disk: TestDisk,
    id: u64,
}

#[derive(Clone, Default)]
struct State {
    files: BTreeMap<u64, Content>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    /// Changes of names that are not durable: the folder, the name, what it names afterwards.
    changes: Vec<(PathBuf, PathBuf, Option<u64>)>,
    next_id: u64,
    /// Calls that change something, so far.
    calls: u64,
    /// The power fails before the call with this number.
    off_at: Option<u64>,
    /// The call with this number fails, once.
    fail_at: Option<u64>,
    /// Bytes that may still be reserved.
    space: Option<u64>,
    /// Whether reads may be answered without waiting.
    cold: bool,
    /// Bytes of a file that cannot be read.
    unreadable: Option<(PathBuf, Range<u64>)>,
    /// Reads fail.
    reads_fail: bool,
}

#[derive(Clone, Default)]
struct Content {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
}

impl TestDisk {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap())
    }

    fn change<T>(&self, act: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        self.with(|state| {
            state.calls += 1;
            if state.off_at.is_some_and(|at| state.calls > at) {
                return Err(io::Error::other("the power is off"));
            }
            if state.fail_at == Some(state.calls) {
                return Err(io::Error::other("input/output error"));
            }
            act(state)
        })
    }

    /// A disk with the same content that shares nothing with this one.
    pub(crate) fn copy(&self) -> Self {
        self.with(|state| Self(Arc::new(Mutex::new(state.clone()))))
    }

    pub(crate) fn calls(&self) -> u64 {
        self.with(|state| state.calls)
    }

    /// Lets `calls` more calls through, then the power fails.
    pub(crate) fn off_after(&self, calls: u64) {
        self.with(|state| state.off_at = Some(state.calls + calls));
    }

    pub(crate) fn stay_on(&self) {
        self.with(|state| state.off_at = None);
    }

    pub(crate) fn fail_after(&self, calls: u64) {
        self.with(|state| state.fail_at = Some(state.calls + calls + 1));
    }

    pub(crate) fn set_space(&self, space: Option<u64>) {
        self.with(|state| state.space = space);
    }

    /// A bad place of the device.
    pub(crate) fn break_off(&self, path: &str, bytes: Range<u64>) {
        self.with(|state| state.unreadable = Some((path.into(), bytes)));
    }

    pub(crate) fn set_cold(&self, cold: bool) {
        self.with(|state| state.cold = cold);
    }

    pub(crate) fn set_unreadable(&self, unreadable: bool) {
        self.with(|state| state.reads_fail = unreadable);
    }

    /// What is left after a power cut. `keep`: how many of eight unsynced changes survive.
    pub(crate) fn after_power_cut(&self, chance: &mut Chance, keep: u64) -> Self {
        let mut survives = || chance.below(8) < keep;
        self.with(|state| {
            let mut names = state.durable_names.clone();
            for (_, name, id) in &state.changes {
                if survives() {
                    match id {
                        Some(id) => drop(names.insert(name.clone(), *id)),
                        None => drop(names.remove(name)),
                    }
                }
            }
            let mut files = BTreeMap::new();
            for (id, content) in &state.files {
                let mut bytes = content.durable.clone();
                if bytes.len() != content.bytes.len() && survives() {
                    bytes.resize(content.bytes.len(), 0);
                }
                for (at, written) in &content.unsynced {
                    let mut from = *at;
                    while from < at + written.len() {
                        let to = ((from / SECTOR + 1) * SECTOR).min(at + written.len());
                        if survives() {
                            if bytes.len() < to && content.bytes.len() >= to {
                                bytes.resize(to, 0);
                            }
                            if bytes.len() >= to {
                                bytes[from..to].copy_from_slice(&written[from - at..to - at]);
                            }
                        }
                        from = to;
                    }
                }
                let durable = bytes.clone();
                files.insert(*id, Content { bytes, durable, unsynced: Vec::new() });
            }
            let next_id = state.next_id;
            let state = State { files, durable_names: names.clone(), names, next_id, ..State::default() };
            Self(Arc::new(Mutex::new(state)))
        })
    }

    pub(crate) fn names(&self) -> Vec<PathBuf> {
        self.with(|state| state.names.keys().cloned().collect())
    }

    /// Changes a file behind everybody's back.
    pub(crate) fn rot(&self, path: &str, act: impl FnOnce(&mut Vec<u8>)) {
        self.with(|state| {
            let id = state.names[Path::new(path)];
            let content = state.files.get_mut(&id).unwrap();
            act(&mut content.bytes);
            content.durable = content.bytes.clone();
            content.unsynced.clear();
        });
    }

    pub(crate) fn bytes(&self, path: &str) -> Vec<u8> {
        self.with(|state| state.files[&state.names[Path::new(path)]].bytes.clone())
    }

    /// Loses a file behind everybody's back.
    pub(crate) fn lose(&self, path: &str) {
        self.with(|state| {
            state.names.remove(Path::new(path)).unwrap();
            state.durable_names.remove(Path::new(path));
        });
    }
}

fn folder(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).to_owned()
}

impl State {
    fn name(&mut self, path: &Path, id: Option<u64>) {
        match id {
            Some(id) => drop(self.names.insert(path.to_owned(), id)),
            None => drop(self.names.remove(path)),
        }
        self.changes.push((folder(path), path.to_owned(), id));
    }
}

impl Disk for TestDisk {
    type File = TestFile;

    fn open(&self, path: &Path) -> io::Result<TestFile> {
        let id = self.with(|state| state.names.get(path).copied()).ok_or(io::ErrorKind::NotFound)?;
        Ok(TestFile { disk: self.clone(), id })
    }

    fn create(&self, path: &Path, len: u64) -> io::Result<TestFile> {
        self.change(|state| {
            if state.names.contains_key(path) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            if let Some(space) = &mut state.space {
                *space = space.checked_sub(len).ok_or(io::ErrorKind::StorageFull)?;
            }
            state.next_id += 1;
            let id = state.next_id;
            state.files.insert(id, Content { bytes: vec![0; len as usize], ..Content::default() });
            state.name(path, Some(id));
            Ok(TestFile { disk: self.clone(), id })
        })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(self.with(|state| {
            let inside = state.names.keys().filter(|name| folder(name) == dir);
            inside.map(|name| name.file_name().unwrap().into()).collect()
        }))
    }

    fn create_dir(&self, _: &Path) -> io::Result<()> {
        self.change(|_| Ok(()))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|state| {
            let id = state.names.get(from).copied().ok_or(io::ErrorKind::NotFound)?;
            state.name(to, Some(id));
            state.name(from, None);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change(|state| {
            if !state.names.contains_key(path) {
                return Err(io::ErrorKind::NotFound.into());
            }
            if let (Some(space), Some(content)) = (&mut state.space, state.files.get(&state.names[path])) {
                *space += content.bytes.len() as u64;
            }
            state.name(path, None);
            Ok(())
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.change(|state| {
            for (folder, name, id) in std::mem::take(&mut state.changes) {
                if folder != dir {
                    state.changes.push((folder, name, id));
                    continue;
                }
                match id {
                    Some(id) => drop(state.durable_names.insert(name, id)),
                    None => drop(state.durable_names.remove(&name)),
                }
            }
            Ok(())
        })
    }
}

impl TestFile {
    fn change<T>(&self, act: impl FnOnce(&mut Content) -> T) -> io::Result<T> {
        self.disk.change(|state| Ok(act(state.files.get_mut(&self.id).unwrap())))
    }

    fn look<T>(&self, act: impl FnOnce(&Content) -> T) -> T {
        self.disk.with(|state| act(&state.files[&self.id]))
    }
}

impl File for TestFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.look(|content| content.bytes.len() as u64))
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let is_broken = self.disk.with(|state| {
            let (path, bytes) = state.unreadable.as_ref()?;
            let touches = at < bytes.end && bytes.start < at + into.len() as u64;
            (touches && state.names.get(path) == Some(&self.id)).then_some(())
        });
        if is_broken.is_some() || self.disk.with(|state| state.reads_fail) {
            return Err(io::Error::other("input/output error"));
        }
        self.look(|content| {
            let from = content.bytes.get(at as usize..at as usize + into.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            into.copy_from_slice(from);
            Ok(())
        })
    }

    fn read_cached_at(&self, at: u64, into: &mut [u8]) -> io::Result<bool> {
        if self.disk.with(|state| state.cold) {
            return Ok(false);
        }
        self.read_at(at, into).map(|()| true)
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let (from, to) = (at as usize, at as usize + bytes.len());
        self.disk.with(|state| {
            let more = (to as u64).saturating_sub(state.files[&self.id].bytes.len() as u64);
            if let Some(space) = &mut state.space {
                *space = space.checked_sub(more).ok_or(io::ErrorKind::StorageFull)?;
            }
            Ok::<_, io::Error>(())
        })?;
        self.change(|content| {
            if content.bytes.len() < to {
                content.bytes.resize(to, 0);
            }
            content.bytes[from..to].copy_from_slice(bytes);
            content.unsynced.push((from, bytes.to_vec()));
        })
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.change(|content| content.bytes.resize(len as usize, 0))
    }

    fn sync_data(&self) -> io::Result<()> {
        let synced = self.change(|content| {
            let Content { durable, unsynced, bytes } = content;
            durable.resize(bytes.len(), 0);
            for (at, written) in unsynced.drain(..) {
                durable[at..at + written.len()].copy_from_slice(&written);
            }
        });
        if synced.is_err() {
            // As Linux: after a failed sync the pages still read well, and pass for clean. The next sync has nothing to do.
            self.disk.with(|state| state.files.get_mut(&self.id).unwrap().unsynced.clear());
        }
        synced
    }
}
