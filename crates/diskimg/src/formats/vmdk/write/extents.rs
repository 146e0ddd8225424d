//! How a disk is split into extents, and how their files are named.
//!
//! ```text
//!   guest:   0          2047 MiB   4094 MiB   size
//!            ├──────────┼──────────┼──────┤
//!   file:    x-s001     x-s002     x-s003       twoGbMaxExtentSparse
//!            x-f001     x-f002     x-f003       twoGbMaxExtentFlat
//!            x-flat                             monolithicFlat, vmfs
//! ```

use super::super::SECTOR;
use super::subformat::Subformat;
use crate::error::{Error, Result};
use crate::storage::number::to_usize;
use std::path::Path;

/// Sectors per extent of a split disk: 2047 MiB, as in VMware. Disks are split so that every file
/// is smaller than 2 GiB, the maximum of old file systems and tools, and a sparse extent also needs
/// space for its tables. (QEMU splits at exactly 2 GiB, so its files exceed the maximum.)
pub(super) const SPLIT_SECTORS: u64 = 4_192_256;

/// The division of a disk into extents of equal size; the last one may be smaller.
#[derive(Debug, Clone, Copy)]
pub(super) struct ExtentSplit {
    /// Number of guest sectors.
    sectors: u64,
    /// Number of sectors per extent.
    extent_sectors: u64,
}

/// A run of guest bytes within one extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GuestRun {
    /// Index of the extent.
    pub(super) extent: usize,
    /// Offset within the extent, in bytes.
    pub(super) at: u64,
    /// Length in bytes.
    pub(super) len: u64,
}

impl ExtentSplit {
    /// Splits a disk of `sectors`, at least one, as the layout requires.
    pub(super) fn new(sectors: u64, subformat: Subformat) -> Self {
        Self { sectors, extent_sectors: if subformat.is_split() { SPLIT_SECTORS } else { sectors } }
    }

    /// Number of extents.
    pub(super) fn count(self) -> u64 {
        self.sectors.div_ceil(self.extent_sectors)
    }

    /// Number of guest bytes.
    pub(super) fn size(self) -> u64 {
        self.sectors * SECTOR
    }

    /// Returns the number of sectors of each extent, in order.
    pub(super) fn extents(self) -> impl Iterator<Item = u64> {
        let each = self.extent_sectors;
        (0..self.count()).map(move |index| each.min(self.sectors - index * each))
    }

    /// Returns the part of `len` guest bytes at `at` that is in the first extent.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if the range extends beyond the end of the disk.
    pub(super) fn first_run(self, at: u64, len: u64) -> Result<GuestRun> {
        self.require_inside(at, len)?;
        Ok(self.run(at, len))
    }

    /// Splits `len` guest bytes at `at` into runs within one extent each, in order.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if the range extends beyond the end of the disk.
    pub(super) fn runs(self, at: u64, len: u64) -> Result<impl Iterator<Item = GuestRun>> {
        let end = self.require_inside(at, len)?;
        let mut next = at;
        Ok(std::iter::from_fn(move || {
            let run = (next < end).then(|| self.run(next, end - next))?;
            next += run.len;
            Some(run)
        }))
    }

    fn run(self, at: u64, len: u64) -> GuestRun {
        let each = self.extent_sectors * SECTOR;
        let within = at % each;
        GuestRun { extent: to_usize(at / each), at: within, len: len.min(each - within) }
    }

    /// Returns the end of a range, which must be within the disk.
    fn require_inside(self, at: u64, len: u64) -> Result<u64> {
        let size = self.size();
        at.checked_add(len).filter(|&end| at < size && end <= size).ok_or_else(|| {
            Error::invalid(format!(
                "{len} bytes at guest offset {at} extend beyond the end of the disk at {size}"
            ))
        })
    }
}

/// Names of the extent files. As in QEMU, a suffix is inserted before the last dot of the
/// descriptor's name.
#[derive(Debug)]
pub(super) struct ExtentNames<'a> {
    stem: &'a str,
    /// The name from the last dot on; may be empty.
    extension: &'a str,
}

impl<'a> ExtentNames<'a> {
    /// Derives names from the path of the descriptor.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if the names cannot be written to a descriptor, which
    /// stores them as UTF-8 text between quotes, without line breaks.
    pub(super) fn of(path: &'a Path) -> Result<Self> {
        let name = path.file_name().and_then(|name| name.to_str());
        let is_valid = |name: &&str| !name.contains(|c: char| c == '"' || c.is_control());
        let Some(name) = name.filter(is_valid) else {
            return Err(Error::invalid(
                "extent files named after this file cannot be listed in a descriptor",
            )
            .hint(
                "choose a name in UTF-8 without quotes and control characters (such as tabs or \
                 line breaks), or a layout in one file, which allows any name",
            ));
        };
        let (stem, extension) = name.split_at(name.rfind('.').unwrap_or(name.len()));
        Ok(Self { stem, extension })
    }

    /// Returns the file name of the extent with this index, which starts at 0.
    pub(super) fn extent(&self, subformat: Subformat, index: usize) -> String {
        let Self { stem, extension } = self;
        match (subformat.is_split(), subformat.is_flat()) {
            (true, true) => format!("{stem}-f{:03}{extension}", index + 1),
            (true, false) => format!("{stem}-s{:03}{extension}", index + 1),
            (false, _) => format!("{stem}-flat{extension}"),
        }
    }
}

