//! The file that contains the descriptor: a text file, or a sparse extent that embeds it.

use super::cowd::{self, CowdHeader, CowdVariant};
use super::descriptor::{Descriptor, looks_like_one};
use super::extent_line::{ExtentLine, descriptor_name, shortened};
use super::header::{Header, MAGIC};
use super::sparse::read_header;
use super::{COWD_MAGIC, SECTOR, SESPARSE_MAGIC, read};
use crate::error::{Error, ErrorKind, Result};
use crate::formats::signatures::is_utf16_descriptor;
use crate::open::limits::Limits;
use crate::open::probe::ProbeBuffer;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::Source;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

/// The file that contains the descriptor.
#[derive(Debug)]
pub(super) struct DescriptorSource {
    pub(super) source: Arc<dyn Source>,
    /// The header, if the file is also a sparse extent that stores guest data.
    pub(super) header: Option<Header>,
    pub(super) descriptor: Descriptor,
}

impl DescriptorSource {
    /// Reads header and descriptor without opening any other file.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if the file is neither a descriptor nor a sparse
    /// extent, [`Unsupported`](crate::ErrorKind::Unsupported) for an extent without a descriptor,
    /// [`Io`](crate::ErrorKind::Io); otherwise as [`Descriptor::parse`].
    pub(super) fn read(source: Arc<dyn Source>, limits: &Limits) -> Result<Self> {
        let mut head = vec![0; to_usize(source.len().min(to_u64(ProbeBuffer::HEAD)))];
        read(&*source, &mut head, 0, "VMDK header")?;
        if head.starts_with(&SESPARSE_MAGIC) {
            return Err(no_descriptor(&*source, "an seSparse extent"));
        }
        if head.starts_with(&COWD_MAGIC) {
            let header = standalone_cowd(&*source)?;
            let descriptor = Descriptor::of_one_extent("vmware3", header.capacity);
            return Ok(Self { source, header: Some(header), descriptor });
        }
        if head.starts_with(&MAGIC) {
            let header = read_header(&*source)?;
            let descriptor = embedded_descriptor(&*source, &header, limits)?;
            // A header with capacity 0 only wraps the descriptor; the extents are other files.
            let header = Some(header).filter(|header| header.capacity > 0);
            return Ok(Self { source, header, descriptor });
        }
        if is_utf16_descriptor(&head) {
            let error = Error::unsupported("the text is in UTF-16").in_structure("VMDK descriptor");
            return Err(error.at(0).hint("convert the descriptor to UTF-8"));
        }
        // The caller may have named the format explicitly: text that lists extents is accepted
        // even if it would not be probed as a descriptor.
        let probed = looks_like_one(&head);
        let descriptor = match descriptor_file(&*source, limits) {
            Ok(descriptor) if probed || !descriptor.extents.is_empty() => descriptor,
            Err(error) if probed || error.kind() != ErrorKind::Corrupt => return Err(error),
            _ => {
                let message = "neither a sparse extent nor a descriptor";
                return Err(Error::corrupt("VMDK header", message).at(0));
            }
        };
        Ok(Self { source, header: None, descriptor })
    }
}

/// Reads the header of a COWD file that is a whole disk.
fn standalone_cowd(source: &dyn Source) -> Result<Header> {
    let CowdHeader { header, variant } = cowd::read_header(source)?;
    match variant {
        CowdVariant::Esx => Err(no_descriptor(source, "a COWD (vmfsSparse) extent")),
        CowdVariant::Hosted { parent: Some(parent), .. } => Err(Error::unsupported(format!(
            "a COWD child disk of VMware 2 or 3, whose parent is '{}'",
            parent.name
        ))
        .hint("the file contains only the changes relative to its parent")),
        CowdVariant::Hosted { parent: None, .. } => Ok(header),
    }
}

/// The error for an extent that was opened instead of its descriptor. Its data may be incomplete:
/// one of several extents, or only the changes relative to a parent.
fn no_descriptor(source: &dyn Source, what: &str) -> Error {
    let name = source.path().and_then(Path::file_name).map(OsStr::to_string_lossy);
    let named = name.and_then(|name| descriptor_name(&name));
    let descriptor = named.map_or_else(String::new, |name| format!(", probably '{name}'"));
    Error::unsupported(format!(
        "{what} without a descriptor: one of several extents of a disk, or changes relative to a \
         parent"
    ))
    .hint(format!(
        "open the descriptor that lists the extent{descriptor}; if it is lost, write one with a \
         line 'RW SECTORS TYPE \"FILE\"' for each extent and, for a child disk, parentCID and \
         parentFileNameHint",
    ))
}

fn embedded_descriptor(
    source: &dyn Source,
    header: &Header,
    limits: &Limits,
) -> Result<Descriptor> {
    let alone = || no_descriptor(source, &format!("an extent of {} sectors", header.capacity));
    if header.descriptor_offset == 0 {
        return Err(alone());
    }
    let at = header.descriptor_offset * SECTOR;
    let len = match header.descriptor_sectors * SECTOR {
        // Some writers record no size; the text then ends with a zero byte.
        0 => (header.over_head * SECTOR).min(source.len()).saturating_sub(at),
        len => len,
    };
    if at.checked_add(len).is_none_or(|end| end > source.len()) {
        return Err(Error::corrupt(
            "VMDK descriptor",
            format!("its {len} bytes extend beyond the end of the file at {:#x}", source.len()),
        )
        .at(at)
        .hint("the file is probably truncated"));
    }
    // Bytes after the end of an embedded text may be left over from a longer one.
    let (descriptor, rest) = read_descriptor(source, at, len, limits)?;
    // QEMU reserves space for a descriptor in each extent, but leaves it empty.
    let is_empty = descriptor.extents.is_empty() && to_u64(rest.len()) == len;
    match is_empty && header.capacity > 0 {
        true => Err(alone()),
        false => Ok(descriptor),
    }
}

/// Reads a descriptor that is a separate file. QEMU may leave the end of a longer, older text after
/// a shorter one; but an extent line after the first zero byte is an error, because an extent would
/// be lost.
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
            format!("the extent line '{}' follows a zero byte", shortened(line.trim())),
        )
        .hint("the file is damaged: nothing may follow the end of the text")),
    }
}

/// Reads a descriptor from `len` bytes at host offset `at`, and returns it with the bytes from the
/// first zero byte on.
fn read_descriptor(
    source: &dyn Source,
    at: u64,
    len: u64,
    limits: &Limits,
) -> Result<(Descriptor, Vec<u8>)> {
    let max = limits.descriptor_bytes;
    let mut bytes = vec![0; to_usize(len.min(max.saturating_add(1)))];
    read(source, &mut bytes, at, "VMDK descriptor")?;
    let end = bytes.iter().position(|&b| b == 0);
    if len > max && end.is_none() {
        return Err(Error::over_limit("descriptor_bytes", format!("{len} bytes"), max)
            .in_structure("VMDK descriptor")
            .at(at));
    }
    let rest = bytes.split_off(end.unwrap_or(bytes.len()));
    Descriptor::parse(&bytes).map(|descriptor| (descriptor, rest)).map_err(|e| e.at(at))
}
