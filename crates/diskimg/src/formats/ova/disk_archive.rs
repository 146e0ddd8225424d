//! Archives of disk images without a descriptor.
//!
//! ```text
//!   Vagrant, libvirt   metadata.json {"format": "qcow2", …}   box.img
//!                      metadata.json {"disks": [{"path": "box_0.img", "format": "qcow2"}, …]}
//!   Google Cloud       disk.raw
//! ```
//!
//! Without `metadata.json`, or if it lists no disks, the disks are the members whose names have the
//! extension of an image format. Boxes of other providers contain a descriptor (VirtualBox), or a
//! disk in several files (VMware), which must be unpacked.

use super::archive::{Archive, Member};
use super::box_metadata::{Found, Metadata};
use super::disk_image::is_image_name;
use super::envelope::{Capacity, Disk, Envelope, File};
use crate::error::{Error, Result};
use crate::open::limits::Limits;
use crate::remedy::Remedy;
use crate::storage::number::{to_u64, to_usize};

/// Name of the member in which Vagrant describes a box.
pub(super) const METADATA: &str = "metadata.json";

/// Returns the disks of an archive, as if a descriptor listed them.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if there are none, or if `metadata.json` lists a disk that
/// is not in the archive; [`Limit`](crate::ErrorKind::Limit) if there are too many; and the errors
/// of reading.
pub(super) fn envelope(archive: &Archive, limits: &Limits) -> Result<Envelope> {
    // To a program that unpacks the archive, a link is a disk.
    if let Some(link) = archive.links().find(|&link| link == METADATA || is_image_name(link)) {
        let message = format!("'{link}' is a link, which is not followed");
        return Err(Error::corrupt("archive", message));
    }
    let metadata = match archive.find(METADATA) {
        Some(member) => read_metadata(archive, member, limits)?,
        None => Metadata::default(),
    };
    let mut disks = metadata.disks;
    if disks.is_empty() {
        disks = by_name(archive, metadata.format);
    }
    if disks.is_empty() {
        let message = "it has neither an .ovf member nor a disk image";
        return Err(Error::corrupt("archive", message)
            .hint("another kind of archive must be unpacked first")
            .with_remedy(Remedy::NameFormatRaw));
    }
    let count = to_u64(disks.len()).max(metadata.listed);
    if count > limits.ovf_disks {
        let found = format!("{count} disks");
        return Err(Error::over_limit("ovf_disks", found, limits.ovf_disks));
    }
    if let Some(missing) = disks.iter().find(|disk| archive.find(&disk.name).is_none()) {
        let message = format!("it lists the disk '{}', which is not in the archive", missing.name);
        return Err(Error::corrupt(METADATA, message));
    }
    let mut envelope = Envelope::default();
    for (index, Found { name, format }) in disks.into_iter().enumerate() {
        envelope.listed.push(name.clone());
        envelope.files.push(File { href: name, size: None, gzip: false, chunk: None });
        envelope.disks.push(Disk {
            id: String::new(),
            file: Some(index),
            capacity: Capacity::Unknown,
            format: format.unwrap_or_default(),
            populated: None,
            parent: None,
        });
    }
    Ok(envelope)
}

/// Parses `metadata.json`.
///
/// # Errors
/// [`Limit`](crate::ErrorKind::Limit) if it is too large, [`Corrupt`](crate::ErrorKind::Corrupt) if
/// it is not valid: a more lenient reader might find other disks in it.
fn read_metadata(archive: &Archive, member: &Member, limits: &Limits) -> Result<Metadata> {
    if member.size > limits.ovf_bytes {
        let found = format!("a {METADATA} of {} bytes", member.size);
        return Err(Error::over_limit("ovf_bytes", found, limits.ovf_bytes));
    }
    let source = archive.open_member(member)?;
    let mut bytes = vec![0; to_usize(source.len())];
    source.read_exact_at(&mut bytes, 0).map_err(|e| Error::io("cannot read metadata.json", e))?;
    Metadata::parse(&bytes).map_err(|message| Error::corrupt(METADATA, message))
}

/// Returns the members whose names are those of disk images. `format` is that of a box.
fn by_name(archive: &Archive, format: Option<String>) -> Vec<Found> {
    let names = archive.members().iter().map(|member| &*member.name);
    names
        .filter(|name| is_image_name(name) && !is_extent_name(name))
        .map(|name| Found {
            name: name.to_owned(),
            format: match name.rsplit_once('.') {
                // Says nothing about the format.
                Some((_, extension)) if extension.eq_ignore_ascii_case("img") => format.clone(),
                // As the format of a raw disk is not probed, it must be stated.
                Some((_, extension)) if extension.eq_ignore_ascii_case("raw") => {
                    Some("raw".to_owned())
                }
                _ => None,
            },
        })
        .collect()
}

/// True for the name of a VMDK that is only a part of a disk: `disk-s001.vmdk`, `disk-flat.vmdk`.
fn is_extent_name(name: &str) -> bool {
    crate::formats::vmdk::descriptor_name(name).is_some()
}
