use crate::disk::{Disk, File};
use crate::job::JobError;
use crate::losses::{Loss, Losses};
use bytes::Bytes;
use keepmq_world::planted;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

/// The folder of segments, as RocketMQ names it.
pub(crate) const LOG_DIR: &str = "commitlog";
/// The folder of everything that is ours alone.
pub(crate) const OWN_DIR: &str = "keepmq";
/// The reserved next segment, before it has its name.
pub(crate) const NEXT: &str = "keepmq/next";

/// Bytes of sealed chunks that stay in memory for readers.
const CACHE_BYTES: usize = 16 << 20;

/// Bytes of the log that are read from a file at once when several records of a pull lie in them.
pub(crate) const WINDOW_BYTES: u64 = 256 << 10;
/// Windows that stay in memory: groups that catch up go through the same part of the log, queue by queue.
const WINDOWS: usize = 8;

/// A smaller buffer is not worth being filled again.
const SPARE_BYTES: usize = 256 << 10;

/// Where the segment that begins at `base` lies.
pub(crate) fn segment_path(base: u64) -> PathBuf {
    PathBuf::from(format!("{LOG_DIR}/{base:020}"))
}

/// Sealed bytes of the log, all in one segment.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    /// Position of the first.
    pub(crate) at: u64,
    pub(crate) bytes: Bytes,
}

impl Chunk {
    pub(crate) fn end(&self) -> u64 {
        self.at + self.bytes.len() as u64
    }
}

/// The half of the store that jobs and readers share: the disk, the open segments, the last sealed chunks.
pub struct Files<D: Disk> {
    pub(crate) disk: D,
    pub(crate) segment_bytes: u64,
    /// What is passed over.
    pub(crate) losses: Losses,
    segments: RwLock<BTreeMap<u64, Arc<D::File>>>,
    others: Mutex<BTreeMap<PathBuf, Arc<D::File>>>,
    chunks: Mutex<Chunks>,
    windows: Mutex<Windows>,
    /// The first call that failed for good.
    failed: OnceLock<JobError>,
    commit: AtomicU64,
    min: AtomicU64,
}

/// Why a call of a job failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// There was no space, and nothing has changed.
    Repeatable(JobError),
    /// Nothing more may be changed.
    Final(JobError),
}

/// The last sealed chunks, oldest first. Readers find in them what consumers ask for most: what has just been written.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    chunks: VecDeque<Chunk>,
    bytes: usize,
}

/// Pieces of the log that were read from a file, the newest last.
#[derive(Debug, Default)]
struct Windows {
    windows: VecDeque<Chunk>,
    /// Memory of one that went and that nobody uses any more, to be filled again.
    spare: Vec<u8>,
}

impl Chunks {
    /// The chunk that holds position `at`.
    pub(crate) fn find(&self, at: u64) -> Option<&Chunk> {
        let after = self.chunks.partition_point(|chunk| chunk.at <= at);
        self.chunks.get(after.checked_sub(1)?).filter(|chunk| at < chunk.end())
    }

    /// Position of the first byte that is in a chunk; the end of all positions when there is none.
    pub(crate) fn first(&self) -> u64 {
        self.chunks.front().map_or(u64::MAX, |chunk| chunk.at)
    }

    /// Adds the newest; answers an evicted buffer that nobody uses any more, to be filled again.
    fn push(&mut self, chunk: Chunk) -> Option<Vec<u8>> {
        self.bytes += chunk.bytes.len();
        self.chunks.push_back(chunk);
        let mut spare = None;
        while self.bytes > CACHE_BYTES && self.chunks.len() > 1 {
            let old = self.chunks.pop_front().expect("more than one is there");
            self.bytes -= old.bytes.len();
            if old.bytes.len() >= SPARE_BYTES && old.bytes.is_unique() {
                // The memory is wanted, not what lies in it: that would be appended to the log once more.
                let mut emptied = Vec::from(old.bytes);
                emptied.clear();
                spare = Some(emptied);
            }
        }
        spare
    }
}

