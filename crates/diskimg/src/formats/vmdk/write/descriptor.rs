//! The descriptor of a new image.
//!
//! The text is ASCII, unless a file name is not, and the same input gives the same text: values
//! that VMware generates at random (content ID, UUID) are derived from size, name, options and, if
//! the descriptor is written last, the guest bytes. Thus two runs of a conversion produce identical
//! files, and a parent whose contents were replaced has a different content ID than its children
//! record. There are two exceptions. A stream's descriptor is written before the data, so that
//! streams of the same size and name have the same IDs whatever their contents. And data that is
//! shared with the source (reflinks) is not read, so that it does not contribute to the IDs.

use super::super::SECTOR;
use super::super::descriptor::NO_PARENT;
use super::geometry::DiskGeometry;
use super::subformat::Subformat;
use crate::error::{Error, Result};
use crate::open::limits::Limits;
use crate::storage::number::{to_u32, to_u64, to_usize};
use std::fmt::{self, Write};
use std::path::Path;

/// First sector and number of sectors of an embedded descriptor, as all writers use them.
pub(super) const DESCRIPTOR_OFFSET: u64 = 1;
pub(super) const DESCRIPTOR_SECTORS: u64 = 20;

/// The version of VMware Tools if it is unknown (`TOOLS_VERSION_UNMANAGED`). Some writers also
/// write `ddb.toolsInstallType`. It is omitted here, because Microsoft's converter rejects disks
/// that have it.
const UNMANAGED_TOOLS: &str = "2147483647";

/// The virtual controllers that VMware's products know.
const ADAPTERS: [&str; 4] = ["ide", "lsilogic", "buslogic", "legacyESX"];

/// The hint for a disk with too many extents.
pub(super) const IN_ONE_FILE: &str =
    "use a layout with one extent: subformat=monolithicSparse or monolithicFlat";

/// The extent's name if the image is written to a pipe.
const DEFAULT_NAME: &str = "disk.vmdk";

/// The contents of a new descriptor.
#[derive(Debug, Clone)]
pub(super) struct NewDescriptor {
    pub(super) subformat: Subformat,
    /// In guest order.
    pub(super) extents: Vec<NewExtent>,
    pub(super) adapter: &'static str,
    pub(super) hardware: String,
    pub(super) tools: String,
    pub(super) parent: Option<NewParent>,
    /// Whether ESXi should treat the flat file as thin provisioned.
    pub(super) thin: bool,
}

/// An extent of the new disk.
#[derive(Debug, Clone)]
pub(super) struct NewExtent {
    /// Number of guest sectors.
    pub(super) sectors: u64,
    /// Name of its file, without the directory.
    pub(super) name: String,
}

/// The parent (backing file) of the new image.
#[derive(Debug, Clone)]
pub(super) struct NewParent {
    pub(super) cid: u32,
    pub(super) hint: String,
}

impl NewDescriptor {
    /// Number of guest sectors.
    pub(super) fn sectors(&self) -> u64 {
        self.extents.iter().map(|extent| extent.sectors).sum()
    }

    /// Verifies that the text is not too long to be read again. This limits a split disk to about
    /// 60 TiB, because each extent needs a line.
    ///
    /// # Errors
    /// [`Limit`](crate::ErrorKind::Limit) if the text is too long.
    pub(super) fn require_fit(&self) -> Result<()> {
        let several = self.subformat.is_several_files();
        let max = if several {
            // The same as QEMU's.
            Limits::default().descriptor_bytes
        } else {
            DESCRIPTOR_SECTORS * SECTOR
        };
        let bytes = to_u64(self.text(0).len());
        if bytes < max {
            return Ok(());
        }
        let error = Error::limit(format!(
            "a descriptor of {bytes} bytes; it must be shorter than {max} bytes"
        ));
        Err(if several { error.hint(IN_ONE_FILE) } else { error })
    }

    /// Returns the text, padded with zeros to the size of an embedded descriptor. `digest` is the
    /// digest of the guest bytes, or 0 if they are not known yet.
    pub(super) fn embedded(&self, digest: u64) -> Vec<u8> {
        let mut bytes = self.text(digest).into_bytes();
        bytes.resize(to_usize(DESCRIPTOR_SECTORS * SECTOR), 0);
        bytes
    }

