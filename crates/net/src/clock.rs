use keepmq_world::{Mono, Now, Timestamp};
use std::sync::LazyLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// One origin for all shards of the process.
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What time it is, for cores: the clocks that shards use. Whoever makes a core reads them here.
pub fn now() -> Now {
    let mono = u64::try_from(ORIGIN.elapsed().as_nanos()).expect("a process runs for less than 500 years");
    let millis = |age: std::time::Duration| i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
    let wall = match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(age) => millis(age),
        // A machine whose clock was never set may well be before 1970.
        Err(before) => -millis(before.duration()),
    };
    Now { mono: Mono(mono), wall: Timestamp(wall) }
}
