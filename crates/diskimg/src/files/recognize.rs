//! Recognition of file systems, and of other contents of partitions, by their signatures.

use crate::error::{Error, Result};
use crate::files::fat::FatTree;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::Source;
use byteorder::{BigEndian, ByteOrder, LittleEndian};
use serde::{Serialize, Serializer};
use std::fmt;
use std::sync::Arc;

/// What a disk or partition contains. `Display` and `Serialize` write the name by which blkid and
/// `/etc/fstab` call it, such as `ext4` or `vfat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// FAT12, FAT16 or FAT32.
    Fat,
    /// exFAT.
    Exfat,
    /// NTFS.
    Ntfs,
    /// ReFS.
    Refs,
    /// ext2: ext4's predecessor, without a journal.
    Ext2,
    /// ext3: ext2 with a journal.
    Ext3,
    /// ext4.
    Ext4,
    /// The journal of an ext3 or ext4 file system on another device.
    Journal,
    /// ISO 9660.
    Iso,
    /// UDF, without ISO 9660.
    Udf,
    /// XFS.
    Xfs,
    /// Btrfs.
    Btrfs,
    /// F2FS.
    F2fs,
    /// EROFS.
    Erofs,
    /// SquashFS.
    Squashfs,
    /// HFS+ or HFSX.
    HfsPlus,
    /// APFS.
    Apfs,
    /// Swap space of Linux.
    Swap,
    /// A physical volume of LVM.
    Lvm,
    /// A volume encrypted with LUKS.
    Luks,
    /// A volume encrypted with BitLocker.
    BitLocker,
    /// A member of a ZFS pool.
    Zfs,
    /// A member of a Linux RAID array.
    Raid,
    /// A volume of a VMFS file system (VMware ESXi).
    Vmfs,
}

impl Kind {
    /// Returns the name by which blkid and `/etc/fstab` call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fat => "vfat",
            Self::Exfat => "exfat",
            Self::Ntfs => "ntfs",
            Self::Refs => "ReFS",
            Self::Ext2 => "ext2",
            Self::Ext3 => "ext3",
            Self::Ext4 => "ext4",
            Self::Journal => "jbd",
            Self::Iso => "iso9660",
            Self::Udf => "udf",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::F2fs => "f2fs",
            Self::Erofs => "erofs",
            Self::Squashfs => "squashfs",
            Self::HfsPlus => "hfsplus",
            Self::Apfs => "apfs",
            Self::Swap => "swap",
            Self::Lvm => "LVM2_member",
            Self::Luks => "crypto_LUKS",
            Self::BitLocker => "BitLocker",
            Self::Zfs => "zfs_member",
            Self::Raid => "linux_raid_member",
            Self::Vmfs => "VMFS_volume_member",
        }
    }

    /// Returns true if [`FileSystem`](super::FileSystem) lists files of it.
    pub const fn is_listed(self) -> bool {
        matches!(self, Self::Fat | Self::Ext2 | Self::Ext3 | Self::Ext4 | Self::Iso | Self::Udf)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// A recognized file system; returned by [`recognize`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Recognized {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Label. Bytes that are not UTF-8 are replaced by U+FFFD.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Identifier (UUID), as blkid writes it: that of FAT is such as `1234-ABCD`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
}

/// A signature: an offset in bytes, the bytes there, and what they say.
type Magic = (u64, &'static [u8], Kind);

/// Signatures that are sufficient, in the order in which they are looked for.
const MAGIC: &[Magic] = &[
    (0, b"LUKS\xba\xbe", Kind::Luks),
    (3, b"-FVE-FS-", Kind::BitLocker),
    (3, b"NTFS    ", Kind::Ntfs),
    (3, b"EXFAT   ", Kind::Exfat),
    (3, b"ReFS\0\0\0\0", Kind::Refs),
    (0, b"XFSB", Kind::Xfs),
    (0, b"hsqs", Kind::Squashfs),
    (32, b"NXSB", Kind::Apfs),
    (0x10040, b"_BHRfS_M", Kind::Btrfs),
    (1024, b"\x10\x20\xf5\xf2", Kind::F2fs),
    (1024, b"\xe2\xe1\xf5\xe0", Kind::Erofs),
    (1024, b"H+\0\x04", Kind::HfsPlus),
    (1024, b"HX\0\x05", Kind::HfsPlus),
    (4096, b"\xfc\x4e\x2b\xa9\x01\0\0\0", Kind::Raid),
    (0, b"\xfc\x4e\x2b\xa9\x01\0\0\0", Kind::Raid),
    (1 << 20, b"\x0d\xd0\x01\xc0", Kind::Vmfs),
];

/// Page sizes at whose end swap space has its signature, in bytes.
const PAGES: [u64; 4] = [4096, 8192, 16_384, 65_536];

/// The bytes of a disk or partition.
struct Bytes<'a>(&'a dyn Source);

