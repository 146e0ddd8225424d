//! `DiskDescriptor.xml`: the storages and the snapshots of a bundle.
//!
//! ```text
//!   Parallels_disk_image Version="1.0"
//!     Disk_Parameters  Disk_size (sectors), Padding, Encryption
//!     StorageData      Storage { Start, End, Blocksize, Image { GUID, Type, File }… }…
//!     Snapshots        TopGUID?, Shot { GUID, ParentGUID }…
//! ```
//!
//! *Parallels Disk Format*. What it does not mention is ignored, as it demands.

use super::SECTOR;
use crate::error::{Error, Result};
use crate::formats::small_xml::{require_bounded, shortened};
use crate::open::limits::Limits;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::Source;
use roxmltree::{Document, Node, ParsingOptions};
use std::collections::HashSet;

/// How errors call the descriptor.
pub(super) const STRUCTURE: &str = "Parallels disk descriptor";

/// The snapshot with the disk's current state, if the descriptor names no other.
const DEFAULT_TOP: &str = "5fbaabe3-6958-40ff-92a7-860e329aab41";

/// The parent of the root snapshot.
const NIL: &str = "00000000-0000-0000-0000-000000000000";

/// Maximum number of elements and texts. Real descriptors have less than a hundred, and about ten
/// for each snapshot.
const MAX_NODES: u32 = 100_000;

/// Maximum number of attributes of a tag, and of namespaces. Real descriptors have one attribute. The
/// parser's time grows with the square of either.
const MAX_ATTRIBUTES: usize = 64;

/// Maximum length of a name in bytes: that of a path on all systems.
const MAX_NAME: usize = 32_767;

const ROOT: &str = "Parallels_disk_image";

/// A GUID in lower case, without braces.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Guid(String);

impl Guid {
    /// Parses a GUID, with or without braces, in any case.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(text);
        let is_valid = |(at, byte): (usize, u8)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        };
        let is_guid = text.len() == 36 && text.bytes().enumerate().all(is_valid);
        is_guid.then(|| Self(text.to_ascii_lowercase()))
    }

    fn is_nil(&self) -> bool {
        self.0 == NIL
    }

    /// Returns the form in which descriptors write it.
    pub(super) fn in_braces(&self) -> String {
        format!("{{{}}}", self.0)
    }
}

/// How an image of a bundle stores its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ImageType {
    /// `Plain`: as a raw disk.
    Plain,
    /// `Compressed`: in an expandable image. Nothing is compressed.
    Expandable,
}

impl ImageType {
    /// Returns the name in descriptors.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "Plain",
            Self::Expandable => "Compressed",
        }
    }
}

/// An image of a storage: the state of a snapshot, or what differs from the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ImageEntry {
    pub(super) guid: Guid,
    pub(super) image_type: ImageType,
    pub(super) file: String,
}

/// A part of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StorageEntry {
    /// First sector.
    pub(super) start: u64,
    /// The sector after the last.
    pub(super) end: u64,
    /// Size of a cluster in sectors, if it is recorded.
    pub(super) cluster_sectors: Option<u64>,
    pub(super) images: Vec<ImageEntry>,
}

impl StorageEntry {
    /// Returns the image of a snapshot.
    pub(super) fn image(&self, guid: &Guid) -> Option<&ImageEntry> {
        self.images.iter().find(|image| image.guid == *guid)
    }
}

/// A snapshot, and the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shot {
    pub(super) guid: Guid,
    parent: Guid,
}

/// A valid descriptor: its storages cover the whole disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Descriptor {
    /// Size of the disk in bytes.
    pub(super) size: u64,
    /// In ascending order; each starts where the one before ends.
    pub(super) storages: Vec<StorageEntry>,
    /// The snapshot with the current state.
    pub(super) top: Guid,
    pub(super) shots: Vec<Shot>,
}

/// Returns true if `head` is the beginning of a descriptor.
pub(super) fn looks_like_one(head: &[u8]) -> bool {
    /// Bytes in which the root element starts: after a declaration and comments.
    const PROLOG: usize = 4096;
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let prolog = &head[..head.len().min(PROLOG)];
    let root = b"<Parallels_disk_image";
    prolog.starts_with(b"<") && prolog.windows(root.len()).any(|window| window == root)
}

