//! The OVF descriptor: an XML document whose `Envelope` lists files and disks.
//!
//! ```text
//!   <Envelope>
//!     <References>
//!       <File id="file1" href="disk1.vmdk" size="1234" compression="gzip" chunkSize="…"/>
//!     <DiskSection>
//!       <Disk diskId="vmdisk1" fileRef="file1" capacity="8" capacityAllocationUnits="byte * 2^30"
//!             format="http://…/vmdk.html#streamOptimized" populatedSize="…" parentRef="…"/>
//!     <VirtualSystem> … the virtual machine: ignored
//! ```
//!
//! Specification: DMTF DSP0243, *Open Virtualization Format Specification*, "References",
//! "DiskSection".

use super::elements::Ovf;
use super::markup;
use crate::error::{Error, Result};
use crate::open::limits::Limits;
use crate::storage::number::to_u64;
use roxmltree::Node;
use std::collections::{BTreeMap, BTreeSet};

/// The parts of a descriptor that are used.
#[derive(Debug, Default)]
pub(super) struct Envelope {
    /// The files to which disks refer.
    pub(super) files: Vec<File>,
    /// Names of all files that the descriptor lists, relative to the descriptor.
    pub(super) listed: Vec<String>,
    /// In document order; at least one.
    pub(super) disks: Vec<Disk>,
}

/// A file of the package.
#[derive(Debug)]
pub(super) struct File {
    /// Name relative to the descriptor.
    pub(super) href: String,
    /// Size in bytes as stored in the package (compressed; the total of all chunks).
    pub(super) size: Option<u64>,
    pub(super) gzip: bool,
    /// Size in bytes of each chunk except the last, if the file is divided into
    /// `href.000000000`, ….
    pub(super) chunk: Option<u64>,
}

/// A virtual disk.
#[derive(Debug)]
pub(super) struct Disk {
    /// May be empty.
    pub(super) id: String,
    /// Index in [`Envelope::files`]; `None` for an empty disk.
    pub(super) file: Option<usize>,
    pub(super) capacity: Capacity,
    /// URI of the image's format; may be empty.
    pub(super) format: String,
    /// The writer's estimate of the number of guest bytes that contain data.
    pub(super) populated: Option<u64>,
    /// ID of the parent disk.
    pub(super) parent: Option<String>,
}

/// The capacity of a disk in the descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Capacity {
    /// Number of guest bytes.
    Bytes(u64),
    /// A property, which is set at deployment.
    AtDeployment,
    /// There is no descriptor that states it; the image has a size.
    Unknown,
    /// Cannot be parsed, for this reason. This is not an error if the disk has a file, whose image
    /// has a size.
    Invalid(String),
}

impl Capacity {
    /// Returns the number of guest bytes, if it is known.
    pub(super) fn bytes(&self) -> Option<u64> {
        match self {
            Self::Bytes(bytes) => Some(*bytes),
            Self::AtDeployment | Self::Unknown | Self::Invalid(_) => None,
        }
    }
}

impl Envelope {
    /// Parses a descriptor.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it is not a valid descriptor,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for an unknown encoding and for compression
    /// other than gzip, [`Limit`](crate::ErrorKind::Limit) if it is too large.
    pub(super) fn parse(text: &[u8], limits: &Limits) -> Result<Self> {
        let mut text = markup::decode(text)?;
        markup::require_bounded_markup(&text, limits)?;
        markup::declare_prefixes(&mut text, limits);
        let document = markup::parse(&text, limits)?;
        let root = document.root_element();
        if root.tag_name().name() != "Envelope" {
            let name = root.tag_name().name();
            return Err(corrupt(format!("its root element is <{name}>; expected <Envelope>")));
        }
        let ovf = Ovf::of(&root);
        let (mut files, mut disks) = (Vec::new(), Vec::new());
        for node in ovf.children(&root) {
            let section = ovf.section(&node);
            for item in ovf.children(&node) {
                match (section, item.tag_name().name()) {
                    ("References", "File") => files.push(item),
                    ("DiskSection", "Disk") | ("SharedDiskSection", "SharedDisk") => {
                        disks.push(item);
                    }
                    _ => {}
                }
            }
        }
        if disks.is_empty() {
            return Err(corrupt("it lists no disks"));
        }
        if to_u64(disks.len()) > limits.ovf_disks {
            let found = format!("{} disks", disks.len());
            return Err(Error::over_limit("ovf_disks", found, limits.ovf_disks)
                .in_structure(markup::STRUCTURE));
        }
        let mut envelope = Self::default();
        for file in &files {
            envelope.listed.extend(ovf.attribute(file, "href")?.map(str::to_owned));
        }
        let mut file_index = FileIndex::new(&files, ovf)?;
        for node in disks {
            let file = match ovf.attribute(&node, "fileRef")?.filter(|id| !id.is_empty()) {
                Some(id) => Some(file_index.file(id, &mut envelope.files)?),
                None => None,
            };
            envelope.disks.push(Disk::parse(&node, file, ovf)?);
        }
        let named = envelope.disks.iter().map(|disk| &disk.id).filter(|id| !id.is_empty());
        let mut seen = BTreeSet::new();
        match named.into_iter().find(|id| !seen.insert(*id)) {
            Some(id) => Err(corrupt(format!("two <Disk> elements have the ID '{id}'"))),
            None => Ok(envelope),
        }
    }

