//! Volume descriptors (ECMA-119, 8).

use crate::error::{Error, Result};
use crate::iso::SECTOR;
use crate::iso::finding::{Finding, FindingCode, Findings};
use crate::iso::read::both::{Both16, Both32};
use crate::iso::time::Timestamp;
use crate::report::finding::Severity;
use crate::storage::number::to_usize;
use crate::storage::source::Source;
use byteorder::{BigEndian, ByteOrder, LittleEndian};
use serde::Serialize;
use zerocopy::byteorder::{BE, LE, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// Maximum number of descriptors that are read. Real images have three to ten.
pub(crate) const MAX_DESCRIPTORS: u64 = 64;

/// First sector of the volume descriptors, relative to the start of the session.
pub(crate) const FIRST: u64 = 16;

/// On-disk layout of a primary, supplementary or enhanced volume descriptor (ECMA-119, 8.4 and
/// 8.5).
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawVolume {
    kind: u8,
    standard: [u8; 5],
    version: u8,
    flags: u8,
    system_id: [u8; 32],
    volume_id: [u8; 32],
    unused: [u8; 8],
    space_size: Both32,
    escape_sequences: [u8; 32],
    set_size: Both16,
    sequence: Both16,
    block_size: Both16,
    path_table_size: Both32,
    path_table_l: U32<LE>,
    optional_path_table_l: U32<LE>,
    path_table_m: U32<BE>,
    optional_path_table_m: U32<BE>,
    root: [u8; 34],
    volume_set_id: [u8; 128],
    publisher: [u8; 128],
    preparer: [u8; 128],
    application: [u8; 128],
    copyright_file: [u8; 37],
    abstract_file: [u8; 37],
    bibliographic_file: [u8; 37],
    created: [u8; 17],
    modified: [u8; 17],
    expires: [u8; 17],
    effective: [u8; 17],
    file_structure_version: u8,
}

/// Type of a volume descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum VolumeKind {
    /// Primary volume descriptor (8.4).
    Primary,
    /// Joliet supplementary volume descriptor: names in UCS-2.
    Joliet,
    /// Enhanced volume descriptor of ISO 9660:1999, with names of up to 207 bytes (8.5).
    Enhanced,
    /// Supplementary volume descriptor with another character set.
    Other,
}

impl VolumeKind {
    /// Returns the name that serialization uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Joliet => "joliet",
            Self::Enhanced => "enhanced",
            Self::Other => "other",
        }
    }
}

/// A volume descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct VolumeDescriptor {
    /// Type of the descriptor.
    pub kind: VolumeKind,
    /// Sector of the descriptor.
    pub sector: u64,
    /// Volume identifier (label).
    pub volume_id: String,
    /// System identifier.
    pub system_id: String,
    /// Volume set identifier.
    pub volume_set_id: String,
    /// Publisher identifier.
    pub publisher: String,
    /// Data preparer identifier.
    pub preparer: String,
    /// Application identifier.
    pub application: String,
    /// Name of the file with the copyright statement.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub copyright_file: String,
    /// Name of the file with an abstract.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub abstract_file: String,
    /// Name of the file with bibliographic records.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub bibliographic_file: String,
    /// Volume space size in logical blocks.
    pub sectors: u64,
    /// Logical block size in bytes: 2048.
    pub block_size: u16,
    /// Volume creation time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// Volume modification time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modified: Option<Timestamp>,
    /// Offset from UTC of the modification time or, without one, of the creation time, in units of
    /// 15 minutes.
    #[serde(skip)]
    pub(crate) zone: i8,
    /// Path table size in bytes.
    #[serde(skip)]
    pub(crate) path_table_bytes: u32,
    /// Sector of the type L (little-endian) path table.
    #[serde(skip)]
    pub(crate) path_table_l: u32,
    /// Sector of the type M (big-endian) path table.
    #[serde(skip)]
    pub(crate) path_table_m: u32,
    /// Directory record of the root directory.
    #[serde(skip)]
    pub(crate) root: [u8; 34],
    /// Volume sequence number, if the volume set has more than one volume.
    #[serde(skip)]
    pub(crate) sequence: Option<u16>,
}

