//! Writing a raw disk to a compressed file.
//!
//! ```text
//!   gzip, zstd   part │ part │ … │ ending           a part: 64 KiB (gzip) or 1 MiB (zstd) of the disk
//!   gce          the same in gzip, of a tar archive:
//!                header of disk.raw │ disk │ end of the archive
//! ```
//!
//! Parts are compressed independently, by all threads, and can be read independently. The file is
//! written sequentially, so that the output can be a pipe.

use super::subformat::Subformat;
use crate::error::{Error, Result};
use crate::model::target::{Allocate, CreateRequest, Slot, Target, TargetSpec, UnitEncoder};
use crate::open::compressed;
use crate::open::limits::Limits;
use crate::storage::compressed::Compression;
use crate::storage::compressed::write::{Ending, Packing, PartEncoder};
use crate::storage::number::{to_u64, to_usize};
use crate::storage::output::Output;
use crate::storage::sink::Sink;
use crate::storage::source::{Source, WindowSource};
use std::io;
use std::sync::Arc;
use tar::{EntryType, Header};

/// Length in bytes of the header of an archive's member.
const TAR_HEADER: u64 = 512;

/// Length in bytes of which an archive's length is a multiple: GNU tar's default of 20 blocks.
const TAR_RECORD: u64 = 20 * 512;

/// Bytes of which the size of a disk for Google Compute Engine must be a multiple.
const GCE_DISK_UNIT: u64 = 1 << 30;

/// Zeros that are written at a time, in bytes of the disk.
const ZEROS_PER_CALL: u64 = 64 << 20;

/// A new compressed raw image.
#[derive(Debug)]
struct PackedSpec {
    size: u64,
    packing: Packing,
    level: Option<u32>,
    /// Whether the disk is in a tar archive.
    in_archive: bool,
}

/// Specifies a compressed raw image.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) for options that do not apply to compressed files,
/// [`Unsupported`](crate::ErrorKind::Unsupported) if this build lacks the encoder,
/// [`Limit`](crate::ErrorKind::Limit) if the disk is too large.
pub(super) fn create(
    request: &CreateRequest<'_>,
    subformat: Subformat,
) -> Result<Box<dyn TargetSpec>> {
    let CreateRequest { size, options, .. } = *request;
    if let Some(mode) = options.get("preallocation").filter(|&mode| mode != "off") {
        let message = format!("Unsupported preallocation mode '{mode}' for compressed files: off");
        return Err(Error::unsupported(message));
    }
    let in_archive = subformat == Subformat::Gce;
    let (packing, max_level) = match subformat {
        #[cfg(feature = "zstd")]
        Subformat::Zstd => (Packing::Zstd, 19),
        #[cfg(not(feature = "zstd"))]
        Subformat::Zstd => {
            return Err(Error::unsupported(
                "this build does not include Zstandard (cargo feature zstd)",
            ));
        }
        Subformat::Flat | Subformat::Gzip | Subformat::Gce => (Packing::Gzip, 9),
    };
    let level = options.compression_level(max_level, true)?;
    let unit = if in_archive { GCE_DISK_UNIT } else { 1 };
    let size = size
        .checked_next_multiple_of(unit)
        .filter(|&size| size <= i64::MAX.cast_unsigned() - TAR_RECORD - TAR_HEADER)
        .ok_or_else(|| Error::limit(format!("a disk of {size} bytes is too large")))?;
    Ok(Box::new(PackedSpec { size, packing, level, in_archive }))
}

impl TargetSpec for PackedSpec {
    fn size(&self) -> u64 {
        self.size
    }

    fn quantum(&self) -> u64 {
        self.packing.part_len()
    }

    fn sequential(&self) -> bool {
        true
    }

    fn encodes_zeros(&self) -> bool {
        true
    }

    fn encoder(&self) -> Option<Box<dyn UnitEncoder>> {
        let parts = self.packing.encoder(self.level);
        Some(Box::new(DiskEncoder { parts, size: self.size }))
    }

    fn contents(&self, file: Arc<dyn Source>) -> Result<Arc<dyn Source>> {
        let compression = match self.packing {
            Packing::Gzip => Compression::Gzip,
            #[cfg(feature = "zstd")]
            Packing::Zstd => Compression::Zstd,
        };
        // The file was written by us, so that its ratio is that of the disk.
        let limits = Limits {
            expansion: u64::MAX,
            unpacked_ratio: u64::MAX,
            unpacked_bytes: u64::MAX,
            ..Limits::default()
        };
        let contents = compressed::open(&file, compression, &limits)?;
        if !self.in_archive {
            return Ok(contents);
        }
        let disk = TAR_HEADER..TAR_HEADER + self.size;
        let window = WindowSource::new(contents, disk);
        Ok(Arc::new(window.map_err(|e| Error::io("the archive is shorter than the disk", e))?))
    }

    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if the output is a device,
    /// [`Io`](crate::ErrorKind::Io) if it cannot be written.
    fn start(&self, output: &mut Output) -> Result<Box<dyn Target>> {
        let sink = output.sink();
        if sink.has_fixed_len() {
            return Err(Error::unsupported("a compressed file cannot be written to a device")
                .hint("its length would be lost: name a file"));
        }
        let mut target = PackedTarget {
            parts: self.packing.encoder(self.level).map_err(cannot_compress)?,
            packing: self.packing,
            files: [sink],
            ending: self.packing.ending(),
            zeros: Vec::new(),
            position: 0,
            guest: 0,
            size: self.size,
            in_archive: self.in_archive,
        };
        if self.in_archive {
            target.append(tar_header(self.size).as_bytes())?;
        }
        Ok(Box::new(target))
    }
}

