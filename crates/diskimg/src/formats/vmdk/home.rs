//! The file that a disk is opened by: the descriptor, alone or embedded in a
//! sparse extent.

use super::cowd::{self, CowdHeader, Maker};
use super::descriptor::{Descriptor, looks_like_one};
use super::header::{Header, MAGIC};
use super::sparse::read_header;
use super::{COWD_MAGIC, SECTOR, SESPARSE_MAGIC, read};
use crate::host::source::Source;
use crate::vocabulary::error::{Error, Result};
use crate::vocabulary::format::Head;
use crate::vocabulary::limits::Limits;
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
        let mut head = vec![0; source.len().min(Head::BYTES as u64) as usize];
        read(&*source, &mut head, 0, "VMDK header")?;
        if head.starts_with(&SESPARSE_MAGIC) {
            return Err(no_descriptor("an seSparse extent", "SESPARSE"));
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
        if !looks_like_one(&head) {
            let message = "neither a sparse extent nor a descriptor";
            return Err(Error::corrupt("VMDK header", message).at(0));
        }
        let descriptor = read_descriptor(&*source, 0, source.len(), limits)?;
        Ok(Self { source, header: None, descriptor })
    }
}

/// A COWD that is a disk of its own.
fn cowd_alone(source: &dyn Source) -> Result<Header> {
    let CowdHeader { header, maker } = cowd::read_header(source)?;
    match maker {
        Maker::Esx => Err(no_descriptor("a COWD (vmfsSparse) extent", "VMFSSPARSE")),
        Maker::Hosted { parent: Some(parent), .. } => Err(Error::unsupported(format!(
            "a COWD child of VMware 2 or 3, whose parent is '{}'",
            parent.name
        ))
        .hint("alone it holds only what changed")),
        Maker::Hosted { parent: None, .. } => Ok(header),
    }
}

/// An extent alone may hold a part of the disk, or only what changed in it.
fn no_descriptor(what: &str, kind: &str) -> Error {
    Error::unsupported(format!("{what} without descriptor: a part of a disk")).hint(format!(
        "open the descriptor that lists it; one that is lost can be written by hand, with \
         the lines 'version=1', 'CID=fffffffe', 'parentCID=ffffffff', 'createType=\"custom\"' \
         and 'RW SECTORS {kind} \"FILE\"'"
    ))
}

fn embedded_descriptor(
    source: &dyn Source,
    header: &Header,
    limits: &Limits,
) -> Result<Descriptor> {
    if header.descriptor_offset == 0 {
        return Err(no_descriptor(&format!("an extent of {} sectors", header.capacity), "SPARSE"));
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
    read_descriptor(source, at, len, limits)
}

/// Reads the text in `len` bytes, which may be more than it has.
fn read_descriptor(source: &dyn Source, at: u64, len: u64, limits: &Limits) -> Result<Descriptor> {
    let most = limits.descriptor_bytes;
    let mut bytes = vec![0; len.min(most.saturating_add(1)) as usize];
    read(source, &mut bytes, at, "VMDK descriptor")?;
    if len > most && !bytes.contains(&0) {
        return Err(Error::limit(format!("it is longer than {most} bytes"))
            .in_structure("VMDK descriptor")
            .at(at));
    }
    Descriptor::parse(&bytes).map_err(|e| e.at(at))
}
