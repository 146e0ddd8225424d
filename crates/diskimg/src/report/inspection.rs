//! The result of the inspection of an untrusted image.
//!
//! ```text
//!   bytes ──► Which formats match?              ──┐
//!         ──► Which features does it use?       ──┼──► findings            ──► verdict
//!         ──► Are sizes within the limits?      ──┘    (note·warning·error)    (safe·unsafe)
//! ```

use crate::error::Error;
use crate::report::finding::finding_codes;
use crate::storage::source::Source;
use serde::Serialize;
use std::borrow::Cow;

finding_codes! {
    /// Code of a finding of an inspection. The names are stable; codes may be added.
    Code, "finding";
    /// The bytes match more than one format, so readers may interpret them differently.
    SeveralFormats = "several-formats", Error;
    /// The format differs from the claimed format.
    FormatMismatch = "format-mismatch", Error;
    /// The format is recognized by its signature but not supported, so it cannot be inspected.
    FormatNotRead = "format-not-read", Error;
    /// A format or version that cloud platforms reject: QED, QCOW version 1.
    RejectedFormat = "rejected-format", Error;
    /// The image is damaged, truncated, or exceeds the limits.
    Unreadable = "unreadable", Error;
    /// The version of the format is not supported.
    UnknownVersion = "unknown-version", Error;
    /// Unknown incompatible features, without which the image cannot be read.
    UnknownFeatures = "unknown-features", Error;
    /// Extended L2 entries of qcow2, which few readers support.
    ExtendedL2 = "extended-l2", Error;
    /// The image has a backing file.
    BackingFile = "backing-file", Error;
    /// The image has an external data file.
    DataFile = "data-file", Error;
    /// The image has a parent (VMDK).
    Parent = "parent", Error;
    /// Extents are in other files, or the descriptor lists no extents.
    Extents = "extents", Error;
    /// The image is encrypted, so its contents cannot be inspected.
    Encrypted = "encrypted", Error;
    /// The image is marked as corrupt.
    MarkedCorrupt = "marked-corrupt", Error;
    /// The subformat of a VMDK is neither monolithicSparse nor streamOptimized.
    Subformat = "subformat", Error;
    /// The descriptor of a VMDK is not where all readers expect it, or has lines that readers may
    /// interpret differently.
    Descriptor = "descriptor", Error;
    /// The footer of a VMDK, which takes precedence over the header, differs from the header.
    Footer = "footer", Error;
    /// The entries of an MBR, or of a protective MBR, violate the specification.
    PartitionTable = "partition-table", Error;
    /// A table of the image is outside the file.
    TableOutside = "table-outside", Error;
    /// Two tables of the image overlap.
    TablesOverlap = "tables-overlap", Error;
    /// Copies of a structure differ, and readers use one or the other.
    CopiesDiffer = "copies-differ", Error;
    /// The descriptor of an appliance states another capacity of a disk than its image has.
    CapacityMismatch = "capacity-mismatch", Error;
    /// The directory trees of an ISO image have different files, and a program reads one of them. A
    /// warning if files are only missing in a tree, as in images that writers make on request.
    TreesDiffer = "trees-differ", Error;
    /// Programs list different members of an archive, or take the same member for different files.
    AmbiguousArchive = "ambiguous-archive", Error;
    /// The image is compressed or packed and must be unpacked to inspect its contents.
    Packed = "packed", Error;
    /// The file exceeds the maximum size.
    FileTooLarge = "file-too-large", Error;
    /// The virtual disk exceeds the maximum size.
    DiskTooLarge = "disk-too-large", Error;
    /// The ratio of the virtual disk size to the file size exceeds the maximum.
    RatioTooLarge = "ratio-too-large", Error;
    /// An image in an appliance that the descriptor does not list.
    UnlistedImage = "unlisted-image", Warning;
    /// The image was not closed properly.
    Dirty = "dirty", Warning;
    /// A GPT is damaged or misplaced, or partitions exceed the disk.
    Partitions = "partitions", Warning;
    /// The file is shorter than its contents require.
    Truncated = "truncated", Warning;
    /// An ISO image that also has a partition table, so that it boots from USB drives.
    HybridIso = "hybrid-iso", Note;
    /// Unknown compatible features, which readers may ignore.
    UnknownCompatibleFeatures = "unknown-compatible-features", Note;
    /// The file is a copy of a disc in raw sectors: the disk is the data in them, but a program that
    /// does not know such sectors reads all bytes.
    RawSectors = "raw-sectors", Note;
    /// The image has internal snapshots, which contain older states of the disk.
    Snapshots = "snapshots", Note;
    /// The size of the disk is not a multiple of 512.
    PartialSector = "partial-sector", Note;
    /// A raw disk that starts like an archive or a compressed file.
    Archive = "archive", Note;
    /// The file is empty.
    Empty = "empty", Note;
}

