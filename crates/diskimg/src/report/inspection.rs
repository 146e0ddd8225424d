//! What a look at an untrusted image finds: the words of a verdict.
//!
//! ```text
//!   bytes ──► which formats do they claim?  ──┐
//!         ──► what does the image ask for?  ──┼──► findings ──► safe · unsafe
//!         ──► is that within the bounds?    ──┘    (refuse · warn · note)
//! ```

use crate::error::Error;
use crate::storage::source::Source;
use serde::{Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// What a finding means for the verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Severity {
    /// Something to know.
    Note,
    /// Something is odd, and no danger to who opens the image.
    Warn,
    /// The image is not to be let in.
    Refuse,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Note => "note",
            Self::Warn => "warn",
            Self::Refuse => "refuse",
        })
    }
}

/// Declares the codes: name, severity, what it stands for.
macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $code:ident = $name:literal, $severity:ident;)+) => {
        /// What was found. The names are stable; new ones may come.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Code { $($(#[doc = $doc])+ $code,)+ }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$code,)+];

            /// Its name, in kebab case.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$code => $name,)+ }
            }

            /// What it means for the verdict, unless it is allowed.
            pub const fn severity(self) -> Severity {
                match self { $(Self::$code => Severity::$severity,)+ }
            }
        }
    };
}

codes! {
    /// The bytes are those of more than one format: readers may disagree on what they see.
    SeveralFormats = "several-formats", Refuse;
    /// The format is not the one that was claimed.
    FormatMismatch = "format-mismatch", Refuse;
    /// A format that is known by its signature alone: what is in it cannot be told.
    FormatNotRead = "format-not-read", Refuse;
    /// The image is damaged, truncated, or asks for more than the limits allow.
    Unreadable = "unreadable", Refuse;
    /// A version of the format that is not read.
    UnknownVersion = "unknown-version", Refuse;
    /// Features without which the image cannot be understood, and that nobody here knows.
    UnknownFeatures = "unknown-features", Refuse;
    /// qcow2's extended L2 entries: read here, and by few others.
    ExtendedL2 = "extended-l2", Refuse;
    /// It builds on another file.
    BackingFile = "backing-file", Refuse;
    /// Its guest's bytes are in another file.
    DataFile = "data-file", Refuse;
    /// It is a child of another image.
    Parent = "parent", Refuse;
    /// Parts of its disk are in other files, or it says nothing of where they are.
    Extents = "extents", Refuse;
    /// It is encrypted: nobody can see what is in it.
    Encrypted = "encrypted", Refuse;
    /// It says of itself that it is corrupt.
    MarkedCorrupt = "marked-corrupt", Refuse;
    /// A VMDK of another kind than monolithicSparse or streamOptimized.
    Subformat = "subformat", Refuse;
    /// A VMDK's descriptor is not where all readers look for it, or has lines that some would
    /// read in another way.
    Descriptor = "descriptor", Refuse;
    /// A VMDK's footer, which counts instead of its header, says something else.
    Footer = "footer", Refuse;
    /// An MBR whose entries break its rules, or those of a protective MBR.
    PartitionTable = "partition-table", Refuse;
    /// A table of the image is outside of the file.
    TableOutside = "table-outside", Refuse;
    /// Two tables of the image are in the same place.
    TablesOverlap = "tables-overlap", Refuse;
    /// It is packed: what is in it shows only when it is unpacked.
    Packed = "packed", Refuse;
    /// The file is larger than it may be.
    FileTooLarge = "file-too-large", Refuse;
    /// The disk is larger than it may be.
    DiskTooLarge = "disk-too-large", Refuse;
    /// The disk is larger, for such a file, than it may be.
    RatioTooLarge = "ratio-too-large", Refuse;
    /// It was not closed properly.
    Dirty = "dirty", Warn;
    /// A GPT that is damaged or not where it should be, or partitions that leave the disk.
    Partitions = "partitions", Warn;
    /// The file ends before what it holds does.
    Truncated = "truncated", Warn;
    /// An ISO image that is also a disk with partitions, as those are that start from USB sticks.
    HybridIso = "hybrid-iso", Note;
    /// Features that a reader may do without, and that nobody here knows.
    UnknownCompatibleFeatures = "unknown-compatible-features", Note;
    /// Internal snapshots: older states of the disk go with the image.
    Snapshots = "snapshots", Note;
    /// The length of the disk is no multiple of 512.
    PartialSector = "partial-sector", Note;
    /// Raw bytes that begin as an archive or a compressed file does.
    Archive = "archive", Note;
    /// There is not a single byte.
    Empty = "empty", Note;
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(self.name())
    }
}