    /// Returns the file that contains a disk's image.
    pub(super) fn file_of(&self, disk: &Disk) -> Option<&File> {
        self.files.get(disk.file?)
    }
}

/// The `File` elements by ID. Only those to which a disk refers are parsed.
struct FileIndex<'a, 'b, 'c> {
    ovf: Ovf<'b>,
    nodes: BTreeMap<&'a str, Vec<&'a Node<'b, 'c>>>,
    /// Indices of the parsed files by ID.
    parsed: BTreeMap<String, usize>,
}

impl<'a, 'b, 'c> FileIndex<'a, 'b, 'c> {
    fn new(files: &'a [Node<'b, 'c>], ovf: Ovf<'b>) -> Result<Self> {
        let mut nodes = BTreeMap::<_, Vec<_>>::new();
        for node in files {
            if let Some(id) = ovf.attribute(node, "id")? {
                nodes.entry(id).or_default().push(node);
            }
        }
        Ok(Self { ovf, nodes, parsed: BTreeMap::new() })
    }

    /// Returns the index of a file in `files`, parsing and adding it if necessary.
    fn file(&mut self, id: &str, files: &mut Vec<File>) -> Result<usize> {
        if let Some(index) = self.parsed.get(id) {
            return Ok(*index);
        }
        match self.nodes.get(id).map(Vec::as_slice) {
            Some([node]) => files.push(File::parse(node, self.ovf)?),
            Some(_) => return Err(corrupt(format!("two <File> elements have the ID '{id}'"))),
            None => {
                let message = format!("a disk refers to the file ID '{id}', which is not listed");
                return Err(corrupt(message));
            }
        }
        self.parsed.insert(id.to_owned(), files.len() - 1);
        Ok(files.len() - 1)
    }
}

impl File {
    /// Describes a size in bytes that is not the stated one.
    pub(super) fn wrong_size(&self, found: u64) -> Option<String> {
        let stated = self.size.filter(|&stated| stated != found)?;
        Some(format!("'{}' has {found} bytes; the descriptor says {stated}", self.href))
    }

    fn parse(node: &Node<'_, '_>, ovf: Ovf<'_>) -> Result<Self> {
        let href = required(node, ovf, "href")?;
        let gzip = match ovf.attribute(node, "compression")? {
            None | Some("" | "identity") => false,
            Some(word) if word.eq_ignore_ascii_case("gzip") => true,
            Some(other) => {
                return Err(Error::unsupported(format!("'{href}' is compressed with '{other}'"))
                    .in_structure(markup::STRUCTURE)
                    .hint("only gzip is supported"));
            }
        };
        let chunk = number(node, ovf, "chunkSize")?;
        if chunk == Some(0) {
            return Err(corrupt(format!("'{href}' is divided into chunks of 0 bytes")));
        }
        Ok(Self { size: number(node, ovf, "size")?, href, gzip, chunk })
    }
}

