use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::process::{Flock, FlockType};
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// RocketMQ's lock file, below the root, and all that ever stands in it.
const JAVA_LOCK: &str = "lock";
const JAVA_CONTENT: &[u8] = b"lock";
/// Ours: `<pid> <seconds since 1970>`.
const OWNER: &str = "keepmq/owner";

/// A store that nobody else uses as long as this value lives.
///
/// Two locks, because no one lock is seen by everybody:
/// - `keepmq/owner` is held with `flock`, which belongs to an open file: it keeps out a second KeepMQ, in this process as well.
/// - `lock` is held with an `fcntl` record lock, which belongs to a process: this is what a JVM's `tryLock(0, 1)` sees and takes.
///   It would be dropped if the process closed *any* descriptor of that file, so `lock` is opened only by
///   whoever holds `keepmq/owner` already. For the same reason the two are two files.
#[derive(Debug)]
pub struct StoreLock {
    // In the order in which they are given back.
    _java: fs::File,
    _owner: Flocked,
}

/// A file held with `flock`. It is given back by name, not by closing: a child process that is just being started may have a copy of
/// the descriptor for a moment, and the lock would live as long as that.
#[derive(Debug)]
struct Flocked(fs::File);

impl Drop for Flocked {
    fn drop(&mut self) {
        // When it fails there is nobody to tell, and closing the file follows.
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

/// Why a store cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else has it.
    #[error("the store {} is in use by {holder}; stop it, or choose another directory", root.display())]
    Held {
        /// The store.
        root: PathBuf,
        /// Who.
        holder: Holder,
    },
    /// The lock files cannot be used.
    #[error("cannot lock the store: {call} {} failed: {source}", path.display())]
    Io {
        /// What was tried.
        call: &'static str,
        /// With which file.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
}

/// Who holds a store, as far as can be known.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Holder {
    /// The process.
    pub pid: Option<u32>,
    /// What it runs.
    pub program: Option<String>,
    /// Since when.
    pub since: Option<SystemTime>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.pid, &self.program) {
            (Some(pid), Some(program)) => write!(f, "process {pid} ({program})")?,
            (Some(pid), None) => write!(f, "process {pid}")?,
            // Another container or machine: its numbers mean nothing here.
            (None, _) => write!(f, "a process that cannot be seen from here")?,
        }
        match self.since.and_then(|since| since.elapsed().ok()) {
            Some(age) if age < Duration::from_secs(120) => write!(f, " for {} s", age.as_secs()),
            Some(age) if age < Duration::from_secs(120 * 60) => write!(f, " for {} min", age.as_secs() / 60),
            Some(age) => write!(f, " for {} h", age.as_secs() / 3600),
            None => Ok(()),
        }
    }
}

impl StoreLock {
    /// Takes the store at `root`, an existing folder; never waits.
    pub fn take(root: &Path) -> Result<Self, LockError> {
        let owner_path = root.join(OWNER);
        let folder = owner_path.parent().expect("the owner's file lies in a folder");
        fs::create_dir_all(folder).map_err(failed("making", folder))?;
        let owner = open(&owner_path)?;
        match rustix::fs::flock(&owner, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(LockError::Held { root: root.to_owned(), holder: recorded(&owner_path) });
            }
            Err(error) => return Err(failed("locking", &owner_path)(error.into())),
        }

        let owner = Flocked(owner);

        let java_path = root.join(JAVA_LOCK);
        let java = open(&java_path)?;
        // The whole file, which covers the one byte that Java locks.
        match rustix::fs::fcntl_lock(&java, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::AGAIN | Errno::ACCESS) => {
                let blocking = rustix::process::fcntl_getlk(&java, &Flock::from(FlockType::WriteLock))
                    .map_err(|error| failed("asking for the holder of", &java_path)(error.into()))?;
                let pid =
                    blocking.and_then(|lock| lock.pid).and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok());
                let holder = Holder { pid, program: pid.and_then(program), since: None };
                return Err(LockError::Held { root: root.to_owned(), holder });
            }
            Err(error) => return Err(failed("locking", &java_path)(error.into())),
        }
        write(&java, JAVA_CONTENT).map_err(failed("writing", &java_path))?;

        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
        let mut line = Vec::new();
        writeln!(line, "{} {now}", std::process::id()).map_err(failed("writing", &owner_path))?;
        write(&owner.0, &line).map_err(failed("writing", &owner_path))?;
        Ok(Self { _java: java, _owner: owner })
    }
}

