//! Crash states, after the manner of ALICE: a store's calls to the disk are written down, and then every moment is taken for
//! the last. What may be on the disk then is enumerated, recovered by the real `Store::open`, and held against what had been
//! promised.
//!
//! ```text
//!   story ──▶ calls, and what was known between any two ──▶ platter ──▶ images ──▶ Store::open ──▶ audit
//! ```
//! Where few changes are not durable, all subsets of them are looked at; where many, some, chosen by the seed. A sector is old
//! or new, a name there or not, a length old or new; nothing else that a disk may do is done here ([`rot`] does).

mod audit;
mod image;
mod platter;
mod rot;
mod story;
mod tape;

pub use rot::{CLASSES, RotReport, rot};

use audit::audit;
use image::Image;
use keepmq_store::{AppendError, OpenError, Recovered, Store, StoreConfig};
use keepmq_world::Chance;
use platter::{Platter, Tear};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use story::{End, Event, Known, Story, What};
use tape::{Act, Op, TapeDisk};

/// What one story's crash states have shown.
#[derive(Debug, Default)]
pub struct StatesReport {
    /// Hashes of the images that were recovered, sorted, each once.
    pub states: Vec<u64>,
    /// How many, by the call that the crash followed.
    pub followed: BTreeMap<String, u64>,
    /// How often each of [`SOMETIMES`] was so.
    pub sometimes: [u64; SOMETIMES.len()],
    /// What is wrong, with the place; the search in a story ends with the first.
    pub violation: Option<String>,
}

/// What must be among the crash states of a run, or it has shown little.
pub const SOMETIMES: [&str; 13] = [
    "a crash while the log rolls",
    "a crash in a checkpoint of the queues",
    "a crash in a snapshot",
    "a crash while retention removes segments",
    "a crash in a recovery",
    "a crash in the recovery of a recovery",
    "a kill",
    "a torn tail was cut",
    "a batch was cut as a whole",
    "a torn piece of the block log was cut",
    "something unacknowledged survived",
    "an acknowledged tail was lost, as ASYNC_FLUSH allows",
    "every subset of what was not synced",
];

const ROLL: usize = 0;
const CHECKPOINT: usize = 1;
const SNAPSHOT: usize = 2;
const RETENTION: usize = 3;
const RECOVERY: usize = 4;
const RECOVERY_TWICE: usize = 5;
const KILL: usize = 6;
const TORN: usize = 7;
const BATCH: usize = 8;
const PIECE: usize = 9;
const UNACKED: usize = 10;
const ASYNC_LOST: usize = 11;
const EXHAUSTIVE: usize = 12;

/// With so many changes that may survive or not, every subset is looked at.
const FEW: usize = 5;
/// A recovery can be interrupted, and the one after it.
const DEPTH: usize = 2;
/// How often the crash states of the same story are gone through, at most, to find new ones.
const ROUNDS: u64 = 20;

/// Tells the story of a seed, and recovers `budget` different crash states of it.
pub fn states(seed: u64, budget: usize) -> StatesReport {
    let mut report = StatesReport::default();
    // A clean stop stands in the middle, kills around it.
    let story = match story::tell(seed, &[(60, End::Kill), (50, End::Clean), (40, End::Kill), (6, End::Kill)]) {
        Ok(story) => story,
        Err(what) => {
            report.violation = Some(format!("story {seed}: {what}"));
            return report;
        }
    };
    let mut search =
        Search { story: &story, chance: Chance::new(seed ^ 0xA11CE), seen: BTreeMap::new(), budget, report };
    for _ in 0..ROUNDS {
        if search.is_done() {
            break;
        }
        search.round();
    }
    let Search { seen, mut report, .. } = search;
    if let Some(what) = &mut report.violation {
        *what = format!("story {seed}: {what}");
    }
    report.states = seen.into_keys().collect();
    report
}

/// What is looked for in one story.
struct Search<'s> {
    story: &'s Story,
    chance: Chance,
    /// Where the log ends after the recovery of an image; at least that was promised when it was looked at.
    seen: BTreeMap<u64, u64>,
    budget: usize,
    report: StatesReport,
}

