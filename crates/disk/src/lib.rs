//! # keepmq-disk: the real disk
//!
//! Floor 3. What the store asks of a disk ([`keepmq_store::Disk`]), done with files of the operating system:
//!
//! - [`OsDisk`]: files below one root. The only place in the product's path of a message that may name `std::fs`.
//! - [`StoreLock`]: one process at a time uses a store, be it KeepMQ or RocketMQ.
//! - [`free_bytes`], [`total_bytes`]: what is left, and of how much.
//!
//! Errors are the operating system's own, unwrapped: whoever calls knows which file and which call, and says so.
//! Deliberately absent: retries. After a failed write or sync nothing is known about the bytes, and the store stops.
#![forbid(unsafe_code)]

mod direct;
mod lock;
mod os_disk;
mod space;

pub use lock::{Holder, LockError, StoreLock};
pub use os_disk::{LogIo, OsDisk, OsFile};
pub use space::{free_bytes, total_bytes};
