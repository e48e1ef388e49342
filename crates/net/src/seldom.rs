use keepmq_world::Mono;
use std::time::Duration;

/// Least time between two log lines of a kind that strangers can cause at will.
const GAP: Duration = Duration::from_secs(1);

/// Says whether it is time for another log line of its kind.
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    last: Option<Mono>,
    kept_back: u64,
}

impl Seldom {
    /// How many lines were kept back since the last one; `None`: this one, too.
    pub(crate) fn speak(&mut self, now: Mono) -> Option<u64> {
        if self.last.is_some_and(|last| now.since(last) < GAP) {
            self.kept_back += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.kept_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_tells_of_the_others() {
        let mut seldom = Seldom::default();
        let at = |millis: u64| Mono(millis * 1_000_000);
        assert_eq!(seldom.speak(at(0)), Some(0));
        assert_eq!(seldom.speak(at(1)), None);
        assert_eq!(seldom.speak(at(999)), None);
        assert_eq!(seldom.speak(at(1000)), Some(2));
        assert_eq!(seldom.speak(at(2000)), Some(0));
    }
}
