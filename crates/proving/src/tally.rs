//! Counting checks, in the form that `cargo xtask test` reads.

/// Counts checks and says each one as it ends.
#[derive(Debug)]
pub struct Tally {
    strict: bool,
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Tally {
    /// An empty one. `strict`: what the machine lacks is a failure.
    pub fn new(strict: bool) -> Self {
        Self { strict, passed: 0, failed: 0, skipped: 0 }
    }

    /// A check that held.
    pub fn pass(&mut self, what: &str) {
        self.passed += 1;
        println!("ok    {what}");
    }

    /// A check that did not.
    pub fn fail(&mut self, what: &str, why: &str) {
        self.failed += 1;
        println!("FAIL  {what}: {why}");
    }

    /// A check that this machine cannot make.
    pub fn skip(&mut self, what: &str, why: &str) {
        if self.strict {
            return self.fail(what, &format!("{why} (--strict)"));
        }
        self.skipped += 1;
        println!("skip  {what}: {why}");
    }

    /// By its result.
    pub fn check(&mut self, what: &str, result: Result<(), String>) {
        match result {
            Ok(()) => self.pass(what),
            Err(why) => self.fail(what, &why),
        }
    }

    /// Says the closing line; answers whether all is well, which it is not when nothing was looked at.
    pub fn close(&self) -> bool {
        println!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped);
        self.failed == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_makes_a_skip_a_failure() {
        for (strict, good) in [(false, true), (true, false)] {
            let mut tally = Tally::new(strict);
            tally.pass("a");
            tally.skip("b", "no c");
            assert_eq!(tally.close(), good);
        }
    }
}
