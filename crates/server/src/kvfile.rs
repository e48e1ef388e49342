//! The one file of a name server: `kvConfig.json`, in RocketMQ's format, always whole.
//!
//! ```text
//!   kvConfig.json.new ──write, sync──▶ ──rename──▶ kvConfig.json ──sync the folder──▶ kept
//!                     the old file stands          │ either of them may be read next
//! ```

use crate::failure::{ExitCode, Failure, Problem};
use keepmq_disk::OsDisk;
use keepmq_nameserver::{SaveError, read_kv};
use keepmq_protocol::body::KvConfig;
use keepmq_store::{Disk, File as _};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Longest file that is read. One that was written here is shorter: its content has at most 4 MiB, and JSON makes six
/// bytes of one at worst.
const BYTES_MAX: u64 = 32 << 20;

/// Where the key-value configuration lies.
pub(crate) struct KvFile {
    folder: PathBuf,
    name: OsString,
    /// What was read or written last.
    content: Option<Vec<u8>>,
}

impl KvFile {
    /// Reads it. It need not exist yet: it is made when something is to be kept.
    pub(crate) fn open(path: &Path) -> Result<(Self, KvConfig), Failure> {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            let remedy = "set kvConfigPath to the path of a file, or give a folder with --data";
            let problem = Problem::new(title(path), "it names no file", "changes are kept in a file", remedy);
            return Err(Failure::new(ExitCode::Configuration, problem));
        };
        let content = read(path).map_err(|error| {
            let why = "what tools have stored would be missing, and the next change would overwrite it";
            let remedy = "give this user the right to read it, or set kvConfigPath (or --data) to another place";
            Failure::new(ExitCode::Io, Problem::new(title(path), error.to_string(), why, remedy))
        })?;
        let config = match &content {
            None => KvConfig::default(),
            Some(content) => {
                let config = read_kv(content).map_err(|error| {
                    let why = "it was written by RocketMQ or KeepMQ once; to begin without it would be to lose it in silence";
                    let remedy = "mend the file, or put a copy in its place (RocketMQ keeps the one before with .bak behind its \
                                  name); or take it away to begin with nothing";
                    Failure::new(ExitCode::Damaged, Problem::new(title(path), error, why, remedy))
                })?;
                // A process that was killed may have renamed the file and not have synced the folder: what is answered for from
                // now on must be there after a power cut, too.
                sync(path).and_then(|()| sync(folder)).map_err(|error| {
                    let why = "what was read may be gone after a power cut";
                    let remedy = "see to the disk, or set kvConfigPath (or --data) to another place";
                    Failure::new(ExitCode::Io, Problem::new(title(path), error.to_string(), why, remedy))
                })?;
                config
            }
        };
        Ok((Self { folder: folder.to_owned(), name: name.to_owned(), content }, config))
    }

    /// Replaces the file, so that whoever starts next reads this.
    pub(crate) fn save(&mut self, content: Vec<u8>) -> Result<(), SaveError> {
        let path = self.folder.join(&self.name);
        let not = |what: &'static str| {
            let place = path.display().to_string();
            move |error: io::Error| SaveError::NotSaved(format!("{place} {what}: {error}"))
        };
        let disk = OsDisk::make(&self.folder).map_err(not("has no folder"))?;
        let lock = self.beside(".lock");
        let lock = OpenOptions::new().create(true).append(true).open(self.folder.join(lock));
        // Held to the end: of two name servers that share the file by mistake one would undo what the other has answered for.
        let lock = lock.map_err(not("cannot be locked"))?;
        lock.try_lock().map_err(|error| not("is locked by another process")(error.into()))?;
        if read(&path).map_err(not("cannot be read again"))? != self.content {
            return Err(SaveError::NotSaved(format!(
                "{} was changed by somebody else since this name server has read it; start it again so that it reads it, and let \
                 every name server have a kvConfigPath of its own",
                path.display()
            )));
        }
        // A new file each time: what a failed write has left in the system's memory is no part of it.
        let new = PathBuf::from(self.beside(".new"));
        match disk.remove(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(not("cannot be replaced")(error)),
            _ => {}
        }
        let written = disk.create(&new, content.len() as u64).and_then(|file| {
            file.write_at(0, &content)?;
            file.sync_data()
        });
        written.map_err(not("cannot be written"))?;
        let renamed = disk.rename(&new, Path::new(&self.name)).and_then(|()| disk.sync_dir(Path::new("")));
        renamed.map_err(|error| SaveError::Unknown(format!("{} may be the old one: {error}", path.display())))?;
        self.content = Some(content);
        Ok(())
    }

    fn beside(&self, ending: &str) -> OsString {
        let mut name = self.name.clone();
        name.push(ending);
        name
    }
}

