//! The journal's bytes: words of 64 bits, whose places follow from the header alone.
//!
//! The file has a header, names, a history, and one page a worker. The module is pure: bytes in, data out, and every
//! byte is checked before its use. A word is written at once or not at all, so each word of a killed process is
//! whole. A name is longer than a word, so it has a checksum.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// The number is in the byte order of the machine: a file of another byte order is rejected.
const MAGIC: u64 = u64::from_ne_bytes(*b"moontide");
const VERSION: u64 = 1;

pub(super) const WORD: usize = 8;
/// The header has a page of memory, so that workers share none.
const HEADER_WORDS: usize = 512;
const HEADER_CHECKED: usize = 7;
const HEADER_SUM: usize = 7;
/// Not zero after the process was asked to stop.
pub(super) const STOPPING: usize = 8;

/// A consumer group and a topic; the first word has their lengths and checksum.
pub(super) const NAME_WORDS: usize = 128;
const NAME_BYTES: usize = (NAME_WORDS - 1) * WORD;
const HISTORY_WORDS: usize = 3;
/// The word of a history record with its crashes and the checksum; 0 for a forgotten record.
pub(super) const CRASHES: usize = 2;
const CRASHES_MASK: u64 = 0x7fff_ffff;
/// The message ran alone in one of the crashes.
const PROVEN: u64 = 1 << 31;
/// The first word names the running message's place; the second is its offset.
pub(super) const SLOT_WORDS: usize = 2;

pub(super) const NAMES_MAX: usize = 1024;
const HISTORY_MAX: usize = 16 << 10;
/// The most calls that one worker may have open.
pub(super) const SLOTS: usize = 16 << 10;
const PAGES_MAX: usize = 4096;
pub(super) const FILE_BYTES_MAX: u64 = 256 << 20;

const RUNNING: u64 = 1;
const ALONE: u64 = 2;
/// The state is above 24 bits of name and 32 bits of partition.
const STATE_SHIFT: u32 = 56;
const NAME_SHIFT: u32 = 32;
const NAME_MASK: u64 = 0xff_ffff;

/// A message that was running in crashes, and has not finished since.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Crashed {
    pub(super) group: String,
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) crashes: u32,
    /// The message ran alone in one of the crashes.
    pub(super) alone: bool,
}

/// The contents of a file that a process left behind.
#[derive(Debug, Default)]
pub(super) struct Left {
    names: Vec<Option<(String, String)>>,
    history: Vec<Entry>,
    /// Empty if the process was asked to stop, or if the machine went down with it.
    running: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    name: usize,
    partition: i32,
    offset: i64,
    crashes: u32,
    alone: bool,
}

/// The places in a file of this many pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pages: usize,
}

impl Layout {
    pub(super) fn of(pages: usize) -> Self {
        Self {
            pages: pages.clamp(1, PAGES_MAX),
        }
    }

    pub(super) fn name(index: usize) -> Range<usize> {
        let start = HEADER_WORDS + index * NAME_WORDS;
        start..start + NAME_WORDS
    }

    pub(super) fn history(index: usize) -> usize {
        HEADER_WORDS + NAMES_MAX * NAME_WORDS + index * HISTORY_WORDS
    }

    pub(super) fn page(worker: usize) -> usize {
        Self::history(HISTORY_MAX) + worker * SLOTS * SLOT_WORDS
    }

    pub(super) fn words(self) -> usize {
        Self::page(self.pages)
    }

    fn header(self, boot: u64) -> [u64; HEADER_WORDS] {
        let mut header = [0; HEADER_WORDS];
        let sizes = [MAGIC, VERSION, NAMES_MAX as u64, HISTORY_MAX as u64];
        header[..4].copy_from_slice(&sizes);
        header[4] = SLOTS as u64;
        header[5] = self.pages as u64;
        header[6] = boot;
        header[HEADER_SUM] = u64::from(checksum(&header[..HEADER_CHECKED]));
        header
    }

