//! `/livez`, `/readyz`, `/startupz` and `/metrics`, for whoever supervises the process.
//!
//! - live: the broker's event loops turn, all of them. Asked, we make them turn, and wait for that at most 5 s.
//! - started: recovery is over; until then the answer says how far it is.
//! - ready: started, registered at a name server (or none is configured), not about to end, the store has not stopped, and
//!   there was space for the next segment. `?verbose` lists the checks.

use crate::jobs::STACK;
use crate::metrics::{self, Facts};
use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use keepmq_broker::{Broker, Done};
use keepmq_disk::OsDisk;
use keepmq_net::{Inbox, Word};
use keepmq_store::Progress;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Longest that event loops may take for one turn.
const TURN: Duration = Duration::from_secs(5);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// How a broker is, for all who ask.
#[derive(Clone)]
pub(crate) struct Health {
    phase: Arc<Mutex<Phase>>,
}

enum Phase {
    Recovering(Progress),
    Serving(Serving),
    Leaving(Serving),
}

#[derive(Clone)]
struct Serving {
    broker: Arc<Mutex<Broker<OsDisk>>>,
    inbox: Inbox<Done>,
    facts: Facts,
}

impl Health {
    /// Of a broker that is being opened.
    pub(crate) fn recovering() -> Self {
        Self { phase: Arc::new(Mutex::new(Phase::Recovering(Progress { done: 0, total: 0 }))) }
    }

    /// How far that is.
    pub(crate) fn recovered(&self, progress: Progress) {
        *self.lock() = Phase::Recovering(progress);
    }

    /// The broker is open.
    pub(crate) fn serving(
        &self,
        broker: Broker<OsDisk>,
        inbox: Inbox<Done>,
        facts: Facts,
    ) -> Arc<Mutex<Broker<OsDisk>>> {
        let broker = Arc::new(Mutex::new(broker));
        *self.lock() = Phase::Serving(Serving { broker: Arc::clone(&broker), inbox, facts });
        broker
    }

    /// It has been told to stop. What is asked from now on is answered with "not ready".
    pub(crate) fn leaving(&self) {
        let mut phase = self.lock();
        if let Phase::Serving(serving) = &*phase {
            *phase = Phase::Leaving(serving.clone());
        }
    }

    /// Answers on `address` from a thread of its own. The address that was really taken is the answer.
    pub(crate) fn answer_on(&self, address: SocketAddr) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let app = Router::new()
            .route("/livez", get(live))
            .route("/readyz", get(ready))
            .route("/startupz", get(started))
            .route("/metrics", get(numbers))
            .with_state(self.clone());
        let serve = move || {
            let outcome = runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                axum::serve(listener, app).await
            });
            if let Err(error) = outcome {
                tracing::error!(%error, "nobody answers for the health of this process any more");
            }
        };
        // It ends with the process: there is nothing to be drained.
        std::thread::Builder::new().name("health".to_owned()).stack_size(2 * STACK).spawn(serve)?;
        Ok(address)
    }

    fn lock(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().expect("a panic ends the process")
    }

    fn now_serving(&self) -> Option<Serving> {
        match &*self.lock() {
            Phase::Recovering(_) => None,
            Phase::Serving(serving) | Phase::Leaving(serving) => Some(serving.clone()),
        }
    }

    fn how_far(&self) -> String {
        match &*self.lock() {
            Phase::Recovering(Progress { done, total }) => format!("recovering: {done} of {total} bytes\n"),
            Phase::Serving(_) | Phase::Leaving(_) => "ok\n".to_owned(),
        }
    }

    /// Name of a check, and whether it holds.
    fn checks(&self) -> [(&'static str, bool); 5] {
        let staying = !matches!(&*self.lock(), Phase::Leaving(_));
        let (registered, store, space) = match self.now_serving() {
            None => return ["recovered", "registered", "staying", "store", "space"].map(|name| (name, false)),
            Some(serving) => {
                let broker = serving.broker();
                let state = broker.store().state();
                (broker.is_registered(), !state.stopped, !state.full)
            }
        };
        [("recovered", true), ("registered", registered), ("staying", staying), ("store", store), ("space", space)]
    }
}

impl Serving {
    fn broker(&self) -> MutexGuard<'_, Broker<OsDisk>> {
        self.broker.lock().expect("a panic ends the process")
    }
}

type Answer = (StatusCode, String);

async fn live(State(health): State<Health>) -> Answer {
    // While the store is being recovered there is no loop yet, and `/startupz` says so.
    let Some(serving) = health.now_serving() else { return (StatusCode::OK, "recovering\n".to_owned()) };
    let turns = serving.inbox.turns();
    // The first one has something to tell, and so must get hold of the core.
    serving.inbox.post(Word::Space { free: serving.facts.free.load(Ordering::Relaxed) });
    serving.inbox.nudge();
    let asked = Instant::now();
    while serving.inbox.turns().iter().zip(&turns).any(|(now, then)| now == then) {
        if asked.elapsed() > TURN {
            return (StatusCode::SERVICE_UNAVAILABLE, format!("an event loop has not turned for {TURN:?}\n"));
        }
        tokio::time::sleep(LOOK).await;
    }
    (StatusCode::OK, "ok\n".to_owned())
}

async fn started(State(health): State<Health>) -> Answer {
    match health.now_serving() {
        Some(_) => (StatusCode::OK, "ok\n".to_owned()),
        None => (StatusCode::SERVICE_UNAVAILABLE, health.how_far()),
    }
}

async fn numbers(State(health): State<Health>) -> Response {
    let Some(serving) = health.now_serving() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "recovering\n").into_response();
    };
    // The lock is held while numbers are copied, not while they are written down.
    let numbers = serving.broker().numbers();
    let text = metrics::page(&numbers, &serving.facts);
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}

async fn ready(State(health): State<Health>, RawQuery(query): RawQuery) -> Answer {
    let checks = health.checks();
    let failed: Vec<_> = checks.iter().filter(|(_, holds)| !holds).map(|(name, _)| *name).collect();
    let code = if failed.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let text =
        if query.is_some_and(|query| query.split('&').any(|word| word == "verbose" || word.starts_with("verbose="))) {
            checks.iter().map(|(name, holds)| format!("[{}] {name}\n", if *holds { '+' } else { '-' })).collect()
        } else if failed.is_empty() {
            "ok\n".to_owned()
        } else {
            format!("not ready: {}\n", failed.join(", "))
        };
    (code, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    #[test]
    fn while_the_store_is_recovered_everybody_hears_how_far_it_is() {
        let health = Health::recovering();
        let address = health.answer_on("127.0.0.1:0".parse().unwrap()).unwrap();
        let get = |path: &str| {
            let mut stream = TcpStream::connect(address).unwrap();
            write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        health.recovered(Progress { done: 5, total: 20 });
        let started = get("/startupz");
        assert!(started.starts_with("HTTP/1.1 503") && started.ends_with("recovering: 5 of 20 bytes\n"), "{started}");
        assert!(get("/livez").starts_with("HTTP/1.1 200"));
        assert!(get("/readyz").starts_with("HTTP/1.1 503"));
    }
}
