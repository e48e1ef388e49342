use super::*;
use crate::files::segment_path;

const SECTOR: usize = 512;

/// The first segment before and after a flush of what has been appended, without the sync.
fn written(rig: &mut Rig) -> (Vec<u8>, Vec<u8>) {
    let path = segment_path(0);
    let path = path.to_str().unwrap();
    let before = rig.disk.bytes(path);
    let files = rig.store.files();
    let mut job = rig.store.next_job(rig.now).unwrap();
    assert_eq!(job.lane(), Lane::Flush);
    assert!(job.step(&files).is_none(), "the sync is a step of its own");
    (before, rig.disk.bytes(path))
}

/// Every way in which one group of writes can be torn at one place, and some in which it is torn at many.
fn tears(before: &[u8], after: &[u8], mut act: impl FnMut(Vec<u8>, &str)) {
    let sectors = after.len() / SECTOR;
    let first = (0..sectors).find(|n| before[n * SECTOR..][..SECTOR] != after[n * SECTOR..][..SECTOR]).unwrap();
    let last = (0..sectors).rfind(|n| before[n * SECTOR..][..SECTOR] != after[n * SECTOR..][..SECTOR]).unwrap();
    let mix = |is_new: &dyn Fn(usize) -> bool| {
        let from = |n| if is_new(n) { after } else { before };
        (0..sectors).flat_map(|n| from(n)[n * SECTOR..][..SECTOR].to_vec()).collect::<Vec<u8>>()
    };
    let mut chance = Chance::new(3);
    for at in first..=last + 1 {
        act(mix(&|n| n < at), &format!("only sectors before {at} arrived"));
        act(mix(&|n| n >= at), &format!("only sectors from {at} arrived"));
        act(mix(&|n| n != at), &format!("sector {at} did not arrive"));
        let dice: Vec<bool> = (0..sectors).map(|_| chance.one_in(2)).collect();
        act(mix(&|n| dice[n]), "any arrived");
    }
}

#[test]
fn a_torn_tail_is_cut_at_a_record_erased_and_never_comes_back() {
    let mut rig = Rig::new(config());
    rig.settle();
    rig.put("T", &body(0, 700));
    rig.settle();
    let kept = rig.store.commit().0;
    let ends: Vec<u64> = (1..6).map(|n| rig.put("T", &body(n, 700)).end.0).collect();
    let (before, after) = written(&mut rig);
    let file = segment_path(0);
    tears(&before, &after, |torn, how| {
        let disk = rig.disk.copy();
        disk.rot(file.to_str().unwrap(), |bytes| *bytes = torn.clone());
        let mut again = Rig::open(disk, config(), at(5000)).unwrap();
        let whole = ends.iter().take_while(|end| torn[..**end as usize] == after[..**end as usize]).count();
        let end = whole.checked_sub(1).map_or(kept, |last| ends[last]);
        assert_eq!(again.recovered.end.0, end, "{how}");
        assert_eq!(again.bodies("T"), (0..=whole).map(|n| body(n, 700)).collect::<Vec<_>>(), "{how}");
        let rest = &again.disk.bytes(file.to_str().unwrap())[end as usize..];
        assert!(rest.iter().all(|byte| *byte == 0), "{how}: bytes behind the cut are erased");

        // As long as the one that was torn: whatever follows in the file would fit behind it.
        again.put("T", &body(7, 700));
        again.settle();
        let end = again.store.commit();
        let disk = again.disk.after_power_cut(&mut Chance::new(1), 0);
        let third = Rig::open(disk, config(), at(9000)).unwrap();
        assert_eq!(third.recovered.end, end, "{how}");
        assert_eq!(third.bodies("T").len(), whole + 2, "{how}");
    });
}

#[test]
fn a_batch_survives_whole_or_not_at_all() {
    let bodies = [body(1, 900), body(2, 900), body(3, 900)];
    let mut rig = Rig::new(config());
    rig.settle();
    rig.put("T", b"before");
    rig.settle();
    let kept = rig.store.commit();
    let batch = rig.batch("T", &[&bodies[0], &bodies[1], &bodies[2]]);
    assert_eq!(batch.iter().map(|a| a.queue_offset.0).collect::<Vec<_>>(), [1, 2, 3]);
    let (before, after) = written(&mut rig);
    let mut cuts = 0;
    tears(&before, &after, |torn, how| {
        let is_whole = torn == after;
        cuts += usize::from(!is_whole);
        let disk = rig.disk.copy();
        disk.rot(segment_path(0).to_str().unwrap(), |bytes| *bytes = torn);
        let again = Rig::open(disk, config(), at(5000)).unwrap();
        assert_eq!(again.recovered.end, if is_whole { batch[2].end } else { kept }, "{how}");
        assert_eq!(again.bodies("T").len(), if is_whole { 4 } else { 1 }, "{how}");
    });
    assert!(cuts > 10);
}