impl VolumeDescriptor {
    /// Returns the length of the volume in bytes.
    pub fn bytes(&self) -> u64 {
        self.sectors * u64::from(self.block_size)
    }
}

/// The volume descriptors of one session.
#[derive(Debug, Clone, Default)]
pub(crate) struct Descriptors {
    pub(crate) volumes: Vec<VolumeDescriptor>,
    /// Sector of the El Torito boot catalog.
    pub(crate) boot_catalog: Option<u32>,
}

impl Descriptors {
    pub(crate) fn of(&self, kind: VolumeKind) -> Option<&VolumeDescriptor> {
        self.volumes.iter().find(|volume| volume.kind == kind)
    }
}

/// Reads the volume descriptors, starting at sector `first`. Returns an empty list if there are
/// none.
///
/// # Errors
/// - [`Corrupt`](crate::ErrorKind::Corrupt) if the primary volume descriptor is invalid.
/// - [`Unsupported`](crate::ErrorKind::Unsupported) for a logical block size other than 2048 bytes
///   and for High Sierra.
/// - [`Io`](crate::ErrorKind::Io) if reading fails.
/// - The errors of `findings`.
pub(crate) fn read(
    source: &dyn Source,
    first: u64,
    findings: &mut Findings<'_>,
) -> Result<Descriptors> {
    let mut found = Descriptors::default();
    let mut terminated = false;
    for sector in first..first.saturating_add(MAX_DESCRIPTORS) {
        let Some(offset) = sector.checked_mul(SECTOR) else { break };
        if offset.checked_add(SECTOR).is_none_or(|end| end > source.len()) {
            break;
        }
        let mut bytes = [0; to_usize(SECTOR)];
        source
            .read_exact_at(&mut bytes, offset)
            .map_err(|e| Error::io("cannot read a volume descriptor", e).at(offset))?;
        match (&bytes[1..6], bytes[0]) {
            (b"CD001", 0) => found.boot_catalog = found.boot_catalog.or(el_torito(&bytes)),
            (b"CD001", 1 | 2) => match volume(&bytes, sector, findings) {
                Ok(volume) => found.volumes.push(volume),
                // An invalid descriptor after the primary one is not fatal.
                Err(error) if found.volumes.is_empty() && bytes[0] == 1 => return Err(error),
                Err(error) => findings.report(|| {
                    Finding::new(FindingCode::Descriptor, Severity::Error, error.without_remedy())
                        .at(offset)
                })?,
            },
            (b"CD001", 255) => terminated = true,
            (b"CD001", _) => {}
            (id, _) if is_extended(id) => {}
            _ if terminated || !found.volumes.is_empty() => break,
            _ if sector == first && &bytes[9..14] == b"CDROM" => {
                return Err(
                    Error::unsupported("a High Sierra image (predecessor of ISO 9660)").at(offset)
                );
            }
            _ => break,
        }
    }
    if !terminated && !found.volumes.is_empty() {
        findings.warn(FindingCode::NoTerminator, first * SECTOR, || {
            "the volume descriptor set terminator is missing".into()
        })?;
    }
    Ok(found)
}

/// Returns true for the identifier of a volume structure descriptor of UDF, which may be between
/// those of ISO 9660 or follow them (ECMA-167, 2/9.1).
pub(crate) fn is_extended(id: &[u8]) -> bool {
    matches!(id, b"BEA01" | b"BOOT2" | b"NSR02" | b"NSR03" | b"TEA01" | b"CDW02")
}

/// Returns the sector of the boot catalog if the boot record is that of El Torito (El Torito,
/// figure 7).
fn el_torito(bytes: &[u8; to_usize(SECTOR)]) -> Option<u32> {
    let is_el_torito = bytes[7..39].starts_with(b"EL TORITO SPECIFICATION");
    is_el_torito.then(|| LittleEndian::read_u32(&bytes[71..]))
}

