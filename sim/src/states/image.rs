//! What lies on a disk at one moment: names, and contents in sectors that images share with each other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a disk writes at once: after a power cut it is old or new.
pub(super) const SECTOR: usize = 512;

/// Bytes of one sector, with their hash, which is asked for by every image that holds them.
#[derive(Debug)]
pub(super) struct Sector {
    bytes: [u8; SECTOR],
    hash: u64,
}

/// `None`: zeroes.
pub(super) type Held = Option<Arc<Sector>>;

fn hold(bytes: [u8; SECTOR]) -> Held {
    if bytes == [0; SECTOR] {
        return None;
    }
    let (words, _) = bytes.as_chunks();
    let hash = words.iter().fold(1, |hash, word| mix(hash, u64::from_be_bytes(*word)));
    Some(Arc::new(Sector { bytes, hash }))
}

/// One step of a hash that tells images apart; nobody chooses them to collide.
fn mix(hash: u64, word: u64) -> u64 {
    let mixed = (hash ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed ^ (mixed >> 29)
}

/// Whether two sectors hold the same.
pub(super) fn same(one: &Held, other: &Held) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => one.bytes == other.bytes,
        _ => false,
    }
}

/// The content of a file.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    len: usize,
    sectors: Vec<Held>,
}

impl Content {
    pub(super) fn zeroes(len: usize) -> Self {
        Self { len, sectors: vec![None; len.div_ceil(SECTOR)] }
    }

    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut content = Self::zeroes(bytes.len());
        content.write(0, bytes);
        content
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn sector(&self, index: usize) -> Held {
        self.sectors.get(index).cloned().flatten()
    }

    /// A sector behind the end is nobody's: it is left out.
    pub(super) fn put(&mut self, index: usize, held: Held) {
        if let Some(sector) = self.sectors.get_mut(index) {
            *sector = held;
        }
    }

    /// Cuts, or goes on with zeroes.
    pub(super) fn resize(&mut self, len: usize) {
        if len < self.len && !len.is_multiple_of(SECTOR) {
            let mut last = [0; SECTOR];
            let index = len / SECTOR;
            self.read(index * SECTOR, &mut last[..len % SECTOR]);
            self.sectors[index] = hold(last);
        }
        self.len = len;
        self.sectors.resize(len.div_ceil(SECTOR), None);
    }

    /// Fills `into` from byte `at` on; false, and nothing is done, when the file ends before.
    pub(super) fn read(&self, at: usize, into: &mut [u8]) -> bool {
        if at.checked_add(into.len()).is_none_or(|end| end > self.len) {
            return false;
        }
        let (mut from, mut rest) = (at, into);
        while !rest.is_empty() {
            let (index, skip) = (from / SECTOR, from % SECTOR);
            let (piece, left) = rest.split_at_mut(rest.len().min(SECTOR - skip));
            match &self.sectors[index] {
                Some(sector) => piece.copy_from_slice(&sector.bytes[skip..skip + piece.len()]),
                None => piece.fill(0),
            }
            from += piece.len();
            rest = left;
        }
        true
    }

    /// Writes, and makes the file longer when it ends before.
    pub(super) fn write(&mut self, at: usize, bytes: &[u8]) {
        if at + bytes.len() > self.len {
            self.resize(at + bytes.len());
        }
        let (mut from, mut rest) = (at, bytes);
        while !rest.is_empty() {
            let (index, skip) = (from / SECTOR, from % SECTOR);
            let (piece, left) = rest.split_at(rest.len().min(SECTOR - skip));
            let mut whole = self.sectors[index].as_ref().map_or([0; SECTOR], |sector| sector.bytes);
            whole[skip..skip + piece.len()].copy_from_slice(piece);
            self.sectors[index] = hold(whole);
            from += piece.len();
            rest = left;
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        self.read(0, &mut bytes);
        bytes
    }

    /// Whether everything from byte `at` on is zero.
    pub(super) fn is_empty_from(&self, at: usize) -> bool {
        let first = at / SECTOR;
        let inside = self.sectors.get(first).and_then(Option::as_ref);
        inside.is_none_or(|sector| sector.bytes[at % SECTOR..].iter().all(|byte| *byte == 0))
            && self.sectors.iter().skip(first + 1).all(Option::is_none)
    }

    fn hash(&self) -> u64 {
        self.sectors.iter().fold(self.len as u64, |hash, held| mix(hash, held.as_ref().map_or(0, |sector| sector.hash)))
    }
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Dir,
    /// A file, by its number.
    File(usize),
}

/// Everything on a disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    pub(super) names: BTreeMap<PathBuf, Node>,
    pub(super) files: BTreeMap<usize, Arc<Content>>,
}

/// The folder that a name stands in.
pub(super) fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

impl Image {
    /// From names and the contents of all files; what lies in a folder that is not there is gone with it.
    pub(super) fn new(mut names: BTreeMap<PathBuf, Node>, content: impl Fn(usize) -> Arc<Content>) -> Self {
        let dirs: Vec<PathBuf> =
            names.iter().filter(|(_, node)| **node == Node::Dir).map(|(path, _)| path.clone()).collect();
        names.retain(|path, _| folder(path) == Path::new("") || dirs.iter().any(|dir| dir == folder(path)));
        let named = names.values().filter_map(|node| match node {
            Node::File(file) => Some((*file, content(*file))),
            Node::Dir => None,
        });
        let files = named.collect();
        Self { names, files }
    }

    pub(super) fn hash(&self) -> u64 {
        self.names.iter().fold(0, |hash, (path, node)| {
            let (words, rest) = path.as_os_str().as_encoded_bytes().as_chunks();
            let hash =
                words.iter().fold(mix(hash, rest.len() as u64), |hash, word| mix(hash, u64::from_be_bytes(*word)));
            let hash = rest.iter().fold(hash, |hash, byte| mix(hash, u64::from(*byte)));
            match node {
                Node::Dir => mix(hash, 1),
                // Which files are one under two names makes no difference to what is read.
                Node::File(file) => mix(hash, self.files[file].hash()),
            }
        })
    }

    /// The file of a name.
    pub(super) fn file(&self, path: &Path) -> Option<&Arc<Content>> {
        match self.names.get(path)? {
            Node::File(file) => self.files.get(file),
            Node::Dir => None,
        }
    }

    /// Another content under a name.
    pub(super) fn set(&mut self, path: &Path, content: Content) {
        if let Some(Node::File(file)) = self.names.get(path) {
            self.files.insert(*file, Arc::new(content));
        }
    }
}