impl Descriptor {
    /// Reads the descriptor that is stored in `source`.
    ///
    /// # Errors
    /// [`Limit`](crate::ErrorKind::Limit) if it is too large, [`Io`](crate::ErrorKind::Io) if it
    /// cannot be read; otherwise as [`parse`](Self::parse).
    pub(super) fn read(source: &dyn Source, limits: &Limits) -> Result<Self> {
        let (len, max) = (source.len(), limits.descriptor_bytes);
        if len > max {
            let error = Error::over_limit("descriptor_bytes", format!("{len} bytes"), max);
            return Err(error.in_structure(STRUCTURE).at(0));
        }
        let mut bytes = vec![0; to_usize(len)];
        super::read(source, &mut bytes, 0, STRUCTURE)?;
        Self::parse(&bytes).map_err(|e| e.in_structure(STRUCTURE))
    }

    /// Parses and validates a descriptor.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it is not well-formed or lacks something,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for features that are not supported,
    /// [`Limit`](crate::ErrorKind::Limit) if it is too complex.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let text = std::str::from_utf8(bytes).map_err(|_| corrupt("it is not valid UTF-8"))?;
        let text = text.trim_end_matches('\0');
        require_bounded(text, MAX_ATTRIBUTES)?;
        let options = ParsingOptions { nodes_limit: MAX_NODES, ..ParsingOptions::default() };
        let document = Document::parse_with_options(text, options).map_err(|e| match e {
            roxmltree::Error::NodesLimitReached => {
                Error::limit(format!("more than {MAX_NODES} elements and texts"))
            }
            e => corrupt(e.to_string()),
        })?;
        let root = document.root_element();
        if root.tag_name().name() != ROOT {
            return Err(corrupt(format!("the root element is not {ROOT}")));
        }
        if let Some(version) = root.attribute("Version").filter(|&version| version != "1.0") {
            return Err(Error::unsupported(format!(
                "version '{}' of the descriptor",
                shortened(version)
            )));
        }
        let sectors = parameters(required(root, "Disk_Parameters")?)?;
        let size = sectors.checked_mul(SECTOR).filter(|&size| size <= i64::MAX.cast_unsigned());
        let size = size.ok_or_else(|| corrupt("the disk exceeds 8 EiB"))?;
        let mut storages = children(required(root, "StorageData")?, "Storage")
            .map(storage)
            .collect::<Result<Vec<_>>>()?;
        storages.sort_by_key(|storage| storage.start);
        require_cover(&storages, sectors)?;
        let (top, shots) = match child(root, "Snapshots") {
            Some(snapshots) => snapshots_of(snapshots)?,
            None => (default_top(), Vec::new()),
        };
        Ok(Self { size, storages, top, shots })
    }

    /// Returns the snapshot `guid` and those before it, up to the root. A descriptor without
    /// snapshots has one.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if a parent does not exist or is its own ancestor,
    /// [`Limit`](crate::ErrorKind::Limit) if there are too many.
    pub(super) fn chain(&self, guid: &Guid, limits: &Limits) -> Result<Vec<Guid>> {
        let mut chain: Vec<Guid> = vec![guid.clone()];
        if self.shots.is_empty() {
            return Ok(chain);
        }
        while let Some(last) = chain.last() {
            let shot = self.shots.iter().find(|shot| shot.guid == *last);
            let Some(shot) = shot else {
                let message = format!("there is no snapshot {}", last.in_braces());
                return Err(corrupt(message).in_structure(STRUCTURE));
            };
            if shot.parent.is_nil() {
                break;
            }
            if chain.contains(&shot.parent) {
                let message = format!("snapshot {} is its own ancestor", shot.guid.in_braces());
                return Err(corrupt(message).in_structure(STRUCTURE));
            }
            if to_u64(chain.len()) >= limits.chain_depth {
                let found = format!("the disk has at least {} snapshots", chain.len() + 1);
                return Err(Error::over_limit("chain_depth", found, limits.chain_depth)
                    .in_structure(STRUCTURE));
            }
            chain.push(shot.parent.clone());
        }
        Ok(chain)
    }

    /// Returns the snapshots other than the current state, in the order of the descriptor.
    pub(super) fn snapshots(&self) -> impl Iterator<Item = &Shot> {
        self.shots.iter().filter(|shot| shot.guid != self.top)
    }
}

fn corrupt(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(crate::error::ErrorKind::Corrupt, message)
}

fn default_top() -> Guid {
    Guid(DEFAULT_TOP.to_owned())
}

