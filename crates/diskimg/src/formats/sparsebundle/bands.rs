//! The bands of a bundle as one source, in which the offset of a byte is that in the disk.
//!
//! ```text
//!   disk    │ band 0 │ band 1 │ band 2 │ …
//!   source  │ file 0 │  hole  │ file 2 │ …
//! ```
//!
//! A bundle may have more bands than a process can have open files. The directory is listed when
//! the image is opened; a band's file is opened when it is read, and a bounded number of files
//! stays open.

use super::BANDS;
use super::info_plist::InfoPlist;
use crate::error::{Error, Result};
use crate::open::external_files::{LaterResolver, Resolver};
use crate::open::limits::Limits;
use crate::storage::lock;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::os;
use crate::storage::source::{HostFileId, Segment, Source, SourceError};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Maximum number of bands whose files stay open: several for each thread of a conversion.
const MAX_OPEN: usize = 64;

/// Memory in bytes for a file that may be several bands.
const SEEN_BYTES: u64 = 48;

/// How messages call a band.
const ROLE: &str = "band";

/// A band that has a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Band {
    /// Number of the band, counted from 0.
    pub(super) index: u64,
    /// Length of the file in bytes; `None` if it must be opened to find out whether it may be read:
    /// it is a link, for example, or has several names, so that it may be another band as well.
    len: Option<u64>,
}

/// What is in the directory of the bands.
#[derive(Debug)]
pub(super) struct Bands {
    /// The directory.
    path: PathBuf,
    plist: InfoPlist,
    /// Bands of the disk that have a file, in ascending order.
    list: Vec<Band>,
    /// How many of them must be opened to find out their length.
    unknown: u64,
    /// Numbers of bands beyond the end of the disk.
    pub(super) beyond: Vec<u64>,
    /// How many files have a name that is not that of a band, and one of the names.
    pub(super) others: (u64, String),
    /// Bytes that are allocated to the files, if known.
    allocated: Option<u64>,
    resolver: LaterResolver,
    open: Mutex<OpenFiles>,
    /// Whether two bands may be the same file.
    may_share: bool,
}

/// The files that are open, and those that were.
#[derive(Debug, Default)]
struct OpenFiles {
    /// Most recently used first.
    files: Vec<(u64, Arc<dyn Source>)>,
    /// The bands of the files that have been opened and may be several bands.
    seen: HashMap<HostFileId, u64>,
}

/// Returns the number of the band with this file name.
fn index_of(name: &OsStr) -> Option<u64> {
    let name = name.to_str()?;
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let has_no_zeros = name == "0" || !name.starts_with('0');
    let is_number = !name.is_empty() && name.bytes().all(is_digit) && has_no_zeros;
    u64::from_str_radix(name, 16).ok().filter(|_| is_number)
}

impl Bands {
    /// Lists the directory of the bands, which is beside the image's file.
    ///
    /// # Errors
    /// [`Refused`](crate::ErrorKind::Refused) if the policy forbids it,
    /// [`Io`](crate::ErrorKind::Io) if it cannot be read, [`Limit`](crate::ErrorKind::Limit) if it
    /// has too many files.
    pub(super) fn list(plist: InfoPlist, resolver: &Resolver<'_>, limits: &Limits) -> Result<Self> {
        let path = resolver.directory_of(ROLE, BANDS)?;
        let mut bands = Self {
            plist,
            list: Vec::new(),
            unknown: 0,
            beyond: Vec::new(),
            others: (0, String::new()),
            allocated: Some(0),
            resolver: resolver.for_later(),
            open: Mutex::default(),
            may_share: limits.data_sharing > 1,
            path,
        };
        let cannot = |e| Error::io(format!("cannot list its directory '{BANDS}'"), e);
        for entry in std::fs::read_dir(&bands.path).map_err(cannot)? {
            bands.add(&entry.map_err(cannot)?).map_err(cannot)?;
            let bytes = bands.list_bytes();
            if bytes > limits.table_bytes {
                let found = format!(
                    "the list of at least {} bands takes {bytes} bytes",
                    bands.list.len() + bands.beyond.len()
                );
                return Err(Error::over_limit("table_bytes", found, limits.table_bytes));
            }
        }
        bands.list.sort_unstable();
        bands.beyond.sort_unstable();
        Ok(bands)
    }