/// How the machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Crash {
    Kill,
    PowerCut,
}

/// Where a crash state comes from.
#[derive(Clone, Debug)]
struct Origin {
    /// What the crash followed.
    followed: String,
    /// The call's number, of the story and then of recoveries.
    calls: Vec<usize>,
    crash: Crash,
    known: Known,
}

impl Search<'_> {
    fn is_done(&self) -> bool {
        self.report.violation.is_some() || self.seen.len() >= self.budget
    }

    /// Every moment of the story.
    fn round(&mut self) {
        let tape = self.story.disk.tape();
        let weights: Vec<usize> = std::iter::once(1).chain(tape.iter().map(weight)).collect();
        let mut left: usize = weights.iter().sum();
        let mut platter = Platter::new(Image::default());
        for (calls, weight) in weights.into_iter().enumerate() {
            let last = calls.checked_sub(1).and_then(|last| tape.get(last));
            if let Some(op) = last {
                platter.play(op);
            }
            // What is left of the budget belongs to what is left of the story.
            let quota = (self.budget.saturating_sub(self.seen.len()) * weight).div_ceil(left);
            left -= weight;
            let origin = Origin {
                followed: followed(last, self.story.known[calls].opening),
                calls: vec![calls],
                crash: Crash::PowerCut,
                known: self.story.known[calls],
            };
            let enough = self.seen.len() + quota;
            self.look(&platter.killed(), Some(&platter), &Origin { crash: Crash::Kill, ..origin.clone() });
            if let Some(within) = tape.get(calls).and_then(|next| self.within(&platter, next)) {
                self.look(&within.killed(), Some(&within), &Origin { crash: Crash::Kill, ..origin.clone() });
            }
            for image in self.cuts(&platter) {
                if self.is_done() || self.seen.len() >= enough {
                    break;
                }
                self.look(&image, None, &origin);
            }
            if self.is_done() {
                return;
            }
        }
    }

    /// The disk in the middle of a write: the kernel takes it page by page, and looks for signals in between.
    fn within(&mut self, platter: &Platter, next: &Op) -> Option<Platter> {
        let Act::Write { file, at, bytes } = &next.act else { return None };
        let pages = (at % 4096 + bytes.len()) / 4096;
        let page = 1 + self.chance.below((pages as u64).max(1)) as usize;
        let taken = (page * 4096 - at % 4096).min(bytes.len());
        let act = Act::Write { file: *file, at: *at, bytes: bytes.slice(..taken) };
        (pages > 0).then(|| platter.clone().behind(&[Op { act, path: Arc::clone(&next.path) }]))
    }

    /// What a power cut may leave at one moment, shuffled.
    fn cuts(&mut self, platter: &Platter) -> Vec<Image> {
        let chance = &mut self.chance;
        let mut images = Vec::new();
        let pending = platter.pending();
        if pending <= FEW {
            images.extend((0..1usize << pending).map(|mask| platter.cut(|nth| mask >> nth & 1 == 1)));
            self.report.sometimes[EXHAUSTIVE] += u64::from(pending > 1);
        } else {
            images.extend([platter.cut(|_| false), platter.cut(|_| true)]);
            for _ in 0..4 {
                let one = chance.below(pending as u64) as usize;
                images.push(platter.cut(|nth| nth == one));
                images.push(platter.cut(|nth| nth != one));
                images.push(platter.cut(|nth| nth < one));
                images.push(cut_by_chance(platter, chance));
            }
        }
        if platter.torn() > 1 {
            for _ in 0..3 {
                let place = chance.below(platter.torn() as u64) as usize;
                for tear in [Tear::Any, Tear::Hole(place), Tear::Upto(place), Tear::From(place)] {
                    images.push(torn_by_chance(platter, tear, chance));
                }
            }
        }
        for at in (1..images.len()).rev() {
            images.swap(at, chance.below(at as u64 + 1) as usize);
        }
        images
    }

    /// Recovers an image, unless that has been done. Behind a kill, `still` knows what of it is not durable yet.
    fn look(&mut self, image: &Image, still: Option<&Platter>, origin: &Origin) {
        let promised = match origin.crash {
            Crash::Kill => origin.known.against_kill,
            Crash::PowerCut => origin.known.against_cut,
        };
        let hash = image.hash();
        if let Some(end) = self.seen.get(&hash) {
            // The same bytes say the same; but more may have been promised by now.
            if *end < promised {
                self.blame(origin, &format!("the log ends at {end}; {promised} was promised"));
            }
            return;
        }
        let events = &self.story.events[origin.known.life][..origin.known.events];
        let base = still.map_or_else(|| Platter::new(image.clone()), Platter::clone);
        let judge = || check(&self.story.config, &base, &origin.known, events, promised);
        let checked = catch_unwind(AssertUnwindSafe(judge));
        let found = match checked {
            Ok(Ok(found)) => found,
            Ok(Err(what)) => return self.blame(origin, &what),
            Err(panic) => return self.blame(origin, &format!("an assertion of the store: {}", said(&*panic))),
        };
        self.seen.insert(hash, found.end);
        self.count(origin, &found, events);
        // Recoveries that have something to mend or to make durable are interrupted more often than others.
        let worth = match still {
            Some(still) if still.pending() > 0 => 6,
            _ if found.cut > 0 || found.truncated => 12,
            _ => 60,
        };
        if origin.calls.len() <= DEPTH && self.chance.one_in(worth * origin.calls.len() as u64) {
            self.interrupt(base, &found.tape, origin);
        }
    }

    /// The store recovers, and the power fails again, or the process is killed.
    fn interrupt(&mut self, mut platter: Platter, tape: &[Op], origin: &Origin) {
        for (nth, op) in tape.iter().enumerate() {
            platter.play(op);
            let mut calls = origin.calls.clone();
            calls.push(nth + 1);
            let known = Known { ms: origin.known.ms + 1000, ..origin.known };
            let followed = followed(Some(op), true);
            let again = Origin { followed, calls, crash: Crash::PowerCut, known };
            if origin.crash == Crash::Kill {
                self.look(&platter.killed(), Some(&platter), &Origin { crash: Crash::Kill, ..again.clone() });
            }
            let chance = &mut self.chance;
            let torn = torn_by_chance(&platter, Tear::Any, chance);
            for image in [platter.cut(|_| false), cut_by_chance(&platter, chance), torn] {
                if self.is_done() {
                    return;
                }
                self.look(&image, None, &again);
            }
        }
    }

    fn blame(&mut self, origin: &Origin, what: &str) {
        let Origin { followed, calls, crash, .. } = origin;
        self.report.violation.get_or_insert(format!("{crash:?} at call {calls:?}, behind {followed}: {what}"));
    }

    fn count(&mut self, origin: &Origin, found: &Checked, events: &[Event]) {
        *self.report.followed.entry(origin.followed.clone()).or_default() += 1;
        let known = &origin.known;
        let in_batch = |event: &Event| match event.what {
            What::Message { batch: (from, to), .. } => from == found.end && to > event.end,
            What::Meta(_) => false,
        };
        let happened = [
            (ROLL, has(&origin.followed, &["rename to segment", "sync folder of segments"])),
            (CHECKPOINT, has(&origin.followed, &["write checkpoint", "write block file", "sync block file"])),
            (SNAPSHOT, has(&origin.followed, &["write snapshot", "sync snapshot", "rename to snapshot"])),
            (RETENTION, has(&origin.followed, &["remove segment"])),
            (RECOVERY, origin.calls.len() > 1 || known.opening),
            (RECOVERY_TWICE, origin.calls.len() > 2),
            (KILL, origin.crash == Crash::Kill && origin.calls.len() == 1),
            (TORN, found.cut > 0),
            (BATCH, found.cut > 0 && events.iter().any(in_batch)),
            (PIECE, found.truncated),
            (UNACKED, found.end > known.against_kill),
            (ASYNC_LOST, found.end < known.against_kill),
        ];
        for (nth, _) in happened.iter().filter(|(_, so)| *so) {
            self.report.sometimes[*nth] += 1;
        }
    }
}