fn children<'a>(node: Node<'a, 'a>, name: &'static str) -> impl Iterator<Item = Node<'a, 'a>> {
    node.children().filter(move |child| child.is_element() && child.tag_name().name() == name)
}

fn child<'a>(node: Node<'a, 'a>, name: &'static str) -> Option<Node<'a, 'a>> {
    children(node, name).next()
}

/// Returns the only child with this name: two would mean different things to different programs.
fn required<'a>(node: Node<'a, 'a>, name: &'static str) -> Result<Node<'a, 'a>> {
    let mut found = children(node, name);
    let parent = node.tag_name().name();
    match (found.next(), found.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(corrupt(format!("{parent} has no element {name}"))),
        (Some(_), Some(_)) => Err(corrupt(format!("{parent} has several elements {name}"))),
    }
}

fn text<'a>(node: Node<'a, 'a>) -> &'a str {
    node.text().unwrap_or_default().trim()
}

fn number(node: Node<'_, '_>) -> Result<u64> {
    let (name, value) = (node.tag_name().name(), text(node));
    value.parse().map_err(|_| corrupt(format!("{name} is '{}', not a number", shortened(value))))
}

fn guid(node: Node<'_, '_>) -> Result<Guid> {
    let (name, value) = (node.tag_name().name(), text(node));
    let guid = Guid::parse(value);
    guid.ok_or_else(|| corrupt(format!("{name} is '{}', not a GUID", shortened(value))))
}

/// Returns the size of the disk in sectors.
///
/// # Errors
/// [`Unsupported`](crate::ErrorKind::Unsupported) for padding, encryption and other sector sizes.
fn parameters(node: Node<'_, '_>) -> Result<u64> {
    if child(node, "Padding").map(number).transpose()?.unwrap_or(0) != 0 {
        return Err(Error::unsupported("a disk with padding, whose layout is not specified")
            .hint("convert it with prl_disk_tool"));
    }
    let engine = child(node, "Encryption").and_then(|encryption| child(encryption, "Engine"));
    let is_none =
        |engine: &str| engine.is_empty() || Guid::parse(engine).is_some_and(|g| g.is_nil());
    if engine.is_some_and(|engine| !is_none(text(engine))) {
        return Err(Error::unsupported("an encrypted disk")
            .hint("decrypt it in the program that encrypted it"));
    }
    let logical = child(node, "LogicSectorSize").map(number).transpose()?;
    if let Some(size) = logical.filter(|&size| size != SECTOR) {
        return Err(Error::unsupported(format!("logical sectors of {size} bytes")));
    }
    number(required(node, "Disk_size")?)
}

fn storage(node: Node<'_, '_>) -> Result<StorageEntry> {
    let images = children(node, "Image").map(image).collect::<Result<Vec<_>>>()?;
    if images.is_empty() {
        return Err(corrupt("a storage has no image"));
    }
    let mut seen = HashSet::new();
    if let Some(image) = images.iter().find(|image| !seen.insert(&image.guid)) {
        let guid = image.guid.in_braces();
        return Err(corrupt(format!("a storage has several images with the GUID {guid}")));
    }
    let cluster_sectors = child(node, "Blocksize").map(number).transpose()?;
    Ok(StorageEntry {
        start: number(required(node, "Start")?)?,
        end: number(required(node, "End")?)?,
        cluster_sectors: cluster_sectors.filter(|&sectors| sectors != 0),
        images,
    })
}

fn image(node: Node<'_, '_>) -> Result<ImageEntry> {
    let image_type = match text(required(node, "Type")?) {
        "Plain" => ImageType::Plain,
        "Compressed" => ImageType::Expandable,
        other => {
            let message = format!("an image of type '{}'", shortened(other));
            return Err(Error::unsupported(message));
        }
    };
    let file = text(required(node, "File")?);
    if file.is_empty() || file.len() > MAX_NAME {
        return Err(corrupt(format!("an image has the name '{}'", shortened(file))));
    }
    Ok(ImageEntry { guid: guid(required(node, "GUID")?)?, image_type, file: file.to_owned() })
}

