//! The result of a preflight check.

use crate::preflight::Consumer;
use crate::report::finding::{Severity, finding_codes};
use serde::{Serialize, Serializer};

finding_codes! {
    /// Code of a finding of a preflight check. The names are stable; codes may be added.
    Code, "finding";
    /// The consumer does not read the format.
    Format = "format", Error;
    /// The consumer reads the format, but not this variant of it.
    Variant = "variant", Error;
    /// The consumer does not read this version of the format.
    Version = "version", Error;
    /// The image is damaged or not complete.
    Damaged = "damaged", Error;
    /// The file is compressed.
    Compressed = "compressed", Error;
    /// The image needs a backing file.
    BackingFile = "backing-file", Error;
    /// A part of the disk is in another file.
    ExternalFile = "external-file", Error;
    /// The disk is encrypted.
    Encrypted = "encrypted", Error;
    /// The image is not safe to accept: see [`inspect`](crate::inspect()).
    Unsafe = "unsafe", Error;
    /// The size of the disk is not a multiple of the required one.
    SizeMultiple = "size-multiple", Error;
    /// The disk is too small or too large.
    SizeRange = "size-range", Error;
    /// A partition ends beyond the end of the disk: a part of the disk is missing.
    PartitionBeyondEnd = "partition-beyond-end", Error;
    /// Only UEFI firmware boots the disk, which the consumer does not offer for this format.
    FirmwareFormat = "firmware-format", Error;
    /// No Linux kernel on the disk has a driver for the disk of the virtual machine.
    DiskDriver = "disk-driver", Warning;
    /// No Linux kernel on the disk has a driver for the network.
    NetworkDriver = "network-driver", Warning;
    /// There is no partition table.
    NoPartitionTable = "no-partition-table", Warning;
    /// The partition table violates its specification: the backup of a GPT is missing or not at the
    /// end of the disk, for example.
    PartitionTable = "partition-table", Warning;
    /// The partition table counts sectors of another size than that of the disk.
    SectorSize = "sector-size", Warning;
    /// The disk is larger than the partition table can describe.
    MbrSize = "mbr-size", Warning;
    /// Nothing was found that firmware can boot.
    NoBootLoader = "no-boot-loader", Warning;
    /// The file has holes, which the consumer does not accept.
    SparseFile = "sparse-file", Warning;
    /// The image was not closed properly.
    Dirty = "dirty", Warning;
    /// Internal snapshots are lost or refused.
    Snapshots = "snapshots", Warning;
    /// A part of the disk cannot be examined.
    NotExamined = "not-examined", Note;
    /// Only UEFI firmware boots the disk.
    Uefi = "uefi", Note;
}

/// A finding of a preflight check. With an [error](Severity::Error), the consumer rejects the image,
/// or has no virtual machine that boots it.
pub type Finding = crate::Finding<Code>;

/// The firmware that can boot a disk, as far as its boot sector and its EFI system partition say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Boot {
    /// True if the disk has a partition table and its first sector boot code for a BIOS. Some
    /// programs write code there that only starts an active partition.
    pub bios: bool,
    /// True if there is an EFI system partition.
    pub efi_partition: bool,
    /// The architectures for which the EFI system partition has a boot loader under the name that
    /// firmware looks for on a disk that it does not know (`\EFI\BOOT\BOOTX64.EFI`): `x86_64`,
    /// `aarch64`, `i686`, `arm`, `riscv64`, `loongarch64`.
    pub uefi: Vec<&'static str>,
}

/// The result of a preflight check. Serializes with keys in kebab case.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Preflight {
    /// Name that the image was opened with.
    pub filename: String,
    /// The consumer.
    #[serde(rename = "for", serialize_with = "name")]
    pub consumer: Consumer,
    /// False if a finding is an error.
    pub accepted: bool,
    /// Format of the image.
    pub format: &'static str,
    /// Size of the disk in bytes.
    pub virtual_size: u64,
    /// The firmware that can boot the disk.
    pub boot: Boot,
    /// Findings, the most severe first.
    pub findings: Vec<Finding>,
}

fn name<S: Serializer>(consumer: &Consumer, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(consumer.name())
}

impl Preflight {
    /// Returns the first finding with this code.
    pub fn finding(&self, code: Code) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.code == code)
    }

    /// Adds a finding. After many, only those that are the first error with their code.
    pub(crate) fn add(&mut self, code: Code, message: impl Into<String>) {
        const MAX_FINDINGS: usize = 64;
        let is_new_error = code.severity() == Severity::Error && self.finding(code).is_none();
        if self.findings.len() >= MAX_FINDINGS && !is_new_error {
            return;
        }
        self.findings.push(Finding::new(code, code.severity(), message));
    }

    /// Sorts the findings and decides.
    pub(crate) fn finish(&mut self) {
        self.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        self.accepted = self.findings.first().is_none_or(|f| f.severity != Severity::Error);
    }
}