fn has(followed: &str, ends: &[&str]) -> bool {
    ends.iter().any(|end| followed.ends_with(end))
}

fn cut_by_chance(platter: &Platter, chance: &mut Chance) -> Image {
    let word = chance.word();
    platter.cut(|nth| word >> (nth % 64) & 1 == 1)
}

fn torn_by_chance(platter: &Platter, tear: Tear, chance: &mut Chance) -> Image {
    let word = chance.word();
    platter.tear(tear, chance, |nth| word >> (nth % 64) & 1 == 1)
}

/// The text of an assertion that has failed.
fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|| "one without a text".to_owned())
}

/// How much of the budget the moment behind a call gets: writes and syncs of the log are many, and much alike.
fn weight(op: &Op) -> usize {
    match (&op.act, what(&op.path)) {
        (Act::Write { .. } | Act::Sync { .. }, "segment") => 2,
        (Act::Write { .. } | Act::Sync { .. }, "next segment") => 1,
        (_, "export") => 1,
        (Act::Rename { .. } | Act::Remove | Act::SyncDir | Act::Truncate { .. }, _) => 12,
        _ => 4,
    }
}

/// What kind of file lies there.
fn what(path: &Path) -> &'static str {
    let text = path.to_string_lossy();
    match &*text {
        "" => "the store",
        "commitlog" => "of segments",
        "keepmq" => "of ours",
        "keepmq/next" => "next segment",
        "keepmq/identity" | "keepmq/identity.tmp" => "identity",
        "keepmq/checkpoint" | "keepmq/checkpoint.tmp" => "checkpoint",
        text if text.starts_with("commitlog/") => "segment",
        text if text.starts_with("keepmq/meta-") => "snapshot",
        text if text.starts_with("keepmq/queues-") => "block file",
        _ => "export",
    }
}