    fn add(&mut self, entry: &std::fs::DirEntry) -> io::Result<()> {
        let name = entry.file_name();
        let Some(index) = index_of(&name) else {
            let (count, example) = &mut self.others;
            if *count == 0 {
                *example = name.to_string_lossy().into_owned();
            }
            *count += 1;
            return Ok(());
        };
        // Of a link, not of what it leads to.
        let metadata = entry.metadata()?;
        let allocated = os::allocated_bytes_by(&metadata);
        self.allocated =
            self.allocated.zip(allocated).map(|(sum, bytes)| sum.saturating_add(bytes));
        if index >= self.plist.bands() {
            self.beyond.push(index);
            return Ok(());
        }
        let is_plain = metadata.is_file() && !os::may_have_several_names(&metadata);
        let len = is_plain.then_some(metadata.len());
        self.unknown += u64::from(len.is_none());
        self.list.push(Band { index, len });
        Ok(())
    }

    /// Returns the memory in bytes that the list takes, with what is recorded of files that may be
    /// several bands.
    fn list_bytes(&self) -> u64 {
        let listed = to_u64(size_of_val(&*self.list)) + 8 * to_u64(self.beyond.len());
        listed + SEEN_BYTES * self.unknown
    }

    /// Returns the bands of the disk that have a file, in ascending order.
    pub(super) fn stored(&self) -> &[Band] {
        &self.list
    }

    /// Returns the range of guest offsets of a band of the disk.
    pub(super) fn guest(&self, index: u64) -> Range<u64> {
        let start = index * self.plist.band_bytes;
        start..start.saturating_add(self.plist.band_bytes).min(self.plist.size)
    }

    /// Returns the first of the bands with a file that is not before band `index`.
    fn first_from(&self, index: u64) -> usize {
        self.list.partition_point(|band| band.index < index)
    }

    /// Returns the bands with a file in a range of guest offsets.
    pub(super) fn within(&self, range: &Range<u64>) -> &[Band] {
        let first = self.first_from(range.start / self.plist.band_bytes);
        let end = self.first_from(range.end.div_ceil(self.plist.band_bytes));
        &self.list[first..end.max(first)]
    }

    /// Returns the guest offset of the next band with a file; `None` if there is none.
    pub(super) fn next_stored(&self, at: u64) -> Option<u64> {
        let next = self.list.get(self.first_from(at / self.plist.band_bytes))?;
        Some(self.guest(next.index).start.max(at))
    }

    /// Returns the path of a band's file.
    pub(super) fn path_of(&self, band: &Band) -> PathBuf {
        self.path.join(format!("{:x}", band.index))
    }

    /// Returns the length in bytes of a band's file.
    ///
    /// # Errors
    /// As [`file`](Self::file), if it must be opened.
    pub(super) fn len_of(&self, band: &Band) -> Result<u64> {
        match band.len {
            Some(len) => Ok(len),
            None => self.file(band).map(|file| file.len()),
        }
    }

    /// Opens a band's file, if it is not open.
    ///
    /// # Errors
    /// [`Refused`](crate::ErrorKind::Refused) if the policy forbids it,
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if its length has changed,
    /// [`Limit`](crate::ErrorKind::Limit) if another band is the same file,
    /// [`Io`](crate::ErrorKind::Io) if it cannot be opened.
    pub(super) fn file(&self, band: &Band) -> Result<Arc<dyn Source>> {
        {
            let files = &mut lock(&self.open).files;
            if let Some(found) = files.iter().position(|(index, _)| *index == band.index) {
                files[..=found].rotate_right(1);
                return Ok(Arc::clone(&files[0].1));
            }
        }
        // The lock is not held while opening: two threads may open the same file, which is
        // harmless.
        let path = self.path_of(band);
        let name = format!("{BANDS}/{:x}", band.index);
        let file = self.resolver.open_at(ROLE, &name, &path)?;
        if band.len.is_some_and(|len| len != file.len()) {
            let message = format!("its {ROLE} '{name}' was changed while the image was open");
            return Err(Error::corrupt("sparse bundle band", message));
        }
        let mut open = lock(&self.open);
        if let Some(id) = file.identity().filter(|_| band.len.is_none()) {
            let first = *open.seen.entry(id).or_insert(band.index);
            if first != band.index && !self.may_share {
                let found = format!("the bands {first:x} and {:x} are the same file", band.index);
                return Err(Error::over_limit("data_sharing", found, 1));
            }
        }
        open.files.truncate(MAX_OPEN - 1);
        open.files.insert(0, (band.index, Arc::clone(&file)));
        Ok(file)
    }

