use crate::failure::Failure;
use crate::hands::spawn;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Calls `stop` for every SIGTERM and SIGINT, in a thread of its own that lives as long as the process.
pub(crate) fn on_stop(mut stop: impl FnMut() + Send + 'static) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGTERM, SIGINT])
        .map_err(|error| Failure::io("signals cannot be caught", &error, "report this: it should not happen"))?;
    spawn("signals", move || {
        for signal in signals.forever() {
            tracing::info!(signal, "asked to stop");
            stop();
        }
    })?;
    Ok(())
}
