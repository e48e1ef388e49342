use crate::direct::{Direct, Done, Staging};
use keepmq_store::{Disk, File};
use rustix::fs::FallocateFlags;
use rustix::io::{Errno, ReadWriteFlags};
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Zeroes are written in pieces of this size where space cannot be reserved otherwise.
static ZEROES: [u8; 256 << 10] = [0; 256 << 10];

/// A folder of the operating system that holds one store.
#[derive(Clone, Debug)]
pub struct OsDisk {
    root: Arc<Path>,
    log_io: LogIo,
    staging: Arc<Mutex<Staging>>,
}

/// How the end of the log is made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogIo {
    /// Past the system's cache, where the file system can: less time and less CPU for each group of messages. What a consumer
    /// reads that is older than the broker's own memory comes from the device.
    Direct,
    /// Into the system's cache, and a sync behind it.
    Buffered,
}

impl OsDisk {
    /// The store in an existing folder.
    pub fn at(root: &Path) -> io::Result<Self> {
        // Absolute from here on: nobody who changes the working directory can move the store.
        let root = fs::canonicalize(root)?;
        if !root.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self { root: root.into(), log_io: LogIo::Buffered, staging: Arc::default() })
    }

    /// The store in a folder that is made, durably, when it does not exist yet.
    pub fn make(root: &Path) -> io::Result<Self> {
        let root = std::path::absolute(root)?;
        let missing: Vec<_> = root.ancestors().take_while(|folder| !folder.exists()).collect();
        for folder in missing.into_iter().rev() {
            match fs::create_dir(folder) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made?,
            }
            // A store whose own name is lost in a power cut is lost as a whole.
            if let Some(above) = folder.parent() {
                fs::File::open(above)?.sync_all()?;
            }
        }
        Self::at(&root)
    }

    /// With another way to write the end of the log; at first it is [`LogIo::Buffered`].
    #[must_use]
    pub fn writing_logs(self, log_io: LogIo) -> Self {
        Self { log_io, ..self }
    }

    fn opened(&self, path: PathBuf, file: fs::File) -> OsFile {
        let direct = Direct::new(self.log_io == LogIo::Direct);
        OsFile { file, path, direct, staging: Arc::clone(&self.staging) }
    }

    /// The root, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn path(&self, path: &Path) -> PathBuf {
        assert!(
            path.components().all(|part| matches!(part, Component::Normal(_))),
            "a path of a store lies below its root: {}",
            path.display()
        );
        self.root.join(path)
    }
}

impl Disk for OsDisk {
    type File = OsFile;

    fn open(&self, path: &Path) -> io::Result<OsFile> {
        let path = self.path(path);
        let file = fs::OpenOptions::new().read(true).write(true).open(&path)?;
        Ok(self.opened(path, file))
    }

    fn create(&self, path: &Path, len: u64) -> io::Result<OsFile> {
        let path = self.path(path);
        let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        // The length and the reserved blocks must be durable before anybody relies on them: `sync_data` of a later write
        // need not cover them.
        match reserve(&file, len).and_then(|()| file.sync_all()) {
            Ok(()) => Ok(self.opened(path, file)),
            Err(why) => {
                drop(file);
                let why = if is_no_space(&why) { io::Error::new(io::ErrorKind::StorageFull, why) } else { why };
                match fs::remove_file(&path) {
                    Ok(()) => Err(why),
                    Err(also) => Err(io::Error::new(
                        why.kind(),
                        format!("{why}; the half-made file could not be removed: {also}"),
                    )),
                }
            }
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(self.path(dir)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = entries.map(|entry| Ok(entry?.file_name().into())).collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(self.path(dir))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(self.path(path))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(self.path(dir))?.sync_all()
    }
}

/// Gives a new file its length, with the space for it.
fn reserve(file: &fs::File, len: u64) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    loop {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len) {
            // `EINTR` leaves the file as it was.
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return write_zeroes(file, len),
            done => return Ok(done?),
        }
    }
}

/// The slow way to reserve, for file systems that know no other (NFS before 4.2, some of FUSE).
fn write_zeroes(file: &fs::File, len: u64) -> io::Result<()> {
    let mut at = 0;
    while at < len {
        let piece = usize::try_from(len - at).map_or(ZEROES.len(), |left| left.min(ZEROES.len()));
        file.write_all_at(&ZEROES[..piece], at)?;
        at += piece as u64;
    }
    Ok(())
}

fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// An open file of an [`OsDisk`].
#[derive(Debug)]
pub struct OsFile {
    file: fs::File,
    path: PathBuf,
    direct: Direct,
    staging: Arc<Mutex<Staging>>,
}

