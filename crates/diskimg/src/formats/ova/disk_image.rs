//! A disk's image: a file of the package, in any image format.

use super::envelope::{Disk, File};
use super::package::{Package, PackageFile, has_extension};
use crate::error::{Error, ErrorKind, Result};
use crate::model::format::Format;
use crate::model::layer::Layer;
use crate::open::probe::Probing;
use crate::open::{OpenContext, SnapshotSelector};
use crate::storage::source::Source;
use std::path::Path;
use std::sync::Arc;

/// The formats that URIs and file names claim: a substring of either, and the format's name. A
/// substring that contains another one comes first. The extension `img` claims no format.
const CLAIMS: [(&str, &str); 8] = [
    ("vmdk", "vmdk"),
    // oVirt: http://www.gnome.org/~markmc/qcow-image-format.html
    ("qcow", "qcow2"),
    ("vhdx", "vhdx"),
    ("vhd", "vpc"),
    ("vdi", "vdi"),
    ("iso", "iso"),
    ("raw", "raw"),
    // oVirt: http://en.wikipedia.org/wiki/Byte
    ("wiki/byte", "raw"),
];

/// The opened image of a disk.
#[derive(Debug)]
pub(super) struct DiskImage {
    pub(super) layer: Arc<dyn Layer>,
    /// Its file as stored in the package.
    pub(super) chunks: Vec<PackageFile>,
}

impl DiskImage {
    /// Opens the image of a disk, decompressing it if necessary.
    ///
    /// # Errors
    /// As [`Package::chunks`] and [`of_chunks`](Self::of_chunks).
    pub(super) fn open(
        package: &Package,
        disk: &Disk,
        file: &File,
        snapshot: Option<&SnapshotSelector>,
        metadata_only: bool,
    ) -> Result<Self> {
        let chunks = package.chunks(file)?;
        Self::of_chunks(package, (disk, file), chunks, snapshot, metadata_only)
    }

    /// Opens the image of a disk, whose file is stored as `chunks`.
    ///
    /// # Errors
    /// As [`Package::image`]; [`Corrupt`](crate::ErrorKind::Corrupt) if the image is not of the
    /// stated format, [`Unsupported`](crate::ErrorKind::Unsupported) if its format is unknown,
    /// [`Refused`](crate::ErrorKind::Refused) if it has a backing file; otherwise as the format's
    /// driver.
    pub(super) fn of_chunks(
        package: &Package,
        (disk, file): (&Disk, &File),
        chunks: Vec<PackageFile>,
        snapshot: Option<&SnapshotSelector>,
        metadata_only: bool,
    ) -> Result<Self> {
        let image = package.image(file, &chunks)?;
        // Files that the image refers to are not covered by the manifest.
        let context = OpenContext {
            snapshot,
            metadata_only,
            salvage: package.salvage,
            with_extents: true,
            // An image with a parent is not complete, even if it names the parent by UUID only.
            with_parent: !metadata_only,
            ..OpenContext::isolated(&package.limits)
        };
        let open = || {
            let format = decide(disk, file, &*image)?;
            let layer = (format.driver().open)(Arc::clone(&image), &context)?;
            match layer.parent() {
                None => Ok(layer),
                Some(parent) => {
                    Err(Error::refused(format!("the image has the backing file '{}'", parent.name)))
                }
            }
        };
        let advise = |e: Error| match e.kind() {
            ErrorKind::Refused => e.clear_remedy().hint(
                "an image in an appliance cannot refer to other files: if they are in the \
                     archive, unpack it and open the image by itself",
            ),
            _ => e,
        };
        let layer = open().map_err(advise).map_err(|e| match package.main_source().path() {
            Some(path) => e.in_file(member_path(path, &file.href)),
            None => e.in_file(&file.href),
        })?;
        Ok(Self { layer, chunks })
    }
}

/// Returns a path for messages: `appliance.ova:disk1.vmdk`.
fn member_path(package: &Path, name: &str) -> std::path::PathBuf {
    let mut path = package.as_os_str().to_owned();
    path.push(":");
    path.push(name);
    path.into()
}

