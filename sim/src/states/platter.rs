//! What may be on the disk when the power fails: of every change that was not synced, all, nothing, or a part.

use super::image::{Content, Held, Image, Node, folder, same};
use super::tape::{Act, Op};
use keepmq_world::Chance;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A disk as its calls leave it, one after the other.
#[derive(Clone)]
pub(super) struct Platter {
    /// Names that nothing takes away any more.
    durable: BTreeMap<PathBuf, Node>,
    /// Names as the process sees them.
    live: BTreeMap<PathBuf, Node>,
    files: BTreeMap<usize, Kept>,
    /// Changes that are not durable, in the order in which they were made.
    pending: Vec<Change>,
    made: u32,
}

/// A change that may survive or not, whatever becomes of the others.
#[derive(Clone)]
struct Change {
    /// Counts up.
    nth: u32,
    what: What,
}

#[derive(Clone)]
enum What {
    /// A name came, or went; of a rename either may be durable alone.
    Name { path: PathBuf, node: Option<Node> },
    /// Bytes or the length of a file.
    Data { file: usize },
}

#[derive(Clone)]
struct Kept {
    durable: Arc<Content>,
    live: Arc<Content>,
    /// By sector: each content it had since the last sync, with the change that brought it. A sector holds what it held at
    /// some moment: a later change never survives in it without an earlier one.
    versions: BTreeMap<usize, Vec<(u32, Held)>>,
    /// Each length since the last sync.
    lengths: Vec<(u32, usize)>,
}

/// How single sectors are torn, of files whose changes survive.
#[derive(Clone, Copy, Debug)]
pub(super) enum Tear {
    /// Each sector is of any moment.
    Any,
    /// All are new but this one.
    Hole(usize),
    /// Only those before this one are new.
    Upto(usize),
    /// Only those from this one on are new.
    From(usize),
}

impl Platter {
    /// A disk that holds this, durably.
    pub(super) fn new(image: Image) -> Self {
        let kept = |content: Arc<Content>| Kept {
            durable: Arc::clone(&content),
            live: content,
            versions: BTreeMap::new(),
            lengths: Vec::new(),
        };
        let files = image.files.into_iter().map(|(file, content)| (file, kept(content))).collect();
        Self { durable: image.names.clone(), live: image.names, files, pending: Vec::new(), made: 0 }
    }

    /// The disk behind all these calls.
    pub(super) fn behind(mut self, tape: &[Op]) -> Self {
        tape.iter().for_each(|op| self.play(op));
        self
    }

    /// The number that no file has had yet.
    pub(super) fn next_file(&self) -> usize {
        self.files.keys().next_back().map_or(0, |last| last + 1)
    }

    /// The next call.
    pub(super) fn play(&mut self, op: &Op) {
        let path = &*op.path;
        match &op.act {
            Act::Create { file, len } => {
                let (durable, live) = (Arc::default(), Arc::new(Content::zeroes(*len)));
                self.files.insert(*file, Kept { durable, live, versions: BTreeMap::new(), lengths: Vec::new() });
                self.name(path, Some(Node::File(*file)));
                if *len > 0 {
                    let nth = self.change(What::Data { file: *file });
                    self.kept(*file).lengths.push((nth, *len));
                }
            }
            Act::CreateDir => self.name(path, Some(Node::Dir)),
            Act::Rename { from, file } => {
                self.name(path, Some(Node::File(*file)));
                self.name(from, None);
            }
            Act::Remove => self.name(path, None),
            Act::SyncDir => {
                let durable = &mut self.durable;
                self.pending.retain(|change| match &change.what {
                    What::Name { path: name, node } if folder(name) == path => {
                        set(durable, name, *node);
                        false
                    }
                    _ => true,
                });
            }
            Act::Write { file, at, bytes } => {
                let nth = self.change(What::Data { file: *file });
                let kept = self.kept(*file);
                let before = kept.live.len();
                let live = Arc::make_mut(&mut kept.live);
                live.write(*at, bytes);
                if live.len() != before {
                    kept.lengths.push((nth, live.len()));
                }
                kept.note(nth, *at, *at + bytes.len());
            }
            Act::Truncate { file, len } => {
                let nth = self.change(What::Data { file: *file });
                let kept = self.kept(*file);
                let before = kept.live.len();
                Arc::make_mut(&mut kept.live).resize(*len);
                kept.lengths.push((nth, *len));
                kept.note(nth, (*len).min(before), (*len).max(before));
            }
            Act::Sync { file } => {
                let kept = self.kept(*file);
                kept.durable = Arc::clone(&kept.live);
                kept.versions.clear();
                kept.lengths.clear();
                self.pending.retain(|change| !matches!(change.what, What::Data { file: of } if of == *file));
            }
        }
    }