    /// Returns the text. `digest` is the digest of the guest bytes, or 0 if they are not known yet.
    /// The length does not depend on it.
    pub(super) fn text(&self, digest: u64) -> String {
        let id = self.identity(digest);
        // Two values are reserved: "no parent", and VMware's placeholder for a CID to be replaced.
        let cid = match to_u32(id & 0xffff_ffff) {
            reserved @ (NO_PARENT | 0xffff_fffe) => reserved - 2,
            cid => cid,
        };
        let geometry = DiskGeometry::of(self.sectors(), self.adapter);
        let mut text = String::new();
        let mut line = |args: fmt::Arguments<'_>| {
            // Writing to a String cannot fail.
            let _ = text.write_fmt(args);
            text.push('\n');
        };
        line(format_args!("# Disk DescriptorFile"));
        line(format_args!("version=1"));
        if !self.is_ascii() {
            line(format_args!("encoding=\"UTF-8\""));
        }
        line(format_args!("CID={cid:08x}"));
        line(format_args!("parentCID={:08x}", self.parent.as_ref().map_or(NO_PARENT, |p| p.cid)));
        line(format_args!("createType=\"{}\"", self.subformat.name()));
        if let Some(parent) = &self.parent {
            line(format_args!("parentFileNameHint=\"{}\"", parent.hint));
        }
        line(format_args!("\n# Extent description"));
        for extent in &self.extents {
            line(format_args!("{}", ExtentLine(self.subformat, extent)));
        }
        line(format_args!("\n# The Disk Data Base\n#DDB\n"));
        line(format_args!("ddb.adapterType = \"{}\"", self.adapter));
        line(format_args!("ddb.geometry.cylinders = \"{}\"", geometry.cylinders));
        line(format_args!("ddb.geometry.heads = \"{}\"", geometry.heads));
        line(format_args!("ddb.geometry.sectors = \"{}\"", geometry.sectors));
        // The last 32 bits of the long content ID are the CID.
        line(format_args!("ddb.longContentID = \"{:024x}{cid:08x}\"", id >> 32));
        if self.thin {
            line(format_args!("ddb.thinProvisioned = \"1\""));
        }
        line(format_args!("ddb.toolsVersion = \"{}\"", self.tools));
        line(format_args!("ddb.uuid = \"{}\"", uuid_text(id.rotate_left(64))));
        line(format_args!("ddb.virtualHWVersion = \"{}\"", self.hardware));
        text
    }

    fn is_ascii(&self) -> bool {
        self.extents.iter().all(|extent| extent.name.is_ascii())
            && self.parent.as_ref().is_none_or(|parent| parent.hint.is_ascii())
    }

    /// Derives 128 bits for content ID and UUID from the descriptor and the guest bytes' digest.
    fn identity(&self, content: u64) -> u128 {
        let mut digest = Digest::default();
        let parent = self.parent.as_ref().map(|p| (p.cid, p.hint.as_str()));
        let (cid, hint) = parent.unwrap_or((NO_PARENT, ""));
        // The name of the first extent is derived from the image's.
        let name = self.extents.first().map_or("", |extent| &extent.name);
        let create_type = self.subformat.name();
        for text in [create_type, name, self.adapter, &self.hardware, &self.tools, hint] {
            text.bytes().for_each(|b| digest.add(b.into()));
            digest.add(u64::MAX);
        }
        digest.add(self.sectors());
        digest.add(cid.into());
        digest.add(content);
        let high = digest.value();
        digest.add(1);
        (u128::from(high) << 64) | u128::from(digest.value())
    }
}

/// Formats an extent line. A flat extent's line ends with the offset in the file, except on ESXi.
struct ExtentLine<'a>(Subformat, &'a NewExtent);

impl fmt::Display for ExtentLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(subformat, NewExtent { sectors, name }) = self;
        match subformat {
            Subformat::Vmfs => write!(f, "RW {sectors} VMFS \"{name}\""),
            flat if flat.is_flat() => write!(f, "RW {sectors} FLAT \"{name}\" 0"),
            _ => write!(f, "RW {sectors} SPARSE \"{name}\""),
        }
    }
}

/// Formats a UUID as VMware does. The first 28 bits are replaced by VMware's prefix `60 00 C2 9`.
fn uuid_text(id: u128) -> String {
    let mut bytes = id.to_be_bytes();
    bytes[..3].copy_from_slice(&[0x60, 0x00, 0xc2]);
    bytes[3] = 0x90 | (bytes[3] & 0x0f);
    let mut text = String::new();
    for (i, byte) in bytes.iter().enumerate() {
        let separator = match i {
            0 => "",
            8 => "-",
            _ => " ",
        };
        let _ = write!(text, "{separator}{byte:02x}");
    }
    text
}

/// A non-cryptographic digest of numbers.
#[derive(Debug, Clone)]
struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    /// Adds a number, by applying the finalizer of SplitMix64 to the state.
    fn add(&mut self, number: u64) {
        let mut z = (self.0 ^ number).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.0 = z ^ (z >> 31);
    }

    fn value(&self) -> u64 {
        self.0
    }
}

/// Returns the extent's name for an image in one file: the file's name, with characters replaced
/// that do not fit in a quoted ASCII string. Readers do not need the name to find the extent.
pub(super) fn own_name(path: Option<&Path>) -> String {
    let Some(name) = path.and_then(Path::file_name) else { return DEFAULT_NAME.into() };
    let safe = |c: char| match c {
        '"' | '/' | '\\' => '_',
        ' '..='~' => c,
        _ => '_',
    };
    name.to_string_lossy().chars().map(safe).collect()
}

/// Returns the adapter type. The default is `ide`, as in QEMU, except for vmfs images, which are
/// attached to ESXi's SCSI controllers.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) if the adapter type is unknown.
pub(super) fn adapter(name: Option<&str>, subformat: Subformat) -> Result<&'static str> {
    let default = if subformat == Subformat::Vmfs { "lsilogic" } else { "ide" };
    let name = name.unwrap_or(default);
    ADAPTERS.into_iter().find(|&known| known == name).ok_or_else(|| {
        Error::invalid(format!("Invalid parameter '{name}' for adapter_type"))
            .hint(format!("one of {}", ADAPTERS.join(", ")))
    })
}

