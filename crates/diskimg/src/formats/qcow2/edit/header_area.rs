//! The header's cluster: the fields, the extensions, the name of the backing file.
//!
//! ```text
//!   sector 0   header: where the name is   extensions: format of the backing file, …
//!   sector 1…  extensions …                name of the backing file
//! ```
//!
//! Sector 0 is written as a whole, so one write of it replaces the old fields, extensions and name by
//! the new ones. What the new header needs in other sectors is written before that, where the old
//! header has nothing. If extensions must move that are there, the header does without the table of
//! feature names for the time being, which is informative and too long for sector 0:
//!
//! ```text
//!   written                                        then
//!   the new name, in free space                    nothing refers to it
//!   sector 0, with the new fields and extensions,  the header is new, without feature names
//!     without the table of feature names
//!   extensions in other sectors                    nothing refers to them
//!   sector 0                                       the header is complete
//! ```
//!
//! If the new extensions are too long for sector 0 even so, and the old ones are not, the old header
//! does without that table first.

use super::{SECTOR, clear_unknown_autoclear};
use crate::error::{Error, Result};
use crate::formats::qcow2::extensions::{
    BITMAPS, BitmapDirectory, FEATURE_NAMES, encode, encode_end, walk,
};
use crate::formats::qcow2::header::{Autoclear, RawHeader};
use crate::storage::edit::{Edit, Edits, Storage};
use crate::storage::number::{to_index, to_u32, to_u64, to_usize};
use std::ops::Range;
use zerocopy::FromBytes;

const NO_SPACE: &str = "No space left in the file header";

/// Reads the header's cluster of an image with clusters of `cluster_size` bytes.
///
/// # Errors
/// Returns [`Io`](crate::ErrorKind::Io) if reading fails.
pub(super) fn read(storage: &dyn Storage, cluster_size: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; to_usize(cluster_size)];
    let stored = to_usize(storage.current_len().min(cluster_size));
    storage
        .read_exact_at(&mut bytes[..stored], 0)
        .map_err(|e| Error::io("cannot read", e).in_structure("header"))?;
    Ok(bytes)
}

/// Returns the modifications that make a change of what the header's cluster contains effective, all
/// at once.
///
/// # Errors
/// As [`read`] and [`HeaderArea::replace`], and the errors of `change`.
pub(super) fn edits(
    storage: &dyn Storage,
    cluster_size: u64,
    change: impl FnOnce(&mut Contents) -> Result<()>,
) -> Result<Edits> {
    let bytes = read(storage, cluster_size)?;
    let area = HeaderArea::parse(&bytes)?;
    let mut new = area.contents.clone();
    change(&mut new)?;
    area.replace(&new)
}

/// What the header's cluster contains.
#[derive(Debug, Clone)]
pub(super) struct Contents {
    /// The fields that are known.
    pub(super) fields: RawHeader,
    /// Fields that a later version has after them.
    later_fields: Vec<u8>,
    /// Types and contents.
    extensions: Vec<(u32, Vec<u8>)>,
    /// Name of the backing file, empty if there is none.
    pub(super) name: Vec<u8>,
}

impl Contents {
    /// Returns an extension.
    #[cfg(test)]
    pub(super) fn extension(&self, wanted: u32) -> Option<&[u8]> {
        let found = self.extensions.iter().find(|(kind, _)| *kind == wanted);
        found.map(|(_, data)| data.as_slice())
    }

    /// Removes an extension, which may be there several times.
    pub(super) fn remove(&mut self, unwanted: u32) {
        self.extensions.retain(|(kind, _)| *kind != unwanted);
    }

    /// Sets an extension: in the place of the one that is there, otherwise as the first one after that
    /// of bitmaps if `is_first` is true, and as the last one if not.
    pub(super) fn set(&mut self, wanted: u32, data: &[u8], is_first: bool) {
        let place = self.extensions.iter().position(|(kind, _)| *kind == wanted);
        self.remove(wanted);
        let bitmaps = self.extensions.iter().take_while(|(kind, _)| *kind == BITMAPS).count();
        let place = place.unwrap_or(if is_first { bitmaps } else { self.extensions.len() });
        self.extensions.insert(place.min(self.extensions.len()), (wanted, data.to_vec()));
    }

