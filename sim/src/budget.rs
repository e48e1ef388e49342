//! How much may go wrong in one universe, and what the contract demands as long as no more does.

use crate::faults::Demand;
use keepmq_world::Chance;

/// So many of each kind at most; zero: never. A seed draws it before anything else, and whatever goes wrong is paid from it.
///
/// | what goes wrong | the contract |
/// |---|---|
/// | kills, power cuts (also in the middle of a flush, a roll, a snapshot, a recovery), nets, name servers, stops | nothing acknowledged is lost; under ASYNC_FLUSH a power cut may take what was not synced |
/// | a call of the disk fails, once | the same; the broker says OK to nobody any more, answers everybody once, leaves the name servers, ends with its own code, and its restart finds what was kept |
/// | no space, a disk that stands still | the same; refusals are definite and come before the append, answers that are late say that the outcome is unknown, and no restart is needed |
/// | a wall clock jumps, by milliseconds or by years, while the broker runs or between two lives | the same; nothing expires, times in the log never go back, what was stored is found by its time |
/// | synced bytes go bad, or a file's name is lost | not covered: then nothing bad is served, nothing is skipped silently, and whatever is missing is said (`Demand::Detect`) |
///
/// Damage at rest stands alone, with kills and stops at most: behind it a slow disk or a full one would hide where the
/// durable mark stands, and nobody could say what must still be refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Budget {
    pub(crate) kills: u64,
    pub(crate) stops: u64,
    pub(crate) power_cuts: u64,
    /// Power cuts that wait until a job is half done.
    pub(crate) ambushes: u64,
    pub(crate) name_servers: u64,
    pub(crate) old_words: u64,
    pub(crate) links: u64,
    pub(crate) partitions: u64,
    /// Steps of at most an hour.
    pub(crate) small_steps: u64,
    /// Steps of days and years.
    pub(crate) large_steps: u64,
    pub(crate) slow: u64,
    pub(crate) full: u64,
    /// Calls of the disk that fail while a broker runs.
    pub(crate) broken: u64,
    /// Calls that fail while it starts.
    pub(crate) broken_starts: u64,
    /// Harm to a store at rest.
    pub(crate) damage: u64,
}

impl Budget {
    /// What a universe gets: one kind of trouble, or a mixture.
    pub(crate) fn draw(chance: &mut Chance) -> Self {
        let mut budget = match chance.below(30) {
            0 => Self::default(),
            1 => Self { small_steps: 3, ..Self::net() },
            2 | 3 => Self::crash(),
            4..=6 => Self { power_cuts: 5, ambushes: 3, ..Self::crash().if_so(chance, 2) },
            7 => Self { power_cuts: 5, ambushes: 3, slow: 3, ..Self::default() },
            8 => Self { slow: 3, ..Self::net().if_so(chance, 2) },
            9..=11 => {
                let power_cuts = if chance.one_in(3) { 5 } else { 0 };
                Self { full: 3, power_cuts, ..Self::crash().if_so(chance, 2) }
            }
            12..=16 => {
                let power_cuts = if chance.one_in(2) { 5 } else { 0 };
                let ambushes = power_cuts / 2;
                Self { broken: 4, broken_starts: 2, power_cuts, ambushes, ..Self::crash().if_so(chance, 2) }
            }
            17..=20 => Self { damage: 1, ..Self::crash().if_so(chance, 3) },
            21 => Self { small_steps: 2, large_steps: 4, power_cuts: 2, ..Self::crash() },
            // Nobody is restarted: whoever holds a lock holds it across the step.
            22 | 23 => Self { small_steps: 2, large_steps: 4, ..Self::net().if_so(chance, 2) },
            // A disk that is about to die.
            24 => Self { broken: 3, broken_starts: 1, slow: 2, full: 2, power_cuts: 2, ..Self::crash() },
            _ => {
                let all = Self::crash().and(Self::net());
                Self { power_cuts: 5, ambushes: 3, small_steps: 3, large_steps: 1, slow: 3, ..all }
            }
        };
        budget.spend_less(chance);
        budget
    }

    /// What the contract demands.
    pub(crate) fn demand(&self) -> Demand {
        if self.damage > 0 { Demand::Detect } else { Demand::Keep }
    }

    fn crash() -> Self {
        Self { kills: 4, stops: 2, name_servers: 2, old_words: 3, ..Self::default() }
    }

    fn net() -> Self {
        Self { links: 8, partitions: 3, name_servers: 2, ..Self::default() }
    }

    /// Itself once in `n` times, else nothing.
    fn if_so(self, chance: &mut Chance, n: u64) -> Self {
        if chance.one_in(n) { self } else { Self::default() }
    }

    fn and(self, other: Self) -> Self {
        Self { links: other.links, partitions: other.partitions, ..self }
    }

    /// No seed uses up everything. What a universe is for happens at least once.
    fn spend_less(&mut self, chance: &mut Chance) {
        for most in [
            &mut self.kills,
            &mut self.stops,
            &mut self.power_cuts,
            &mut self.ambushes,
            &mut self.name_servers,
            &mut self.old_words,
            &mut self.links,
            &mut self.partitions,
            &mut self.small_steps,
            &mut self.slow,
            &mut self.broken_starts,
        ] {
            *most = chance.below(*most + 1);
        }
        for most in [&mut self.large_steps, &mut self.full, &mut self.broken] {
            *most = (*most).min(1 + chance.below((*most).max(1)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_drawn_and_damage_comes_with_nothing_that_hides_it() {
        let drawn: Vec<Budget> = (0..2_000).map(|seed| Budget::draw(&mut Chance::new(seed))).collect();
        let kinds: [fn(&Budget) -> u64; 9] = [
            |b| b.kills,
            |b| b.power_cuts * b.ambushes,
            |b| b.partitions,
            |b| b.large_steps,
            |b| b.slow,
            |b| b.full,
            |b| b.broken * b.slow * b.full,
            |b| b.broken_starts,
            |b| b.damage,
        ];
        for (nth, kind) in kinds.iter().enumerate() {
            assert!(drawn.iter().any(|budget| kind(budget) > 0), "kind {nth}");
        }
        let hides = |b: &&Budget| b.power_cuts + b.slow + b.full + b.broken + b.large_steps + b.partitions > 0;
        assert_eq!(drawn.iter().filter(|budget| budget.demand() == Demand::Detect).find(hides), None);
        assert!(drawn.contains(&Budget::default()), "a quiet one");
    }
}
