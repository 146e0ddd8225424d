//! Changing the header's cluster: fields, header extensions and the name of the backing file.
//!
//! ```text
//!   sector 0   header: where the name is   extensions: bitmaps, format of the backing file, …
//!   sector 1…  extensions …                name of the backing file
//! ```
//!
//! Sector 0 is written as a whole, so one write of it replaces the old fields, name and extensions by
//! the new ones. What the new header needs in other sectors is written before that, where the old
//! header has nothing. If extensions must move that are there, the header does without the table of
//! feature names for the time being, which is informative and too long for sector 0:
//!
//! ```text
//!   written                                        then
//!   the new name, in free space                    nothing refers to it
//!   sector 0, with the new name and extensions,    the header is new, without feature names
//!     without the table of feature names
//!   extensions in other sectors                    nothing refers to them
//!   sector 0                                       the header is complete
//! ```

use super::{SECTOR, clear_unknown_autoclear};
use crate::error::{Error, Result};
use crate::formats::qcow2::extensions::{
    BACKING_FORMAT, BITMAPS, BitmapDirectory, FEATURE_NAMES, encode, encode_end, walk,
};
use crate::formats::qcow2::header::{Autoclear, MAX_BACKING_NAME, RawHeader, V2_HEADER_BYTES};
use crate::model::backing::Backing;
use crate::storage::edit::{Edit, Edits, Storage};
use crate::storage::number::{to_index, to_u32, to_u64, to_usize};
use std::ops::Range;
use zerocopy::FromBytes;

const NO_SPACE: &str = "No space left in the file header";

/// Returns the modifications that make the header of an image with clusters of `cluster_size` bytes
/// refer to another backing file, or to none.
///
/// # Errors
/// As [`backing_edits`](crate::model::mutable::MutableLayer::backing_edits).
pub(super) fn backing_edits(
    storage: &dyn Storage,
    cluster_size: u64,
    backing: Option<&Backing>,
) -> Result<Edits> {
    edits(storage, cluster_size, |header| {
        let name = backing.map_or(&[][..], |backing| backing.name.as_bytes());
        let format = backing.and_then(|backing| backing.format.as_deref());
        header.set_backing(name, format.map(str::as_bytes))
    })
}

/// Returns the modifications that change the header of an image with clusters of `cluster_size`
/// bytes.
///
/// # Errors
/// - [`Unsupported`](crate::ErrorKind::Unsupported) if the old and the new header do not fit into
///   the cluster at once;
/// - [`Limit`](crate::ErrorKind::Limit) if the new header does not fit into it;
/// - [`Corrupt`](crate::ErrorKind::Corrupt) if the header is damaged;
/// - [`Io`](crate::ErrorKind::Io) if it cannot be read;
/// - the errors of `change`.
pub(super) fn edits(
    storage: &dyn Storage,
    cluster_size: u64,
    change: impl FnOnce(&mut Contents) -> Result<()>,
) -> Result<Edits> {
    let mut bytes = vec![0; to_usize(cluster_size)];
    let stored = to_usize(storage.current_len().min(cluster_size));
    storage
        .read_exact_at(&mut bytes[..stored], 0)
        .map_err(|e| Error::io("cannot read", e).in_structure("header"))?;
    let old = OldHeader::parse(&bytes)?;
    let mut contents = old.contents.clone();
    change(&mut contents)?;
    old.replace(&contents)
}

/// What the header's cluster contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Contents {
    /// The fields before the extensions.
    fields: Vec<u8>,
    /// The extensions: types and contents.
    extensions: Vec<(u32, Vec<u8>)>,
    /// The name of the backing file.
    name: Vec<u8>,
}

impl Contents {
    /// Changes fields. The location of the name is set later.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut RawHeader)) -> Result<()> {
        // The header of an old image may be shorter.
        let len = self.fields.len();
        self.fields.resize(len.max(size_of::<RawHeader>()), 0);
        let (raw, _) = RawHeader::mut_from_prefix(&mut self.fields).map_err(|_| damaged())?;
        change(raw);
        self.fields.truncate(len);
        Ok(())
    }

    /// Sets the name and the format of the backing file.
    ///
    /// # Errors
    /// Returns [`Limit`](crate::ErrorKind::Limit) if the name is too long.
    fn set_backing(&mut self, name: &[u8], format: Option<&[u8]>) -> Result<()> {
        if name.len() > to_index(MAX_BACKING_NAME) {
            let message = format!("its name has more than {MAX_BACKING_NAME} bytes");
            return Err(Error::limit(message));
        }
        self.name = name.to_vec();
        let old = self.extensions.iter().position(|(kind, _)| *kind == BACKING_FORMAT);
        self.extensions.retain(|(kind, _)| *kind != BACKING_FORMAT);
        if let Some(format) = format {
            let after_bitmaps = self.extensions.iter().take_while(|(kind, _)| *kind == BITMAPS);
            let at = old.unwrap_or(after_bitmaps.count());
            self.extensions.insert(at, (BACKING_FORMAT, format.to_vec()));
        }
        Ok(())
    }

    /// Sets the location of the bitmap directory, which is then in sector 0.
    pub(super) fn set_bitmaps(&mut self, directory: Option<BitmapDirectory>) -> Result<()> {
        self.extensions.retain(|(kind, _)| *kind != BITMAPS);
        if let Some(directory) = directory {
            self.extensions.insert(0, (BITMAPS, directory.encode()));
        }
        self.change(|raw| {
            let mut autoclear = Autoclear::from_bits_retain(raw.autoclear_features.get());
            autoclear.set(Autoclear::BITMAPS, directory.is_some());
            raw.autoclear_features = autoclear.bits().into();
        })
    }

    /// Returns the fields and the extensions.
    fn encode(&self, with_feature_names: bool) -> Vec<u8> {
        let mut out = self.fields.clone();
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
struct OldHeader<'a> {
    bytes: &'a [u8],
    contents: Contents,
    /// What the header refers to.
    used: [Range<usize>; 2],
}