    /// Sets the location of the bitmap directory, which is then in sector 0.
    pub(super) fn set_bitmaps(&mut self, directory: Option<BitmapDirectory>) {
        self.remove(BITMAPS);
        if let Some(directory) = directory {
            self.extensions.insert(0, (BITMAPS, directory.encode()));
        }
        let mut autoclear = Autoclear::from_bits_retain(self.fields.autoclear_features.get());
        autoclear.set(Autoclear::BITMAPS, directory.is_some());
        self.fields.autoclear_features = autoclear.bits().into();
    }

    /// Removes the fields that version 2 and version 3, as it is known, do not have.
    pub(super) fn remove_later_fields(&mut self) {
        self.later_fields.clear();
    }

    /// Returns the bytes to store, without the name.
    fn encode(&self, with_feature_names: bool) -> Vec<u8> {
        let mut out = [self.fields.encoded(), &self.later_fields].concat();
        for (kind, data) in &self.extensions {
            if *kind != FEATURE_NAMES || with_feature_names {
                encode(&mut out, *kind, data);
            }
        }
        encode_end(&mut out);
        out
    }
}

/// The header's cluster as it is stored.
#[derive(Debug)]
pub(super) struct HeaderArea<'a> {
    bytes: &'a [u8],
    /// What it contains.
    pub(super) contents: Contents,
    /// What the header refers to.
    used: [Range<usize>; 2],
}

/// A header's cluster as it will be: the fields and the extensions, the location of the name.
struct NewHeader {
    bytes: Vec<u8>,
    name_at: usize,
}

impl<'a> HeaderArea<'a> {
    /// Parses a header's cluster.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if it is damaged.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self> {
        let damaged = || Error::corrupt("header", "it is damaged");
        let fields = RawHeader::parse(bytes)?;
        let len = fields.header_length.get();
        let stored = bytes.get(..to_index(len)).ok_or_else(damaged)?;
        let name_at = to_usize(fields.backing_file_offset.get());
        let name = name_at..name_at.saturating_add(to_index(fields.backing_file_size.get()));
        let contents = Contents {
            fields,
            later_fields: stored.get(RawHeader::BYTES..).unwrap_or_default().to_vec(),
            extensions: Vec::new(),
            name: bytes.get(name.clone()).ok_or_else(damaged)?.to_vec(),
        };
        let mut area = Self { bytes, contents, used: [0..0, name] };
        let end = if name_at == 0 { bytes.len() } else { name_at };
        let end = walk(bytes, u64::from(len), to_u64(end), |_, kind, data| {
            area.contents.extensions.push((kind, data.to_vec()));
            Ok(())
        })?;
        area.used[0] = to_index(len)..to_usize(end);
        Ok(area)
    }

    /// Returns true if bytes can be written to an offset without changing what the header refers to
    /// beyond sector 0.
    fn is_free(&self, at: usize, bytes: &[u8]) -> bool {
        self.used.iter().all(|used| {
            let start = used.start.max(at).max(SECTOR);
            let end = used.end.min(at + bytes.len());
            start >= end || self.bytes[start..end] == bytes[start - at..end - at]
        })
    }

    /// Returns an offset from `min` on where the name can be written before the header refers to it:
    /// where it is, if possible.
    fn place_name(&self, name: &[u8], min: usize) -> Option<usize> {
        let fits = |&at: &usize| at + name.len() <= self.bytes.len() && self.is_free(at, name);
        let is_same = self.contents.name == name;
        let same = Some(self.used[1].start).filter(|&at| is_same && at >= min);
        let after = self.used.iter().map(|used| used.end.max(min));
        same.into_iter().chain(std::iter::once(min)).chain(after).find(fits)
    }

    /// Returns the modifications that replace the contents, all at once.
    ///
    /// # Errors
    /// Returns [`Limit`](crate::ErrorKind::Limit) if the cluster is too small for them, and
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if it is too small for the old and the new ones
    /// at once.
    pub(super) fn replace(&self, new: &Contents) -> Result<Edits> {
        if let Some(edits) = self.replace_at_once(new)? {
            return Ok(edits);
        }
        // There may be room without the old table of feature names, and with the old name behind the
        // new extensions.
        let brief = self.contents.encode(false);
        let name = self.contents.name.as_slice();
        let end = brief.len().max(new.encode(true).len());
        if brief.len() <= SECTOR
            && let Some(name_at) = self.place_name(name, end)
        {
            let mut moved = self.bytes.to_vec();
            moved[name_at..name_at + name.len()].copy_from_slice(name);
            let reduced = HeaderArea {
                bytes: &moved,
                contents: self.contents.clone(),
                used: [self.used[0].start..brief.len(), name_at..name_at + name.len()],
            };
            let mut all = self.edits(name, &[NewHeader { bytes: brief, name_at }])?;
            if let Some(edits) = reduced.replace_at_once(new)? {
                for phase in edits.phases() {
                    all.phase(phase.iter().cloned());
                }
                return Ok(all);
            }
        }
        Err(Error::unsupported("its header has no room for the old and the new contents at once")
            .hint("convert it to a new image"))
    }

    /// As [`replace`](Self::replace), but returns `None` if there is no room for both contents.
    fn replace_at_once(&self, new: &Contents) -> Result<Option<Edits>> {
        let name = new.name.as_slice();
        let complete = new.encode(true);
        let brief = new.encode(false);
        let brief_fits = brief.len() <= SECTOR;
        let max = self.bytes.len();
        if complete.len() + name.len() <= max
            && let Some(name_at) = self.place_name(name, complete.len())
        {
            let header = NewHeader { bytes: complete, name_at };
            if self.is_free(SECTOR, header.beyond_sector()) {
                return self.edits(name, &[header]).map(Some);
            }
            if brief_fits {
                let headers = [NewHeader { bytes: brief, name_at }, header];
                return self.edits(name, &headers).map(Some);
            }
        } else if brief.len() + name.len() > max {
            return Err(Error::limit(NO_SPACE));
        } else if brief_fits && let Some(name_at) = self.place_name(name, brief.len()) {
            return self.edits(name, &[NewHeader { bytes: brief, name_at }]).map(Some);
        }
        Ok(None)
    }

    /// Returns the modifications that write the name, and then one header after the other.
    fn edits(&self, name: &[u8], headers: &[NewHeader]) -> Result<Edits> {
        let mut edits = Edits::new();
        for (number, header) in headers.iter().enumerate() {
            let mut before = Vec::new();
            let at = header.name_at.max(SECTOR);
            if number == 0 && at < header.name_at + name.len() {
                before.push(Edit::Write {
                    offset: to_u64(at),
                    bytes: name[at - header.name_at..].to_vec(),
                });
            }
            if !header.beyond_sector().is_empty() {
                let bytes = header.beyond_sector().to_vec();
                before.push(Edit::Write { offset: to_u64(SECTOR), bytes });
            }
            let bytes = header.first_sector(name)?;
            edits.phase(before).phase([Edit::Write { offset: 0, bytes }]);
        }
        Ok(edits)
    }
}

