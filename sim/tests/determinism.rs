//! The same seed is the same universe, to the last event.

use keepmq_sim::{Kind, run};

#[test]
fn some_seeds_twice_give_the_same_hashes() {
    for (kind, seed) in (0..20).map(|seed| (Kind::Universe, seed)).chain((0..8).map(|seed| (Kind::World, seed))) {
        let (first, second) = (run(kind, seed, false), run(kind, seed, false));
        assert_eq!(
            (first.hash, first.events, first.counts),
            (second.hash, second.events, second.counts),
            "{kind:?} {seed}"
        );
        assert_eq!(first.violation, second.violation, "{kind:?} {seed}");
        assert!(first.events > 100, "{kind:?} {seed} does nothing: {} events", first.events);
    }
}

#[test]
fn another_seed_is_another_universe() {
    for kind in [Kind::Universe, Kind::World] {
        assert_ne!(run(kind, 1, false).hash, run(kind, 2, false).hash, "{kind:?}");
    }
}