impl File for OsFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, at)
    }

    fn read_cached_at(&self, at: u64, into: &mut [u8]) -> io::Result<bool> {
        let mut done = 0;
        while done < into.len() {
            let piece = &mut [io::IoSliceMut::new(&mut into[done..])];
            match rustix::io::preadv2(&self.file, piece, at + done as u64, ReadWriteFlags::NOWAIT) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                // It reads what is there and stops where it would have to wait; the next round finds that out.
                Ok(read) => done += read,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                // A file system or kernel that cannot tell what is cached: then nothing is, as far as we know.
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        // Goes on after a short write until an error explains it: the file's writer is told of every byte that is missing.
        self.file.write_all_at(bytes, at)
    }

    fn write_durably_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let same = (&*self.path, &self.file, self.len()?);
        match self.direct.write(same, at, bytes, &self.staging)? {
            Done::Durable => Ok(()),
            Done::Nothing => {
                self.write_at(at, bytes)?;
                self.sync_data()
            }
        }
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        // Never repeated: after a failure the kernel may have dropped the dirty pages and would report success.
        Ok(rustix::fs::fdatasync(&self.file)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> (tempfile::TempDir, OsDisk) {
        let dir = tempfile::tempdir().unwrap();
        let disk = OsDisk::make(&dir.path().join("a/b")).unwrap();
        (dir, disk)
    }

    #[test]
    fn a_created_file_is_zero_and_reserved_and_its_name_is_taken() {
        let (_dir, disk) = disk();
        let path = Path::new("commitlog/00000000000000000000");
        disk.create_dir(Path::new("commitlog")).unwrap();
        let file = disk.create(path, 300_000).unwrap();
        assert_eq!(file.len().unwrap(), 300_000);
        let mut bytes = vec![1; 300_000];
        file.read_at(0, &mut bytes).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0));
        let blocks = std::os::unix::fs::MetadataExt::blocks(&file.file.metadata().unwrap());
        assert!(blocks * 512 >= 300_000, "space is reserved, not only promised: {blocks} blocks");
        assert_eq!(disk.create(path, 1).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(disk.open(path).unwrap().len().unwrap(), 300_000);
    }

    #[test]
    fn the_slow_way_to_reserve_gives_the_same() {
        let file = tempfile::tempfile().unwrap();
        write_zeroes(&file, ZEROES.len() as u64 + 7).unwrap();
        assert_eq!(file.metadata().unwrap().len(), ZEROES.len() as u64 + 7);
    }

    #[test]
    fn a_file_that_cannot_be_reserved_leaves_nothing_behind() {
        let (_dir, disk) = disk();
        // More than any file system here has: either no space, or larger than a file may be.
        let error = disk.create(Path::new("huge"), 1 << 60).unwrap_err();
        assert!(matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::FileTooLarge), "{error:?}");
        assert_eq!(disk.list(Path::new("")).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn what_is_written_is_read_and_the_end_is_an_error() {
        let (_dir, disk) = disk();
        let file = disk.create(Path::new("f"), 10).unwrap();
        file.write_at(4, b"keep").unwrap();
        file.sync_data().unwrap();
        let mut four = [0; 4];
        file.read_at(4, &mut four).unwrap();
        assert_eq!(&four, b"keep");
        // Cached or not is the system's affair; wrong bytes are not.
        let mut cached = [0; 4];
        if file.read_cached_at(4, &mut cached).unwrap() {
            assert_eq!(&cached, b"keep");
        }
        assert_eq!(file.read_at(8, &mut four).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        file.truncate(6).unwrap();
        assert_eq!(file.len().unwrap(), 6);
        assert_eq!(file.read_at(4, &mut four).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn names_are_sorted_renamed_over_and_removed() {
        let (_dir, disk) = disk();
        let names = || disk.list(Path::new("")).unwrap();
        for name in ["b", "a", "c"] {
            disk.create(Path::new(name), 0).unwrap();
        }
        assert_eq!(names(), ["a", "b", "c"].map(PathBuf::from));
        disk.rename(Path::new("c"), Path::new("a")).unwrap();
        disk.remove(Path::new("b")).unwrap();
        disk.sync_dir(Path::new("")).unwrap();
        assert_eq!(names(), ["a"].map(PathBuf::from));
        assert_eq!(disk.list(Path::new("none")).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(disk.sync_dir(Path::new("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(OsDisk::at(&disk.root().join("a")).unwrap_err().kind(), io::ErrorKind::NotADirectory);
    }

    #[test]
    #[should_panic(expected = "below its root")]
    fn a_path_out_of_the_root_is_our_own_mistake() {
        let (_dir, disk) = disk();
        drop(disk.open(Path::new("../outside")));
    }
}
