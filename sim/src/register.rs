//! One place that is written and read by several, with answers that may never come: what may a reader find there?

use crate::net::LinkId;

/// A number, or nothing, as in the beginning.
#[derive(Default)]
pub(crate) struct Register {
    writes: Vec<Write>,
}

struct Write {
    value: Option<i64>,
    sent: u64,
    link: LinkId,
    /// When it was known to be there, and which life of the server said so.
    done: Option<(u64, u32)>,
    /// It was said to be kept: later lives know it, too.
    kept: bool,
    refused: bool,
}

/// When and over which connection a reader asked, and which life of the server answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) link: LinkId,
    pub(crate) since: u64,
    pub(crate) life: u32,
}

impl Register {
    /// Somebody writes; the number of the write.
    pub(crate) fn write(&mut self, value: Option<i64>, link: LinkId, now: u64) -> usize {
        self.writes.push(Write { value, sent: now, link, done: None, kept: false, refused: false });
        self.writes.len() - 1
    }

    /// It is there. `kept`: whatever happens.
    pub(crate) fn done(&mut self, write: usize, now: u64, life: u32, kept: bool) {
        let write = &mut self.writes[write];
        write.done.get_or_insert((now, life));
        write.kept |= kept;
    }

    /// It was refused.
    pub(crate) fn refused(&mut self, write: usize) {
        self.writes[write].refused = true;
    }

    /// The contract lets everything go that was written so far.
    pub(crate) fn forget(&mut self) {
        for write in &mut self.writes {
            (write.done, write.kept) = (None, false);
        }
    }

    /// Whether somebody may find this: it was written, or there was nothing, and was surely not replaced before he asked.
    pub(crate) fn allows(&self, found: Option<i64>, by: Question) -> bool {
        let beginning = found.is_none() && !self.is_replaced(None, by);
        let written = |write: &Write| !write.refused && write.value == found && !self.is_replaced(Some(write), by);
        beginning || self.writes.iter().any(written)
    }

    /// Whether this was kept by an earlier life.
    pub(crate) fn survived(&self, found: Option<i64>, life: u32) -> bool {
        let earlier = |write: &Write| write.kept && write.done.is_some_and(|(_, in_life)| in_life < life);
        self.writes.iter().any(|write| write.value == found && earlier(write))
    }

    /// Whether a later write surely was there when he asked. `None`: in the beginning.
    fn is_replaced(&self, write: Option<&Write>, by: Question) -> bool {
        let later = |other: &Write| match write {
            None => true,
            // A connection keeps the order.
            Some(write) if write.link == other.link && other.sent > write.sent => true,
            Some(write) => write.done.is_some_and(|(done, _)| other.sent > done),
        };
        let before = |other: &Write| match other.done {
            Some((done, life)) if other.kept || life == by.life => {
                done < by.since || (other.link == by.link && other.sent < by.since)
            }
            _ => false,
        };
        self.writes.iter().any(|other| !other.refused && later(other) && before(other))
    }

    /// What may be found, for a message to people.
    pub(crate) fn choice(&self, by: Question) -> Vec<Option<i64>> {
        let written = self.writes.iter().map(|write| write.value).chain([None]);
        let mut choice: Vec<_> = written.filter(|value| self.allows(*value, by)).collect();
        choice.sort_unstable();
        choice.dedup();
        choice
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_surely_replaced_may_not_be_found() {
        let (a, b) = (LinkId(1), LinkId(2));
        let by = |since, life| Question { link: LinkId(3), since, life };
        let mut register = Register::default();
        assert_eq!(register.choice(by(1, 1)), [None]);
        let five = register.write(Some(5), a, 10);
        assert_eq!(register.choice(by(12, 1)), [None, Some(5)], "it may be there before it is answered");
        register.done(five, 20, 1, true);
        assert_eq!(register.choice(by(15, 1)), [None, Some(5)], "asked before the answer");
        assert_eq!(register.choice(by(21, 1)), [Some(5)]);
        let seven = register.write(Some(7), b, 30);
        register.done(seven, 40, 1, false);
        assert_eq!(register.choice(by(41, 1)), [Some(7)]);
        assert_eq!(register.choice(by(41, 2)), [Some(5), Some(7)], "a crash may take what was not kept");
        let six = register.write(Some(6), b, 50);
        assert_eq!(register.choice(by(60, 1)), [Some(6), Some(7)]);
        register.refused(six);
        let gone = register.write(None, a, 60);
        register.done(gone, 70, 1, true);
        assert_eq!(register.choice(by(80, 1)), [None]);
        register.forget();
        assert_eq!(register.choice(by(80, 1)), [None, Some(5), Some(7)]);
        let nine = register.write(Some(9), b, 90);
        let ten = register.write(Some(10), b, 91);
        register.done(ten, 100, 2, true);
        let found = register.choice(by(101, 2));
        assert_eq!(found, [None, Some(5), Some(10)], "a connection keeps its order: {nine} came before {ten}");
    }
}
