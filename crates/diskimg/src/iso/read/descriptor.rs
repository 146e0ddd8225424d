//! Volume descriptors (ECMA-119, 8).

use crate::error::{Error, Result};
use crate::iso::SECTOR;
use crate::iso::finding::{Finding, FindingCode, Findings, Severity};
use crate::iso::read::both::{Both16, Both32};
use crate::iso::time::Timestamp;
use crate::storage::number::to_usize;
use crate::storage::source::Source;
use serde::Serialize;
use zerocopy::byteorder::{BE, LE, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// Descriptors that are looked at. Real images have three to ten.
const MOST: u64 = 64;

/// Where a volume's descriptors begin, in sectors from where its session does.
pub(crate) const FIRST: u64 = 16;

/// A primary, supplementary or enhanced descriptor as it is recorded (ECMA-119, 8.4 to 8.5).
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

/// What a volume descriptor describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum VolumeKind {
    /// The tree that every reader knows (8.4).
    Primary,
    /// Joliet: names in UTF-16.
    Joliet,
    /// ISO 9660:1999's enhanced tree, with names up to 207 bytes (8.5).
    Enhanced,
    /// A tree of names in some other character set.
    Other,
}

impl VolumeKind {
    /// As serialised.
    pub fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Joliet => "joliet",
            Self::Enhanced => "enhanced",
            Self::Other => "other",
        }
    }
}

/// A volume descriptor: one tree, and what is said of the volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct VolumeDescriptor {
    /// What it describes.
    pub kind: VolumeKind,
    /// Its own sector.
    pub sector: u64,
    /// Volume identifier: the label.
    pub volume_id: String,
    /// System identifier.
    pub system_id: String,
    /// Volume set identifier.
    pub volume_set_id: String,
    /// Publisher.
    pub publisher: String,
    /// Data preparer.
    pub preparer: String,
    /// Application.
    pub application: String,
    /// Sectors of the volume.
    pub sectors: u64,
    /// Bytes of a block: 2048.
    pub block_size: u16,
    /// Creation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// Last modification.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modified: Option<Timestamp>,
    /// Bytes of a path table.
    #[serde(skip)]
    pub(crate) path_table_bytes: u32,
    /// Sector of the little-endian path table.
    #[serde(skip)]
    pub(crate) path_table_l: u32,
    /// Sector of the big-endian path table.
    #[serde(skip)]
    pub(crate) path_table_m: u32,
    /// The root's directory record.
    #[serde(skip)]
    pub(crate) root: [u8; 34],
    /// Which volume of its set this is, if the set has others.
    #[serde(skip)]
    pub(crate) sequence: Option<u16>,
}

impl VolumeDescriptor {
    /// Bytes of the volume.
    pub fn bytes(&self) -> u64 {
        self.sectors * u64::from(self.block_size)
    }
}

/// All that the descriptors of one session say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Descriptors {
    pub(crate) volumes: Vec<VolumeDescriptor>,
    /// Sector of El Torito's catalog.
    pub(crate) boot_catalog: Option<u32>,
}

impl Descriptors {
    pub(crate) fn of(&self, kind: VolumeKind) -> Option<&VolumeDescriptor> {
        self.volumes.iter().find(|volume| volume.kind == kind)
    }
}

/// Reads the descriptors from sector `first` on. None of them need be there.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io); [`Unsupported`](crate::ErrorKind::Unsupported) for blocks that are
/// not 2048 bytes and for High Sierra; what `findings` said.
pub(crate) fn read(
    source: &dyn Source,
    first: u64,
    findings: &mut Findings<'_>,
) -> Result<Descriptors> {
    let mut found = Descriptors::default();
    let mut terminated = false;
    for sector in first..first.saturating_add(MOST) {
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
                // One bad descriptor spoils no other.
                Err(error) if found.volumes.is_empty() && bytes[0] == 1 => return Err(error),
                Err(error) => findings.tell(|| {
                    Finding::new(FindingCode::Descriptor, Severity::Error, error.to_string())
                        .at(offset)
                })?,
            },
            (b"CD001", 255) => terminated = true,
            (b"CD001", _) => {}
            // UDF's own structures lie among them or behind (ECMA-167, 2/9.1).
            (b"BEA01" | b"BOOT2" | b"NSR02" | b"NSR03" | b"TEA01" | b"CDW02", _) => {}
            _ if terminated || !found.volumes.is_empty() => break,
            _ if sector == first && &bytes[9..14] == b"CDROM" => {
                return Err(
                    Error::unsupported("a High Sierra image, ISO 9660's forerunner").at(offset)
                );
            }
            _ => break,
        }
    }
    if !terminated && !found.volumes.is_empty() {
        findings.warn(FindingCode::NoTerminator, first * SECTOR, || {
            "no terminator ends the volume descriptors".into()
        })?;
    }
    Ok(found)
}

/// The sector of the boot catalog, if this boot record is El Torito's (El Torito, figure 7).
fn el_torito(bytes: &[u8; to_usize(SECTOR)]) -> Option<u32> {
    let ours = bytes[7..39].starts_with(b"EL TORITO SPECIFICATION");
    ours.then(|| u32::from_le_bytes([bytes[71], bytes[72], bytes[73], bytes[74]]))
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
            findings.warn(FindingCode::Descriptor, offset + 128, || "no block size".into())?;
            2048
        }
        size @ (512 | 1024) => {
            return Err(Error::unsupported(format!("blocks of {size} bytes"))
                .in_structure("volume descriptor")
                .at(offset + 128));
        }
        size => {
            return Err(bad(format!("a block size of {size} bytes; it must be 2048")));
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
                format!("volume descriptor: the halves of the {field} differ")
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
        sectors: raw.space_size.get().into(),
        block_size,
        created: Timestamp::from_digits(&raw.created),
        modified: Timestamp::from_digits(&raw.modified),
        path_table_bytes: raw.path_table_size.get(),
        path_table_l: raw.path_table_l.get(),
        path_table_m: raw.path_table_m.get(),
        root: raw.root,
        sequence: (raw.set_size.get() > 1).then(|| raw.sequence.get()),
    })
}

/// Joliet's three levels of UCS-2 (Joliet, "Identifying a Joliet Supplementary Volume Descriptor").
fn is_joliet(escape_sequences: &[u8; 32]) -> bool {
    matches!(escape_sequences[..3], [b'%', b'/', b'@' | b'C' | b'E'])
}

/// Text padded with blanks (ECMA-119, 7.4.3.2), or with NULs.
fn plain_text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim_end_matches(['\0', ' ']).to_owned()
}

/// The same of UTF-16BE.
fn joliet_text(bytes: &[u8]) -> String {
    let units: Vec<_> = bytes.chunks_exact(2).map(|b| u16::from_be_bytes([b[0], b[1]])).collect();
    String::from_utf16_lossy(&units).trim_end_matches(['\0', ' ']).to_owned()
}