    fn kept(&mut self, file: usize) -> &mut Kept {
        self.files.get_mut(&file).expect("a file is made before it is used")
    }

    fn change(&mut self, what: What) -> u32 {
        self.made += 1;
        self.pending.push(Change { nth: self.made, what });
        self.made
    }

    fn name(&mut self, path: &Path, node: Option<Node>) {
        set(&mut self.live, path, node);
        self.change(What::Name { path: path.to_owned(), node });
    }

    /// How many changes may survive or not.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// How many sectors may be torn.
    pub(super) fn torn(&self) -> usize {
        self.files.values().map(|kept| kept.versions.len()).sum()
    }

    /// Everything that was written: what a killed process leaves.
    pub(super) fn killed(&self) -> Image {
        Image::new(self.live.clone(), |file| Arc::clone(&self.files[&file].live))
    }

    /// What a power cut leaves when these changes survive, each whole.
    pub(super) fn cut(&self, survives: impl Fn(usize) -> bool) -> Image {
        let chosen: Vec<u32> =
            self.pending.iter().enumerate().filter(|(nth, _)| survives(*nth)).map(|(_, change)| change.nth).collect();
        let is_in = |nth: u32| chosen.binary_search(&nth).is_ok();
        self.image(is_in, |kept| {
            let mut content = Content::clone(&kept.durable);
            if let Some((_, len)) = kept.lengths.iter().rev().find(|(nth, _)| is_in(*nth)) {
                content.resize(*len);
            }
            for (sector, versions) in &kept.versions {
                if let Some((_, held)) = versions.iter().rev().find(|(nth, _)| is_in(*nth)) {
                    content.put(*sector, held.clone());
                }
            }
            content
        })
    }

    /// What a power cut leaves when it tears what is being written; names survive as `survives` says.
    pub(super) fn tear(&self, tear: Tear, chance: &mut Chance, survives: impl Fn(usize) -> bool) -> Image {
        let chosen: Vec<u32> =
            self.pending.iter().enumerate().filter(|(nth, _)| survives(*nth)).map(|(_, change)| change.nth).collect();
        let mut place = 0;
        let mut torn = BTreeMap::new();
        for (file, kept) in &self.files {
            if kept.versions.is_empty() && kept.lengths.is_empty() {
                continue;
            }
            let mut content = Content::clone(&kept.durable);
            if let Some((_, newest)) = kept.lengths.last() {
                let nth = chance.below(2 * kept.lengths.len() as u64 + 1) as usize;
                match kept.lengths.get(nth) {
                    Some((_, len)) => content.resize(*len),
                    None if nth == 2 * kept.lengths.len() => {}
                    None => content.resize(*newest),
                }
            }
            for (sector, versions) in &kept.versions {
                let newest = versions.len();
                let version = match tear {
                    Tear::Any => chance.below(newest as u64 + 1) as usize,
                    Tear::Hole(hole) if place == hole => 0,
                    Tear::Upto(end) if place >= end => 0,
                    Tear::From(start) if place < start => 0,
                    Tear::Hole(_) | Tear::Upto(_) | Tear::From(_) => newest,
                };
                place += 1;
                if let Some((_, held)) = version.checked_sub(1).and_then(|version| versions.get(version)) {
                    content.put(*sector, held.clone());
                }
            }
            torn.insert(*file, Arc::new(content));
        }
        let names = self.names(|nth| chosen.binary_search(&nth).is_ok());
        Image::new(names, |file| torn.get(&file).map_or_else(|| Arc::clone(&self.files[&file].durable), Arc::clone))
    }

