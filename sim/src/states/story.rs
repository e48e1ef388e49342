//! A few lives of a store over a recording disk: what was appended, what was promised when, and every call on the way.

use super::image::Image;
use super::tape::TapeDisk;
use bytes::Bytes;
use keepmq_protocol::body::{SubscriptionGroup, TopicConfig};
use keepmq_protocol::record::{Draft, crc};
use keepmq_store::{
    AppendError, Appended, Flush, Job, MetaRecord, OffsetCommit, Recovered, RetentionRules, Scrubbing, Store,
    StoreConfig,
};
use keepmq_world::{Chance, Mono, Now, Timestamp};
use std::time::Duration;

pub(super) const TOPICS: [&str; 3] = ["Orders", "Payments", "Audit"];
pub(super) const QUEUES: u32 = 2;
const HOUR: u64 = 3_600_000;
/// Longest time that messages are kept.
const KEEP: Duration = Duration::from_secs(3600);

/// Something in the log, in the order in which it lies there.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) at: u64,
    pub(super) end: u64,
    pub(super) stored: i64,
    pub(super) what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Message {
        topic: usize,
        queue: u32,
        body: Bytes,
        /// Of a batch: where it begins and ends.
        batch: (u64, u64),
    },
    /// A metadata record; `None`: one of the store's own, which says where emptied queues go on.
    Meta(Option<MetaRecord>),
}

/// What whoever uses the store knows at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known {
    /// Which list of events, and how many of them have been appended.
    pub(super) life: usize,
    pub(super) events: usize,
    /// Promised against the death of the process.
    pub(super) against_kill: u64,
    /// Promised against the loss of power.
    pub(super) against_cut: u64,
    /// Where the log begins.
    pub(super) min: u64,
    /// What the monotonic clock says, in milliseconds.
    pub(super) ms: u64,
    /// The store is being opened.
    pub(super) opening: bool,
}

/// A story that has been told: its calls, and what was known between any two.
pub(super) struct Story {
    pub(super) config: StoreConfig,
    pub(super) disk: TapeDisk,
    /// One more than there are calls.
    pub(super) known: Vec<Known>,
    /// By life.
    pub(super) events: Vec<Vec<Event>>,
}

/// Where a story is.
struct Teller<'s> {
    story: &'s mut Story,
    chance: &'s mut Chance,
    store: Store<TapeDisk>,
    now: Now,
    /// Metadata records that the tables hold.
    metas: u64,
    /// Jobs under way, one a lane at most.
    jobs: Vec<Job>,
    known: Known,
}

/// The time `ms` milliseconds after the beginning.
pub(super) fn at(ms: u64) -> Now {
    let wall = i64::try_from(ms).expect("stories last for hours");
    Now { mono: Mono(ms * 1_000_000), wall: Timestamp(1_700_000_000_000 + wall) }
}

/// How a seed's store is configured: as small as it may be.
pub(super) fn config(seed: u64) -> StoreConfig {
    let mut chance = Chance::new(seed);
    let mut new_id = [7; 16];
    new_id[..8].copy_from_slice(&seed.to_be_bytes());
    StoreConfig {
        cluster: "states".to_owned(),
        broker: "broker-a".to_owned(),
        segment_bytes: 64 << 10,
        flush: if seed.is_multiple_of(2) { Flush::Sync } else { Flush::Async },
        flush_interval: Duration::from_millis(500),
        flush_bytes: 8 << 10,
        buffer_bytes: 8 << 10,
        zero_ahead: *chance.pick(&[0, 8 << 10, 16 << 10]),
        checkpoint_interval: Duration::from_secs(1),
        snapshot_bytes: *chance.pick(&[3000, 6000]),
        retention: RetentionRules::keeping(KEEP),
        scrubbing: Scrubbing { bytes_per_second: 1 << 20, interval: Duration::from_secs(600) },
        place: "states".to_owned(),
        store_host: ([127, 0, 0, 1], 10911).into(),
        adopt: false,
        accept_loss: None,
        new_id,
        seed,
    }
}

/// A message's body: of some length, and different for each number.
pub(super) fn body(nth: u64, len: usize) -> Bytes {
    (0..len as u64).map(|at| (nth.wrapping_mul(31).wrapping_add(at * 7) >> 1) as u8 | 1).collect()
}

/// A message for a queue.
pub(super) fn draft<'d>(topic: &'d str, queue_id: u32, body: &'d [u8]) -> Draft<'d> {
    Draft {
        topic,
        queue_id,
        flag: 0,
        sys_flag: 0,
        born_at: 1,
        born_host: ([10, 0, 0, 1], 5).into(),
        store_host: ([127, 0, 0, 1], 10911).into(),
        reconsume_times: 0,
        prepared: 0,
        body,
        body_crc: crc(body),
        properties: "TAGS\u{1}TagA\u{2}",
        added: "",
    }
}

