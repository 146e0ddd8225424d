//! How a disk is cut into extents, and what their files are called.
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

/// Sectors of an extent of a split disk: 2047 MiB, as VMware cuts them. The
/// point of splitting is that every file stays below 2 GiB, which old file
/// systems and tools end at: a sparse extent's tables need room too.
/// (QEMU cuts at 2 GiB sharp, and its files exceed it.)
pub(super) const SPLIT_SECTORS: u64 = 4_192_256;

/// A disk cut into extents of one size, the last one perhaps smaller.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    /// Guest sectors.
    sectors: u64,
    /// Sectors of an extent.
    each: u64,
}

/// A run of guest bytes within one extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GuestRun {
    /// Which.
    pub(super) extent: usize,
    /// Where in it, in bytes.
    pub(super) at: u64,
    /// Bytes.
    pub(super) len: u64,
}

impl Cut {
    /// A disk of `sectors`, at least one.
    pub(super) fn new(sectors: u64, subformat: Subformat) -> Self {
        Self { sectors, each: if subformat.is_split() { SPLIT_SECTORS } else { sectors } }
    }

    /// How many extents.
    pub(super) fn count(self) -> u64 {
        self.sectors.div_ceil(self.each)
    }

    /// Guest bytes.
    pub(super) fn size(self) -> u64 {
        self.sectors * SECTOR
    }

    /// The sectors of each extent, in order.
    pub(super) fn extents(self) -> impl Iterator<Item = u64> {
        (0..self.count()).map(move |index| self.each.min(self.sectors - index * self.each))
    }

    /// The part of `len` guest bytes from `at` that lies in the first extent
    /// they touch.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if they leave the disk.
    pub(super) fn first(self, at: u64, len: u64) -> Result<GuestRun> {
        self.require_inside(at, len)?;
        Ok(self.part(at, len))
    }

    /// All parts of `len` guest bytes from `at`, in order.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if they leave the disk.
    pub(super) fn parts(self, at: u64, len: u64) -> Result<impl Iterator<Item = GuestRun>> {
        let end = self.require_inside(at, len)?;
        let mut next = at;
        Ok(std::iter::from_fn(move || {
            let part = (next < end).then(|| self.part(next, end - next))?;
            next += part.len;
            Some(part)
        }))
    }

    fn part(self, at: u64, len: u64) -> GuestRun {
        let each = self.each * SECTOR;
        let within = at % each;
        GuestRun { extent: to_usize(at / each), at: within, len: len.min(each - within) }
    }

    /// Where `len` guest bytes from `at` end.
    fn require_inside(self, at: u64, len: u64) -> Result<u64> {
        let size = self.size();
        at.checked_add(len).filter(|&end| at < size && end <= size).ok_or_else(|| {
            Error::invalid(format!("{len} bytes at {at} leave the disk, which ends at {size}"))
        })
    }
}

/// The names of an image's files, made from the descriptor's as QEMU makes
/// them: in front of the last dot.
#[derive(Debug)]
pub(super) struct Names<'a> {
    stem: &'a str,
    /// From the last dot on; may be empty.
    ending: &'a str,
}

impl<'a> Names<'a> {
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if a descriptor cannot say such a
    /// name: it is UTF-8 text between quotes, on a line.
    pub(super) fn of(path: &'a Path) -> Result<Self> {
        let name = path.file_name().and_then(|name| name.to_str());
        let sayable = |name: &&str| !name.contains(|c: char| c == '"' || c.is_control());
        let Some(name) = name.filter(sayable) else {
            return Err(Error::invalid("a descriptor cannot name files after this one").hint(
                "give it a name in UTF-8, without quotes and control characters (a tab, a \
                     line break), or use a layout in one file, which takes any name",
            ));
        };
        let (stem, ending) = name.split_at(name.rfind('.').unwrap_or(name.len()));
        Ok(Self { stem, ending })
    }

    /// The file of the extent with this index, from 0.
    pub(super) fn extent(&self, subformat: Subformat, index: usize) -> String {
        let Self { stem, ending } = self;
        match (subformat.is_split(), subformat.is_flat()) {
            (true, true) => format!("{stem}-f{:03}{ending}", index + 1),
            (true, false) => format!("{stem}-s{:03}{ending}", index + 1),
            (false, _) => format!("{stem}-flat{ending}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPLIT: u64 = SPLIT_SECTORS * SECTOR;

    fn cut(sectors: u64) -> Cut {
        Cut::new(sectors, Subformat::TwoGbMaxExtentSparse)
    }

    #[test]
    fn the_extents_are_2047_mib_and_what_remains() {
        let extents = |sectors| cut(sectors).extents().collect::<Vec<_>>();
        assert_eq!(SPLIT, 2047 << 20);
        assert_eq!(extents(1), [1]);
        assert_eq!(extents(SPLIT_SECTORS), [SPLIT_SECTORS]);
        assert_eq!(extents(SPLIT_SECTORS + 1), [SPLIT_SECTORS, 1]);
        assert_eq!(extents(3 * SPLIT_SECTORS), [SPLIT_SECTORS; 3]);
        let whole = Cut::new(1 << 40, Subformat::Vmfs);
        assert_eq!(whole.extents().collect::<Vec<_>>(), [1 << 40]);
    }

    #[test]
    fn a_run_over_a_border_is_two_parts() {
        let parts = |at, len| {
            cut(5 * SPLIT_SECTORS)
                .parts(at, len)
                .expect("inside")
                .map(|p| (p.extent, p.at, p.len))
                .collect::<Vec<_>>()
        };
        assert_eq!(parts(0, 4096), [(0, 0, 4096)]);
        assert_eq!(parts(SPLIT - 4096, 4096), [(0, SPLIT - 4096, 4096)]);
        assert_eq!(parts(SPLIT - 4096, 8192), [(0, SPLIT - 4096, 4096), (1, 0, 4096)]);
        assert_eq!(parts(SPLIT, 512), [(1, 0, 512)]);
        assert_eq!(
            parts(SPLIT / 2, 3 * SPLIT),
            [(0, SPLIT / 2, SPLIT / 2), (1, 0, SPLIT), (2, 0, SPLIT), (3, 0, SPLIT / 2)]
        );
        assert_eq!(parts(7, 0), []);
    }

    #[test]
    fn what_leaves_the_disk_is_in_no_extent() {
        let cut = cut(SPLIT_SECTORS + 1);
        assert!(cut.first(SPLIT, 512).is_ok() && cut.parts(0, SPLIT + 512).is_ok());
        for (at, len) in [(SPLIT, 513), (SPLIT + 512, 1), (2 * SPLIT, 1), (u64::MAX, 1)] {
            let error = cut.first(at, len).expect_err("outside");
            assert_eq!(error.kind(), crate::ErrorKind::Invalid);
            assert!(cut.parts(at, len).is_err(), "{len} at {at}");
        }
    }

    #[test]
    fn the_files_are_named_as_qemu_names_them() {
        let named = |path: &str, subformat, index| {
            Names::of(Path::new(path)).expect("can be said").extent(subformat, index)
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
            let error = Names::of(Path::new(name)).expect_err(name);
            assert_eq!(error.kind(), crate::ErrorKind::Invalid);
            assert!(error.to_string().contains("quotes and control characters"), "{error}");
        }
        #[cfg(unix)]
        {
            use std::os::unix::ffi::OsStrExt;
            let latin = std::ffi::OsStr::from_bytes(b"\xfc.vmdk");
            Names::of(Path::new(latin)).expect_err("no UTF-8");
        }
    }
}