    /// Returns the band with this number, if it has a file.
    fn band(&self, index: u64) -> Option<&Band> {
        self.list.get(self.first_from(index)).filter(|band| band.index == index)
    }
}

/// Converts an error of opening a band to that of a source.
fn source_error(error: Error) -> SourceError {
    let kind = error.io_error().map_or(io::ErrorKind::Other, io::Error::kind);
    io::Error::new(kind, error.without_remedy()).into()
}

impl Source for Bands {
    fn len(&self) -> u64 {
        self.plist.size
    }

    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> Result<(), SourceError> {
        let out_of_range =
            SourceError::OutOfRange { offset, len: to_u64(buf.len()), source_len: self.plist.size };
        let end = offset.checked_add(to_u64(buf.len()));
        if end.is_none_or(|end| end > self.plist.size) {
            return Err(out_of_range);
        }
        while !buf.is_empty() {
            let index = offset / self.plist.band_bytes;
            let guest = self.guest(index);
            let here = to_usize(guest.end - offset).min(buf.len());
            let (now, later) = buf.split_at_mut(here);
            match self.band(index) {
                Some(band) => self.read_band(band, now, offset - guest.start)?,
                None => now.fill(0),
            }
            buf = later;
            offset += to_u64(here);
        }
        Ok(())
    }

    fn segment_at(&self, offset: u64) -> Result<Segment, SourceError> {
        let index = offset / self.plist.band_bytes;
        let guest = self.guest(index);
        let next = self.next_stored(guest.end).unwrap_or(self.plist.size);
        let hole = Segment { end: next, hole: true };
        let Some(band) = self.band(index) else { return Ok(hole) };
        let stored_end = guest.start + self.len_of(band).map_err(source_error)?;
        let stored_end = stored_end.min(guest.end);
        if offset >= stored_end {
            return Ok(hole);
        }
        let file = self.file(band).map_err(source_error)?;
        let found = file.segment_at(offset - guest.start)?;
        Ok(Segment { end: (guest.start + found.end).min(stored_end), hole: found.hole })
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn allocated_bytes(&self) -> io::Result<Option<u64>> {
        Ok(self.allocated)
    }

    fn identities(&self) -> Vec<HostFileId> {
        self.list.iter().filter_map(|band| HostFileId::at(&self.path_of(band))).collect()
    }
}

impl Bands {
    /// Fills `buf` with the bytes of a band from `offset` on; what is beyond the end of its file is
    /// zeros.
    fn read_band(&self, band: &Band, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        let file = self.file(band).map_err(source_error)?;
        let stored = to_usize(file.len().saturating_sub(offset)).min(buf.len());
        let (data, zeros) = buf.split_at_mut(stored);
        zeros.fill(0);
        file.read_exact_at(data, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_are_named_by_hexadecimal_numbers_in_lower_case() {
        for (name, index) in [("0", 0), ("a", 10), ("1f", 31), ("ffffffffffffffff", u64::MAX)] {
            assert_eq!(index_of(OsStr::new(name)), Some(index));
        }
        for name in ["", "00", "0a", "A", "+1", "-1", "g", "1 ", "10000000000000000", ".DS_Store"] {
            assert_eq!(index_of(OsStr::new(name)), None, "{name}");
        }
    }
}