fn failed(call: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LockError {
    move |source| LockError::Io { call, path: path.to_owned(), source }
}

fn open(path: &Path) -> Result<fs::File, LockError> {
    // Not truncated: until the lock is ours the content is the holder's.
    fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(failed("opening", path))
}

fn write(file: &fs::File, content: &[u8]) -> io::Result<()> {
    file.write_all_at(content, 0)?;
    file.set_len(content.len() as u64)?;
    file.sync_all()
}

/// The holder by its own account. Whatever cannot be read of it stays unknown: the answer "in use" stands anyway.
fn recorded(path: &Path) -> Holder {
    let Ok(text) = fs::read_to_string(path) else { return Holder::default() };
    let mut words = text.split_whitespace();
    let pid = words.next().and_then(|word| word.parse().ok());
    let since =
        words.next().and_then(|word| word.parse().ok()).and_then(|at| UNIX_EPOCH.checked_add(Duration::from_secs(at)));
    Holder { pid, program: pid.and_then(program), since }
}

fn program(pid: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Read};
    use std::process::{Child, Command, Stdio};

    const DIR: &str = "KEEPMQ_LOCK_TEST_DIR";
    const AS_JAVA: &str = "KEEPMQ_LOCK_TEST_AS_JAVA";

    struct Other {
        child: Child,
        said: BufReader<std::process::ChildStdout>,
    }

    /// This test program once more, as the other process; it holds the lock until its input ends.
    fn other(root: &Path, as_java: bool) -> Other {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "lock::tests::a_free_store_can_be_had", "--nocapture"]).env(DIR, root);
        if as_java {
            command.env(AS_JAVA, "yes");
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let holds = said.by_ref().lines().map_while(Result::ok).any(|line| line.contains("holding"));
        assert!(holds, "the other process holds the store");
        Other { child, said }
    }

    fn end(mut other: Other) {
        drop(other.child.stdin.take());
        let mut rest = String::new();
        other.said.read_to_string(&mut rest).unwrap();
        assert!(other.child.wait().unwrap().success(), "{rest}");
    }

    fn holder(root: &Path) -> Holder {
        match StoreLock::take(root).unwrap_err() {
            LockError::Held { holder, .. } => holder,
            error @ LockError::Io { .. } => panic!("{error}"),
        }
    }

    /// By itself: a free store can be had. The other tests run it again, as another process, which holds on to what it got.
    #[test]
    fn a_free_store_can_be_had() {
        let Some(root) = std::env::var_os(DIR).map(PathBuf::from) else {
            let dir = tempfile::tempdir().unwrap();
            StoreLock::take(dir.path()).unwrap();
            return;
        };
        let held: Box<dyn std::any::Any> = if std::env::var_os(AS_JAVA).is_some() {
            let file = open(&root.join(JAVA_LOCK)).unwrap();
            rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).expect("a JVM gets a free lock");
            Box::new(file)
        } else {
            Box::new(StoreLock::take(&root).unwrap())
        };
        println!("\nholding");
        // Its end is the sign to go, not what it says.
        io::copy(&mut io::stdin(), &mut io::sink()).unwrap();
        drop(held);
    }

    #[test]
    fn a_second_taker_in_the_same_process_is_told_of_the_first_and_does_not_loosen_its_lock() {
        let dir = tempfile::tempdir().unwrap();
        let first = StoreLock::take(dir.path()).unwrap();
        let holder = holder(dir.path());
        assert_eq!(holder.pid, Some(std::process::id()));
        assert!(holder.since.unwrap().elapsed().unwrap() < Duration::from_secs(60));
        assert_eq!(fs::read(dir.path().join(JAVA_LOCK)).unwrap(), JAVA_CONTENT);
        drop(first);
        StoreLock::take(dir.path()).unwrap();
    }

    #[test]
    fn another_keepmq_keeps_us_out_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let keepmq = other(dir.path(), false);
        let holder = holder(dir.path());
        assert_eq!(holder.pid, Some(keepmq.child.id()));
        assert!(holder.since.is_some() && holder.program.is_some(), "{holder:?}");
        end(keepmq);
        StoreLock::take(dir.path()).unwrap();
    }

    #[test]
    fn a_record_lock_as_java_takes_it_keeps_us_out() {
        let dir = tempfile::tempdir().unwrap();
        let java = other(dir.path(), true);
        let text = StoreLock::take(dir.path()).unwrap_err().to_string();
        assert!(text.contains(&format!("in use by process {}", java.child.id())), "{text}");
        end(java);
        StoreLock::take(dir.path()).unwrap();
    }

    #[test]
    fn our_record_lock_keeps_java_out_even_after_a_refused_second_attempt() {
        let dir = tempfile::tempdir().unwrap();
        let _held = StoreLock::take(dir.path()).unwrap();
        assert!(StoreLock::take(dir.path()).is_err());
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "lock::tests::a_free_store_can_be_had"])
            .env(DIR, dir.path())
            .env(AS_JAVA, "yes")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(!status.status.success());
        let said = String::from_utf8_lossy(&status.stdout);
        assert!(said.contains("a JVM gets a free lock"), "it failed for the lock: {said}");
    }
}
