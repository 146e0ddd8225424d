//! Reading raw images.

use crate::error::{Error, Result};
use crate::model::extent::{Extent, HostOffset, Kind, push};
use crate::model::format::Format;
use crate::model::layer::{DiskLayout, Layer};
use crate::model::sealed::Sealed;
use crate::open::driver::is_named_dmg;
use crate::report::info::Details;
use crate::storage::source::{Segment, Source, SourceError};
use std::ops::Range;
use std::sync::Arc;

/// Size of a sector in bytes.
const SECTOR: u64 = 512;

/// A raw image: the source is the disk.
#[derive(Debug)]
pub(crate) struct Raw {
    files: [Arc<dyn Source>; 1],
    /// Size of the disk in bytes.
    size: u64,
    /// Length of the source when it was opened. Shrinking later is an error.
    stored: u64,
    /// Name of the VMDK descriptor of which the file may be an extent, by its own name.
    extent_of: Option<String>,
    /// True if the name is that of a DMG.
    named_dmg: bool,
}

impl Raw {
    pub(crate) fn new(source: Arc<dyn Source>) -> Self {
        let stored = source.len();
        Self { size: stored, stored, files: [source], extent_of: None, named_dmg: false }
    }

    /// Makes the disk consist of whole sectors, as QEMU does. Zeros follow the file.
    pub(super) fn with_whole_sectors(mut self) -> Self {
        self.size = self.stored.checked_next_multiple_of(SECTOR).unwrap_or(self.stored);
        self
    }

    /// Has [`Layer::warnings`] mention what the name of the file says against a raw disk: that it may
    /// be only a part of one, or a truncated file of another format.
    pub(super) fn with_name_checked(mut self) -> Self {
        let path = self.files[0].path();
        #[cfg(feature = "vmdk")]
        {
            let name = path.and_then(std::path::Path::file_name);
            let name = name.map(std::ffi::OsStr::to_string_lossy);
            self.extent_of = name.and_then(|name| crate::formats::vmdk::descriptor_name(&name));
        }
        self.named_dmg = path.is_some_and(is_named_dmg);
        self
    }
}

impl Sealed for Raw {}

impl Layer for Raw {
    fn format(&self) -> Format {
        Format::Raw
    }

    fn disk_layout(&self) -> DiskLayout {
        DiskLayout { size: self.size, cluster_size: 1 }
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        &self.files
    }

    fn next_allocated_hint(&self, range: Range<u64>) -> u64 {
        if range.start >= self.stored {
            return range.end;
        }
        match self.files[0].segment_at(range.start) {
            Ok(segment) if segment.hole => segment.end.clamp(range.start, range.end),
            _ => range.start,
        }
    }

    fn map(&self, range: Range<u64>, out: &mut Vec<Extent>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let host = HostOffset { file: 0, offset: at };
            if at >= self.stored {
                push(out, at..range.end, Kind::Zero(Some(host)));
                break;
            }
            let segment = match self.files[0].segment_at(at) {
                Ok(segment) => segment,
                // The bytes may be readable nevertheless. Reading them reports what is not.
                Err(SourceError::Storage(_)) if self.files[0].has_data() => {
                    Segment { end: range.end, hole: false }
                }
                Err(e) => return Err(Error::io("cannot find the holes of the file", e).at(at)),
            };
            let end = segment.end.min(range.end);
            if end <= at {
                return Err(Error::corrupt("file", "the file was truncated while it was read")
                    .at(at)
                    .losing(at..self.size));
            }
            let kind = match segment.hole {
                true if self.files[0].has_data() => Kind::Zero(Some(host)),
                true => Kind::Unallocated,
                false => Kind::Data(host),
            };
            push(out, at..end, kind);
            at = end;
        }
        Ok(())
    }

    fn details(&self) -> Details {
        let size = self.size;
        let mut notes = self.warnings();
        if !size.is_multiple_of(SECTOR) {
            let padded = size.next_multiple_of(SECTOR);
            notes.push(format!(
                "the length is not a multiple of 512; conversion to a format other than raw pads \
                 it with zeros to {padded} bytes"
            ));
        }
        Details { children: vec![("file".into(), 0)], notes, ..Details::default() }
    }

    fn warnings(&self) -> Vec<String> {
        let warning = |descriptor: &String| {
            format!(
                "the name is that of an extent of a VMDK, which may be only a part of the disk: \
                 '{descriptor}' describes all of it"
            )
        };
        let no_trailer = self.named_dmg.then(|| {
            "the name is that of a DMG, but there is no trailer: it is a raw disk (UDRW), or truncated"
                .to_owned()
        });
        self.extent_of.iter().map(warning).chain(no_trailer).collect()
    }
}