fn followed(op: Option<&Op>, recovery: bool) -> String {
    let when = if recovery { "recovery: " } else { "" };
    match op {
        Some(op) => format!("{when}{} {}", op.act.call(), what(&op.path)),
        None => "nothing".to_owned(),
    }
}

/// What the recovery of an image has come to.
struct Checked {
    end: u64,
    cut: u64,
    /// A file of the block log was cut.
    truncated: bool,
    /// The calls of the recovery.
    tape: Vec<Op>,
}

/// Recovers an image, reads everything, recovers again, goes on, and recovers once more. The text says what is wrong.
fn check(
    config: &StoreConfig,
    base: &Platter,
    known: &Known,
    events: &[Event],
    promised: u64,
) -> Result<Checked, String> {
    let disk = TapeDisk::numbering(base.killed(), base.next_file());
    let opened = |ms: u64| Store::open(disk.clone(), config.clone(), story::at(known.ms + ms));
    let refused = |error: OpenError| format!("refused, although any crash may leave this: {error}");
    let (store, recovered) = opened(1000).map_err(refused)?;
    let end = recovered.end.0;
    if end < promised {
        return Err(format!("the log ends at {end}, {} bytes were cut; {promised} was promised", recovered.cut));
    }
    if let Some(damage) = &recovered.remade {
        return Err(format!("the index is taken for damaged, although any crash may leave this: {damage}"));
    }
    if recovered.created && promised > 0 {
        return Err(format!("the store was made anew although {promised} was promised"));
    }
    let min = store.state().min.0;
    if min > known.min {
        return Err(format!("the log begins at {min}; nothing behind {} was to go", known.min));
    }
    agree(&store, &recovered, events)?;
    is_erased(&disk, config, end)?;
    let tape = disk.tape();

    // A second recovery has nothing to mend.
    drop(store);
    let (mut store, again) = opened(2000).map_err(|error| format!("the second recovery fails: {error}"))?;
    if (again.end, again.cut, store.state().min.0, &again.tables) != (recovered.end, 0, min, &recovered.tables) {
        return Err(format!("the second recovery differs: {recovered:?}, then {again:?}"));
    }
    agree(&store, &again, events).map_err(|what| format!("after the second recovery: {what}"))?;

    // The store goes on, and what it takes then survives the next power cut.
    let mut later: Vec<Event> = events.iter().filter(|event| event.end <= end).cloned().collect();
    go_on(&mut store, known.ms + 2000, &mut later)?;
    drop(store);
    let disk = TapeDisk::new(base.clone().behind(&disk.tape()).cut(|_| false));
    let third = Store::open(disk, config.clone(), story::at(known.ms + 9000));
    let (store, last) = third.map_err(|error| format!("refused after it went on: {error}"))?;
    if later.last().is_some_and(|event| event.end > last.end.0) {
        return Err(format!("what was appended after the recovery is lost: the log ends at {}", last.end));
    }
    agree(&store, &last, &later).map_err(|what| format!("after it went on: {what}"))?;
    let truncated = tape.iter().any(|op| matches!(op.act, Act::Truncate { .. }));
    Ok(Checked { end, cut: recovered.cut, truncated, tape })
}

