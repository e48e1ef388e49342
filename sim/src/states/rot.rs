//! Corruption at rest: bytes that were durable go bad, files are cut, exchanged, lost or fall back to what they were, while
//! nobody looks. A store may refuse, tell the reader, or mend what can be made again; it never serves what is wrong, and never
//! misses an acknowledged message without a word.

use super::audit::audit;
use super::image::{Content, Image};
use super::platter::Platter;
use super::story::{self, End, Event, Story};
use super::tape::TapeDisk;
use super::{go_on, said};
use keepmq_store::{Recovered, Store, verify};
use keepmq_world::Chance;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// What a case comes to; each falls into exactly one class.
pub const CLASSES: [&str; 8] = [
    "refused at start, with the place",
    "told to whoever reads the damaged place; everything else is served",
    "stopped at its first work, with the place; everything is served",
    "cut above the durable mark, and reported",
    "ends earlier above the durable mark, as if it had never been written",
    "cut behind the end of the log, nothing is missing",
    "nothing is missing: the index was made again, and that was said",
    "nothing is missing: another copy, or unused bytes",
];

const REFUSED: usize = 0;
const TOLD: usize = 1;
const STOPPED: usize = 2;
const CUT: usize = 3;
const SHORTER: usize = 4;
const CUT_BEHIND: usize = 5;
const REMADE: usize = 6;
const NOTHING: usize = 7;

/// What the damage to stores has shown.
#[derive(Debug, Default)]
pub struct RotReport {
    /// Cases by class.
    pub classes: [u64; CLASSES.len()],
    /// Cases by what was done to which kind of file, and by class.
    pub done: BTreeMap<String, [u64; CLASSES.len()]>,
    /// The first case in which a message was wrong or silently missing.
    pub violation: Option<String>,
}

/// Cases with the same store.
const PER_STORE: u64 = 125;

/// Damages stores in so many ways, all drawn from the seed.
pub fn rot(seed: u64, cases: u64) -> RotReport {
    let mut report = RotReport::default();
    let mut chance = Chance::new(seed ^ 0x0D0_0D1E);
    for store in 0..cases.div_ceil(PER_STORE) {
        // By turns stopped as asked and killed, SYNC_FLUSH and ASYNC_FLUSH.
        let end = if store / 2 % 2 == 0 { End::Clean } else { End::Kill };
        let story = match story::tell(seed + store, &[(60, End::Kill), (60, end)]) {
            Ok(story) => story,
            Err(what) => {
                report.violation = Some(format!("story {}: {what}", seed + store));
                return report;
            }
        };
        let sound = Sound::new(&story, &mut chance);
        match verify(TapeDisk::new(sound.image.clone()), &mut |_| {}) {
            Ok(found) if found.is_sound() => {}
            found => {
                report.violation =
                    Some(format!("story {}: verify finds damage where none is: {found:?}", seed + store));
                return report;
            }
        }
        for _ in 0..PER_STORE.min(cases - store * PER_STORE) {
            let damage = Damage::draw(&sound, &mut chance);
            let judged = catch_unwind(AssertUnwindSafe(|| sound.judge(&damage)));
            let class = match judged {
                Ok(Ok(class)) => class,
                Ok(Err(what)) => return report.blamed(seed + store, end, &damage, &what),
                Err(panic) => {
                    let what = format!("an assertion of the store: {}", said(&*panic));
                    return report.blamed(seed + store, end, &damage, &what);
                }
            };
            report.classes[class] += 1;
            report.done.entry(damage.kind()).or_default()[class] += 1;
        }
    }
    report
}

impl RotReport {
    fn blamed(mut self, story: u64, end: End, damage: &Damage, what: &str) -> Self {
        self.violation = Some(format!("story {story}, {end:?}, {}: {what}", damage.text));
        self
    }
}

/// A store that nothing has happened to yet.
struct Sound<'s> {
    story: &'s Story,
    events: &'s [Event],
    image: Image,
    /// The same store some time before.
    earlier: Image,
    /// Everything before this position was acknowledged.
    promised: u64,
    /// What the checkpoint says is durable.
    mark: u64,
    ms: u64,
}

