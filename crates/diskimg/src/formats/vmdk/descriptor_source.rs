//! The file that a disk is opened by: the descriptor, alone or embedded in a
//! sparse extent.

use super::cowd::{self, CowdHeader, Maker};
use super::descriptor::{Descriptor, looks_like_one};
use super::extent_line::{ExtentLine, shortened};
use super::header::{Header, MAGIC};
use super::sparse::read_header;
use super::{COWD_MAGIC, SECTOR, SESPARSE_MAGIC, read};
use crate::error::{Error, ErrorKind, Result};
use crate::open::limits::Limits;
use crate::open::probe::ProbeBuffer;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::Source;
use std::sync::Arc;

/// The file with the descriptor.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) source: Arc<dyn Source>,
    /// If the file is itself a sparse extent with guest bytes.
    pub(super) header: Option<Header>,
    pub(super) descriptor: Descriptor,
}

impl Home {
    /// Reads header and descriptor, and opens nothing else.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it is neither a descriptor nor
    /// a sparse extent with one, [`Unsupported`](crate::ErrorKind::Unsupported)
    /// for an extent without; as [`Descriptor::parse`].
    pub(super) fn read(source: Arc<dyn Source>, limits: &Limits) -> Result<Self> {
        let mut head = vec![0; to_usize(source.len().min(to_u64(ProbeBuffer::BYTES)))];
        read(&*source, &mut head, 0, "VMDK header")?;
        if head.starts_with(&SESPARSE_MAGIC) {
            return Err(no_descriptor("an seSparse extent"));
        }
        if head.starts_with(&COWD_MAGIC) {
            let header = cowd_alone(&*source)?;
            let descriptor = Descriptor::of_one_extent("vmware3", header.capacity);
            return Ok(Self { source, header: Some(header), descriptor });
        }
        if head.starts_with(&MAGIC) {
            let header = read_header(&*source)?;
            let descriptor = embedded_descriptor(&*source, &header, limits)?;
            // Without capacity the header is a mere envelope: the disk is elsewhere.
            let header = Some(header).filter(|header| header.capacity > 0);
            return Ok(Self { source, header, descriptor });
        }
        // Whoever names the format is believed, as far as it goes.
        let titled = looks_like_one(&head);
        let descriptor = match descriptor_file(&*source, limits) {
            Ok(descriptor) if titled || !descriptor.extents.is_empty() => descriptor,
            Err(error) if titled || error.kind() != ErrorKind::Corrupt => return Err(error),
            _ => {
                let message = "neither a sparse extent nor a descriptor";
                return Err(Error::corrupt("VMDK header", message).at(0));
            }
        };
        Ok(Self { source, header: None, descriptor })
    }
}

/// A COWD that is a disk of its own.
fn cowd_alone(source: &dyn Source) -> Result<Header> {
    let CowdHeader { header, maker } = cowd::read_header(source)?;
    match maker {
        Maker::Esx => Err(no_descriptor("a COWD (vmfsSparse) extent")),
        Maker::Hosted { parent: Some(parent), .. } => Err(Error::unsupported(format!(
            "a COWD child of VMware 2 or 3, whose parent is '{}'",
            parent.name
        ))
        .hint("alone it holds only what changed")),
        Maker::Hosted { parent: None, .. } => Ok(header),
    }
}

/// An extent alone may hold a part of the disk, or only what changed in it.
fn no_descriptor(what: &str) -> Error {
    Error::unsupported(format!(
        "{what} without descriptor: a part of a disk, or what changed in it"
    ))
    .hint(
        "open the descriptor that lists it; where that is lost, one written by hand needs the \
             line 'RW SECTORS TYPE \"FILE\"' for each part and, for changes, parentCID and \
             parentFileNameHint of the disk that they were made to",
    )
}

fn embedded_descriptor(
    source: &dyn Source,
    header: &Header,
    limits: &Limits,
) -> Result<Descriptor> {
    if header.descriptor_offset == 0 {
        return Err(no_descriptor(&format!("an extent of {} sectors", header.capacity)));
    }
    let at = header.descriptor_offset * SECTOR;
    let len = match header.descriptor_sectors * SECTOR {
        // Some writers leave the size to the text's own end.
        0 => (header.over_head * SECTOR).min(source.len()).saturating_sub(at),
        len => len,
    };
    if at.checked_add(len).is_none_or(|end| end > source.len()) {
        return Err(Error::corrupt(
            "VMDK descriptor",
            format!("its {len} bytes leave the file, which ends at {:#x}", source.len()),
        )
        .at(at)
        .hint("the file is probably truncated"));
    }
    // What follows an embedded text may be the rest of a longer one.
    read_descriptor(source, at, len, limits).map(|(descriptor, _)| descriptor)
}

/// Reads a descriptor that is a file of its own. QEMU leaves remains of an
/// older text behind a shorter one; but no part of the disk may be told there.
fn descriptor_file(source: &dyn Source, limits: &Limits) -> Result<Descriptor> {
    let (descriptor, rest) = read_descriptor(source, 0, source.len(), limits)?;
    let rest = String::from_utf8_lossy(&rest);
    let lost = rest
        .split(['\n', '\r', '\0'])
        .find(|line| ExtentLine::parse(line.trim()).is_ok_and(|extent| extent.is_some()));
    match lost {
        None => Ok(descriptor),
        Some(line) => Err(Error::corrupt(
            "VMDK descriptor",
            format!("'{}' stands behind a gap of zero bytes", shortened(line.trim())),
        )
        .hint("the file is damaged: its text should end with its last line")),
    }
}

/// Reads the text in `len` bytes, which may be more than it has; gives the rest
/// of them, too.
fn read_descriptor(
    source: &dyn Source,
    at: u64,
    len: u64,
    limits: &Limits,
) -> Result<(Descriptor, Vec<u8>)> {
    let most = limits.descriptor_bytes;
    let mut bytes = vec![0; to_usize(len.min(most.saturating_add(1)))];
    read(source, &mut bytes, at, "VMDK descriptor")?;
    let end = bytes.iter().position(|&b| b == 0);
    if len > most && end.is_none() {
        return Err(Error::over_limit("descriptor_bytes", format!("{len} bytes"), most)
            .in_structure("VMDK descriptor")
            .at(at));
    }
    let rest = bytes.split_off(end.unwrap_or(bytes.len()));
    Descriptor::parse(&bytes).map(|descriptor| (descriptor, rest)).map_err(|e| e.at(at))
}