/// The tables that a snapshot holds: how many metadata records are in them.
pub(super) fn tables(metas: u64) -> Vec<u8> {
    metas.to_be_bytes().to_vec()
}

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// As asked.
    Clean,
    /// In the middle of whatever is under way.
    Kill,
}

/// Tells the story of a seed: in each life so many appends, and then its end. The text says what is wrong already.
pub(super) fn tell(seed: u64, lives: &[(u64, End)]) -> Result<Story, String> {
    let disk = TapeDisk::new(Image::default());
    let mut story = Story { config: config(seed), disk, known: Vec::new(), events: vec![Vec::new()] };
    let mut chance = Chance::new(seed ^ 0x57A7E5);
    let mut known = Known::default();
    for (appends, end) in lives {
        let mut teller = Teller::open(&mut story, &mut chance, known)?;
        teller.live(*appends, *end)?;
        known = teller.known;
    }
    let calls = story.disk.calls();
    story.known.resize(calls + 1, known);
    Ok(story)
}

impl<'s> Teller<'s> {
    /// Opens the store: what was appended in the life before and not written is gone, and so is what is known of it.
    fn open(story: &'s mut Story, chance: &'s mut Chance, before: Known) -> Result<Self, String> {
        let known = Known { opening: true, ms: before.ms + 1000, ..before };
        let now = at(known.ms);
        let opened = Store::open(story.disk.clone(), story.config.clone(), now);
        story.known.resize(story.disk.calls(), known);
        let (store, Recovered { end, .. }) = opened.map_err(|error| format!("after a kill: {error}"))?;
        if end.0 < known.against_kill {
            return Err(format!("after a kill the log ends at {end}; {} was promised", known.against_kill));
        }
        let mut events = story.events[known.life][..known.events].to_vec();
        events.retain(|event| event.end <= end.0);
        let metas = events.iter().filter(|event| matches!(event.what, What::Meta(_))).count() as u64;
        story.events.push(events);
        let known = Known { life: known.life + 1, opening: false, ..known };
        let mut teller = Self { story, chance, store, now, metas, jobs: Vec::new(), known };
        teller.learn()?;
        Ok(teller)
    }

    fn events(&mut self) -> &mut Vec<Event> {
        self.story.events.last_mut().expect("a life has a list")
    }

    /// Something has been done. Before the calls that it made nothing of it was known.
    fn learn(&mut self) -> Result<(), String> {
        let calls = self.story.disk.calls();
        self.story.known.resize(calls, self.known);
        let state = self.store.state();
        if state.min.0 > self.known.min {
            self.check_retention(state.min.0)?;
        }
        let kept = match self.story.config.flush {
            Flush::Sync => state.commit,
            Flush::Async => state.synced,
        };
        self.known = Known {
            events: self.events().len(),
            against_kill: state.commit.0,
            against_cut: kept.0,
            min: state.min.0,
            ms: self.now.mono.0 / 1_000_000,
            ..self.known
        };
        Ok(())
    }

    /// Retention takes only what is old enough.
    fn check_retention(&mut self, min: u64) -> Result<(), String> {
        let oldest = self.now.wall.0 - i64::try_from(KEEP.as_millis()).expect("hours");
        match self.events().iter().find(|event| event.at < min && event.stored > oldest) {
            Some(event) => Err(format!("retention takes {event:?} at {oldest} and an hour")),
            None => Ok(()),
        }
    }

    fn wait(&mut self, ms: u64) {
        self.now = at(self.now.mono.0 / 1_000_000 + ms);
    }

    fn live(&mut self, appends: u64, end: End) -> Result<(), String> {
        let old = [appends / 3, appends * 2 / 3];
        for nth in 0..appends {
            for _ in 0..1 + self.chance.below(3) {
                self.append()?;
            }
            let pause = if old.contains(&nth) { 2 * HOUR } else { self.chance.below(300) };
            self.wait(pause);
            if self.store.wants_tables() || self.chance.one_in(60) {
                self.store.save(tables(self.metas));
            }
            if self.chance.one_in(50) {
                self.store.export(vec![("config/topics.json", format!("{{\"n\":{nth}}}").into_bytes())]);
            }
            // Most of the time everything is done before the next comes; at times jobs stay half done.
            let steps = if self.chance.one_in(4) { self.chance.below(6) } else { 200 };
            self.run(steps)?;
        }
        match end {
            End::Kill => {
                self.append()?;
                let steps = self.chance.below(5);
                self.run(steps)
            }
            End::Clean => self.close(),
        }
    }