/// The first file that is not what it was, of those that cannot be made again: who refuses a store leaves it to be looked at.
fn changed(before: &Image, after: &Image) -> Option<PathBuf> {
    let bytes = |image: &Image, path: &Path| image.file(path).map(|content| content.bytes());
    let is_primary =
        |path: &Path| FAMILIES.iter().any(|family| *family != INDEX && path.to_string_lossy().starts_with(family));
    let mut paths = before.names.keys().filter(|path| is_primary(path) && path.extension().is_none());
    paths.find(|path| bytes(before, path) != bytes(after, path)).cloned()
}

/// Files that belong together.
const FAMILIES: [&str; 5] = ["commitlog/", INDEX, SNAPSHOTS, CHECKPOINT, "keepmq/identity"];
const INDEX: &str = "keepmq/queues-";
const SNAPSHOTS: &str = "keepmq/meta-";
const CHECKPOINT: &str = "keepmq/checkpoint";
const SLOT: usize = 512;

/// What is done to a store.
struct Damage {
    what: &'static str,
    family: &'static str,
    image: Image,
    text: String,
}

impl Damage {
    fn kind(&self) -> String {
        format!("{} {}", self.what, self.family.trim_end_matches(['-', '/']))
    }

    fn draw(sound: &Sound<'_>, chance: &mut Chance) -> Self {
        // The log and its index are most of a store.
        let family = FAMILIES[*chance.pick(&[0, 0, 0, 1, 1, 1, 2, 2, 3, 4])];
        let mut image = sound.image.clone();
        let files: Vec<PathBuf> =
            image.names.keys().filter(|path| path.to_string_lossy().starts_with(family)).cloned().collect();
        let path = chance.pick(&files).clone();
        let other = chance.pick(&files).clone();
        let before = image.file(&path).expect("it was listed").bytes();
        let used = before.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        // Mostly what is used; at times what lies behind it.
        let reach = if chance.one_in(8) { before.len() } else { used };
        let at = chance.below(reach.max(1) as u64) as usize;
        let mut bytes = before;
        let choice = chance.below(if family == CHECKPOINT || family == SNAPSHOTS { 8 } else { 7 });
        let mut lost = Vec::new();
        let what = match choice {
            0 | 1 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << chance.below(8);
                }
                "bit flipped in"
            }
            2 => {
                let from = at / 4096 * 4096;
                bytes.iter_mut().skip(from).take(4096).for_each(|byte| *byte = 0);
                "4 KiB zeroed in"
            }
            3 => {
                bytes.truncate(at);
                "cut short"
            }
            4 => {
                lost.push(path.clone());
                "lost"
            }
            5 => {
                let exchanged = image.file(&other).expect("it was listed").bytes();
                image.set(&other, Content::of(&bytes));
                bytes = exchanged;
                "exchanged"
            }
            6 => {
                match sound.earlier.file(&path) {
                    Some(earlier) => bytes = earlier.bytes(),
                    None => lost.push(path.clone()),
                }
                "as before some writes"
            }
            _ if family == CHECKPOINT => {
                for slot in 0..2 {
                    let within = chance.below(72) as usize;
                    if let Some(byte) = bytes.get_mut(slot * SLOT + within) {
                        *byte ^= 1 << chance.below(8);
                    }
                }
                "both slots damaged in"
            }
            _ => {
                for path in &files {
                    let mut bytes = image.file(path).expect("it was listed").bytes();
                    let at = chance.below(bytes.len() as u64) as usize;
                    bytes[at] ^= 1 << chance.below(8);
                    image.set(path, Content::of(&bytes));
                }
                bytes = image.file(&path).expect("it was listed").bytes();
                "all damaged of"
            }
        };
        image.set(&path, Content::of(&bytes));
        for path in lost {
            image.names.remove(&path);
        }
        let text = format!("{what} {} at {at} of {used}, other {}", path.display(), other.display());
        Self { what, family, image, text }
    }
}

impl<'s> Sound<'s> {
    fn new(story: &'s Story, chance: &mut Chance) -> Self {
        let known = story.known[story.known.len() - 1];
        let tape = story.disk.tape();
        let last = tape.len() as u64;
        let before = last * 2 / 3 + chance.below(last / 3);
        let earlier = Platter::new(Image::default()).behind(&tape[..before as usize]).killed();
        let image = story.disk.image();
        let slots = image.file(Path::new(CHECKPOINT)).expect("a store has a checkpoint").bytes();
        let number = |slot: &[u8], at: usize| slot[at..].first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        // Sequence and durable mark: docs/format.md.
        let newest = slots.chunks(SLOT).max_by_key(|slot| number(slot, 28)).expect("two slots");
        let events = &story.events[known.life][..known.events];
        Self { story, events, earlier, promised: known.against_kill, mark: number(newest, 36), ms: known.ms, image }
    }

