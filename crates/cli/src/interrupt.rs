//! Ctrl-C and SIGTERM: once is "come to an end", twice is "now".

use crate::problem;
use keepmq_server::{ExitCode, Failure};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Hears whether the user has had enough.
#[derive(Clone)]
pub(crate) struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    /// From now on.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let refused = |error| problem::io("signals cannot be waited for", &error);
        let mut interrupt = signal(SignalKind::interrupt()).map_err(refused)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(refused)?;
        let (asked, heard) = watch::channel(false);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if asked.send_replace(true) {
                    // Processes that we have started end with us (`ground.rs`).
                    std::process::exit(ExitCode::Interrupted as i32);
                }
                eprintln!("interrupted: what is under way is brought to its end; once more ends at once");
            }
        });
        Ok(Self(heard))
    }

    pub(crate) fn is_asked(&self) -> bool {
        *self.0.borrow()
    }

    /// Ends when the user asks for it.
    pub(crate) async fn asked(&mut self) {
        if self.0.wait_for(|asked| *asked).await.is_err() {
            // Whoever listens lives as long as the runtime.
            std::future::pending::<()>().await;
        }
    }

    /// The work, to its end or to that of the user's patience.
    pub(crate) async fn unless<T>(&mut self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::select! {
            done = work => done,
            () = self.asked() => Err(Failure::said(ExitCode::Interrupted)),
        }
    }
}