impl Disk {
    fn parse(node: &Node<'_, '_>, file: Option<usize>, ovf: Ovf<'_>) -> Result<Self> {
        let text = |name| Ok(ovf.attribute(node, name)?.map(str::to_owned));
        let id: String = text("diskId")?.unwrap_or_default();
        let capacity = match capacity(node, ovf, &id) {
            // The image's own size is used.
            Err(e) if file.is_some() => Capacity::Invalid(e.to_string()),
            capacity => capacity?,
        };
        Ok(Self {
            file,
            capacity,
            format: text("format")?.unwrap_or_default(),
            populated: number(node, ovf, "populatedSize").unwrap_or(None),
            parent: text("parentRef")?.filter(|parent| !parent.is_empty()),
            id,
        })
    }
}

/// The error for a descriptor that is not valid.
pub(super) fn corrupt(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::corrupt(markup::STRUCTURE, message)
}

fn required(node: &Node<'_, '_>, ovf: Ovf<'_>, name: &str) -> Result<String> {
    match ovf.attribute(node, name)? {
        Some(value) if !value.is_empty() => Ok(value.to_owned()),
        _ => Err(missing(node, name)),
    }
}

/// The error for an attribute that an element lacks. An attribute of this name in another namespace
/// is not OVF's.
fn missing(node: &Node<'_, '_>, name: &str) -> Error {
    let error = corrupt(format!("a <{}> element has no {name}", node.tag_name().name()));
    let foreign = node.attributes().find(|a| a.name() == name).and_then(|a| a.namespace());
    match foreign.map(|uri| (uri, uri.strip_prefix(markup::UNDECLARED))) {
        Some((_, Some(prefix))) => error.hint(format!("the prefix '{prefix}' is not declared")),
        Some((uri, None)) => error.hint(format!("there is one in the namespace '{uri}'")),
        None => error,
    }
}

fn number(node: &Node<'_, '_>, ovf: Ovf<'_>, name: &str) -> Result<Option<u64>> {
    let parse =
        |text: &str| text.parse().map_err(|_| corrupt(format!("{name} '{text}' is not a number")));
    ovf.attribute(node, name)?.filter(|text| !text.is_empty()).map(parse).transpose()
}

/// Parses the capacity: a number with a unit, or the name of a property in `${}`.
fn capacity(node: &Node<'_, '_>, ovf: Ovf<'_>, id: &str) -> Result<Capacity> {
    let text = required(node, ovf, "capacity")?;
    if text.starts_with("${") {
        return Ok(Capacity::AtDeployment);
    }
    let unit = ovf.attribute(node, "capacityAllocationUnits")?.unwrap_or_default();
    let count = text.parse::<u64>().ok();
    let (Some(count), Some(unit)) = (count, unit_bytes(unit)) else {
        return Err(corrupt(format!(
            "the capacity of disk '{id}' is not valid: '{text}' in units of '{unit}'"
        )));
    };
    let bytes = count.checked_mul(unit).filter(|&bytes| bytes <= i64::MAX.cast_unsigned());
    match bytes {
        Some(bytes) => Ok(Capacity::Bytes(bytes)),
        None => Err(corrupt(format!(
            "the capacity of disk '{id}' is {count} × {unit} bytes, which exceeds 8 EiB"
        ))),
    }
}