#[test]
fn a_property_of_a_client_makes_no_batch() {
    let mut rig = Rig::new(config());
    let forged = Draft { properties: "__BATCHN#\u{1}9\u{2}", ..draft("T", b"alone") };
    rig.store.append(&forged, rig.now).unwrap();
    rig.settle();
    let again = Rig::open(rig.disk.copy(), config(), at(9)).unwrap();
    assert_eq!(again.bodies("T"), [b"alone"]);
}

#[test]
fn a_store_whose_making_was_interrupted_at_any_step_is_made_by_the_next_attempt() {
    let whole = TestDisk::default();
    Rig::open(whole.clone(), config(), at(0)).unwrap();
    let steps = whole.calls();
    assert!(steps > 20);
    for step in 0..steps {
        for keep in [0, 4, 8] {
            let disk = TestDisk::default();
            disk.off_after(step);
            assert!(Rig::open(disk.clone(), config(), at(0)).is_err());
            let disk = disk.after_power_cut(&mut Chance::new(step), keep);
            let mut rig = Rig::open(disk, config(), at(1)).unwrap_or_else(|error| panic!("step {step}: {error}"));
            rig.put("T", b"one");
            rig.settle();
            let again = Rig::open(rig.disk.after_power_cut(&mut Chance::new(step), 0), config(), at(2)).unwrap();
            assert_eq!(again.bodies("T"), [b"one"], "step {step}, keep {keep}");
        }
    }
}

#[test]
fn a_recovery_that_is_interrupted_at_any_step_is_done_by_the_next() {
    let mut rig = Rig::new(config());
    rig.settle();
    rig.put("T", &body(0, 700));
    rig.settle();
    for n in 1..6 {
        rig.put("T", &body(n, 700));
    }
    let (_, mut torn) = written(&mut rig);
    torn[1536..2048].fill(0);
    rig.disk.rot(segment_path(0).to_str().unwrap(), |bytes| *bytes = torn);
    for step in 0.. {
        let disk = rig.disk.copy();
        disk.off_after(step);
        let interrupted = Rig::open(disk.clone(), config(), at(5)).is_err();
        let disk = disk.after_power_cut(&mut Chance::new(step), 4);
        let again = Rig::open(disk, config(), at(6)).unwrap();
        assert_eq!(again.bodies("T"), [body(0, 700)], "step {step}");
        if !interrupted {
            assert!(step > 5);
            break;
        }
    }
}

/// What was appended, and the position behind it.
enum Event {
    Message { topic: usize, body: Vec<u8>, at: u64, end: u64 },
    Deleted { topic: usize, end: u64 },
}

/// What the test knows of a store.
struct Model {
    rig: Rig,
    appended: Vec<Event>,
    /// Position of the first record of each batch and behind its last.
    batches: Vec<(u64, u64)>,
}

const TOPICS: [&str; 3] = ["A", "B", "C"];

impl Model {
    /// Some work, until it is done or the power fails.
    fn work(&mut self, chance: &mut Chance) -> Result<(), Arc<JobError>> {
        let files = self.rig.store.files();
        for n in 0..chance.below(60) {
            self.append(chance, n as usize);
            self.rig.wait(if chance.one_in(40) { 2 * 3_600_000 } else { chance.below(400) });
            if self.rig.store.wants_tables() || chance.one_in(30) {
                self.rig.store.save(b"tables".to_vec());
            }
            let mut jobs = Vec::new();
            while let Some(job) = self.rig.store.next_job(self.rig.now) {
                jobs.push(job);
                if chance.one_in(3) {
                    break;
                }
            }
            // A flush and a background job run at the same time, step by step.
            while !jobs.is_empty() {
                let which = chance.below(jobs.len() as u64) as usize;
                if let Some(done) = jobs[which].step(&files) {
                    drop(jobs.remove(which));
                    self.rig.store.finished(done, self.rig.now)?;
                }
            }
        }
        Ok(())
    }