    /// What comes of the damage; and `keepmq store verify`, which reads a store that is not running, must find it, too. The
    /// class, or what is wrong.
    fn judge(&self, damage: &Damage) -> Result<usize, String> {
        let class = self.come_of(damage)?;
        let disk = TapeDisk::new(damage.image.clone());
        let verdict = verify(disk.clone(), &mut |_| {});
        let silent = verdict.as_ref().is_ok_and(|report| report.is_sound() && report.torn.is_none());
        if silent && matches!(class, REFUSED | TOLD | CUT) {
            return Err(format!("verify finds nothing; it is {}", CLASSES[class]));
        }
        match disk.calls() {
            0 => Ok(class),
            calls => Err(format!("verify has changed what it only reads: {calls} calls")),
        }
    }

    /// Opens the damaged store, reads everything, works on, and opens it again.
    fn come_of(&self, damage: &Damage) -> Result<usize, String> {
        let config = &self.story.config;
        let disk = TapeDisk::new(damage.image.clone());
        let (mut store, recovered) = match Store::open(disk.clone(), config.clone(), story::at(self.ms + 1000)) {
            Ok(opened) => opened,
            Err(error) => {
                let named = error.to_string().contains("keepmq/") || error.to_string().contains("commitlog");
                if !named {
                    return Err(format!("it is refused without a place: {error}"));
                }
                if let Some(path) = changed(&damage.image, &disk.image()) {
                    return Err(format!("it is refused ({error}), but {} is not as it was", path.display()));
                }
                return Ok(REFUSED);
            }
        };
        let mut class = self.read_everything(&store, &recovered)?;
        let mut later: Vec<Event> = self.events.iter().filter(|event| event.end <= recovered.end.0).cloned().collect();
        match go_on(&mut store, self.ms + 2000, &mut later) {
            Err(what) if !what.starts_with("it stops") => return Err(what),
            Err(_) if class == NOTHING => class = STOPPED,
            Err(_) => {}
            Ok(()) => {
                drop(store);
                let left = Platter::new(damage.image.clone()).behind(&disk.tape()).cut(|_| false);
                self.open_again(left, &later)?;
            }
        }
        Ok(class)
    }

    /// What the store shows, and what it says of what it does not show.
    fn read_everything(&self, store: &Store<TapeDisk>, recovered: &Recovered) -> Result<usize, String> {
        let found = audit(store, recovered, self.events);
        if let Some(wrong) = found.wrong {
            return Err(wrong);
        }
        let end = recovered.end.0;
        let missing = self.events.iter().filter(|event| event.end > end && event.end <= self.promised).count();
        if missing > 0 && end < self.mark {
            return Err(format!(
                "{missing} acknowledged records are gone: the log ends at {end}, the durable mark was {}",
                self.mark
            ));
        }
        if found.withheld > 0 && found.errors.is_empty() {
            return Err(format!("{} messages are not shown, and nobody says why", found.withheld));
        }
        let told = !found.errors.is_empty();
        let class = match (missing > 0, recovered.cut > 0) {
            (true, true) => CUT,
            (true, false) => SHORTER,
            _ if told => TOLD,
            (false, true) => CUT_BEHIND,
            _ if recovered.remade.is_some() => REMADE,
            (false, false) => NOTHING,
        };
        Ok(class)
    }

    /// What was appended to a damaged store is kept like everything else, or the store is refused.
    fn open_again(&self, image: Image, events: &[Event]) -> Result<(), String> {
        let opened = Store::open(TapeDisk::new(image), self.story.config.clone(), story::at(self.ms + 9000));
        let Ok((store, recovered)) = opened else { return Ok(()) };
        if events.last().is_some_and(|event| event.end > recovered.end.0) {
            return Err(format!("what it took after the damage is gone: the log ends at {}", recovered.end));
        }
        // Errors are told as before, and perhaps of records that nobody had asked for then.
        match audit(&store, &recovered, events).wrong {
            Some(wrong) => Err(format!("after it went on: {wrong}")),
            None => Ok(()),
        }
    }
}