fn volume(
    bytes: &[u8; to_usize(SECTOR)],
    sector: u64,
    findings: &mut Findings<'_>,
) -> Result<VolumeDescriptor> {
    let offset = sector * SECTOR;
    let bad = |message: String| Error::corrupt("volume descriptor", message).at(offset);
    let Ok((raw, _)) = RawVolume::ref_from_prefix(bytes) else {
        return Err(bad("it is too short".into()));
    };
    let kind = match raw.kind {
        1 => VolumeKind::Primary,
        _ if is_joliet(&raw.escape_sequences) => VolumeKind::Joliet,
        _ if raw.version == 2 || raw.file_structure_version == 2 => VolumeKind::Enhanced,
        _ => VolumeKind::Other,
    };
    let block_size = match raw.block_size.get() {
        2048 => 2048,
        0 => {
            findings.warn(FindingCode::Descriptor, offset + 128, || {
                "the logical block size is 0; assuming 2048 bytes".into()
            })?;
            2048
        }
        size @ (512 | 1024) => {
            return Err(Error::unsupported(format!("logical blocks of {size} bytes"))
                .in_structure("volume descriptor")
                .at(offset + 128));
        }
        size => {
            return Err(bad(format!("the logical block size is {size} bytes; it must be 2048")));
        }
    };
    let halves = [
        (80, raw.space_size.agrees(), "space size"),
        (120, raw.set_size.agrees(), "set size"),
        (124, raw.sequence.agrees(), "sequence number"),
        (128, raw.block_size.agrees(), "block size"),
        (132, raw.path_table_size.agrees(), "path table size"),
    ];
    for (at, agrees, field) in halves {
        if !agrees {
            findings.warn(FindingCode::EndianMismatch, offset + at, || {
                format!("the halves of the {field} differ in a volume descriptor")
            })?;
        }
    }
    let text = |bytes: &[u8]| match kind {
        VolumeKind::Joliet => joliet_text(bytes),
        _ => plain_text(bytes),
    };
    Ok(VolumeDescriptor {
        kind,
        sector,
        volume_id: text(&raw.volume_id),
        system_id: text(&raw.system_id),
        volume_set_id: text(&raw.volume_set_id),
        publisher: text(&raw.publisher),
        preparer: text(&raw.preparer),
        application: text(&raw.application),
        copyright_file: text(&raw.copyright_file),
        abstract_file: text(&raw.abstract_file),
        bibliographic_file: text(&raw.bibliographic_file),
        sectors: raw.space_size.get().into(),
        block_size,
        created: Timestamp::from_digits(&raw.created),
        modified: Timestamp::from_digits(&raw.modified),
        zone: match Timestamp::from_digits(&raw.modified) {
            Some(_) => raw.modified[16].cast_signed(),
            None => raw.created[16].cast_signed(),
        },
        path_table_bytes: raw.path_table_size.get(),
        path_table_l: raw.path_table_l.get(),
        path_table_m: raw.path_table_m.get(),
        root: raw.root,
        sequence: (raw.set_size.get() > 1).then(|| raw.sequence.get()),
    })
}

/// Returns true for the escape sequences of UCS-2 levels 1 to 3 (Joliet, "Identifying a Joliet
/// Supplementary Volume Descriptor").
fn is_joliet(escape_sequences: &[u8; 32]) -> bool {
    matches!(escape_sequences[..3], [b'%', b'/', b'@' | b'C' | b'E'])
}

/// Decodes text padded with spaces (ECMA-119, 7.4.3.2) or NULs.
fn plain_text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim_end_matches(['\0', ' ']).to_owned()
}

/// Decodes UTF-16BE text with the same padding.
fn joliet_text(bytes: &[u8]) -> String {
    let units: Vec<_> = bytes.chunks_exact(2).map(BigEndian::read_u16).collect();
    String::from_utf16_lossy(&units).trim_end_matches(['\0', ' ']).to_owned()
}