    /// A new file with this history. Records that do not fit are forgotten, those with the fewest crashes first.
    pub(super) fn image(self, boot: u64, crashed: &[Crashed]) -> Vec<u8> {
        let mut words = vec![0; self.words()];
        words[..HEADER_WORDS].copy_from_slice(&self.header(boot));
        for (index, name) in names(crashed).iter().enumerate() {
            if let Some(name) = encode_name(&name.0, &name.1) {
                words[Self::name(index)].copy_from_slice(&name);
            }
        }
        for (index, (name, one)) in records(crashed).enumerate() {
            let at = Self::history(index);
            words[at] = (name as u64) << NAME_SHIFT | u64::from(one.partition as u32);
            words[at + 1] = one.offset as u64;
            words[at + CRASHES] = encode_crashes(&words[at..at + CRASHES], one.crashes, one.alone);
        }
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }
}

/// The names of a history, in the order of their numbers.
pub(super) fn names(crashed: &[Crashed]) -> Vec<(String, String)> {
    let mut names: Vec<_> = crashed
        .iter()
        .map(|one| (one.group.clone(), one.topic.clone()))
        .filter(|(group, topic)| encode_name(group, topic).is_some())
        .collect();
    names.sort();
    names.dedup();
    // Leaves room for the names of this process.
    names.truncate(NAMES_MAX / 2);
    names
}

/// The history in the order of its records, each with the number of its name.
pub(super) fn records(crashed: &[Crashed]) -> impl Iterator<Item = (usize, &Crashed)> {
    let numbers: HashMap<_, _> = names(crashed)
        .into_iter()
        .enumerate()
        .map(|(number, name)| (name, number))
        .collect();
    crashed
        .iter()
        .filter_map(move |one| {
            let name = (one.group.clone(), one.topic.clone());
            Some((*numbers.get(&name)?, one))
        })
        .take(HISTORY_MAX)
}

/// `None` if the names do not fit.
pub(super) fn encode_name(group: &str, topic: &str) -> Option<[u64; NAME_WORDS]> {
    let text = [group.as_bytes(), topic.as_bytes()].concat();
    if text.len() > NAME_BYTES || topic.is_empty() {
        return None;
    }
    let mut words = [0; NAME_WORDS];
    for (word, chunk) in words[1..].iter_mut().zip(text.chunks(WORD)) {
        let mut bytes = [0; WORD];
        bytes[..chunk.len()].copy_from_slice(chunk);
        *word = u64::from_ne_bytes(bytes);
    }
    let lengths = (group.len() as u64) << 16 | topic.len() as u64;
    words[0] = u64::from(checksum(&words[1..]) ^ lengths as u32) << 32 | lengths;
    Some(words)
}

fn decode_name(words: &[u64]) -> Option<(String, String)> {
    let lengths = words[0] & 0xffff_ffff;
    let (group, topic) = ((lengths >> 16) as usize, (lengths & 0xffff) as usize);
    let is_whole = (words[0] >> 32) as u32 == checksum(&words[1..]) ^ lengths as u32;
    if topic == 0 || group + topic > NAME_BYTES || !is_whole {
        return None;
    }
    let bytes: Vec<u8> = words[1..]
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    let text = |range| String::from_utf8(Vec::from(bytes.get::<Range<usize>>(range)?)).ok();
    Some((text(0..group)?, text(group..group + topic)?))
}

/// The first word of a slot for this running message.
pub(super) fn slot_word(name: usize, partition: i32, alone: bool) -> u64 {
    let state = if alone { ALONE } else { RUNNING };
    state << STATE_SHIFT | (name as u64) << NAME_SHIFT | u64::from(partition as u32)
}

fn decode_slot(words: &[u64]) -> Option<Entry> {
    let state = words[0] >> STATE_SHIFT;
    if state != RUNNING && state != ALONE {
        return None;
    }
    Some(Entry {
        name: (words[0] >> NAME_SHIFT & NAME_MASK) as usize,
        partition: words[0] as u32 as i32,
        offset: words[1] as i64,
        crashes: 1,
        alone: state == ALONE,
    })
}

/// The word with the crashes of a record that begins with these words. It is whole by itself, so that it can change.
pub(super) fn encode_crashes(place: &[u64], crashes: u32, alone: bool) -> u64 {
    let word = u64::from(crashes) & CRASHES_MASK | if alone { PROVEN } else { 0 };
    u64::from(checksum(&[place[0], place[1], word])) << 32 | word
}

