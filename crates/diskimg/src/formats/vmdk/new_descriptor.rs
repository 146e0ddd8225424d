//! The descriptor of a new image.
//!
//! ASCII, but for a parent's name, and the same bytes for the same input: what
//! VMware makes up at random (content ID, UUID) is derived from size, name,
//! options and, where the descriptor is written last, the grain tables. So two
//! runs of a conversion give the same file; and two streamed disks of the same
//! size and name have the same IDs, whatever is on them.

use super::SECTOR;
use super::descriptor::NO_PARENT;
use crate::vocabulary::error::{Error, Result};
use std::fmt::Write;
use std::path::Path;

/// Sectors set aside for an embedded descriptor, from sector 1 on: what every
/// writer uses.
pub(super) const DESCRIPTOR_OFFSET: u64 = 1;
pub(super) const DESCRIPTOR_SECTORS: u64 = 20;

/// The version of VMware's tools when there is no saying
/// (`TOOLS_VERSION_UNMANAGED`).
const UNMANAGED_TOOLS: &str = "2147483647";

/// Virtual controllers that VMware's tools know in a descriptor.
const ADAPTERS: [&str; 4] = ["ide", "lsilogic", "buslogic", "legacyESX"];

/// The name of an extent whose file has none: it goes through a pipe.
const NAMELESS: &str = "disk.vmdk";

/// What a new descriptor says.
#[derive(Debug, Clone)]
pub(super) struct NewDescriptor {
    pub(super) create_type: &'static str,
    /// Guest sectors.
    pub(super) sectors: u64,
    /// The image's own file name, without directory.
    pub(super) name: String,
    pub(super) adapter: &'static str,
    pub(super) hardware: String,
    pub(super) tools: String,
    pub(super) parent: Option<NewParent>,
}

/// The image that the new one builds on.
#[derive(Debug, Clone)]
pub(super) struct NewParent {
    pub(super) cid: u32,
    pub(super) hint: String,
}

impl NewDescriptor {
    /// The text, padded with zeros to its sectors. `content` is a digest of
    /// what else is known of the image.
    ///
    /// # Errors
    /// [`Limit`](crate::ErrorKind::Limit) if it does not fit.
    pub(super) fn sectors(&self, content: u64) -> Result<Vec<u8>> {
        let mut bytes = self.text(content).into_bytes();
        let room = (DESCRIPTOR_SECTORS * SECTOR) as usize;
        if bytes.len() >= room {
            return Err(Error::limit(format!(
                "a descriptor of {} bytes; names and versions may take less than {room}",
                bytes.len()
            )));
        }
        bytes.resize(room, 0);
        Ok(bytes)
    }

    fn text(&self, content: u64) -> String {
        let id = self.identity(content);
        // Reserved: no parent, and VMware's own placeholder for "to be replaced".
        let cid = match id as u32 {
            taken @ (NO_PARENT | 0xffff_fffe) => taken - 2,
            cid => cid,
        };
        let heads: u64 = if self.adapter == "ide" { 16 } else { 255 };
        let mut text = String::new();
        let mut line = |args: std::fmt::Arguments<'_>| {
            // Writing to a String cannot fail.
            let _ = text.write_fmt(args);
            text.push('\n');
        };
        line(format_args!("# Disk DescriptorFile"));
        line(format_args!("version=1"));
        line(format_args!("CID={cid:08x}"));
        line(format_args!("parentCID={:08x}", self.parent.as_ref().map_or(NO_PARENT, |p| p.cid)));
        line(format_args!("createType=\"{}\"", self.create_type));
        if let Some(parent) = &self.parent {
            line(format_args!("parentFileNameHint=\"{}\"", parent.hint));
        }
        line(format_args!("\n# Extent description"));
        line(format_args!("RW {} SPARSE \"{}\"", self.sectors, self.name));
        line(format_args!("\n# The Disk Data Base\n#DDB\n"));
        line(format_args!("ddb.adapterType = \"{}\"", self.adapter));
        line(format_args!("ddb.geometry.cylinders = \"{}\"", self.sectors / (63 * heads)));
        line(format_args!("ddb.geometry.heads = \"{heads}\""));
        line(format_args!("ddb.geometry.sectors = \"63\""));
        // Its last 32 bits are the CID.
        line(format_args!("ddb.longContentID = \"{:024x}{cid:08x}\"", id >> 32));
        line(format_args!("ddb.toolsVersion = \"{}\"", self.tools));
        line(format_args!("ddb.uuid = \"{}\"", uuid_text(id.rotate_left(64))));
        line(format_args!("ddb.virtualHWVersion = \"{}\"", self.hardware));
        text
    }

    fn identity(&self, content: u64) -> u128 {
        let mut digest = Digest::default();
        let parent = self.parent.as_ref().map(|p| (p.cid, p.hint.as_str()));
        let (cid, hint) = parent.unwrap_or((NO_PARENT, ""));
        for text in [self.create_type, &self.name, self.adapter, &self.hardware, &self.tools, hint]
        {
            text.bytes().for_each(|b| digest.add(b.into()));
            digest.add(u64::MAX);
        }
        digest.add(self.sectors);
        digest.add(cid.into());
        digest.add(content);
        let high = digest.value();
        digest.add(1);
        (u128::from(high) << 64) | u128::from(digest.value())
    }
}

