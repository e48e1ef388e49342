//! `/livez`, `/readyz`, `/startupz`: whether the event loop turns, whether messages are taken, whether the start is over.

use crate::failure::Failure;
use crate::hands::spawn;
use crate::watched::Pulse;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use std::fmt::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// A shard is woken at least this often: by the word about free space, every five seconds.
const STUCK: Duration = Duration::from_secs(12);

/// What the endpoints look at. Filled in when the start is over.
#[derive(Clone, Default)]
pub(crate) struct Health {
    started: Arc<OnceLock<Started>>,
}

struct Started {
    pulse: Pulse,
    is_ready: Box<dyn Fn() -> Vec<(&'static str, bool)> + Send + Sync>,
}

impl Health {
    /// The start is over. `checks` are what readiness depends on, with a name each.
    pub(crate) fn started(&self, pulse: Pulse, checks: impl Fn() -> Vec<(&'static str, bool)> + Send + Sync + 'static) {
        let again = self.started.set(Started { pulse, is_ready: Box::new(checks) });
        assert!(again.is_ok(), "a process starts once");
    }

    /// Answers on `address` from a thread of its own, as long as the process lives.
    pub(crate) fn serve(&self, address: SocketAddr) -> Result<SocketAddr, Failure> {
        let failed = |error: &std::io::Error| {
            Failure::io(
                format!("health cannot be served on {address}"),
                error,
                "give metricsPromExporterPort another port, or 0 for none",
            )
        };
        let listener = TcpListener::bind(address).map_err(|error| failed(&error))?;
        listener.set_nonblocking(true).map_err(|error| failed(&error))?;
        let bound = listener.local_addr().map_err(|error| failed(&error))?;
        let router = Router::new()
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .route("/startupz", get(startupz))
            .with_state(self.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
        let runtime = runtime.map_err(|error| failed(&error))?;
        spawn("health", move || {
            let outcome = runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                axum::serve(listener, router).await
            });
            if let Err(error) = outcome {
                tracing::error!(%error, "health is no longer served");
            }
        })?;
        Ok(bound)
    }

    fn is_alive(&self) -> bool {
        let turns = |started: &Started| keepmq_net::now().mono.since(started.pulse.last()) < STUCK;
        self.started.get().is_none_or(turns)
    }

    fn checks(&self) -> Vec<(&'static str, bool)> {
        match self.started.get() {
            None => vec![("started", false)],
            Some(started) => {
                let mut checks = vec![("started", true), ("event loop", self.is_alive())];
                checks.extend((started.is_ready)());
                checks
            }
        }
    }
}

async fn livez(State(health): State<Health>) -> (StatusCode, &'static str) {
    if health.is_alive() { (StatusCode::OK, "ok\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "the event loop stands\n") }
}

async fn startupz(State(health): State<Health>) -> (StatusCode, &'static str) {
    match health.started.get() {
        Some(_) => (StatusCode::OK, "ok\n"),
        None => (StatusCode::SERVICE_UNAVAILABLE, "opening the store\n"),
    }
}

/// Every check on a line of its own, so that no second request is needed to learn which one failed.
async fn readyz(State(health): State<Health>) -> (StatusCode, String) {
    let checks = health.checks();
    let mut text = String::new();
    for (name, good) in &checks {
        writeln!(text, "{name}: {}", if *good { "ok" } else { "not yet" }).expect("writing to a string");
    }
    let ready = checks.iter().all(|(_, good)| *good);
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, text)
}