impl FromStr for Code {
    type Err = Error;

    fn from_str(name: &str) -> crate::Result<Self> {
        Self::ALL.iter().copied().find(|code| code.name() == name).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|code| code.name()).collect();
            Error::invalid(format!("no finding is called '{name}'"))
                .hint(format!("known: {}", known.join(", ")))
        })
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// What.
    pub code: Code,
    /// What it means for the verdict.
    pub severity: Severity,
    /// In words, one line. It may quote the image: see [`printable`](crate::printable).
    pub message: String,
    /// Where in the file, in bytes, if it is in one place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// In which file of an appliance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
}

/// What a file that an image names is to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Role {
    /// What it builds on (qcow2).
    BackingFile,
    /// Where the guest's bytes are (qcow2).
    DataFile,
    /// A part of the disk (VMDK).
    Extent,
    /// What it builds on (VMDK).
    Parent,
    /// A file of an appliance.
    File,
}

/// A file that the image names. It was not looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Reference {
    /// What it is to the image.
    pub role: Role,
    /// Its name, as the image has it.
    pub name: String,
    /// The format that the image claims for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
}

/// How a raw disk is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PartitionTable {
    /// A master boot record.
    Mbr,
    /// GUID partition table, behind a protective MBR.
    Gpt,
}

/// Whether to let an image in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Nothing was found that speaks against it.
    Safe,
    /// At least one finding says [`Severity::Refuse`].
    Unsafe,
}

/// What a look at an image found. The serialised form has keys in kebab case.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Inspection {
    /// The name it was opened by.
    pub filename: String,
    /// Whether to let it in.
    pub verdict: Verdict,
    /// Its format by its bytes: the name of a [`Format`](crate::Format), or of one that is known
    /// by its signature alone (`vhd`, `vhdx`, `vdi`, `qed`, `qcow`, `luks`, …).
    pub format: &'static str,
    /// The format that was claimed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claimed_format: Option<String>,
    /// Other formats that the bytes are of as well.
    pub other_formats: Vec<&'static str>,
    /// How the disk is divided, where that shows without reading a container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition_table: Option<PartitionTable>,
    /// Guest bytes, where they are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_size: Option<u64>,
    /// Bytes of the file.
    pub file_size: u64,
    /// Bytes that it occupies on the host, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual_size: Option<u64>,
    /// The guest's bytes are encrypted.
    pub encrypted: bool,
    /// Files that the image names. None of them was opened.
    pub references: Vec<Reference>,
    /// What was found, the worst first.
    pub findings: Vec<Finding>,
}

impl Inspection {
    /// Of a file about which nothing is known yet.
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

    /// Whether nothing was found that speaks against it.
    pub fn is_safe(&self) -> bool {
        self.verdict == Verdict::Safe
    }

    /// The finding of this code, if there is one.
    pub fn finding(&self, code: Code) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.code == code)
    }

    /// Notes something.
    pub(crate) fn add(
        &mut self,
        code: Code,
        offset: impl Into<Option<u64>>,
        message: impl Into<Cow<'static, str>>,
    ) {
        self.findings.push(Finding {
            code,
            severity: code.severity(),
            message: message.into().into_owned(),
            offset: offset.into(),
            member: None,
        });
    }

    /// Notes that the image's own reader gave up.
    pub(crate) fn unreadable(&mut self, error: &Error) {
        self.add(Code::Unreadable, error.offset(), error.to_string());
    }

    /// Notes a file that the image names.
    pub(crate) fn name(&mut self, role: Role, name: &str, format: Option<&str>) {
        /// An image may name thousands: enough of them to see what they are.
        const MOST: usize = 1000;
        if self.references.len() < MOST {
            let format = format.map(str::to_owned);
            self.references.push(Reference { role, name: name.to_owned(), format });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_name_of_its_own_that_leads_back_to_it() {
        for (i, code) in Code::ALL.iter().enumerate() {
            assert_eq!(code.name().parse::<Code>().expect("is known"), *code);
            assert!(Code::ALL[..i].iter().all(|other| other.name() != code.name()), "{code}");
        }
        assert!("no-such-code".parse::<Code>().is_err());
    }
}