/// Returns the hardware version; `compat6` is equivalent to version 6.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) if both are given, or if the version is not a number.
pub(super) fn hardware_version(given: Option<&str>, compat6: bool) -> Result<String> {
    match (given.filter(|&v| v != "undefined"), compat6) {
        (Some(_), true) => Err(Error::invalid("compat6 cannot be enabled with hwversion set")),
        (None, true) => Ok("6".into()),
        (given, false) => version("hwversion", given.unwrap_or("4")),
    }
}

/// Returns the version of VMware Tools.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) if the version is not a number.
pub(super) fn tools_version(given: Option<&str>) -> Result<String> {
    version("toolsversion", given.unwrap_or(UNMANAGED_TOOLS))
}

/// True if `value` is a version: VMware reads it as a 32-bit integer.
pub(in super::super) fn is_version(value: &str) -> bool {
    value.bytes().all(|b| b.is_ascii_digit()) && value.parse::<i32>().is_ok()
}

fn version(option: &str, value: &str) -> Result<String> {
    if is_version(value) {
        return Ok(value.to_owned());
    }
    Err(Error::invalid(format!("Invalid parameter '{value}' for {option}"))
        .hint(format!("a whole number up to {}", i32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::vmdk::descriptor::Descriptor;

    fn sample() -> NewDescriptor {
        NewDescriptor {
            subformat: Subformat::MonolithicSparse,
            extents: vec![NewExtent { sectors: 204_800, name: "a.vmdk".into() }],
            adapter: "ide",
            hardware: "4".into(),
            tools: UNMANAGED_TOOLS.into(),
            parent: None,
            thin: false,
        }
    }

    #[test]
    fn a_new_descriptor_can_be_parsed() {
        let mut new = sample();
        new.parent = Some(NewParent { cid: 7, hint: "base image.vmdk".into() });
        new.require_fit().expect("fits");
        let bytes = new.embedded(1);
        assert!(bytes.len() == 20 * 512 && bytes.is_ascii());
        let read = Descriptor::parse(&bytes).expect("parses");
        assert_eq!(read.parent_cid, 7);
        assert_eq!(read.parent_hint.as_deref(), Some("base image.vmdk"));
        assert_eq!(read.create_type, "monolithicSparse");
        assert_eq!(read.extents[0].text, "RW 204800 SPARSE \"a.vmdk\"");
        assert_eq!(read.ddb("ddb.geometry.cylinders"), Some("203"));
        let long = read.ddb("ddb.longContentID").expect("is set");
        assert!(long.len() == 32 && long.ends_with(&format!("{:08x}", read.cid.expect("is set"))));
        assert!(read.ddb("ddb.uuid").is_some_and(|u| u.starts_with("60 00 c2 9") && u.len() == 47));
    }

    #[test]
    fn equal_input_gives_equal_text_and_different_input_different_ids() {
        let text = |edit: fn(&mut NewDescriptor)| {
            let mut new = sample();
            edit(&mut new);
            new.text(0)
        };
        assert_eq!(text(|_| ()), sample().text(0));
        let edits: [fn(&mut NewDescriptor); 4] = [
            |n| n.extents[0].sectors += 1,
            |n| n.extents[0].name.push('x'),
            |n| n.hardware.push('1'),
            |n| n.parent = Some(NewParent { cid: 1, hint: "p".into() }),
        ];
        let cid = |text: &str| text.lines().nth(2).map(str::to_owned);
        for edit in edits {
            assert_ne!(cid(&text(edit)), cid(&sample().text(0)));
        }
        assert_ne!(cid(&sample().text(1)), cid(&sample().text(0)));
    }

    #[test]
    fn options_that_vmware_cannot_read_are_refused() {
        let (sparse, vmfs) = (Subformat::MonolithicSparse, Subformat::Vmfs);
        assert!(adapter(Some("scsi"), sparse).is_err());
        assert_eq!(adapter(None, sparse).expect("is known"), "ide");
        assert_eq!(adapter(None, vmfs).expect("is known"), "lsilogic");
        assert!(hardware_version(Some("7"), true).is_err());
        assert_eq!(hardware_version(Some("undefined"), true).expect("is 6"), "6");
        assert_eq!(hardware_version(None, false).expect("is 4"), "4");
        assert_eq!(tools_version(Some("12352")).expect("a number"), "12352");
        for bad in ["", "4\"\nRW 1 FLAT", "ü", "4.1", "+4", "-4", "vmx-17", "0x4", "2147483648"] {
            assert!(hardware_version(Some(bad), false).is_err(), "{bad}");
            assert!(tools_version(Some(bad)).is_err(), "{bad}");
        }
        let name = |n: &str| own_name(Some(Path::new(n)));
        assert_eq!(name("/tmp/a \"b\" ü.vmdk"), "a _b_ _.vmdk");
        assert_eq!(own_name(None), "disk.vmdk");
    }
}