/// The number of crashes, and whether the message ran alone in one.
pub(super) fn crashes(word: u64) -> (u32, bool) {
    ((word & CRASHES_MASK) as u32, word & PROVEN != 0)
}

fn decode_record(words: &[u64]) -> Option<Entry> {
    let (crashes, alone) = crashes(words[CRASHES]);
    if crashes == 0 || words[CRASHES] != encode_crashes(words, crashes, alone) {
        return None;
    }
    Some(Entry {
        name: (words[0] >> NAME_SHIFT) as usize,
        partition: words[0] as u32 as i32,
        offset: words[1] as i64,
        crashes,
        alone,
    })
}

/// `None` for bytes that are not a whole file of this version.
pub(super) fn decode(bytes: &[u8], boot: u64) -> Option<Left> {
    let words: Vec<u64> = bytes
        .chunks_exact(WORD)
        .filter_map(|chunk| chunk.try_into().ok().map(u64::from_ne_bytes))
        .collect();
    let header = words.get(..HEADER_WORDS)?;
    let pages = usize::try_from(header[5]).ok()?;
    let layout = Layout { pages };
    let is_ours = (1..=PAGES_MAX).contains(&pages)
        && layout.header(header[6])[..=HEADER_SUM] == header[..=HEADER_SUM]
        && bytes.len() == layout.words() * WORD;
    if !is_ours {
        return None;
    }
    let names: Vec<_> = (0..NAMES_MAX)
        .map(|index| decode_name(&words[Layout::name(index)]))
        .collect();
    let is_sane = |entry: &Entry| {
        let name = names.get(entry.name).is_some_and(Option::is_some);
        name && entry.partition >= 0 && entry.offset >= 0
    };
    let records = words[Layout::history(0)..Layout::page(0)].chunks_exact(HISTORY_WORDS);
    let history = records.filter_map(decode_record).filter(is_sane).collect();
    let mut running = Vec::new();
    if header[STOPPING] == 0 && header[6] == boot {
        let slots = words[Layout::page(0)..].chunks_exact(SLOT_WORDS);
        running = slots.filter_map(decode_slot).filter(is_sane).collect();
    }
    Some(Left {
        names,
        history,
        running,
    })
}

impl Left {
    /// The history, with the present crash added to the messages that were running; the worst records first.
    pub(super) fn counted(self) -> Vec<Crashed> {
        let mut all: BTreeMap<_, (u32, bool)> = BTreeMap::new();
        let key = |entry: &Entry| (entry.name, entry.partition, entry.offset);
        for entry in &self.history {
            all.insert(key(entry), (entry.crashes, entry.alone));
        }
        let mut running: BTreeMap<_, bool> = BTreeMap::new();
        for entry in &self.running {
            // Several listeners may have run the same message: that counts as one crash.
            *running.entry(key(entry)).or_default() |= entry.alone;
        }
        for (key, alone) in running {
            let (crashes, was_alone) = all.entry(key).or_default();
            *crashes = crashes.saturating_add(1);
            *was_alone |= alone;
        }
        let crashed = |((name, partition, offset), (crashes, alone)): (_, (u32, bool))| {
            let (group, topic) = self.names.get::<usize>(name)?.clone()?;
            Some(Crashed {
                group,
                topic,
                partition,
                offset,
                crashes,
                alone,
            })
        };
        let mut crashed: Vec<_> = all.into_iter().filter_map(crashed).collect();
        crashed.sort_by(|one, other| {
            let rank = |one: &Crashed| (!one.alone, u32::MAX - one.crashes);
            rank(one).cmp(&rank(other)).then_with(|| one.cmp(other))
        });
        crashed
    }
}

impl Crashed {
    pub(super) fn is_suspect(&self, crashes_max: u32) -> bool {
        self.alone || self.crashes >= crashes_max
    }
}

fn checksum(words: &[u64]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for word in words {
        hasher.update(&word.to_ne_bytes());
    }
    hasher.finalize()
}