/// A finding of an inspection. An [error](crate::Severity::Error) makes the image unsafe.
pub type Finding = crate::Finding<Code>;

/// Role of a file that an image references.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Role {
    /// Backing file (qcow2).
    BackingFile,
    /// External data file (qcow2).
    DataFile,
    /// Extent (VMDK).
    Extent,
    /// Parent (VMDK).
    Parent,
    /// File of an appliance.
    File,
}

/// A file that the image references. The inspection does not access it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Reference {
    /// Role.
    pub role: Role,
    /// Name as recorded in the image.
    pub name: String,
    /// Format as recorded in the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
}

/// Kind of a disk's partition table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PartitionTable {
    /// A master boot record.
    Mbr,
    /// A GUID partition table with a protective MBR.
    Gpt,
}

/// Whether an image is safe to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// No finding has the severity [`Severity::Error`](crate::Severity::Error).
    Safe,
    /// At least one finding has the severity [`Severity::Error`](crate::Severity::Error).
    Unsafe,
}

/// The result of an inspection. Serializes with keys in kebab case.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Inspection {
    /// Name that the image was opened with.
    pub filename: String,
    /// Whether the image is safe.
    pub verdict: Verdict,
    /// Detected format: the name of a [`Format`](crate::Format), or of a format that is only
    /// recognized by its signature (`vhd`, `vhdx`, `vdi`, `luks`, …).
    pub format: &'static str,
    /// Format claimed by the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claimed_format: Option<String>,
    /// Other formats that the bytes match.
    pub other_formats: Vec<&'static str>,
    /// Kind of the partition table of a raw disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition_table: Option<PartitionTable>,
    /// Virtual disk size in bytes, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_size: Option<u64>,
    /// Length of the file in bytes.
    pub file_size: u64,
    /// Number of bytes allocated in the host's file system, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual_size: Option<u64>,
    /// True if the guest's bytes are encrypted.
    pub encrypted: bool,
    /// Files that the image references. None of them is opened.
    pub references: Vec<Reference>,
    /// Findings, the most severe first.
    pub findings: Vec<Finding>,
}

impl Inspection {
    /// Creates the initial result for a file.
    pub(crate) fn new(filename: String, source: &dyn Source) -> Self {
        Self {
            filename,
            verdict: Verdict::Safe,
            format: "raw",
            claimed_format: None,
            other_formats: Vec::new(),
            partition_table: None,
            virtual_size: None,
            file_size: source.len(),
            actual_size: source.allocated_bytes().ok().flatten(),
            encrypted: false,
            references: Vec::new(),
            findings: Vec::new(),
        }
    }

    /// Returns true if the verdict is [`Verdict::Safe`].
    pub fn is_safe(&self) -> bool {
        self.verdict == Verdict::Safe
    }

    /// Returns the first finding with this code.
    pub fn finding(&self, code: Code) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.code == code)
    }

    /// Adds a finding.
    pub(crate) fn add(
        &mut self,
        code: Code,
        offset: impl Into<Option<u64>>,
        message: impl Into<Cow<'static, str>>,
    ) {
        let mut finding = Finding::new(code, code.severity(), message.into());
        finding.offset = offset.into();
        self.findings.push(finding);
    }

    /// Reduces the findings about archives within a raw disk to notes: the disk is stated to be raw.
    pub(crate) fn accept_archives(&mut self) {
        for finding in self.findings.iter_mut().filter(|finding| finding.code == Code::Packed) {
            (finding.code, finding.severity) = (Code::Archive, Code::Archive.severity());
        }
    }

    /// Adds the finding that the format's reader failed with `error`.
    pub(crate) fn unreadable(&mut self, error: &Error) {
        self.add(Code::Unreadable, error.offset(), error.without_remedy());
    }

    /// Adds a file that the image references.
    pub(crate) fn add_reference(&mut self, role: Role, name: &str, format: Option<&str>) {
        /// An untrusted image may reference any number of files.
        const MAX_REFERENCES: usize = 1000;
        if self.references.len() < MAX_REFERENCES {
            let format = format.map(str::to_owned);
            self.references.push(Reference { role, name: name.to_owned(), format });
        }
    }
}