impl NewHeader {
    /// Returns the extensions beyond sector 0.
    fn beyond_sector(&self) -> &[u8] {
        self.bytes.get(SECTOR..).unwrap_or_default()
    }

    /// Returns sector 0 with a reference to the name.
    fn first_sector(&self, name: &[u8]) -> Result<Vec<u8>> {
        let mut sector = self.bytes[..self.bytes.len().min(SECTOR)].to_vec();
        sector.resize(SECTOR, 0);
        if self.name_at < SECTOR {
            let len = name.len().min(SECTOR - self.name_at);
            sector[self.name_at..self.name_at + len].copy_from_slice(&name[..len]);
        }
        let (raw, _) = RawHeader::mut_from_prefix(&mut sector)
            .map_err(|_| Error::corrupt("header", "it is damaged"))?;
        let offset = if name.is_empty() { 0 } else { to_u64(self.name_at) };
        raw.backing_file_offset = offset.into();
        raw.backing_file_size = to_u32(name.len()).into();
        clear_unknown_autoclear(raw);
        Ok(sector)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::qcow2::extensions::BACKING_FORMAT;
    use crate::storage::edit::MemoryStorage;

    const RAW: &[u8] = b"raw";

    /// Returns a header's cluster of `size` bytes with these extensions, with a reference to `name`
    /// after them.
    fn cluster(size: usize, version: u32, extensions: &[(u32, usize)], name: &str) -> Vec<u8> {
        let mut bytes = vec![0; if version == 2 { 72 } else { 112 }];
        bytes[..4].copy_from_slice(b"QFI\xfb");
        bytes[4..8].copy_from_slice(&version.to_be_bytes());
        if version == 3 {
            bytes[100..104].copy_from_slice(&112u32.to_be_bytes());
        }
        for &(kind, len) in extensions {
            encode(&mut bytes, kind, &vec![7; len]);
        }
        encode_end(&mut bytes);
        if !name.is_empty() {
            let at = bytes.len() as u64;
            bytes[8..16].copy_from_slice(&at.to_be_bytes());
            bytes[16..20].copy_from_slice(&(name.len() as u32).to_be_bytes());
            bytes.extend_from_slice(name.as_bytes());
        }
        bytes.resize(size, 0);
        bytes
    }

    /// Returns the version, the name and the extensions of a header.
    fn contents(bytes: &[u8]) -> (u32, String, Vec<(u32, Vec<u8>)>) {
        let contents = HeaderArea::parse(bytes).expect("parses").contents;
        let name = String::from_utf8_lossy(&contents.name).into_owned();
        (contents.fields.version.get(), name, contents.extensions)
    }

    const NAMES: (u32, usize) = (FEATURE_NAMES, 384);

    const LISTS: [&[(u32, usize)]; 5] = [
        &[],
        &[NAMES],
        &[(BACKING_FORMAT, 3), NAMES],
        &[(BACKING_FORMAT, 9), (0x1234, 30), NAMES, (0x2385_2875, 24)],
        &[NAMES, (BACKING_FORMAT, 5)],
    ];

    /// Calls `each` with headers of all sizes, lists of extensions and names.
    fn for_each_header(version: u32, mut each: impl FnMut(&[u8])) {
        let long = "n".repeat(1000);
        let names = ["", "a", "backing file.img", &long[..300], &long];
        for (size, list) in [512, 1024, 4096, 65536].iter().flat_map(|s| LISTS.map(|l| (*s, l))) {
            for name in names {
                let before = cluster(size.max(4096), version, list, name);
                let area = HeaderArea::parse(&before).expect("parses");
                if area.used.iter().all(|used| used.end <= size) {
                    each(&before[..size]);
                }
            }
        }
    }

    /// Replaces the contents of a header, and verifies that it is the old or the new one after every
    /// write, as to version and name. Returns the new one, or `None` if there is no room.
    fn replace(before: &[u8], change: impl Fn(&mut Contents)) -> Option<Vec<u8>> {
        let area = HeaderArea::parse(before).expect("parses");
        let mut new = area.contents.clone();
        change(&mut new);
        let Ok(edits) = area.replace(&new) else {
            assert!(before.len() < 4096);
            return None;
        };
        let (old, storage) = (contents(before), MemoryStorage::new(before.to_vec()));
        let new = (new.fields.version.get(), String::from_utf8(new.name).expect("text"));
        let mut has_switched = false;
        for edit in edits.phases().iter().flatten() {
            let mut one = Edits::new();
            one.phase([edit.clone()]);
            one.apply(&storage).expect("applies");
            let now = contents(&storage.to_vec());
            let is_new = (now.0, now.1.clone()) == new;
            has_switched |= is_new && now != old;
            // Feature names are informative.
            let others = |list: &[_]| without(list, &[FEATURE_NAMES]);
            let is_old = (now.0, &now.1) == (old.0, &old.1) && others(&now.2) == others(&old.2);
            assert!(is_old && !has_switched || is_new, "{now:?}");
        }
        Some(storage.to_vec())
    }

    fn without(list: &[(u32, Vec<u8>)], kinds: &[u32]) -> Vec<(u32, Vec<u8>)> {
        list.iter().filter(|(kind, _)| !kinds.contains(kind)).cloned().collect()
    }

    #[test]
    fn the_header_has_the_old_or_the_new_name_and_format_after_every_write() {
        let long = "n".repeat(1000);
        let mut changed = 0;
        for name in ["", "a", "backing file.img", &long[..300], &long] {
            for_each_header(3, |before| {
                let has_format = !name.is_empty();
                let after = replace(before, |new| {
                    new.name = name.as_bytes().to_vec();
                    match has_format {
                        true => new.set(BACKING_FORMAT, RAW, true),
                        false => new.remove(BACKING_FORMAT),
                    }
                });
                let Some(after) = after else { return };
                changed += 1;
                let area = HeaderArea::parse(&after).expect("parses");
                assert_eq!(area.contents.name, name.as_bytes());
                assert_eq!(area.contents.extension(BACKING_FORMAT), has_format.then_some(RAW));
                let (old, new) = (contents(before).2, area.contents.extensions);
                let others = |list: &[_]| without(list, &[BACKING_FORMAT]);
                assert!(others(&new) == others(&old) || before.len() < 4096);
            });
        }
        assert!(changed > 150, "{changed}");
    }

    #[test]
    fn long_extensions_replace_short_ones_and_the_other_way_around() {
        for (from, to) in [(20, 1000), (1000, 20), (20, 300), (300, 20)] {
            let before = cluster(4096, 3, &[(1, from), NAMES], "backing file.img");
            let after = replace(&before, |new| {
                new.set(1, &vec![3; to], true);
                new.name = b"new".to_vec();
            });
            let after = contents(&after.expect("fits"));
            let wanted = vec![(1, vec![3; to]), (FEATURE_NAMES, vec![7; 384])];
            assert_eq!(after, (3, "new".to_owned(), wanted));
        }
    }

    #[test]
    fn the_header_has_the_old_or_the_new_version_after_every_write() {
        let mut changed = 0;
        for (from, to) in [(2, 3), (3, 2)] {
            for_each_header(from, |before| {
                let after = replace(before, |new| {
                    new.fields.version = to.into();
                    new.fields.header_length = (if to == 2 { 72 } else { 112 }).into();
                    new.fields.refcount_order = 4.into();
                    match to {
                        2 => new.remove(FEATURE_NAMES),
                        _ => new.set(FEATURE_NAMES, &[1; 384], false),
                    }
                });
                let Some(after) = after else { return };
                changed += 1;
                let ((_, old_name, old), (version, name, new)) =
                    (contents(before), contents(&after));
                assert_eq!((version, name), (to, old_name));
                assert_eq!(without(&new, &[FEATURE_NAMES]), without(&old, &[FEATURE_NAMES]));
                let has_names = new.iter().any(|(kind, _)| *kind == FEATURE_NAMES);
                assert!(has_names == (to == 3) || before.len() < 4096);
            });
        }
        assert!(changed > 60, "{changed}");
    }

    #[test]
    fn a_header_without_room_says_what_to_do() {
        let before = cluster(1024, 3, &[(0x1234, 200), (0x5678, 200)], "");
        let area = HeaderArea::parse(&before).expect("parses");
        let mut new = area.contents.clone();
        new.set_bitmaps(Some(BitmapDirectory { count: 1, bytes: 32, offset: 0x50000 }));
        let error = area.replace(&new).expect_err("has no room").to_string();
        assert!(error.contains("convert it to a new image"), "{error}");
    }

    /// Each header has the old or the new directory, and never another name.
    #[test]
    fn one_write_of_sector_0_changes_the_bitmap_directory() {
        let directory = |offset| BitmapDirectory { count: 1, bytes: 32, offset };
        let bitmaps = (BITMAPS, 24);
        let lists: [&[(u32, usize)]; 6] = [
            &[],
            &[NAMES],
            &[NAMES, bitmaps],
            &[(BACKING_FORMAT, 5), (0x4441_5441, 200), NAMES, bitmaps],
            &[bitmaps, (BACKING_FORMAT, 5), NAMES],
            &[(0x1234, 300), NAMES, bitmaps],
        ];
        let names = ["", "backing.img", &"n".repeat(1000)];
        for (list, name, wanted) in lists.iter().flat_map(|list| {
            let wanted = [None, Some(directory(0x50000)), Some(directory(0x60000))];
            names.iter().flat_map(move |name| wanted.map(|wanted| (*list, *name, wanted)))
        }) {
            let before = cluster(4096, 3, list, name);
            let area = HeaderArea::parse(&before).expect("parses");
            let mut new = area.contents.clone();
            new.set_bitmaps(wanted);
            new.fields.refcount_table_offset = 0x70000.into();
            let edits = area.replace(&new).expect("has room");
            let storage = MemoryStorage::new(before.clone());
            let mut switches = 0;
            let mut last = area.contents.clone();
            for edit in edits.phases().iter().flatten() {
                let mut one = Edits::new();
                one.phase([edit.clone()]);
                one.apply(&storage).expect("applies");
                let bytes = storage.to_vec();
                let found = HeaderArea::parse(&bytes).expect("parses").contents;
                assert_eq!(found.name, name.as_bytes());
                let essential = |contents: &Contents| {
                    let raw = contents.fields;
                    let fields = (raw.refcount_table_offset, raw.autoclear_features);
                    (fields, without(&contents.extensions, &[FEATURE_NAMES]))
                };
                switches += usize::from(essential(&found) != essential(&last));
                assert!(essential(&found) == essential(&last) || switches == 1);
                last = found;
            }
            assert_eq!(switches, 1);
            assert!(last.extensions == new.extensions);
        }
    }
}