    fn close(&mut self) -> Result<(), String> {
        self.run(u64::MAX)?;
        self.store.close(tables(self.metas), vec![("config/topics.json", b"{}".to_vec())], self.now);
        self.run(u64::MAX)?;
        match self.store.is_closed() {
            true => Ok(()),
            false => Err("a store without a fault does not close".to_owned()),
        }
    }

    /// So many steps of jobs, of either lane as it comes.
    fn run(&mut self, steps: u64) -> Result<(), String> {
        let files = self.store.files();
        for _ in 0..steps {
            while let Some(job) = self.next_job()? {
                self.jobs.push(job);
            }
            if self.jobs.is_empty() {
                return Ok(());
            }
            let which = self.chance.below(self.jobs.len() as u64) as usize;
            if let Some(done) = self.jobs[which].step(&files) {
                drop(self.jobs.remove(which));
                self.store.finished(done, self.now).map_err(|error| format!("a disk without a fault: {error}"))?;
            }
            self.learn()?;
        }
        Ok(())
    }

    /// The store may write down a record of its own when it is asked for a job.
    fn next_job(&mut self) -> Result<Option<Job>, String> {
        let before = self.store.appended().0;
        if let Some(target) = self.store.may_retire(self.now) {
            self.store.retire(target, None, self.now);
        }
        let job = self.store.next_job(self.now);
        let end = self.store.appended().0;
        if end > before {
            let base = |position: u64| position - position % self.story.config.segment_bytes;
            let at = if base(before) == base(end - 1) { before } else { base(end - 1) };
            self.meta(None, at, end);
        }
        self.learn()?;
        Ok(job)
    }

    fn meta(&mut self, record: Option<MetaRecord>, at: u64, end: u64) {
        let stored = self.now.wall.0;
        self.events().push(Event { at, end, stored, what: What::Meta(record) });
        self.metas += 1;
    }

    fn append(&mut self) -> Result<(), String> {
        let chance = &mut self.chance;
        let nth = chance.word() >> 8;
        let topic = chance.below(TOPICS.len() as u64) as usize;
        // The last topic is seldom written to, so that retention empties its queues.
        let topic = if topic == 2 && !chance.one_in(6) { 0 } else { topic };
        let queue = u32::from(chance.one_in(QUEUES.into()));
        let most = if chance.one_in(10) { 6000 } else { 900 };
        let len = 1 + chance.below(most) as usize;
        let topic_name = TOPICS[topic].to_owned();
        match chance.below(30) {
            0 => self.append_meta(MetaRecord::TopicDeleted(topic_name)),
            1 | 2 => {
                let (group, offset) = ("workers".to_owned(), nth.cast_signed());
                self.append_meta(MetaRecord::Offsets(vec![OffsetCommit {
                    group,
                    topic: topic_name,
                    queue_id: queue,
                    offset,
                }]));
            }
            3 => self.append_meta(MetaRecord::Topic(TopicConfig { topic_name, ..TopicConfig::default() })),
            4 => {
                let group_name = format!("group-{}", nth % 9);
                self.append_meta(MetaRecord::Group(SubscriptionGroup { group_name, ..SubscriptionGroup::default() }));
            }
            5..9 => {
                let bodies: Vec<Bytes> = (0..2 + nth % 4).map(|part| body(nth + part, len.min(1200))).collect();
                self.append_messages(topic, queue, &bodies)?;
            }
            _ => self.append_messages(topic, queue, &[body(nth, len)])?,
        }
        self.learn()
    }

    fn append_messages(&mut self, topic: usize, queue: u32, bodies: &[Bytes]) -> Result<(), String> {
        let drafts: Vec<_> = bodies.iter().map(|body| draft(TOPICS[topic], queue, body)).collect();
        let appended = match self.store.append_batch(&drafts, self.now) {
            Ok(appended) => appended,
            Err(AppendError::Busy { .. } | AppendError::Reserving) => return Ok(()),
            Err(error) => return Err(format!("an append without a reason to fail: {error}")),
        };
        let batch = (appended[0].at.0, appended[appended.len() - 1].end.0);
        let stored = self.now.wall.0;
        for (Appended { at, end, .. }, body) in appended.iter().zip(bodies) {
            let what = What::Message { topic, queue, body: body.clone(), batch };
            self.events().push(Event { at: at.0, end: end.0, stored, what });
        }
        Ok(())
    }

    fn append_meta(&mut self, record: MetaRecord) {
        // Refused when there is no room, as a message is.
        if let Ok(Appended { at, end, .. }) = self.store.append_meta(&record, self.now) {
            self.meta(Some(record), at.0, end.0);
        }
    }
}