/// Nothing that is read contradicts the story, and everything can be read.
fn agree(store: &Store<TapeDisk>, recovered: &Recovered, events: &[Event]) -> Result<(), String> {
    let found = audit(store, recovered, events);
    match (found.wrong, found.errors.into_iter().next()) {
        (Some(wrong), _) => Err(wrong),
        (None, Some(error)) => Err(format!("it cannot be read, although nothing is damaged: {error}")),
        (None, None) => Ok(()),
    }
}

/// Behind the end of the log everything is zero: anything else would come back to life when the log grows up to it.
fn is_erased(disk: &TapeDisk, config: &StoreConfig, end: u64) -> Result<(), String> {
    let base = end - end % config.segment_bytes;
    let image = disk.image();
    let path = format!("commitlog/{base:020}");
    match image.file(Path::new(&path)) {
        Some(segment) if !segment.is_empty_from((end - base) as usize) => {
            Err(format!("{path} is not empty behind the log's end at {end}"))
        }
        _ => Ok(()),
    }
}

/// A few messages are appended, until they are as durable as can be.
fn go_on(store: &mut Store<TapeDisk>, ms: u64, events: &mut Vec<Event>) -> Result<(), String> {
    let files = store.files();
    let settle = |store: &mut Store<TapeDisk>, ms: u64| {
        while let Some(job) = store.next_job(story::at(ms)) {
            let done = store.finished(job.run(&files), story::at(ms));
            done.map_err(|error| format!("it stops when it goes on: {error}"))?;
        }
        Ok::<(), String>(())
    };
    settle(store, ms)?;
    for (topic, queue, count) in [(0, 0, 1), (1, 1, 2), (2, 0, 1)] {
        let bodies: Vec<_> = (0..count).map(|nth| story::body(ms + nth, 700)).collect();
        let drafts: Vec<_> = bodies.iter().map(|body| story::draft(story::TOPICS[topic], queue, body)).collect();
        let appended = match store.append_batch(&drafts, story::at(ms)) {
            Err(AppendError::Busy { .. } | AppendError::Reserving) => {
                settle(store, ms)?;
                store.append_batch(&drafts, story::at(ms))
            }
            done => done,
        };
        let appended = appended.map_err(|error| format!("it takes no message when it goes on: {error}"))?;
        let batch = (appended[0].at.0, appended[appended.len() - 1].end.0);
        for (place, body) in appended.iter().zip(bodies) {
            let what = What::Message { topic, queue, body, batch };
            events.push(Event { at: place.at.0, end: place.end.0, stored: 0, what });
        }
    }
    settle(store, ms)?;
    settle(store, ms + 1200)?;
    match store.state() {
        state if state.synced == state.appended => Ok(()),
        state => Err(format!("it does not sync when it goes on: {state:?}")),
    }
}
