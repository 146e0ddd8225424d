//! A disk's image: a file of the package in a format of its own.

use super::envelope::{Disk, File};
use super::package::{Package, PackageFile, has_extension};
use crate::error::{Error, ErrorKind, Result};
use crate::model::format::Format;
use crate::model::layer::Layer;
use crate::open::external_files::{ExternalFiles, Resolver};
use crate::open::{OpenContext, SnapshotSelector};
use crate::storage::source::Source;
use std::path::Path;
use std::sync::Arc;

/// What format URIs and file names claim: a word in either, and the format's
/// name. Longer words come first.
const CLAIMS: [(&str, &str); 9] = [
    ("vmdk", "vmdk"),
    // oVirt: http://www.gnome.org/~markmc/qcow-image-format.html
    ("qcow", "qcow2"),
    ("vhdx", "vhdx"),
    ("vhd", "vpc"),
    ("vdi", "vdi"),
    ("iso", "iso"),
    ("raw", "raw"),
    ("img", "raw"),
    // oVirt: http://en.wikipedia.org/wiki/Byte
    ("wiki/byte", "raw"),
];

/// An opened disk.
#[derive(Debug)]
pub(super) struct DiskImage {
    pub(super) layer: Arc<dyn Layer>,
    /// Its file as it lies in the package.
    pub(super) parts: Vec<PackageFile>,
}

impl DiskImage {
    /// Opens the image in a disk's file, unpacking it if it is packed.
    pub(super) fn open(
        package: &Package,
        disk: &Disk,
        file: &File,
        snapshot: Option<&SnapshotSelector>,
        metadata_only: bool,
    ) -> Result<Self> {
        let parts = package.parts(file)?;
        let image = package.image(file, &parts)?;
        let context = OpenContext {
            // What the image names is in no manifest: it has to be in one file.
            resolver: Resolver::new(None, ExternalFiles::None),
            limits: &package.limits,
            snapshot,
            disk: None,
            metadata_only,
            with_extents: true,
            // It may have none; one that has does not pass for complete.
            with_parent: !metadata_only,
            probed: false,
        };
        let open = || {
            let format = decide(disk, file, &*image)?;
            let layer = (format.driver().open)(Arc::clone(&image), &context)?;
            match layer.parent() {
                None => Ok(layer),
                Some(parent) => {
                    Err(Error::refused(format!("it builds on the backing file '{}'", parent.name)))
                }
            }
        };
        let alone = |e: Error| match e.kind() {
            ErrorKind::Refused => e.hint("an image in an appliance must stand alone"),
            _ => e,
        };
        let layer = open().map_err(alone).map_err(|e| match package.main_source().path() {
            Some(path) => e.in_file(member_path(path, &file.href)),
            None => e.in_file(&file.href),
        })?;
        Ok(Self { layer, parts })
    }
}

/// `appliance.ova:disk1.vmdk`.
fn member_path(package: &Path, name: &str) -> std::path::PathBuf {
    let mut path = package.as_os_str().to_owned();
    path.push(":");
    path.push(name);
    path.into()
}

/// The format of a disk's image. The descriptor's URI says, the name does where
/// that is unknown, and the bytes must agree.
fn decide(disk: &Disk, file: &File, image: &dyn Source) -> Result<Format> {
    let claim = claim_of_uri(&disk.format);
    // Raw bytes are the guest's, who can make them look like anything.
    if claim == Some(Format::Raw.name()) {
        return Ok(Format::Raw);
    }
    let claim = claim.or_else(|| claim_of_name(&file.href));
    let found = Format::probe_as(image, Some(Path::new(&file.href)), Format::ALL)?;
    if found.driver().appliance.is_some() {
        let message = "an appliance inside an appliance, or a disk packed without saying so";
        return Err(Error::unsupported(message).hint("unpack the outer one"));
    }
    match claim {
        Some(claim) if claim == found.name() => Ok(found),
        Some(claim) if found == Format::default() => match claim.parse::<Format>() {
            Ok(_) => Err(Error::corrupt(
                "disk image",
                format!("it is said to be {claim}, and its first bytes are not"),
            )),
            Err(_) => Err(Error::unsupported(format!("a disk in the format {claim}"))),
        },
        Some(claim) => Err(Error::corrupt(
            "disk image",
            format!("it is said to be {claim}, and is {found} by its first bytes"),
        )
        .hint("unpack the appliance and name the format (-f)")),
        None if found != Format::default() => Ok(found),
        // Any bytes may be raw ones, so somebody must say that these are.
        None => {
            Err(Error::unsupported(format!("a disk whose format '{}' is not known", disk.format))
                .hint("unpack the appliance and name the format (-f)"))
        }
    }
}

pub(super) fn claim_of_uri(uri: &str) -> Option<&'static str> {
    let uri = uri.to_ascii_lowercase();
    CLAIMS.iter().find(|(word, _)| uri.contains(word)).map(|(_, format)| *format)
}

/// By the extension; `.vmdk.gz` counts as `.vmdk`.
fn claim_of_name(name: &str) -> Option<&'static str> {
    let name = if has_extension(name, "gz") { &name[..name.len() - 3] } else { name };
    let extension = Path::new(name).extension()?.to_string_lossy().to_ascii_lowercase();
    CLAIMS.iter().find(|(word, _)| extension.starts_with(word)).map(|(_, format)| *format)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_claimed_by_uri_and_name() {
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
