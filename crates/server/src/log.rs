//! The process's own log, on standard error.

use crate::failure::{ExitCode, Failure, Problem};
use std::io::{IsTerminal, stderr};
use tracing_subscriber::EnvFilter;

/// Starts logging, once a process. `wish` is what `--log` says: `json`, a level, or a filter, separated by commas; without it
/// the environment's `RUST_LOG` holds, without that `default`. From here on a panic in any thread ends the process.
pub fn init(wish: Option<&str>, default: &str) -> Result<(), Failure> {
    let words: Vec<&str> = wish.unwrap_or_default().split(',').filter(|word| !word.is_empty()).collect();
    let json = words.contains(&"json");
    let filter: Vec<&str> = words.into_iter().filter(|word| *word != "json").collect();
    let filter = match (filter.is_empty(), std::env::var("RUST_LOG")) {
        (false, _) => filter.join(","),
        (true, Ok(said)) if !said.is_empty() => said,
        (true, _) => default.to_owned(),
    };
    let filter = EnvFilter::try_new(&filter).map_err(|error| {
        let why = "logging cannot begin without knowing what to log";
        let remedy =
            "give error, warn, info, debug or trace, or target=level, separated by commas; json for JSON lines";
        Failure::new(
            ExitCode::Usage,
            Problem::new(format!("the log filter {filter:?} cannot be read"), error.to_string(), why, remedy),
        )
    })?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    if json {
        log.json().init();
    } else {
        log.with_ansi(stderr().is_terminal()).init();
    }
    end_on_panic();
    Ok(())
}

/// A thread that is gone would leave its work undone while the others go on as if nothing had happened.
fn end_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        tracing::error!("{panic}; the process ends here, what was acknowledged is kept");
        std::process::abort();
    }));
}