/// Returns true if a file of this name could be an extent of a split disk with a descriptor at this
/// path.
pub(in crate::formats::vmdk) fn is_split_extent(descriptor: &Path, name: &str) -> bool {
    let Ok(ExtentNames { stem, extension }) = ExtentNames::of(descriptor) else { return false };
    let rest = name.strip_prefix(stem).and_then(|rest| rest.strip_suffix(extension));
    let number = rest.and_then(|rest| rest.strip_prefix('-')?.strip_prefix(['s', 'f']));
    number.is_some_and(|n| n.len() >= 3 && n.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPLIT: u64 = SPLIT_SECTORS * SECTOR;

    fn split(sectors: u64) -> ExtentSplit {
        ExtentSplit::new(sectors, Subformat::TwoGbMaxExtentSparse)
    }

    #[test]
    fn the_extents_are_2047_mib_and_the_remainder() {
        let extents = |sectors| split(sectors).extents().collect::<Vec<_>>();
        assert_eq!(SPLIT, 2047 << 20);
        assert_eq!(extents(1), [1]);
        assert_eq!(extents(SPLIT_SECTORS), [SPLIT_SECTORS]);
        assert_eq!(extents(SPLIT_SECTORS + 1), [SPLIT_SECTORS, 1]);
        assert_eq!(extents(3 * SPLIT_SECTORS), [SPLIT_SECTORS; 3]);
        let one = ExtentSplit::new(1 << 40, Subformat::Vmfs);
        assert_eq!(one.extents().collect::<Vec<_>>(), [1 << 40]);
    }

    #[test]
    fn a_range_across_extents_is_one_run_per_extent() {
        let runs = |at, len| {
            split(5 * SPLIT_SECTORS)
                .runs(at, len)
                .expect("inside")
                .map(|p| (p.extent, p.at, p.len))
                .collect::<Vec<_>>()
        };
        assert_eq!(runs(0, 4096), [(0, 0, 4096)]);
        assert_eq!(runs(SPLIT - 4096, 4096), [(0, SPLIT - 4096, 4096)]);
        assert_eq!(runs(SPLIT - 4096, 8192), [(0, SPLIT - 4096, 4096), (1, 0, 4096)]);
        assert_eq!(runs(SPLIT, 512), [(1, 0, 512)]);
        assert_eq!(
            runs(SPLIT / 2, 3 * SPLIT),
            [(0, SPLIT / 2, SPLIT / 2), (1, 0, SPLIT), (2, 0, SPLIT), (3, 0, SPLIT / 2)]
        );
        assert_eq!(runs(7, 0), []);
    }

    #[test]
    fn a_range_beyond_the_end_of_the_disk_is_an_error() {
        let split = split(SPLIT_SECTORS + 1);
        assert!(split.first_run(SPLIT, 512).is_ok() && split.runs(0, SPLIT + 512).is_ok());
        for (at, len) in [(SPLIT, 513), (SPLIT + 512, 1), (2 * SPLIT, 1), (u64::MAX, 1)] {
            let error = split.first_run(at, len).expect_err("beyond the end");
            assert_eq!(error.kind(), crate::ErrorKind::Invalid);
            assert!(split.runs(at, len).is_err(), "{len} at {at}");
        }
    }

    #[test]
    fn the_files_are_named_as_qemu_names_them() {
        let named = |path: &str, subformat, index| {
            ExtentNames::of(Path::new(path)).expect("a valid name").extent(subformat, index)
        };
        let (flat, sparse) = (Subformat::TwoGbMaxExtentFlat, Subformat::TwoGbMaxExtentSparse);
        assert_eq!(named("/d.e/x.vmdk", Subformat::MonolithicFlat, 0), "x-flat.vmdk");
        assert_eq!(named("x.vmdk", Subformat::Vmfs, 0), "x-flat.vmdk");
        assert_eq!(named("x.vmdk", flat, 0), "x-f001.vmdk");
        assert_eq!(named("x.y.img", sparse, 41), "x.y-s042.img");
        assert_eq!(named("x", sparse, 998), "x-s999");
        assert_eq!(named("x", sparse, 999), "x-s1000");
        assert_eq!(named(".vmdk", Subformat::MonolithicFlat, 0), "-flat.vmdk");
        assert_eq!(named("ü ñ.vmdk", Subformat::MonolithicFlat, 0), "ü ñ-flat.vmdk");
    }

    #[test]
    fn a_name_that_would_end_its_line_or_its_quotes_is_refused() {
        for name in ["a\"b.vmdk", "a\nb.vmdk", "a\tb.vmdk", "a\rb", "a\u{85}b"] {
            let error = ExtentNames::of(Path::new(name)).expect_err(name);
            assert_eq!(error.kind(), crate::ErrorKind::Invalid);
            assert!(error.to_string().contains("quotes and control characters"), "{error}");
        }
        #[cfg(unix)]
        {
            use std::os::unix::ffi::OsStrExt;
            let latin = std::ffi::OsStr::from_bytes(b"\xfc.vmdk");
            ExtentNames::of(Path::new(latin)).expect_err("not UTF-8");
        }
    }
}