impl Bytes<'_> {
    /// Returns `len` bytes, or as many zeros if they exceed the source.
    fn get(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        if offset.checked_add(to_u64(len)).is_some_and(|end| end <= self.0.len()) {
            let read = self.0.read_exact_at(&mut bytes, offset);
            read.map_err(|e| Error::io("cannot read", e).in_structure("file system").at(offset))?;
        }
        Ok(bytes)
    }

    fn is(&self, offset: u64, magic: &[u8]) -> Result<bool> {
        Ok(self.get(offset, magic.len())? == magic)
    }

    fn u32(&self, offset: u64) -> Result<u32> {
        Ok(LittleEndian::read_u32(&self.get(offset, 4)?))
    }
}

/// Recognizes the file system, or other contents, of a disk or partition without a partition table.
/// Returns `None` if there is none, or none that is known.
///
/// # Errors
/// Returns [`Io`](crate::ErrorKind::Io), or the error of the image, if reading fails.
pub fn recognize(source: &Arc<dyn Source>) -> Result<Option<Recognized>> {
    let bytes = Bytes(&**source);
    let Some(kind) = kind(source, &bytes)? else { return Ok(None) };
    let (label, uuid) = match kind {
        Kind::Fat => FatTree::open(Arc::clone(source))?
            .map_or((None, None), |fat| (fat.label().unwrap_or_default(), Some(fat.serial()))),
        _ => details(kind, &bytes)?,
    };
    Ok(Some(Recognized { kind, label: label.filter(|label| !label.is_empty()), uuid }))
}

fn kind(source: &Arc<dyn Source>, bytes: &Bytes<'_>) -> Result<Option<Kind>> {
    for (offset, magic, kind) in MAGIC {
        if bytes.is(*offset, magic)? {
            return Ok(Some(*kind));
        }
    }
    for sector in 0..4 {
        let label = bytes.get(sector * 512, 32)?;
        if label.starts_with(b"LABELONE") && label[24..] == *b"LVM2 001" {
            return Ok(Some(Kind::Lvm));
        }
    }
    if bytes.is(1024 + 56, b"\x53\xef")? {
        return ext(bytes).map(Some);
    }
    for page in PAGES {
        let magic = bytes.get(page - 10, 10)?;
        if magic == b"SWAPSPACE2" || magic == b"SWAP-SPACE" {
            return Ok(Some(Kind::Swap));
        }
    }
    if is_zfs(bytes)? {
        return Ok(Some(Kind::Zfs));
    }
    if is_raid_at_end(bytes)? {
        return Ok(Some(Kind::Raid));
    }
    for sector in 16..32 {
        let identifier = bytes.get(sector * 2048 + 1, 5)?;
        match &identifier[..] {
            b"CD001" => return Ok(Some(Kind::Iso)),
            b"NSR02" | b"NSR03" => return Ok(Some(Kind::Udf)),
            b"BEA01" | b"BOOT2" | b"CDW02" => {}
            _ => break,
        }
    }
    Ok(FatTree::open(Arc::clone(source))?.map(|_| Kind::Fat))
}

/// Tells ext2, ext3 and ext4 apart, as libblkid does: by the features that their drivers support.
fn ext(bytes: &Bytes<'_>) -> Result<Kind> {
    let [compatible, incompatible, read_only] = [0x5c, 0x60, 0x64].map(|at| bytes.u32(1024 + at));
    let (compatible, incompatible, read_only) = (compatible?, incompatible?, read_only?);
    Ok(if incompatible & 8 != 0 {
        Kind::Journal
    } else if incompatible & !0x16 != 0 || read_only & !7 != 0 {
        Kind::Ext4
    } else if compatible & 4 != 0 {
        Kind::Ext3
    } else {
        Kind::Ext2
    })
}

/// Looks for an uberblock in the first label of a ZFS device.
fn is_zfs(bytes: &Bytes<'_>) -> Result<bool> {
    const UBERBLOCK: u64 = 0x00ba_b10c;
    let ring = bytes.get(128 << 10, 128 << 10)?;
    let mut blocks = ring.chunks_exact(1024);
    Ok(blocks.any(|block| {
        LittleEndian::read_u64(block) == UBERBLOCK || BigEndian::read_u64(block) == UBERBLOCK
    }))
}

/// Looks for the superblock of a Linux RAID array in the formats that place it at the end: 1.0 and
/// 0.90.
fn is_raid_at_end(bytes: &Bytes<'_>) -> Result<bool> {
    let len = bytes.0.len();
    let version_1 = (len / 512).saturating_sub(16) & !7;
    let version_0 = (len & !0xffff).saturating_sub(0x10000);
    Ok(version_1 > 0 && bytes.is(version_1 * 512, b"\xfc\x4e\x2b\xa9\x01\0\0\0")?
        || version_0 > 0 && bytes.is(version_0, b"\xfc\x4e\x2b\xa9\0\0\0\0")?)
}