/// A lock whose holders never panic half-way through a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<D: Disk> Files<D> {
    pub(crate) fn new(disk: D, segment_bytes: u64) -> Self {
        Self {
            disk,
            segment_bytes,
            losses: Losses::default(),
            segments: RwLock::default(),
            others: Mutex::default(),
            chunks: Mutex::default(),
            windows: Mutex::default(),
            failed: OnceLock::new(),
            commit: AtomicU64::new(0),
            min: AtomicU64::new(0),
        }
    }

    /// Carries out a call for a job, unless one has failed for good before, whoever made it.
    ///
    /// What a disk has lost is told once to each handle, to whoever syncs it next; the sync after that finds clean pages and
    /// succeeds. So the lanes sync a segment by handles of their own, and a call that went well while another failed counts
    /// as failed: its word may be heard first.
    pub(crate) fn unless_failed(&self, call: impl FnOnce() -> Result<(), Failure>) -> Result<(), JobError> {
        self.failed()?;
        match call() {
            Ok(()) => self.failed(),
            Err(Failure::Repeatable(error)) => Err(error),
            Err(Failure::Final(error)) => Err(self.failed.get_or_init(|| error).clone()),
        }
    }

    /// The first call that failed for good, if one has.
    fn failed(&self) -> Result<(), JobError> {
        match self.failed.get() {
            Some(error) if !planted!("lanes-fail-apart") => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// First position of the segment that holds `at`.
    pub(crate) fn base(&self, at: u64) -> u64 {
        at - at % self.segment_bytes
    }

    pub(crate) fn commit(&self) -> u64 {
        self.commit.load(Ordering::Acquire)
    }

    pub(crate) fn set_commit(&self, at: u64) {
        self.commit.store(at, Ordering::Release);
    }

    pub(crate) fn min(&self) -> u64 {
        self.min.load(Ordering::Acquire)
    }

    pub(crate) fn set_min(&self, at: u64) {
        self.min.store(at, Ordering::Release);
    }

    /// Keeps a sealed chunk for readers.
    pub(crate) fn remember(&self, chunk: Chunk) -> Option<Vec<u8>> {
        lock(&self.chunks).push(chunk)
    }

    /// A piece of the log that was read from a file a moment ago and begins at `at`.
    pub(crate) fn window(&self, at: u64) -> Option<Bytes> {
        lock(&self.windows).windows.iter().find(|window| window.at == at).map(|window| window.bytes.clone())
    }

    /// Memory for the next window, with anything in it.
    pub(crate) fn spare_window(&self) -> Vec<u8> {
        std::mem::take(&mut lock(&self.windows).spare)
    }

    /// Keeps a piece of the log that was read from a file, for the readers of other queues that come along.
    pub(crate) fn remember_window(&self, at: u64, bytes: Bytes) {
        let Windows { windows, spare } = &mut *lock(&self.windows);
        // The tail's window grows with the commit: the longer one takes its place.
        windows.retain(|window| window.at != at);
        if windows.len() == WINDOWS
            && let Some(old) = windows.pop_front()
            && old.bytes.is_unique()
        {
            *spare = Vec::from(old.bytes);
        }
        windows.push_back(Chunk { at, bytes });
    }

    /// Gives the memory of remembered chunks and windows back.
    pub(crate) fn forget_chunks(&self) {
        *lock(&self.chunks) = Chunks::default();
        *lock(&self.windows) = Windows::default();
    }

    pub(crate) fn chunks(&self) -> MutexGuard<'_, Chunks> {
        lock(&self.chunks)
    }

    pub(crate) fn segment(&self, base: u64) -> Option<Arc<D::File>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).get(&base).cloned()
    }

    pub(crate) fn open_segment(&self, base: u64) -> Result<Arc<D::File>, JobError> {
        let path = segment_path(base);
        let file = Arc::new(self.disk.open(&path).map_err(failed("open", &path))?);
        // The background lane has done with the segments before.
        lock(&self.others).retain(|path, _| !path.starts_with(LOG_DIR));
        self.segments.write().unwrap_or_else(PoisonError::into_inner).insert(base, Arc::clone(&file));
        Ok(file)
    }

    pub(crate) fn forget_segment(&self, base: u64) {
        self.segments.write().unwrap_or_else(PoisonError::into_inner).remove(&base);
    }

    /// A file that is no segment, opened at most once.
    pub(crate) fn file(&self, path: &Path) -> Result<Arc<D::File>, JobError> {
        if let Some(file) = lock(&self.others).get(path) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(self.disk.open(path).map_err(failed("open", path))?);
        lock(&self.others).insert(path.to_owned(), Arc::clone(&file));
        Ok(file)
    }

    /// Makes a file; what an interrupted attempt left under the name goes first.
    pub(crate) fn create(&self, path: &Path, len: u64) -> Result<Arc<D::File>, JobError> {
        lock(&self.others).remove(path);
        let file = match self.disk.create(path, len) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.disk.remove(path).map_err(failed("remove", path))?;
                self.disk.create(path, len)
            }
            done => done,
        };
        let file = Arc::new(file.map_err(failed("create", path))?);
        lock(&self.others).insert(path.to_owned(), Arc::clone(&file));
        Ok(file)
    }

    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<(), JobError> {
        let mut others = lock(&self.others);
        others.remove(from);
        others.remove(to);
        self.disk.rename(from, to).map_err(failed("rename", from))
    }

    /// Removes a file; that it is gone already is fine.
    pub(crate) fn remove(&self, path: &Path) -> Result<(), JobError> {
        lock(&self.others).remove(path);
        match self.disk.remove(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
            _ => Ok(()),
        }
    }

    pub(crate) fn sync_dir(&self, dir: &Path) -> Result<(), JobError> {
        self.disk.sync_dir(dir).map_err(failed("sync", dir))
    }

    pub(crate) fn create_dir(&self, dir: &Path) -> Result<(), JobError> {
        self.disk.create_dir(dir).map_err(failed("create", dir))
    }

    pub(crate) fn list(&self, dir: &Path) -> Result<Vec<PathBuf>, JobError> {
        self.disk.list(dir).map_err(failed("list", dir))
    }

    /// How long a file is; `None` when it does not exist.
    pub(crate) fn len_of(&self, path: &Path) -> Result<Option<u64>, JobError> {
        match self.disk.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            file => file.and_then(|file| file.len()).map(Some).map_err(failed("read", path)),
        }
    }

    /// A whole file that is read once; `None` when it does not exist.
    pub(crate) fn read_whole(&self, path: &Path, max: u64) -> Result<Option<Vec<u8>>, JobError> {
        let file = match self.disk.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(failed("open", path))?,
        };
        let len = file.len().map_err(failed("read", path))?;
        let size = usize::try_from(len).ok().filter(|_| len <= max).ok_or_else(|| JobError {
            call: "read",
            path: path.display().to_string(),
            why: format!("it has {len} bytes, more than the {max} that it can have"),
            no_space: false,
        })?;
        let mut bytes = vec![0; size];
        file.read_at(0, &mut bytes).map_err(failed("read", path))?;
        Ok(Some(bytes))
    }

    /// Passes over one more stretch of the log from now on, and writes that down first.
    pub(crate) fn accept(&mut self, loss: Loss, store_id: [u8; 16]) -> Result<(), JobError> {
        let mut losses = std::mem::take(&mut self.losses);
        let done = losses.accept(loss, self, store_id);
        self.losses = losses;
        done
    }

    /// Writes a file beside its name, makes it durable and gives it the name: it is there whole or not at all.
    pub(crate) fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), JobError> {
        let aside = aside(path);
        let file = self.create(&aside, bytes.len() as u64)?;
        file.write_at(0, bytes).map_err(failed("write", &aside))?;
        file.sync_data().map_err(failed("sync", &aside))?;
        self.rename(&aside, path)?;
        self.sync_dir(path.parent().unwrap_or(Path::new("")))
    }
}

/// The name a file has until it is whole.
pub(crate) fn aside(path: &Path) -> PathBuf {
    path.with_added_extension("tmp")
}

/// What the operating system said, as an error of ours.
pub(crate) fn failed(call: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JobError {
    // The text is made when something has failed, not for each of a thousand calls that have not.
    move |error| JobError {
        call,
        path: path.display().to_string(),
        why: error.to_string(),
        no_space: matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded),
    }
}
