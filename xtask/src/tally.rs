use std::time::Duration;

/// Counts checks and says each one as it ends.
pub(crate) struct Tally {
    strict: bool,
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// The closing line of a program that counts as we do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Tally {
    pub(crate) fn new(strict: bool) -> Self {
        Self { strict, passed: 0, failed: 0, skipped: 0 }
    }

    pub(crate) fn pass(&mut self, what: &str, took: Option<Duration>) {
        self.passed += 1;
        match took {
            Some(took) => println!("ok    {what} ({:.1} s)", took.as_secs_f64()),
            None => println!("ok    {what}"),
        }
    }

    pub(crate) fn fail(&mut self, what: &str, why: &str) {
        self.failed += 1;
        println!("FAIL  {what}: {why}");
    }

    /// Something that only some checkouts have is missing. What a machine lacks is found, and counted under `--strict`, by
    /// the program that needs it.
    pub(crate) fn skip(&mut self, what: &str, why: &str) {
        self.skipped += 1;
        println!("skip  {what}: {why}");
    }

    /// Takes over what another program has counted, and has already said line by line.
    pub(crate) fn add(&mut self, counts: &Counts) {
        self.passed += counts.passed;
        self.failed += counts.failed;
        self.skipped += counts.skipped;
    }

    /// Whether skips are failures.
    pub(crate) fn strict(&self) -> bool {
        self.strict
    }

    /// Says the last line; answers whether anything has failed. A run that checked nothing has failed, too.
    pub(crate) fn close(&self) -> bool {
        println!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped);
        self.failed > 0 || self.passed == 0
    }
}

impl Counts {
    /// From `N passed, N failed, N skipped`.
    pub(crate) fn read(line: &str) -> Option<Self> {
        let mut numbers = [0; 3];
        let mut parts = line.trim().split(", ");
        for (number, word) in numbers.iter_mut().zip(["passed", "failed", "skipped"]) {
            let (count, said) = parts.next()?.split_once(' ')?;
            *number = count.parse().ok().filter(|_| said == word)?;
        }
        let [passed, failed, skipped] = numbers;
        parts.next().is_none().then_some(Self { passed, failed, skipped })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_fails_and_nothing_checked_is_nothing_shown() {
        let mut tally = Tally::new(false);
        tally.skip("a", "there is none");
        assert!(tally.close());
        tally.pass("b", None);
        assert!(!tally.close());
        tally.add(&Counts { passed: 3, failed: 1, skipped: 0 });
        assert!(tally.close());
    }

    #[test]
    fn closing_lines_are_read() {
        let read = |line| Counts::read(line).map(|c| (c.passed, c.failed, c.skipped));
        assert_eq!(read("12 passed, 0 failed, 3 skipped"), Some((12, 0, 3)));
        for other in ["12 passed, 0 failed", "ok 12 passed, 0 failed, 3 skipped", "a passed, 0 failed, 3 skipped", ""] {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