/// A header's cluster as it will be: the fields and the extensions, the location of the name.
struct NewHeader {
    bytes: Vec<u8>,
    name_at: usize,
}

fn damaged() -> Error {
    Error::corrupt("header", "it is damaged")
}

impl<'a> OldHeader<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self> {
        let (raw, _) = RawHeader::read_from_prefix(bytes).map_err(|_| damaged())?;
        let len = match raw.version.get() {
            2 => V2_HEADER_BYTES,
            _ => raw.header_length.get(),
        };
        let fields = bytes.get(..to_index(len)).ok_or_else(damaged)?.to_vec();
        let name_at = to_usize(raw.backing_file_offset.get());
        let used_by_name = name_at..name_at.saturating_add(to_index(raw.backing_file_size.get()));
        let name = bytes.get(used_by_name.clone()).ok_or_else(damaged)?.to_vec();
        let end = if name_at == 0 { bytes.len() } else { name_at };
        let mut extensions = Vec::new();
        let end = walk(bytes, u64::from(len), to_u64(end), |_, kind, data| {
            extensions.push((kind, data.to_vec()));
            Ok(())
        })?;
        let used = [fields.len()..to_usize(end), used_by_name];
        Ok(Self { bytes, contents: Contents { fields, extensions, name }, used })
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
        let same = Some(self.used[1].start).filter(|&at| at >= min && self.contents.name == name);
        let after = self.used.iter().map(|used| used.end.max(min));
        same.into_iter().chain(std::iter::once(min)).chain(after).find(fits)
    }

    /// Returns the modifications that replace the old contents.
    fn replace(&self, new: &Contents) -> Result<Edits> {
        let name = &*new.name;
        let (complete, brief) = (new.encode(true), new.encode(false));
        let brief_fits = brief.len() <= SECTOR;
        let max = self.bytes.len();
        if complete.len() + name.len() <= max
            && let Some(name_at) = self.place_name(name, complete.len())
        {
            let header = NewHeader { bytes: complete, name_at };
            if self.is_free(SECTOR, header.beyond_sector()) {
                return self.edits(name, &[header]);
            }
            if brief_fits {
                return self.edits(name, &[NewHeader { bytes: brief, name_at }, header]);
            }
        } else if brief.len() + name.len() > max {
            return Err(Error::limit(NO_SPACE));
        } else if brief_fits && let Some(name_at) = self.place_name(name, brief.len()) {
            return self.edits(name, &[NewHeader { bytes: brief, name_at }]);
        }
        Err(Error::unsupported("its header has no room for the old and the new contents at once"))
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
    use crate::storage::edit::MemoryStorage;

    const RAW: &[u8] = b"raw";

    /// Returns a header's cluster of `size` bytes with these extensions, with a reference to `name`
    /// after them.
    fn cluster(size: usize, extensions: &[(u32, usize)], name: &str) -> Vec<u8> {
        let mut bytes = vec![0; 112];
        bytes[4..8].copy_from_slice(&3u32.to_be_bytes());
        bytes[100..104].copy_from_slice(&112u32.to_be_bytes());
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

    /// Returns the name and the extensions of a header.
    fn contents(bytes: &[u8]) -> (String, Vec<(u32, Vec<u8>)>) {
        let contents = OldHeader::parse(bytes).expect("parses").contents;
        (String::from_utf8_lossy(&contents.name).into_owned(), contents.extensions)
    }

    #[test]
    fn the_header_has_the_old_or_the_new_name_and_format_after_every_write() {
        let long = "n".repeat(1000);
        let names = ["", "a", "backing file.img", &long[..300], &long];
        let feature_names = (FEATURE_NAMES, 384);
        let lists: [&[(u32, usize)]; 5] = [
            &[],
            &[feature_names],
            &[(BACKING_FORMAT, 3), feature_names],
            &[(BACKING_FORMAT, 9), (0x1234, 30), feature_names, (0x2385_2875, 24)],
            &[feature_names, (BACKING_FORMAT, 5)],
        ];
        let mut changed = 0;
        for size in [512, 1024, 4096, 65536] {
            for (list, old, new) in itertools(&lists, &names) {
                let before = cluster(size.max(4096), list, old);
                if OldHeader::parse(&before).expect("parses").used.iter().any(|u| u.end > size) {
                    continue;
                }
                let before = &before[..size];
                let format = Some(RAW).filter(|_| !new.is_empty());
                let header = OldHeader::parse(before).expect("parses");
                let mut wanted = header.contents.clone();
                wanted.set_backing(new.as_bytes(), format).expect("is short");
                let Ok(edits) = header.replace(&wanted) else {
                    assert!(size < 4096, "{size} {list:?} {old} {new}");
                    continue;
                };
                changed += 1;
                let (old, new_name) = (contents(before), new.to_owned());
                let storage = MemoryStorage::new(before.to_vec());
                let mut has_switched = false;
                for phase in edits.phases() {
                    for edit in phase {
                        let mut one = Edits::new();
                        one.phase([edit.clone()]);
                        one.apply(&storage).expect("applies");
                        let now = contents(&storage.to_vec());
                        has_switched |= now.0 == new_name && now != old;
                        assert!(now == old && !has_switched || now.0 == new_name, "{now:?}");
                    }
                }
                let (name, extensions) = contents(&storage.to_vec());
                assert_eq!(name, *new);
                let of_backing: Vec<_> =
                    extensions.iter().filter(|(kind, _)| *kind == BACKING_FORMAT).collect();
                assert_eq!(of_backing.len(), usize::from(format.is_some()));
                assert!(of_backing.iter().all(|(_, data)| data == RAW));
                let others = |list: &[(u32, Vec<u8>)]| -> Vec<_> {
                    list.iter().filter(|(kind, _)| *kind != BACKING_FORMAT).cloned().collect()
                };
                assert!(others(&extensions) == others(&old.1) || size < 4096);
            }
        }
        assert!(changed > 150, "{changed}");
    }

    /// Each header has the old or the new directory, and never another name.
    #[test]
    fn one_write_of_sector_0_changes_the_bitmap_directory() {
        let directory = |offset| BitmapDirectory { count: 1, bytes: 32, offset };
        let feature_names = (FEATURE_NAMES, 384);
        let bitmaps = (BITMAPS, 24);
        let lists: [&[(u32, usize)]; 6] = [
            &[],
            &[feature_names],
            &[feature_names, bitmaps],
            &[(BACKING_FORMAT, 5), (0x4441_5441, 200), feature_names, bitmaps],
            &[bitmaps, (BACKING_FORMAT, 5), feature_names],
            &[(0x1234, 300), feature_names, bitmaps],
        ];
        let names = ["", "backing.img", &"n".repeat(1000)];
        for (list, name, wanted) in lists.iter().flat_map(|list| {
            let wanted = [None, Some(directory(0x50000)), Some(directory(0x60000))];
            names.iter().flat_map(move |name| wanted.map(|wanted| (*list, *name, wanted)))
        }) {
            let before = cluster(4096, list, name);
            let header = OldHeader::parse(&before).expect("parses");
            let mut new = header.contents.clone();
            new.set_bitmaps(wanted).expect("is valid");
            new.change(|raw| raw.refcount_table_offset = 0x70000.into()).expect("is valid");
            let edits = header.replace(&new).expect("has room");
            let storage = MemoryStorage::new(before.clone());
            let mut switches = 0;
            let mut last = OldHeader::parse(&before).expect("parses").contents;
            for edit in edits.phases().iter().flatten() {
                let mut one = Edits::new();
                one.phase([edit.clone()]);
                one.apply(&storage).expect("applies");
                let bytes = storage.to_vec();
                let found = OldHeader::parse(&bytes).expect("parses").contents;
                assert_eq!(found.name, name.as_bytes());
                let essential = |contents: &Contents| {
                    let others = |(kind, _): &&(u32, Vec<u8>)| *kind != FEATURE_NAMES;
                    let raw = RawHeader::read_from_prefix(&contents.fields).expect("is long").0;
                    let fields = (raw.refcount_table_offset, raw.autoclear_features);
                    let list = contents.extensions.iter().filter(others).cloned();
                    (fields, list.collect::<Vec<_>>())
                };
                switches += usize::from(essential(&found) != essential(&last));
                assert!(essential(&found) == essential(&last) || switches == 1);
                last = found;
            }
            assert_eq!(switches, 1);
            assert!(last.extensions == new.extensions);
        }
    }

    fn itertools<'a>(
        lists: &'a [&'a [(u32, usize)]],
        names: &'a [&'a str],
    ) -> impl Iterator<Item = (&'a [(u32, usize)], &'a str, &'a str)> {
        lists.iter().flat_map(move |&list| {
            names.iter().flat_map(move |&old| names.iter().map(move |&new| (list, old, new)))
        })
    }
}