fn title(path: &Path) -> String {
    format!("the key-value configuration {} cannot be used", path.display())
}

/// `None`: there is no such file.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut content = Vec::new();
    file.take(BYTES_MAX + 1).read_to_end(&mut content)?;
    match content.len() as u64 > BYTES_MAX {
        true => Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {BYTES_MAX} bytes"))),
        false => Ok(Some(content)),
    }
}

fn sync(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn save(file: &mut KvFile, value: &str) -> Result<(), SaveError> {
        file.save(format!(r#"{{"configTable":{{"N":{{"k":"{value}"}}}}}}"#).into_bytes())
    }

    fn value(config: &KvConfig) -> &str {
        &config.config_table["N"]["k"]
    }

    #[test]
    fn what_is_saved_is_read_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/kvConfig.json");
        let (mut file, config) = KvFile::open(&path).unwrap();
        assert_eq!(config, KvConfig::default());
        assert!(!dir.path().join("deep").exists(), "nothing is made before there is something to keep");
        save(&mut file, "1").unwrap();
        // A crash in the middle of a save leaves its half-written file.
        fs::write(dir.path().join("deep/er/kvConfig.json.new"), "{").unwrap();
        save(&mut file, "2").unwrap();
        let (mut again, config) = KvFile::open(&path).unwrap();
        assert_eq!(value(&config), "2");
        save(&mut again, "3").unwrap();
        assert_eq!(value(&KvFile::open(&path).unwrap().1), "3");
    }

    #[test]
    fn a_file_that_is_not_ours_alone_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kvConfig.json");
        let (mut one, _) = KvFile::open(&path).unwrap();
        let (mut other, _) = KvFile::open(&path).unwrap();
        save(&mut one, "one").unwrap();
        let Err(SaveError::NotSaved(why)) = save(&mut other, "other") else { panic!("it was overwritten") };
        assert!(why.contains("changed by somebody else"), "{why}");
        save(&mut one, "one again").unwrap();
        let lock = File::open(dir.path().join("kvConfig.json.lock")).unwrap();
        lock.lock().unwrap();
        let Err(SaveError::NotSaved(why)) = save(&mut one, "1") else { panic!("it is locked") };
        assert!(why.contains("locked by another process"), "{why}");
        drop(lock);
        save(&mut one, "2").unwrap();
    }

    #[test]
    fn a_save_that_cannot_be_written_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kvConfig.json");
        let (mut file, _) = KvFile::open(&path).unwrap();
        save(&mut file, "old").unwrap();
        // A folder where the new file shall be: nobody can write there, not even root.
        fs::create_dir(dir.path().join("kvConfig.json.new")).unwrap();
        let failed = save(&mut file, "new");
        assert!(matches!(&failed, Err(SaveError::NotSaved(why)) if why.contains("cannot be replaced")), "{failed:?}");
        assert_eq!(value(&KvFile::open(&path).unwrap().1), "old");
        fs::remove_dir(dir.path().join("kvConfig.json.new")).unwrap();
        save(&mut file, "new").unwrap();
        assert_eq!(value(&KvFile::open(&path).unwrap().1), "new");
    }

    #[test]
    fn a_file_that_cannot_be_used_is_refused_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kvConfig.json");
        let refused = |exit: ExitCode, words: &[&str]| {
            let failure = KvFile::open(&path).err().expect("it is refused");
            assert_eq!(failure.exit, exit);
            for word in words.iter().chain(&[path.to_str().unwrap(), "why ", "do "]) {
                assert!(failure.to_string().contains(word), "{word:?} in {failure}");
            }
        };
        for torn in ["", "{", r#"{"configTable":{"N":{"k"#, r#"{"topicConfigTable":{}}"#] {
            fs::write(&path, torn).unwrap();
            refused(ExitCode::Damaged, &["put a copy in its place", ".bak"]);
        }
        File::create(&path).unwrap().set_len(BYTES_MAX + 1).unwrap();
        refused(ExitCode::Io, &["more than 33554432 bytes"]);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
        if File::open(&path).is_err() {
            // Root reads everything.
            refused(ExitCode::Io, &["ermission denied"]);
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        refused(ExitCode::Io, &["directory"]);
    }
}