/// Returns label and identifier.
fn details(kind: Kind, bytes: &Bytes<'_>) -> Result<(Option<String>, Option<String>)> {
    let text = |offset, len| -> Result<Option<String>> { Ok(text(&bytes.get(offset, len)?)) };
    let uuid = |offset| -> Result<Option<String>> { Ok(uuid(&bytes.get(offset, 16)?)) };
    let hex = |offset, len: usize| -> Result<String> {
        let number = bytes.get(offset, len)?;
        Ok(number.iter().rev().map(|byte| format!("{byte:02X}")).collect())
    };
    Ok(match kind {
        Kind::Ext2 | Kind::Ext3 | Kind::Ext4 | Kind::Journal => {
            (text(1024 + 0x78, 16)?, uuid(1024 + 0x68)?)
        }
        Kind::Xfs => (text(108, 12)?, uuid(32)?),
        Kind::Btrfs => (text(0x1012b, 256)?, uuid(0x10020)?),
        Kind::Swap => (text(0x41c, 16)?, uuid(0x40c)?),
        Kind::F2fs => {
            let units = bytes.get(1024 + 0x7c, 1024)?;
            let units = units.chunks_exact(2).map(LittleEndian::read_u16);
            let label: Vec<u16> = units.take_while(|&unit| unit != 0).collect();
            (Some(String::from_utf16_lossy(&label)), uuid(1024 + 0x6c)?)
        }
        Kind::Erofs => (text(1024 + 0x40, 16)?, uuid(1024 + 0x30)?),
        Kind::Luks => {
            let second = bytes.get(6, 2)? == [0, 2];
            (if second { text(24, 48)? } else { None }, text(168, 40)?)
        }
        Kind::Lvm => (None, physical_volume(bytes)?),
        Kind::Ntfs => (None, Some(hex(72, 8)?)),
        Kind::Exfat => {
            let serial = hex(100, 4)?;
            (exfat_label(bytes)?, Some(format!("{}-{}", &serial[..4], &serial[4..])))
        }
        Kind::Iso => {
            let label = text(32_768 + 40, 32)?.map(|label| label.trim_end().to_owned());
            (label, iso_uuid(&bytes.get(32_768 + 813, 34)?))
        }
        _ => (None, None),
    })
}

/// Returns the text up to the first NUL.
fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    (end > 0).then(|| String::from_utf8_lossy(&bytes[..end]).into_owned())
}

/// Formats a UUID, unless it is all zeros.
fn uuid(bytes: &[u8]) -> Option<String> {
    let digits = |part: &[u8]| part.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    bytes
        .iter()
        .any(|&byte| byte != 0)
        .then(|| [0..4, 4..6, 6..8, 8..10, 10..16].map(|range| digits(&bytes[range])).join("-"))
}

/// Returns the identifier that blkid makes of an ISO image: the time of its last modification or
/// else of its creation.
fn iso_uuid(times: &[u8]) -> Option<String> {
    let digits = |time: &[u8]| {
        let time = std::str::from_utf8(time.get(..16)?).ok()?;
        let valid =
            time.bytes().all(|byte| byte.is_ascii_digit()) && time.bytes().any(|b| b != b'0');
        valid.then(|| {
            let pairs = [0..4, 4..6, 6..8, 8..10, 10..12, 12..14, 14..16];
            pairs.map(|range| &time[range]).join("-")
        })
    };
    digits(&times[17..]).or_else(|| digits(times))
}

/// Returns the identifier of a physical volume of LVM.
fn physical_volume(bytes: &Bytes<'_>) -> Result<Option<String>> {
    for sector in 0..4 {
        let label = bytes.get(sector * 512, 32)?;
        if label.starts_with(b"LABELONE") {
            let header = u64::from(LittleEndian::read_u32(&label[20..]));
            let id = bytes.get(sector * 512 + header, 32)?;
            let valid = id.iter().all(u8::is_ascii_alphanumeric);
            let parts = [0..6, 6..10, 10..14, 14..18, 18..22, 22..26, 26..32];
            let parts = parts.map(|range| String::from_utf8_lossy(&id[range]).into_owned());
            return Ok(valid.then(|| parts.join("-")));
        }
    }
    Ok(None)
}

/// Returns the label of an exFAT file system: an entry in the first cluster of the root directory.
fn exfat_label(bytes: &Bytes<'_>) -> Result<Option<String>> {
    let [heap, root] = [88, 96].map(|at| bytes.u32(at).map(u64::from));
    let shifts = bytes.get(108, 2)?;
    let (sector, cluster) = (u32::from(shifts[0]), u32::from(shifts[0]) + u32::from(shifts[1]));
    if !(9..=12).contains(&sector) || cluster > 25 {
        return Ok(None);
    }
    let offset = (heap? << sector) + (root?.saturating_sub(2) << cluster);
    let len = to_usize((1 << cluster).min(64 << 10));
    let entries = bytes.get(offset, len)?;
    let label = entries.chunks_exact(32).find(|entry| entry[0] == 0x83).map(|entry| {
        let count = usize::from(entry[1]).min(11);
        let units: Vec<u16> =
            entry[2..2 + 2 * count].chunks_exact(2).map(LittleEndian::read_u16).collect();
        String::from_utf16_lossy(&units)
    });
    Ok(label)
}
