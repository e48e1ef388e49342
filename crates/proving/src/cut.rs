//! A file system on a loop device, whose power can be cut: what was not synced is gone, as after a crash of the machine.
//!
//! The one call that does it has no safe form; it is the only unsafe code of the project.
#![expect(unsafe_code, reason = "an ioctl of ext4 that rustix does not wrap")]

use crate::process::on_path;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// `EXT4_IOC_SHUTDOWN`, which is `_IOR('X', 125, __u32)`. Source: Linux, `fs/ext4/ext4.h`.
const SHUTDOWN: rustix::ioctl::Opcode = 0x8004_587D;
/// `EXT4_GOING_FLAGS_NOLOGFLUSH`: neither data nor journal are flushed.
const NO_LOG_FLUSH: u32 = 2;

/// An ext4 file system in a file, mounted. Everything is taken down when this is dropped.
#[derive(Debug)]
pub struct CutDisk {
    image: PathBuf,
    device: String,
    mount: PathBuf,
}

/// Why this machine cannot do it, or `None`.
pub fn lacking() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root, so no loop device can be set up".to_owned());
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("there is no /dev/loop-control".to_owned());
    }
    let missing = ["losetup", "mkfs.ext4", "mount", "umount"].into_iter().find(|tool| on_path(tool).is_none());
    missing.map(|tool| format!("{tool} is not installed"))
}

impl CutDisk {
    /// Makes one of so many bytes, mounted at `folder/disk`.
    pub fn new(folder: &Path, bytes: u64) -> Result<Self> {
        let (image, mount) = (folder.join("image"), folder.join("disk"));
        let file = File::create(&image).with_context(|| format!("cannot create {}", image.display()))?;
        file.set_len(bytes).context("cannot size the image")?;
        std::fs::create_dir_all(&mount).with_context(|| format!("cannot create {}", mount.display()))?;
        let path = image.to_string_lossy().into_owned();
        // Nothing may be left to initialise in the background: it would go on while the power is cut.
        run("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", &path])?;
        let device = run("losetup", &["--find", "--show", &path])?.trim().to_owned();
        let disk = Self { image, device, mount };
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Makes durable what was written so far, by whomever.
    pub fn sync(&self) -> Result<()> {
        let root = File::open(&self.mount).with_context(|| format!("cannot open {}", self.mount.display()))?;
        rustix::fs::syncfs(&root).context("cannot sync the file system")
    }

    /// Cuts the power: from here on every write and sync fails, and what was not synced is gone.
    pub fn cut(&self) -> Result<()> {
        let root = File::open(&self.mount).with_context(|| format!("cannot open {}", self.mount.display()))?;
        // SAFETY: the kernel reads one u32 through the pointer, which is what `Setter` passes, and writes nothing.
        let shutdown = unsafe { rustix::ioctl::Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH) };
        // SAFETY: opcode and argument are a pair of the kernel's interface; any other file system answers ENOTTY.
        unsafe { rustix::ioctl::ioctl(&root, shutdown) }.context("cannot shut the file system down")
    }

    /// Mounts it again, after whoever used it is gone: the journal is replayed as after a crash.
    pub fn restart(&self) -> Result<()> {
        run("umount", &[&self.mount.to_string_lossy()])?;
        self.mount()
    }

    fn mount(&self) -> Result<()> {
        run("mount", &["-t", "ext4", &self.device, &self.mount.to_string_lossy()]).map(drop)
    }
}

impl Drop for CutDisk {
    fn drop(&mut self) {
        let mount = self.mount.to_string_lossy();
        // Lazily: also when somebody still holds a file.
        for (tool, words) in [("umount", vec!["--lazy", &mount]), ("losetup", vec!["--detach", &self.device])] {
            if let Err(error) = run(tool, &words) {
                println!("      left behind: {error:#}");
            }
        }
        if let Err(error) = std::fs::remove_file(&self.image) {
            println!("      left behind: {}: {error}", self.image.display());
        }
    }
}

/// Runs a tool and answers what it said.
fn run(tool: &str, words: &[&str]) -> Result<String> {
    let output = Command::new(tool).args(words).output().with_context(|| format!("cannot start {tool}"))?;
    if !output.status.success() {
        bail!("{tool} {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