/// Returns the top snapshot and all snapshots.
fn snapshots_of(node: Node<'_, '_>) -> Result<(Guid, Vec<Shot>)> {
    let top = child(node, "TopGUID").map(guid).transpose()?;
    let shot = |node| {
        let parent = guid(required(node, "ParentGUID")?)?;
        Ok(Shot { guid: guid(required(node, "GUID")?)?, parent })
    };
    let shots = children(node, "Shot").map(shot).collect::<Result<Vec<_>>>()?;
    Ok((top.unwrap_or_else(default_top), shots))
}

/// Requires that the storages, in ascending order, cover the disk of this number of sectors.
fn require_cover(storages: &[StorageEntry], sectors: u64) -> Result<()> {
    let mut next = 0;
    for storage in storages {
        let (start, end) = (storage.start, storage.end);
        if start != next || end < start {
            let message =
                format!("the storage of sectors {start} to {end} does not start at {next}");
            return Err(corrupt(message));
        }
        next = end;
    }
    if next != sectors {
        let message = format!("the storages end at sector {next}, but the disk has {sectors}");
        return Err(corrupt(message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r"<?xml version='1.0' encoding='UTF-8'?>
        <Parallels_disk_image Version='1.0'>
          <Disk_Parameters><Disk_size>20</Disk_size><Padding>0</Padding></Disk_Parameters>
          <StorageData>
            <Storage><Start>8</Start><End>20</End><Blocksize>2048</Blocksize>
              <Image><GUID>{5fbaabe3-6958-40ff-92a7-860e329aab41}</GUID>
                <Type>Compressed</Type><File>b.hds</File></Image></Storage>
            <Storage><Start>0</Start><End>8</End>
              <Image><GUID>{5FBAABE3-6958-40FF-92A7-860E329AAB41}</GUID>
                <Type>Plain</Type><File>a.hds</File></Image></Storage>
          </StorageData>
        </Parallels_disk_image>";

    fn error(from: &str, to: &str) -> Error {
        assert!(TEXT.contains(from), "{from}");
        Descriptor::parse(TEXT.replacen(from, to, 1).as_bytes()).expect_err("invalid")
    }

    #[test]
    fn storages_are_sorted() {
        let found = Descriptor::parse(TEXT.as_bytes()).expect("valid");
        let starts: Vec<_> = found.storages.iter().map(|storage| storage.start).collect();
        assert_eq!((found.size, starts), (20 * 512, vec![0, 8]));
        assert_eq!(found.storages[0].image(&found.top).map(|i| &*i.file), Some("a.hds"));
        assert_eq!(found.chain(&found.top, &Limits::default()).expect("one").len(), 1);
    }

    #[test]
    fn contradictions_and_unknown_features_are_errors() {
        for (from, to, text) in [
            ("<Start>8<", "<Start>9<", "does not start at 8"),
            ("<End>20<", "<End>21<", "the storages end at sector 21"),
            ("<End>8<", "<End>-8<", "not a number"),
            ("Plain", "Sparse", "type 'Sparse'"),
            ("Padding>0", "Padding>1", "padding"),
            ("'1.0'>", "'2.0'>", "version '2.0'"),
            ("{5fba", "{5fb", "not a GUID"),
            ("<File>b.hds</File>", "", "no element File"),
            ("<Disk_size>", "<Disk_size>20</Disk_size><Disk_size>", "several elements"),
            ("<Padding>0", "<Encryption><Engine>aes</Engine></Encryption><Padding>0", "encrypted"),
            ("<Padding>", "<LogicSectorSize>4096</LogicSectorSize><Padding>", "4096"),
            ("</StorageData>", "", "StorageData"),
            ("<Parallels_disk_image", "<!DOCTYPE a><Parallels_disk_image", "DTD"),
        ] {
            let error = error(from, to).to_string();
            assert!(error.contains(text), "{text}: {error}");
        }
        let many = "a='' ".repeat(65);
        assert_eq!(error("Version", &format!("{many} Version")).kind(), crate::ErrorKind::Limit);
    }

    #[test]
    fn guids_have_braces_or_not() {
        let guid = Guid::parse(" {5FBAABE3-6958-40ff-92a7-860e329aab41}").expect("valid");
        assert_eq!(guid, default_top());
        assert_eq!(Guid::parse(DEFAULT_TOP), Some(default_top()));
        for wrong in [
            "",
            "{}",
            "{5fbaabe3-6958-40ff-92a7-860e329aab4}",
            "5fbaabe3_6958-40ff-92a7-860e329aab41",
        ] {
            assert_eq!(Guid::parse(wrong), None, "{wrong}");
        }
    }
}