/// Determines the format of a disk's image. The descriptor's URI or, if that is unknown, the
/// extension of the file states the format, and the bytes must match.
pub(super) fn decide(disk: &Disk, file: &File, image: &dyn Source) -> Result<Format> {
    let claim = claim_of_uri(&disk.format);
    // The guest controls the bytes of a raw image: they are not probed.
    if claim == Some(Format::Raw.name()) {
        return Ok(Format::Raw);
    }
    let claim = claim.or_else(|| claim_of_name(&file.href));
    let probed = Format::probe_named(image, Some(Path::new(&file.href)), Probing::All);
    let found = probed.map_err(|error| match claim {
        // The descriptor declares a supported format; the content is in another one.
        Some(claim)
            if error.kind() == ErrorKind::Unsupported && claim.parse::<Format>().is_ok() =>
        {
            let content = error.without_remedy();
            let message = format!("its format is declared as {claim}, but {content}");
            open_by_itself(Error::corrupt("disk image", message), file)
        }
        _ => error.clear_remedy(),
    })?;
    if found.driver().appliance.is_some() {
        let message = "an appliance within an appliance, or a compressed disk that is not declared \
                       as compressed";
        return Err(Error::unsupported(message).hint("unpack the outer appliance"));
    }
    let found_name = found.name();
    match claim {
        Some(claim) if claim == found_name => Ok(found),
        Some(claim) if found == Format::default() && claim.parse::<Format>().is_err() => {
            Err(Error::unsupported(format!("a disk in the format {claim}")))
        }
        Some(claim) => {
            let found = match found == Format::default() {
                true => format!("not {claim}"),
                false => found_name.to_owned(),
            };
            let message =
                format!("its format is declared as {claim}, but its first bytes are {found}");
            Err(open_by_itself(Error::corrupt("disk image", message), file))
        }
        None if found != Format::default() || has_extension(&file.href, "img") => Ok(found),
        // Any bytes may be a raw image, so raw must be declared.
        None => {
            let message = format!("a disk in the unknown format '{}'", disk.format);
            Err(open_by_itself(Error::unsupported(message), file))
        }
    }
}

/// Adds how to read a disk whose format is not the declared one.
fn open_by_itself(error: Error, file: &File) -> Error {
    error.hint(format!(
        "unpack the appliance and open '{}' by itself; its format can be named then",
        file.href
    ))
}

/// Returns the name of the format that a URI claims, if it is known.
pub(super) fn claim_of_uri(uri: &str) -> Option<&'static str> {
    let uri = uri.to_ascii_lowercase();
    CLAIMS.iter().find(|(word, _)| uri.contains(word)).map(|(_, format)| *format)
}

/// Returns the name of the format that a file's extension claims; `.vmdk.gz` counts as `.vmdk`.
fn claim_of_name(name: &str) -> Option<&'static str> {
    let name = if has_extension(name, "gz") { &name[..name.len() - 3] } else { name };
    let extension = Path::new(name).extension()?.to_string_lossy().to_ascii_lowercase();
    CLAIMS.iter().find(|(word, _)| extension.starts_with(word)).map(|(_, format)| *format)
}

/// True if the name has the extension of a disk image.
pub(super) fn is_image_name(name: &str) -> bool {
    has_extension(name, "img") || claim_of_name(name).is_some_and(|claim| claim != "iso")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_claimed_by_uris_and_extensions() {
        for (uri, claim) in [
            ("http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized", "vmdk"),
            ("http://www.gnome.org/~markmc/qcow-image-format.html", "qcow2"),
            ("http://en.wikipedia.org/wiki/Byte", "raw"),
            ("http://technet.microsoft.com/en-us/library/bb676673.aspx#vhd", "vpc"),
        ] {
            assert_eq!(claim_of_uri(uri), Some(claim), "{uri}");
        }
        assert_eq!(claim_of_uri("http://example.org/"), None);
        for (name, claim) in
            [("a.VMDK", "vmdk"), ("b.vmdk.gz", "vmdk"), ("c.vhdx", "vhdx"), ("d.qcow2", "qcow2")]
        {
            assert_eq!(claim_of_name(name), Some(claim), "{name}");
        }
        assert_eq!(claim_of_name("vmdk"), None);
    }
}