    fn image(&self, is_in: impl Fn(u32) -> bool, content: impl Fn(&Kept) -> Content) -> Image {
        Image::new(self.names(is_in), |file| {
            let kept = &self.files[&file];
            match kept.versions.is_empty() && kept.lengths.is_empty() {
                true => Arc::clone(&kept.durable),
                false => Arc::new(content(kept)),
            }
        })
    }

    fn names(&self, is_in: impl Fn(u32) -> bool) -> BTreeMap<PathBuf, Node> {
        let mut names = self.durable.clone();
        for Change { nth, what } in &self.pending {
            if let What::Name { path, node } = what
                && is_in(*nth)
            {
                set(&mut names, path, *node);
            }
        }
        names
    }
}

impl Kept {
    /// Remembers what the sectors of `from..to` hold now; those that hold what they held before have no choice.
    fn note(&mut self, nth: u32, from: usize, to: usize) {
        for index in from / super::image::SECTOR..to.div_ceil(super::image::SECTOR) {
            let now = self.live.sector(index);
            let durable = self.durable.sector(index);
            let before =
                self.versions.get(&index).and_then(|versions| versions.last()).map_or(&durable, |(_, held)| held);
            if !same(before, &now) {
                self.versions.entry(index).or_default().push((nth, now));
            }
        }
    }
}