/// Returns the header of the member `disk.raw` in the format that Google's documentation names,
/// `--format=oldgnu`. It does not depend on the time or the user.
fn tar_header(size: u64) -> Header {
    let mut header = Header::new_gnu();
    let name = b"disk.raw";
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    header
}

/// Compresses parts of the disk.
#[derive(Debug)]
struct DiskEncoder {
    parts: io::Result<PartEncoder>,
    /// Size of the disk in bytes.
    size: u64,
}

impl UnitEncoder for DiskEncoder {
    fn encode(&mut self, at: u64, unit: &[u8], out: &mut Vec<u8>) -> Result<bool> {
        let parts = match &mut self.parts {
            Ok(parts) => parts,
            Err(e) => return Err(cannot_compress(io::Error::new(e.kind(), e.to_string()))),
        };
        // The last unit is padded beyond the end of the disk.
        let len = to_usize((self.size - at).min(to_u64(unit.len())));
        let start = out.len();
        parts.append(&unit[..len], out).map_err(|e| {
            out.truncate(start);
            cannot_compress(e)
        })?;
        Ok(true)
    }
}

/// A compressed raw image being written.
#[derive(Debug)]
struct PackedTarget {
    files: [Arc<dyn Sink>; 1],
    packing: Packing,
    /// Compresses what does not come from the engine: zeros, and the archive around the disk.
    parts: PartEncoder,
    ending: Ending,
    /// A part of zeros, compressed; empty until it is needed.
    zeros: Vec<u8>,
    /// Number of bytes of the file that are written or placed.
    position: u64,
    /// Number of bytes of the disk that these contain.
    guest: u64,
    /// Size of the disk in bytes.
    size: u64,
    in_archive: bool,
}

impl PackedTarget {
    /// Appends `contents`, which are not part of the disk.
    fn append(&mut self, contents: &[u8]) -> Result<()> {
        for part in contents.chunks(to_usize(self.packing.part_len())) {
            let mut stored = Vec::new();
            self.parts.append(part, &mut stored).map_err(cannot_compress)?;
            self.write_parts(&stored, to_u64(stored.len()), to_u64(part.len()))?;
        }
        Ok(())
    }

    /// Writes parts that take `stored` bytes each and contain `len` bytes each.
    fn write_parts(&mut self, bytes: &[u8], stored: u64, len: u64) -> Result<()> {
        let count = to_u64(bytes.len()) / stored;
        self.list(stored, len, count)?;
        let at = self.position - to_u64(bytes.len());
        let written = self.files[0].write_all_at(bytes, at);
        written.map_err(|e| Error::io("cannot write the compressed file", e).at(at))
    }

    /// Allocates space for `count` parts.
    fn list(&mut self, stored: u64, len: u64, count: u64) -> Result<()> {
        let too_long = |e: io::Error| Error::limit(format!("a file with {e}"));
        let count32 = u32::try_from(count).unwrap_or(u32::MAX);
        self.ending.add(stored, len, count32).map_err(too_long)?;
        self.position += stored * count;
        Ok(())
    }

    /// Writes zeros for the bytes of the disk up to `end`, of which nothing was placed.
    fn fill_zeros(&mut self, end: u64) -> Result<()> {
        let part_len = self.packing.part_len();
        while self.guest < end {
            let parts = ((end - self.guest) / part_len).min(ZEROS_PER_CALL / part_len);
            if parts == 0 {
                let len = end - self.guest;
                self.append(&vec![0; to_usize(len)])?;
                self.guest = end;
                continue;
            }
            if self.zeros.is_empty() {
                let zeros = vec![0; to_usize(part_len)];
                self.parts.append(&zeros, &mut self.zeros).map_err(cannot_compress)?;
            }
            let stored = to_u64(self.zeros.len());
            let bytes = self.zeros.repeat(to_usize(parts));
            self.write_parts(&bytes, stored, part_len)?;
            self.guest += parts * part_len;
        }
        Ok(())
    }
}

impl Target for PackedTarget {
    fn files(&self) -> &[Arc<dyn Sink>] {
        &self.files
    }

    fn place(&mut self, at: u64, unit: Allocate) -> Result<Option<Slot>> {
        self.fill_zeros(at)?;
        match unit {
            Allocate::Zero { len } => {
                // The rest of a part, which the end of a smaller source has, is filled with the next
                // one: the parts do not depend on the source.
                let end = at + len;
                let part = if end < self.size { end % self.packing.part_len() } else { 0 };
                self.fill_zeros(end - part).map(|()| None)
            }
            Allocate::Backed { .. } => Err(Error::invalid("raw images have no backing file")),
            Allocate::Data { .. } => Err(Error::invalid("the file is compressed")),
            Allocate::Compressed { len } => {
                let offset = self.position;
                let contents = (self.size - at).min(self.packing.part_len());
                self.list(len, contents, 1)?;
                self.guest = at + contents;
                Ok(Some(Slot { file: 0, offset, len, is_zeroed: false }))
            }
        }
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.fill_zeros(self.size)?;
        if self.in_archive {
            // Two blocks of zeros end the archive, which is padded to whole records.
            let end = self.size + TAR_HEADER + 1024;
            let padding = end.next_multiple_of(TAR_RECORD) - self.size - TAR_HEADER;
            self.append(&vec![0; to_usize(padding)])?;
        }
        let (file, mut at) = (&self.files[0], self.position);
        let written = self.ending.write(&mut |bytes| {
            file.write_all_at(bytes, at)?;
            at += to_u64(bytes.len());
            Ok(())
        });
        written.map_err(|e| Error::io("cannot write the end of the compressed file", e).at(at))?;
        file.set_len(at).map_err(|e| Error::io(format!("cannot set the length to {at}"), e))
    }
}

fn cannot_compress(error: io::Error) -> Error {
    Error::io("cannot compress", error)
}