    fn append(&mut self, chance: &mut Chance, n: usize) {
        let topic = chance.below(3) as usize;
        let most = if chance.one_in(8) { 7000 } else { 900 };
        let len = chance.below(most) as usize;
        let message = |body: Vec<u8>, a: &Appended| Event::Message { topic, body, at: a.at.0, end: a.end.0 };
        match chance.below(24) {
            0 => {
                let record = MetaRecord::TopicDeleted(TOPICS[topic].to_owned());
                if let Ok(appended) = self.rig.store.append_meta(&record, self.rig.now) {
                    self.appended.push(Event::Deleted { topic, end: appended.end.0 });
                }
            }
            1..5 => {
                let bodies: Vec<_> = (0..1 + chance.below(4)).map(|n| body(n as usize, len.min(1500))).collect();
                let drafts: Vec<_> = bodies.iter().map(|body| draft(TOPICS[topic], body)).collect();
                if let Ok(batch) = self.rig.store.append_batch(&drafts, self.rig.now) {
                    self.batches.push((batch[0].at.0, batch.last().unwrap().end.0));
                    self.appended
                        .extend(bodies.into_iter().zip(&batch).map(|(body, appended)| message(body, appended)));
                }
            }
            _ => {
                if let Ok(appended) = self.rig.append(TOPICS[topic], &body(n, len)) {
                    self.appended.push(message(body(n, len), &appended));
                }
            }
        }
    }

    /// Compares the store, just opened, with what was appended before.
    fn check(&mut self, kept: u64, seed: u64) {
        let end = self.rig.recovered.end.0;
        assert!(end >= kept, "seed {seed}: the log ends at {end}, {kept} was kept");
        self.appended.retain(|event| match event {
            Event::Message { end: record, .. } | Event::Deleted { end: record, .. } => *record <= end,
        });
        for (topic, name) in TOPICS.iter().enumerate() {
            self.check_topic(topic, name, seed);
        }
        for (from, to) in &self.batches {
            assert!(end <= *from || end >= *to, "seed {seed}: a batch is cut at {end}");
        }
        self.batches.retain(|(_, to)| *to <= end);
    }

    fn check_topic(&self, topic: usize, name: &str, seed: u64) {
        let min = self.rig.store.state().min.0;
        let (mut expected, mut count) = (Vec::new(), 0);
        for event in &self.appended {
            match event {
                Event::Message { topic: t, body, at, .. } if *t == topic => {
                    count += 1;
                    if *at >= min {
                        expected.push(body.clone());
                    }
                }
                Event::Deleted { topic: t, .. } if *t == topic => expected.clear(),
                _ => {}
            }
        }
        let view = self.rig.store.queue(name, 0);
        assert_eq!(view.map_or(0, |view| view.max.0), count, "seed {seed}, topic {name}: offsets given");
        let bodies = self.rig.bodies(name);
        assert_eq!(bodies.len(), expected.len(), "seed {seed}, topic {name}: messages");
        assert!(bodies == expected, "seed {seed}, topic {name}: what the messages say");
    }
}

/// A few lives of a store, each ended by a power cut at any call, or by a kill.
fn live(seed: u64) {
    let mut chance = Chance::new(seed);
    let flush = if chance.one_in(3) { Flush::Async } else { Flush::Sync };
    let config = StoreConfig { flush, ..config() };
    let mut model = Model { rig: Rig::new(config.clone()), appended: Vec::new(), batches: Vec::new() };
    for life in 0..6 {
        model.rig.disk.off_after(1 + chance.below(200));
        let cut = model.work(&mut chance).is_err();
        let state = model.rig.store.state();
        let (disk, kept) = if cut || chance.one_in(2) {
            let keep = *chance.pick(&[0, 1, 4, 7, 8]);
            let kept = if flush == Flush::Sync { state.commit } else { state.synced };
            (model.rig.disk.after_power_cut(&mut chance, keep), kept.0)
        } else {
            model.rig.disk.stay_on();
            (model.rig.disk.copy(), state.written.0)
        };
        model.rig.wait(1000);
        let now = model.rig.now;
        model.rig = Rig::open(disk, config.clone(), now).unwrap_or_else(|error| panic!("seed {seed}/{life}: {error}"));
        model.check(kept, seed);
    }
}

#[test]
fn whatever_the_power_cut_takes_nothing_kept_is_lost_and_nothing_lost_comes_back() {
    for seed in 0..200 {
        live(seed);
    }
}
