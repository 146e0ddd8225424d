//! Changing the name of the backing file, which is in the header's cluster.
//!
//! ```text
//!   sector 0   header: where the name is   extensions: format of the backing file, …
//!   sector 1…  extensions …                name of the backing file
//! ```
//!
//! Sector 0 is written as a whole, so one write of it replaces the old name and format by the new
//! ones. What the new header needs in other sectors is written before that, where the old header has
//! nothing. If extensions must move that are there, the header does without the table of feature
//! names for the time being, which is informative and too long for sector 0:
//!
//! ```text
//!   written                                        then
//!   the new name, in free space                    nothing refers to it
//!   sector 0, with the new name and format,        the header is new, without feature names
//!     without the table of feature names
//!   extensions in other sectors                    nothing refers to them
//!   sector 0                                       the header is complete
//! ```

use super::{SECTOR, clear_unknown_autoclear};
use crate::error::{Error, Result};
use crate::formats::qcow2::extensions::{BACKING_FORMAT, FEATURE_NAMES, encode, encode_end, walk};
use crate::formats::qcow2::header::{MAX_BACKING_NAME, RawHeader, V2_HEADER_BYTES};
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
pub(super) fn edits(
    storage: &dyn Storage,
    cluster_size: u64,
    backing: Option<&Backing>,
) -> Result<Edits> {
    let name = backing.map_or(&[][..], |backing| backing.name.as_bytes());
    if name.len() > to_index(MAX_BACKING_NAME) {
        let message = format!("its name has more than {MAX_BACKING_NAME} bytes");
        return Err(Error::limit(message));
    }
    let mut bytes = vec![0; to_usize(cluster_size)];
    let stored = to_usize(storage.current_len().min(cluster_size));
    storage
        .read_exact_at(&mut bytes[..stored], 0)
        .map_err(|e| Error::io("cannot read", e).in_structure("header"))?;
    let format = backing.and_then(|backing| backing.format.as_deref());
    OldHeader::parse(&bytes)?.change(name, format.map(str::as_bytes))
}

/// The header's cluster as it is stored.
struct OldHeader<'a> {
    bytes: &'a [u8],
    /// The fields before the extensions.
    fields: &'a [u8],
    /// The extensions: types and contents.
    extensions: Vec<(u32, &'a [u8])>,
    /// What the header refers to.
    used: [Range<usize>; 2],
}

/// A header's cluster as it will be: the fields and the extensions, the location of the name.
struct NewHeader {
    bytes: Vec<u8>,
    name_at: usize,
}

impl<'a> OldHeader<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self> {
        let damaged = || Error::corrupt("header", "it is damaged");
        let (raw, _) = RawHeader::read_from_prefix(bytes).map_err(|_| damaged())?;
        let len = match raw.version.get() {
            2 => V2_HEADER_BYTES,
            _ => raw.header_length.get(),
        };
        let fields = bytes.get(..to_index(len)).ok_or_else(damaged)?;
        let name_at = to_usize(raw.backing_file_offset.get());
        let name = name_at..name_at.saturating_add(to_index(raw.backing_file_size.get()));
        if name.end > bytes.len() {
            return Err(damaged());
        }
        let end = if name_at == 0 { bytes.len() } else { name_at };
        let mut extensions = Vec::new();
        let end = walk(bytes, u64::from(len), to_u64(end), |_, kind, data| {
            extensions.push((kind, data));
            Ok(())
        })?;
        Ok(Self { bytes, fields, extensions, used: [fields.len()..to_usize(end), name] })
    }

    /// Returns the fields, and the extensions with another format of the backing file.
    fn encode(&self, format: Option<&[u8]>, with_feature_names: bool) -> Vec<u8> {
        let mut out = self.fields.to_vec();
        let mut format = format;
        if !self.extensions.iter().any(|(kind, _)| *kind == BACKING_FORMAT)
            && let Some(format) = format.take()
        {
            encode(&mut out, BACKING_FORMAT, format);
        }
        for (kind, data) in &self.extensions {
            match *kind {
                BACKING_FORMAT => {
                    if let Some(format) = format.take() {
                        encode(&mut out, BACKING_FORMAT, format);
                    }
                }
                FEATURE_NAMES if !with_feature_names => {}
                kind => encode(&mut out, kind, data),
            }
        }
        encode_end(&mut out);
        out
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

    /// Returns an offset from `min` on where the name can be written before the header refers to it.
    fn place_name(&self, name: &[u8], min: usize) -> Option<usize> {
        let fits = |&at: &usize| at + name.len() <= self.bytes.len() && self.is_free(at, name);
        let after = self.used.iter().map(|used| used.end.max(min));
        std::iter::once(min).chain(after).find(fits)
    }

    fn change(&self, name: &[u8], format: Option<&[u8]>) -> Result<Edits> {
        let complete = self.encode(format, true);
        let brief = self.encode(format, false);
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
        Err(Error::unsupported(
            "its header has no room for the old and the new name of the backing file at once",
        ))
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
        let header = OldHeader::parse(bytes).expect("parses");
        let name = String::from_utf8_lossy(&bytes[header.used[1].clone()]).into_owned();
        (name, header.extensions.iter().map(|(kind, data)| (*kind, data.to_vec())).collect())
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
                let Ok(edits) = header.change(new.as_bytes(), format) else {
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

    fn itertools<'a>(
        lists: &'a [&'a [(u32, usize)]],
        names: &'a [&'a str],
    ) -> impl Iterator<Item = (&'a [(u32, usize)], &'a str, &'a str)> {
        lists.iter().flat_map(move |&list| {
            names.iter().flat_map(move |&old| names.iter().map(move |&new| (list, old, new)))
        })
    }
}
