//! Ending on a signal.

use crate::jobs::spawn;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use std::io;
use std::thread::JoinHandle;

/// Waits for SIGTERM and SIGINT.
pub(crate) struct Stop {
    handle: Handle,
    thread: JoinHandle<()>,
}

impl Stop {
    /// Calls `stop` at every such signal, from now on.
    pub(crate) fn on_signal(stop: impl Fn() + Send + 'static) -> io::Result<Self> {
        let mut signals = Signals::new([SIGTERM, SIGINT])?;
        let handle = signals.handle();
        let thread = spawn("signals", move || {
            for signal in signals.forever() {
                let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
                tracing::info!("{name}: draining; the same signal once more ends it after what must still be written");
                stop();
            }
        })?;
        Ok(Self { handle, thread })
    }

    /// Waits for none any more.
    pub(crate) fn join(self) {
        self.handle.close();
        self.thread.join().expect("a panic ends the process");
    }
}
