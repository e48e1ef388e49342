//! Deliberate mistakes, in builds that have them: to see that the checks bite.

use crate::failure::{ExitCode, Failure, Problem};
use keepmq_world::planted::{BUGS, arm};

/// Arms the mistake that `KEEPMQ_PLANTED` names, if any.
pub fn arm_from_environment() -> Result<(), Failure> {
    let Ok(name) = std::env::var("KEEPMQ_PLANTED") else { return Ok(()) };
    if arm(Some(&name)) {
        tracing::warn!("this process makes the deliberate mistake {name:?}: use it for tests only");
        return Ok(());
    }
    let names: Vec<_> = BUGS.iter().map(|(name, _)| *name).collect();
    let title = format!("there is no deliberate mistake {name:?}");
    let why = "a test that plants nothing would prove nothing";
    let remedy = format!("give one of {}", names.join(", "));
    Err(Failure::new(ExitCode::Usage, Problem::new(title, format!("KEEPMQ_PLANTED={name}"), why, remedy)))
}