/// Sixteen bytes as VMware writes them, behind its own prefix `60 00 C2 9`.
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

/// A digest of numbers: tells images apart, keeps nobody out.
#[derive(Debug, Clone)]
pub(super) struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    /// Takes in one more number (the finalizer of SplitMix64 on the running state).
    pub(super) fn add(&mut self, number: u64) {
        let mut z = (self.0 ^ number).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.0 = z ^ (z >> 31);
    }

    pub(super) fn value(&self) -> u64 {
        self.0
    }
}

/// The name for the extent line: the file's, made safe for a quoted ASCII
/// string. Nobody needs it to find the extent, which is the file itself.
pub(super) fn extent_name(path: Option<&Path>) -> String {
    let Some(name) = path.and_then(Path::file_name) else { return NAMELESS.into() };
    let safe = |c: char| match c {
        '"' | '/' | '\\' => '_',
        ' '..='~' => c,
        _ => '_',
    };
    name.to_string_lossy().chars().map(safe).collect()
}

/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) if nobody knows such an adapter.
pub(super) fn adapter(name: Option<&str>) -> Result<&'static str> {
    let name = name.unwrap_or("ide");
    ADAPTERS.into_iter().find(|&known| known == name).ok_or_else(|| {
        Error::invalid(format!("Invalid parameter '{name}' for adapter_type"))
            .hint(format!("one of {}", ADAPTERS.join(", ")))
    })
}

/// The hardware version: `compat6` is another word for 6.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) if both are given, or it is no version.
pub(super) fn hardware_version(version: Option<&str>, compat6: bool) -> Result<String> {
    match (version.filter(|&v| v != "undefined"), compat6) {
        (Some(_), true) => Err(Error::invalid("compat6 cannot be enabled with hwversion set")),
        (None, true) => Ok("6".into()),
        (version, false) => plain("hwversion", version.unwrap_or("4")),
    }
}

/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) if it is no version.
pub(super) fn tools_version(version: Option<&str>) -> Result<String> {
    plain("toolsversion", version.unwrap_or(UNMANAGED_TOOLS))
}

/// Nothing that would end a quoted string.
fn plain(option: &str, value: &str) -> Result<String> {
    let fits = !value.is_empty()
        && value.len() <= 64
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b));
    if fits {
        return Ok(value.to_owned());
    }
    Err(Error::invalid(format!("Invalid parameter '{value}' for {option}"))
        .hint("letters, digits, dots and hyphens, at most 64"))
}

#[cfg(test)]
mod tests {
    use super::super::descriptor::Descriptor;
    use super::*;

    fn sample() -> NewDescriptor {
        NewDescriptor {
            create_type: "monolithicSparse",
            sectors: 204_800,
            name: "a.vmdk".into(),
            adapter: "ide",
            hardware: "4".into(),
            tools: UNMANAGED_TOOLS.into(),
            parent: None,
        }
    }

    #[test]
    fn the_parser_understands_every_line() {
        let mut new = sample();
        new.parent = Some(NewParent { cid: 7, hint: "base image.vmdk".into() });
        let bytes = new.sectors(1).expect("fits");
        assert!(bytes.len() == 20 * 512 && bytes.is_ascii());
        let read = Descriptor::parse(&bytes).expect("parses");
        assert_eq!(read.parent_cid, 7);
        assert_eq!(read.parent_hint.as_deref(), Some("base image.vmdk"));
        assert_eq!(read.create_type, "monolithicSparse");
        assert_eq!(read.extents[0].text, "RW 204800 SPARSE \"a.vmdk\"");
        assert_eq!(read.ddb("ddb.geometry.cylinders"), Some("203"));
        let long = read.ddb("ddb.longContentID").expect("there");
        assert!(long.len() == 32 && long.ends_with(&format!("{:08x}", read.cid.expect("there"))));
        assert!(read.ddb("ddb.uuid").is_some_and(|u| u.starts_with("60 00 c2 9") && u.len() == 47));
    }

    #[test]
    fn the_same_input_gives_the_same_text_and_another_another() {
        let text = |edit: fn(&mut NewDescriptor)| {
            let mut new = sample();
            edit(&mut new);
            new.text(0)
        };
        assert_eq!(text(|_| ()), sample().text(0));
        let edits: [fn(&mut NewDescriptor); 4] = [
            |n| n.sectors += 1,
            |n| n.name.push('x'),
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
    fn options_cannot_break_out_of_their_quotes() {
        assert!(adapter(Some("scsi")).is_err() && adapter(None).is_ok_and(|a| a == "ide"));
        assert!(hardware_version(Some("7"), true).is_err());
        assert_eq!(hardware_version(Some("undefined"), true).expect("is 6"), "6");
        assert_eq!(hardware_version(None, false).expect("is 4"), "4");
        for bad in ["", "4\"\nRW 1 FLAT", "ü", &"9".repeat(65)] {
            assert!(hardware_version(Some(bad), false).is_err(), "{bad}");
            assert!(tools_version(Some(bad)).is_err(), "{bad}");
        }
        let name = |n: &str| extent_name(Some(Path::new(n)));
        assert_eq!(name("/tmp/a \"b\" ü.vmdk"), "a _b_ _.vmdk");
        assert_eq!(extent_name(None), "disk.vmdk");
    }
}
