//! The same seed is the same universe, to the last event.

#[test]
fn twenty_seeds_twice_give_the_same_hashes() {
    for seed in 0..20 {
        let (first, second) = (keepmq_sim::run(seed, false), keepmq_sim::run(seed, false));
        assert_eq!(
            (first.hash, first.events, first.counts),
            (second.hash, second.events, second.counts),
            "seed {seed}"
        );
        assert_eq!(first.violation, second.violation, "seed {seed}");
        assert!(first.events > 100, "seed {seed} does nothing: {} events", first.events);
    }
}

#[test]
fn another_seed_is_another_universe() {
    assert_ne!(keepmq_sim::run(1, false).hash, keepmq_sim::run(2, false).hash);
}