fn set(names: &mut BTreeMap<PathBuf, Node>, path: &Path, node: Option<Node>) {
    match node {
        Some(node) => drop(names.insert(path.to_owned(), node)),
        None => drop(names.remove(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tape::TapeDisk;
    use super::*;
    use keepmq_store::{Disk, File};

    /// A durable file `d/f` of two sectors of `o`.
    fn start() -> Image {
        let disk = TapeDisk::new(Image::default());
        disk.create_dir(Path::new("d")).unwrap();
        let file = disk.create(Path::new("d/f"), 1024).unwrap();
        file.write_at(0, &[b'o'; 1024]).unwrap();
        disk.image()
    }

    /// What `story` may leave behind: every subset of its changes, or many tears, each outcome once.
    fn outcomes(story: impl Fn(&TapeDisk), tear: bool) -> Vec<String> {
        let disk = TapeDisk::new(start());
        story(&disk);
        let platter = Platter::new(start()).behind(&disk.tape());
        let mut chance = Chance::new(1);
        let images = (0..64usize).map(|mask| match tear {
            false => platter.cut(|nth| mask >> nth & 1 == 1),
            true => platter.tear(Tear::Any, &mut chance, |nth| mask >> nth & 1 == 1),
        });
        let mut all: Vec<String> = images.map(|image| said(&image)).collect();
        all.sort();
        all.dedup();
        all
    }

    /// Names, each with the first byte of every sector.
    fn said(image: &Image) -> String {
        let one = |(path, node): (&PathBuf, &Node)| match node {
            Node::Dir => None,
            Node::File(file) => {
                let bytes = image.files[file].bytes();
                let sectors: String = bytes.chunks(512).map(|sector| char::from(sector[0].max(b'0'))).collect();
                Some(format!("{}={sectors}", path.file_name().unwrap().to_string_lossy()))
            }
        };
        image.names.iter().filter_map(one).collect::<Vec<_>>().join(" ")
    }

    fn open(disk: &TapeDisk) -> super::super::tape::TapeFile {
        disk.open(Path::new("d/f")).unwrap()
    }

    #[test]
    fn a_write_survives_whole_or_torn_or_not_and_behind_a_sync_whole() {
        let write = |disk: &TapeDisk| open(disk).write_at(0, &[b'n'; 1024]).unwrap();
        assert_eq!(outcomes(write, false), ["f=nn", "f=oo"]);
        assert_eq!(outcomes(write, true), ["f=nn", "f=no", "f=on", "f=oo"]);
        let synced = |disk: &TapeDisk| {
            write(disk);
            open(disk).sync_data().unwrap();
        };
        assert_eq!(outcomes(synced, true), ["f=nn"]);
        let twice = |disk: &TapeDisk| {
            open(disk).write_at(0, &[b'm'; 512]).unwrap();
            open(disk).write_at(512, &[b'n'; 512]).unwrap();
        };
        assert_eq!(outcomes(twice, false), ["f=mn", "f=mo", "f=on", "f=oo"]);
        let same_sector = |disk: &TapeDisk| {
            open(disk).write_at(0, b"m").unwrap();
            open(disk).write_at(1, b"n").unwrap();
        };
        assert_eq!(outcomes(same_sector, true), ["f=mo", "f=oo"], "the later write never comes without the earlier");
    }

    #[test]
    fn names_come_and_go_each_by_itself_until_their_folder_is_synced() {
        let create = |disk: &TapeDisk| drop(disk.create(Path::new("d/g"), 512).unwrap());
        assert_eq!(outcomes(create, false), ["f=oo", "f=oo g=", "f=oo g=0"]);
        let rename = |disk: &TapeDisk| disk.rename(Path::new("d/f"), Path::new("d/h")).unwrap();
        assert_eq!(outcomes(rename, false), ["", "f=oo", "f=oo h=oo", "h=oo"]);
        let renamed = |disk: &TapeDisk| {
            rename(disk);
            disk.sync_dir(Path::new("d")).unwrap();
        };
        assert_eq!(outcomes(renamed, false), ["h=oo"]);
        let in_lost_folder = |disk: &TapeDisk| {
            disk.create_dir(Path::new("e")).unwrap();
            disk.create(Path::new("e/x"), 0).unwrap();
            disk.sync_dir(Path::new("e")).unwrap();
        };
        assert_eq!(outcomes(in_lost_folder, false), ["f=oo", "f=oo x="]);
        let cut = |disk: &TapeDisk| open(disk).truncate(512).unwrap();
        assert_eq!(outcomes(cut, true), ["f=o", "f=o0", "f=oo"]);
    }

    #[test]
    fn a_kill_keeps_everything_and_the_next_power_cut_may_still_take_it() {
        let disk = TapeDisk::new(start());
        open(&disk).write_at(0, &[b'n'; 1024]).unwrap();
        let killed = Platter::new(start()).behind(&disk.tape());
        assert_eq!(said(&killed.killed()), "f=nn");
        let next = TapeDisk::numbering(killed.killed(), killed.next_file());
        next.create(Path::new("d/g"), 0).unwrap();
        let later = killed.behind(&next.tape());
        assert_eq!((said(&later.killed()), said(&later.cut(|_| false))), ("f=nn g=".into(), "f=oo".into()));
    }

    #[test]
    fn images_that_differ_in_a_byte_a_length_or_a_name_have_different_hashes() {
        let base = start();
        let change = |act: &dyn Fn(&TapeDisk)| {
            let disk = TapeDisk::new(start());
            act(&disk);
            disk.image().hash()
        };
        let hashes = [
            base.hash(),
            change(&|disk| open(disk).write_at(700, b"x").unwrap()),
            change(&|disk| open(disk).truncate(1025).unwrap()),
            change(&|disk| disk.rename(Path::new("d/f"), Path::new("d/g")).unwrap()),
            change(&|disk| drop(disk.create(Path::new("d/g"), 0).unwrap())),
        ];
        for (nth, hash) in hashes.iter().enumerate() {
            assert!(!hashes[..nth].contains(hash), "{nth}");
        }
        assert_eq!(hashes[0], start().hash());
    }
}