/// Returns the size of a unit in bytes: `byte * 2^30` (DSP0004, "Programmatic Units"), or a word as
/// in OVF 0.9.
fn unit_bytes(unit: &str) -> Option<u64> {
    let words = unit.to_ascii_lowercase();
    let factors = words.split('*').map(str::trim).filter(|_| !words.trim().is_empty());
    factors.into_iter().try_fold(1u64, |bytes, factor| {
        let factor = match factor {
            "byte" | "bytes" | "b" => 1,
            "kilobyte" | "kilobytes" | "kibibyte" | "kbyte" | "kb" | "kib" => 1 << 10,
            "megabyte" | "megabytes" | "mebibyte" | "mbyte" | "mb" | "mib" => 1 << 20,
            "gigabyte" | "gigabytes" | "gibibyte" | "gbyte" | "gb" | "gib" => 1 << 30,
            "terabyte" | "terabytes" | "tebibyte" | "tbyte" | "tb" | "tib" => 1 << 40,
            number => {
                let (base, exponent) = number.split_once('^').unwrap_or((number, "1"));
                base.trim().parse::<u64>().ok()?.checked_pow(exponent.trim().parse().ok()?)?
            }
        };
        bytes.checked_mul(factor)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(references: &str, disks: &str) -> Result<Envelope> {
        let text = format!(
            "<?xml version='1.0'?>\n<e:Envelope xmlns:e='http://schemas.dmtf.org/ovf/envelope/1/' \
             xmlns:o='http://schemas.dmtf.org/ovf/envelope/1' xmlns:x='urn:x'>\
             <e:References>{references}</e:References>\
             <e:DiskSection><e:Info/>{disks}</e:DiskSection></e:Envelope>"
        );
        Envelope::parse(text.as_bytes(), &Limits::default())
    }

    #[test]
    fn units_are_programmatic_or_words() {
        for (unit, bytes) in [
            ("", Some(1)),
            ("byte", Some(1)),
            ("byte * 2^30", Some(1 << 30)),
            ("byte*2^20", Some(1 << 20)),
            ("byte * 10^9", Some(1_000_000_000)),
            ("byte * 1024", Some(1024)),
            ("byte * 2^10 * 2^10", Some(1 << 20)),
            ("MegaBytes", Some(1 << 20)),
            ("GigaBytes", Some(1 << 30)),
            ("gigabyte", Some(1 << 30)),
            ("GByte", Some(1 << 30)),
            ("kibibyte", Some(1 << 10)),
            ("2^30 * byte", Some(1 << 30)),
            ("1024", Some(1024)),
            ("byte * 2^64", None),
            ("byte * 2^99999999999", None),
            ("hertz * 10^6", None),
            ("byte * ", None),
            ("byte / 2", None),
        ] {
            assert_eq!(unit_bytes(unit), bytes, "{unit}");
        }
    }

    #[test]
    fn names_are_those_of_any_version_of_ovf_or_without_a_namespace() {
        let envelope = parse(
            "<e:File o:id='f1' o:href='a.vmdk' o:size='7'/><e:File id='iso' href='a.iso'/>",
            "<e:Disk o:diskId='d1' o:fileRef='f1' o:capacity='2' \
             o:capacityAllocationUnits='byte * 2^30'/>\
             <e:Disk diskId='d2' capacity='512'/><e:Disk diskId='d3' capacity='${size}'/>",
        )
        .expect("parses");
        let capacities: Vec<_> = envelope.disks.iter().map(|disk| disk.capacity.clone()).collect();
        assert_eq!(
            capacities,
            [Capacity::Bytes(2 << 30), Capacity::Bytes(512), Capacity::AtDeployment]
        );
        let file = envelope.file_of(&envelope.disks[0]).expect("listed");
        assert_eq!((file.href.as_str(), file.size, file.gzip), ("a.vmdk", Some(7), false));
        assert!(envelope.file_of(&envelope.disks[1]).is_none());
    }

    #[test]
    fn elements_and_attributes_of_other_namespaces_are_ignored() {
        let file = "<e:File o:id='f' x:id='g' o:href='a.vmdk' x:href='b.vmdk' x:compression='z'/>\
                    <x:File o:id='f' o:href='c.vmdk'/>";
        let disks = "<x:Disk o:diskId='y' o:fileRef='f' o:capacity='1'/>\
                     <e:Disk o:diskId='d' o:fileRef='f' o:capacity='512' x:format='x'/>";
        let envelope = parse(file, disks).expect("parses");
        let names: Vec<_> = envelope.files.iter().map(|file| file.href.as_str()).collect();
        assert_eq!((names.as_slice(), envelope.disks.len()), (["a.vmdk"].as_slice(), 1));
        assert_eq!(envelope.disks[0].format, "");

        let error = parse("<e:File o:id='f' x:href='b'/>", USER).expect_err("no href");
        assert!(error.to_string().contains("there is one in the namespace 'urn:x'"), "{error}");
        for file in ["<e:File o:id='f' href='a' o:href='b'/>", "<e:File id='g' o:id='f' href='a'/>"]
        {
            let error = parse(file, USER).expect_err("ambiguous");
            assert!(error.to_string().contains("two values"), "{error}");
        }
        parse("<e:File id='f' o:id='f' href='a' o:href='a'/>", USER).expect("the same twice");
    }

    #[test]
    fn a_prefix_that_is_not_declared_matters_only_where_it_is_needed() {
        let file = "<e:File id='f' href='a.vmdk' vmw:x='1'/>";
        let disk = format!("<vmw:Config rasd:a='b'/>{USER}<vmw:Disk capacity='x'/>");
        let envelope = parse(file, &disk).expect("parses");
        assert_eq!((envelope.files.len(), envelope.disks.len()), (1, 1));
        let error = parse("<e:File id='f' ovf:href='a.vmdk'/>", USER).expect_err("is needed");
        assert!(error.to_string().contains("the prefix 'ovf' is not declared"), "{error}");
        let many: String = (0..40).map(|n| format!("<p{n}:x/>")).collect();
        let error = parse(file, &format!("{many}{USER}")).expect_err("too many");
        assert!(error.to_string().contains("unknown namespace prefix"), "{error}");
    }

    #[test]
    fn a_section_of_ovf_0_9_is_identified_by_its_type() {
        let text = "<Envelope xmlns:xsi='http://www.w3.org/2001/XMLSchema-instance' \
                    xmlns:ovf='http://www.vmware.com/schema/ovf/1/envelope'>\
                    <References><File ovf:id='f' ovf:href='x.vmdk'/></References>\
                    <Section xsi:type='ovf:DiskSection_Type'><Info/>\
                    <Disk ovf:diskId='d' ovf:fileRef='f' ovf:capacity='8589934592'/></Section>\
                    </Envelope>";
        let envelope = Envelope::parse(text.as_bytes(), &Limits::default()).expect("parses");
        assert_eq!(envelope.disks[0].capacity, Capacity::Bytes(8 << 30));
    }

    #[test]
    fn invalid_and_contradictory_elements_are_errors() {
        let file = "<e:File id='f' href='a'/>";
        for (references, disks, word) in [
            ("", "", "no disks"),
            ("", "<e:Disk diskId='d' capacity='1' fileRef='f'/>", "not listed"),
            (
                "",
                "<e:Disk diskId='d' capacity='1'/><e:Disk diskId='d' capacity='1'/>",
                "two <Disk>",
            ),
            (file, "<e:Disk diskId='d'/>", "no capacity"),
            (file, "<e:Disk diskId='d' capacity='-1'/>", "'-1'"),
            (
                file,
                "<e:Disk diskId='d' capacity='9' capacityAllocationUnits='byte * 2^60'/>",
                "8 EiB",
            ),
            ("<e:File id='f' href='a' size='x'/>", USER, "not a number"),
            ("<e:File id='f' href='a' chunkSize='0'/>", USER, "chunks of 0"),
            ("<e:File id='f'/>", USER, "no href"),
            ("<e:File id='f' href='a' compression='bzip2'/>", USER, "bzip2"),
            ("<e:File id='f' href='a'/><e:File id='f' href='b'/>", USER, "two <File>"),
        ] {
            let error = parse(references, disks).expect_err(word);
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    const USER: &str = "<e:Disk diskId='d' fileRef='f' capacity='1'/>";

    #[test]
    fn elements_that_no_disk_needs_are_not_validated() {
        let files = "<e:File href='x.nvram'/><e:File id='i' href='i' size='x'/>\
                     <e:File id='j' compression='bzip2'/><e:File id='f' href='a'/>";
        let disks = "<e:Disk fileRef='f' capacity='1.5'/><e:Disk fileRef='f' capacity='1'/>";
        let envelope = parse(files, disks).expect("parses");
        assert_eq!(envelope.files.len(), 1);
        assert!(
            matches!(&envelope.disks[0].capacity, Capacity::Invalid(why) if why.contains("1.5"))
        );
        assert_eq!(envelope.disks[1].capacity, Capacity::Bytes(1));
    }

    #[test]
    fn entities_depth_and_node_count_are_bounded() {
        let bomb = "<!DOCTYPE x [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;'>]><Envelope>&b;</Envelope>";
        let error = Envelope::parse(bomb.as_bytes(), &Limits::default()).expect_err("has a DTD");
        assert_eq!(error.kind(), crate::ErrorKind::Corrupt);
        let deep = "<a>".repeat(100_000);
        Envelope::parse(deep.as_bytes(), &Limits::default()).expect_err("never closed");
        let wide = format!("<Envelope>{}</Envelope>", "<a/>".repeat(100));
        let limits = Limits { ovf_nodes: 100, ..Limits::default() };
        let error = Envelope::parse(wide.as_bytes(), &limits).expect_err("too many");
        assert_eq!(error.exceeded(), Some("ovf_nodes"));
    }
}
