//! The header: bytes → [`RawHeader`] → [`Header`], which is validated.
//!
//! ```text
//!    0 magic "QFI\xfb"      4 version              8 backing_file_offset
//!   16 backing_file_size   20 cluster_bits        24 size
//!   32 crypt_method        36 l1_size             40 l1_table_offset
//!   48 refcount_table_off  56 refcount_table_cl.  60 nb_snapshots
//!   64 snapshots_offset                                     ── version 2 ends at 72
//!   72 incompatible        80 compatible          88 autoclear
//!   96 refcount_order     100 header_length                 ── version 3 ends at 104 …
//!  104 compression_type   105 padding                       ── … or at 112, or later
//! ```
//!
//! Specification: QEMU's `docs/interop/qcow2`, sections "Header" and "Additional fields". Where the
//! specification sets no limit, QEMU's own applies: QEMU neither creates nor reads an image beyond
//! it.

use super::encryption::Encryption;
use super::extensions::Extensions;
use crate::error::{Error, Result};
use crate::open::limits::Limits;
use crate::storage::codec::Codec;
use crate::storage::number::{to_index, to_u64, to_usize};
use crate::storage::source::Source;
use bitflags::bitflags;
use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first four bytes of every qcow and qcow2 image.
pub(crate) const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Smallest cluster size: 512 bytes.
pub(crate) const MIN_CLUSTER_BITS: u32 = 9;

/// Largest cluster size: 2 MiB (QEMU's limit, mentioned in the specification).
pub(crate) const MAX_CLUSTER_BITS: u32 = 21;

/// Smallest cluster size with extended L2 entries: 16 KiB, because a subcluster must not be smaller
/// than a sector.
pub(crate) const MIN_EXTENDED_CLUSTER_BITS: u32 = 14;

/// Maximum size in bytes of an L1 table in a new image (the largest that QEMU reads).
pub(crate) const MAX_L1_BYTES: u64 = 32 << 20;

/// Maximum size in bytes of a refcount table in a new image (the largest that QEMU reads).
pub(crate) const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;

/// Largest refcount order: refcounts are 2^0 to 2^6 bits wide.
pub(crate) const MAX_REFCOUNT_ORDER: u32 = 6;

/// Refcount order of version 2: 16 bits.
pub(crate) const V2_REFCOUNT_ORDER: u32 = 4;

/// Maximum length in bytes of a backing file name.
pub(crate) const MAX_BACKING_NAME: u32 = 1023;

/// Length in bytes of a version 2 header.
pub(crate) const V2_HEADER_BYTES: u32 = 72;

/// Minimum length in bytes of a version 3 header.
pub(crate) const MIN_V3_HEADER_BYTES: u32 = 104;

bitflags! {
    /// Features that a program must support to open the image.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct Incompatible: u64 {
        /// Refcounts may be wrong: the image was not closed properly.
        const DIRTY = 1 << 0;
        /// Any structure may be wrong.
        const CORRUPT = 1 << 1;
        /// Guest clusters are in an external data file.
        const DATA_FILE = 1 << 2;
        /// `compression_type` is not 0 (deflate).
        const COMPRESSION = 1 << 3;
        /// L2 entries have 16 bytes and describe subclusters.
        const EXTENDED_L2 = 1 << 4;
    }
}

bitflags! {
    /// Features that a program may ignore.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct Compatible: u64 {
        /// Writers may set the dirty bit and postpone refcount updates.
        const LAZY_REFCOUNTS = 1 << 0;
    }
}

bitflags! {
    /// Features whose bits a program that does not support them must clear when it writes to the
    /// image.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct Autoclear: u64 {
        /// The bitmaps extension is up to date.
        const BITMAPS = 1 << 0;
        /// The external data file can be read as a raw image.
        const DATA_FILE_RAW = 1 << 1;
    }
}

/// The header as stored in the file: version 2 (the first 72 bytes) or 3.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RawHeader {
    /// [`MAGIC`].
    pub(crate) magic: [u8; 4],
    /// 2 or 3.
    pub(crate) version: U32,
    /// Host offset of the backing file name; 0 if there is none.
    pub(crate) backing_file_offset: U64,
    /// Length of that name in bytes.
    pub(crate) backing_file_size: U32,
    /// The cluster size is `1 << cluster_bits` bytes.
    pub(crate) cluster_bits: U32,
    /// Size of the disk in bytes.
    pub(crate) size: U64,
    /// 0 none, 1 AES, 2 LUKS.
    pub(crate) crypt_method: U32,
    /// Number of entries of the active L1 table.
    pub(crate) l1_size: U32,
    /// Host offset of the active L1 table.
    pub(crate) l1_table_offset: U64,
    /// Host offset of the refcount table.
    pub(crate) refcount_table_offset: U64,
    /// Length of the refcount table in clusters.
    pub(crate) refcount_table_clusters: U32,
    /// Number of internal snapshots.
    pub(crate) nb_snapshots: U32,
    /// Host offset of the snapshot table.
    pub(crate) snapshots_offset: U64,
    /// [`Incompatible`].
    pub(crate) incompatible_features: U64,
    /// [`Compatible`].
    pub(crate) compatible_features: U64,
    /// [`Autoclear`].
    pub(crate) autoclear_features: U64,
    /// Refcounts are `1 << refcount_order` bits wide.
    pub(crate) refcount_order: U32,
    /// Length of the header in bytes. The extensions follow it.
    pub(crate) header_length: U32,
    /// 0 deflate, 1 zstd.
    pub(crate) compression_type: u8,
    /// Zero.
    pub(crate) padding: [u8; 7],
}

const _: () = assert!(size_of::<RawHeader>() == RawHeader::BYTES);

impl RawHeader {
    /// Length in bytes of the header that current QEMU versions write.
    pub(crate) const BYTES: usize = 112;

    /// Returns the bytes to store: 72 for version 2, and `header_length` (104 or 112) for version
    /// 3.
    pub(crate) fn encoded(&self) -> &[u8] {
        let len = match self.version.get() {
            2 => V2_HEADER_BYTES,
            _ => self.header_length.get(),
        };
        &self.as_bytes()[..to_index(len).min(Self::BYTES)]
    }

    /// Parses the header at the beginning of a file. Fields that a short version 3 header does not
    /// have are zero, and fields that version 2 does not have get its fixed values.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if the magic bytes are wrong or the header is
    /// too short, and [`Unsupported`](crate::ErrorKind::Unsupported) for an unknown version.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let too_short = || {
            Error::corrupt(
                "header",
                format!("the file ends within it, after {} bytes", bytes.len()),
            )
        };
        let mut raw = [0; Self::BYTES];
        let given = bytes.len().min(Self::BYTES);
        raw[..given].copy_from_slice(&bytes[..given]);
        let mut header = zerocopy::transmute!(raw);
        let Self { magic, version, .. } = &header;
        if given >= 4 && *magic != MAGIC {
            return Err(Error::corrupt(
                "header",
                "it does not start with the magic bytes \"QFI\\xfb\"",
            ));
        }
        if given < to_index(V2_HEADER_BYTES) {
            return Err(too_short());
        }
        match version.get() {
            2 => {
                let Self { incompatible_features, compatible_features, autoclear_features, .. } =
                    &mut header;
                *incompatible_features = U64::ZERO;
                *compatible_features = U64::ZERO;
                *autoclear_features = U64::ZERO;
                header.refcount_order = V2_REFCOUNT_ORDER.into();
                header.header_length = V2_HEADER_BYTES.into();
                header.compression_type = 0;
            }
            3 => {
                let len = header.header_length.get();
                if given < to_index(MIN_V3_HEADER_BYTES) {
                    return Err(too_short());
                }
                if len < MIN_V3_HEADER_BYTES {
                    return Err(Error::corrupt(
                        "header",
                        format!(
                            "its length is {len} bytes, but must be at least {MIN_V3_HEADER_BYTES}"
                        ),
                    )
                    .at(100));
                }
                if len == MIN_V3_HEADER_BYTES {
                    header.compression_type = 0;
                }
            }
            version => {
                return Err(Error::unsupported(format!(
                    "qcow2 version {version} is not supported"
                ))
                .hint("supported versions: 2 and 3"));
            }
        }
        Ok(header)
    }
}

/// Location and length of a table in the image file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Table {
    /// Host offset.
    pub(crate) offset: u64,
    /// Number of entries of 8 bytes.
    pub(crate) entries: u64,
}

impl Table {
    /// Returns the length in bytes. Validation bounds it, so this cannot overflow.
    pub(crate) fn bytes(self) -> u64 {
        self.entries * 8
    }
}

/// A validated header.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    /// 2 or 3.
    pub(crate) version: u32,
    /// The cluster size is `1 << cluster_bits` bytes.
    pub(crate) cluster_bits: u32,
    /// Size of the disk in bytes, a multiple of 512.
    pub(crate) size: u64,
    /// How the guest's bytes are encrypted, if they are.
    pub(crate) encryption: Option<Encryption>,
    /// The active L1 table: long enough for `size` and, unless the header was read leniently, within
    /// the file.
    pub(crate) l1: Table,
    /// The refcount table. It may be outside of the file: it is not needed to read guest bytes.
    pub(crate) refcount_table: Table,
    /// Refcounts are `1 << refcount_order` bits wide.
    pub(crate) refcount_order: u32,
    /// Number of internal snapshots.
    pub(crate) snapshot_count: u32,
    /// Host offset of the snapshot table, not yet validated.
    pub(crate) snapshots_offset: u64,
    /// Incompatible features; unknown ones are an error.
    pub(crate) incompatible: Incompatible,
    /// Compatible features, including unknown bits.
    pub(crate) compatible: Compatible,
    /// Autoclear features, including unknown bits.
    pub(crate) autoclear: Autoclear,
    /// Codec of compressed clusters.
    pub(crate) codec: Codec,
    /// Content of the header extensions.
    pub(crate) extensions: Extensions,
    /// Name of the backing file.
    pub(crate) backing: Option<String>,
}

impl Header {
    /// Reads and validates the header and its extensions. If `lenient`, accepts an image whose
    /// metadata only is read: one without a refcount table, and one whose active L1 table is beyond
    /// the end of the file.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if a field is invalid,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for unknown versions and features, and
    /// [`Limit`](crate::ErrorKind::Limit) if a table exceeds the limits.
    pub(crate) fn read(file: &dyn Source, limits: &Limits, lenient: bool) -> Result<Self> {
        let raw = RawHeader::parse(&read_prefix(file, to_u64(RawHeader::BYTES))?)?;
        let cluster_bits = raw.cluster_bits.get();
        if !(MIN_CLUSTER_BITS..=MAX_CLUSTER_BITS).contains(&cluster_bits) {
            return Err(Error::corrupt(
                "header",
                format!(
                    "the cluster size is 2^{cluster_bits} bytes, \
                     but must be 2^{MIN_CLUSTER_BITS} to 2^{MAX_CLUSTER_BITS}"
                ),
            )
            .at(20));
        }
        let cluster_size = 1u64 << cluster_bits;
        let header_length = u64::from(raw.header_length.get());
        if header_length > cluster_size {
            return Err(Error::corrupt(
                "header",
                format!(
                    "its length is {header_length} bytes, more than the {cluster_size} of a cluster"
                ),
            )
            .at(100));
        }
        let first_cluster = read_prefix(file, cluster_size)?;
        let backing = backing_name(&raw, &first_cluster, cluster_size)?;
        let extensions_end = match raw.backing_file_offset.get() {
            0 => cluster_size,
            offset => offset,
        };
        let extensions = Extensions::parse(&first_cluster, header_length, extensions_end, limits);
        let incompatible = known_features(&raw, &extensions)?;
        let extensions = extensions?;
        let header = Self {
            version: raw.version.get(),
            cluster_bits,
            size: raw.size.get() / 512 * 512,
            encryption: Encryption::of(raw.crypt_method.get())?,
            l1: Table { offset: raw.l1_table_offset.get(), entries: u64::from(raw.l1_size.get()) },
            refcount_table: Table {
                offset: raw.refcount_table_offset.get(),
                entries: u64::from(raw.refcount_table_clusters.get()) << (cluster_bits - 3),
            },
            refcount_order: raw.refcount_order.get(),
            snapshot_count: raw.nb_snapshots.get(),
            snapshots_offset: raw.snapshots_offset.get(),
            incompatible,
            compatible: Compatible::from_bits_retain(raw.compatible_features.get()),
            autoclear: Autoclear::from_bits_retain(raw.autoclear_features.get()),
            codec: codec(&raw, incompatible)?,
            extensions,
            backing,
        };
        header.validate(file.len(), limits, lenient)?;
        Ok(header)
    }

    fn validate(&self, file_len: u64, limits: &Limits, lenient: bool) -> Result<()> {
        if self.extended_l2() && self.cluster_bits < MIN_EXTENDED_CLUSTER_BITS {
            return Err(Error::corrupt(
                "header",
                format!(
                    "the cluster size is 2^{} bytes, but must be at least \
                     2^{MIN_EXTENDED_CLUSTER_BITS} with extended L2 entries",
                    self.cluster_bits
                ),
            )
            .at(20));
        }
        if self.refcount_order > MAX_REFCOUNT_ORDER {
            return Err(Error::corrupt(
                "header",
                format!(
                    "refcounts are 2^{} bits wide, but must be at most 2^{MAX_REFCOUNT_ORDER}",
                    self.refcount_order
                ),
            )
            .at(96));
        }
        if self.refcount_table.entries == 0 && !lenient {
            return Err(Error::corrupt("header", "the image has no refcount table").at(56));
        }
        self.validate_table("refcount table", self.refcount_table, limits)?;
        if self.data_file_raw() && !self.external_data() {
            return Err(Error::corrupt(
                "header",
                "the raw data file bit is set without the data file bit",
            )
            .at(88));
        }
        match lenient {
            true => self.validate_l1_size("active L1 table", self.l1, self.size, limits),
            false => self.validate_l1("active L1 table", self.l1, self.size, file_len, limits),
        }
    }

    /// Verifies that a table is aligned and not too large.
    fn validate_table(&self, name: &'static str, table: Table, limits: &Limits) -> Result<()> {
        if table.bytes() > limits.table_bytes {
            let found = format!("{} bytes", table.bytes());
            return Err(Error::over_limit("table_bytes", found, limits.table_bytes)
                .in_structure(name)
                .at(table.offset));
        }
        if table.entries > 0 && !table.offset.is_multiple_of(self.cluster_size()) {
            return Err(Error::corrupt(
                name,
                format!(
                    "it does not start at a multiple of the cluster size ({} bytes)",
                    self.cluster_size()
                ),
            )
            .at(table.offset));
        }
        Ok(())
    }

    /// Verifies that an L1 table is aligned, within the file, and long enough for a disk of `size`
    /// bytes.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if it is not, and
    /// [`Limit`](crate::ErrorKind::Limit) if it is larger than allowed.
    pub(crate) fn validate_l1(
        &self,
        name: &'static str,
        table: Table,
        size: u64,
        file_len: u64,
        limits: &Limits,
    ) -> Result<()> {
        self.validate_l1_size(name, table, size, limits)?;
        self.require_in_file(name, table, file_len)
    }

    /// Verifies that an L1 table is aligned, and long enough for a disk of `size` bytes.
    fn validate_l1_size(
        &self,
        name: &'static str,
        table: Table,
        size: u64,
        limits: &Limits,
    ) -> Result<()> {
        self.validate_table(name, table, limits)?;
        let needed = size.div_ceil(self.guest_bytes_per_l1_entry());
        if table.entries < needed {
            return Err(Error::corrupt(
                name,
                format!(
                    "it has {} entries, but a disk of {size} bytes needs {needed}",
                    table.entries
                ),
            )
            .at(table.offset));
        }
        Ok(())
    }

    /// Verifies that a table is within a file of `file_len` bytes.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if it is not.
    pub(crate) fn require_in_file(
        &self,
        name: &'static str,
        table: Table,
        file_len: u64,
    ) -> Result<()> {
        let end = table.offset.checked_add(table.bytes());
        if table.entries > 0 && end.is_none_or(|end| end > self.padded(file_len)) {
            return Err(Error::corrupt(
                name,
                format!(
                    "its {} bytes extend beyond the end of the file at {file_len:#x}",
                    table.bytes()
                ),
            )
            .at(table.offset)
            .hint("the file may be truncated"));
        }
        Ok(())
    }

    /// Returns `file_len` rounded up to a whole cluster. Writers may leave out the end of the last
    /// cluster, which reads as zeros then.
    pub(crate) fn padded(&self, file_len: u64) -> u64 {
        file_len.checked_next_multiple_of(self.cluster_size()).unwrap_or(file_len)
    }

    /// Returns the cluster size in bytes: 512 to 2 MiB.
    pub(crate) fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Returns true if L2 entries have 16 bytes and describe subclusters.
    pub(crate) fn extended_l2(&self) -> bool {
        self.incompatible.contains(Incompatible::EXTENDED_L2)
    }

    /// Returns true if guest clusters are in an external data file.
    pub(crate) fn external_data(&self) -> bool {
        self.incompatible.contains(Incompatible::DATA_FILE)
    }

    /// Returns true if the external data file can be read as a raw image.
    pub(crate) fn data_file_raw(&self) -> bool {
        self.autoclear.contains(Autoclear::DATA_FILE_RAW)
    }

    /// Returns the number of guest bytes that one L2 table describes: 32 KiB to 512 GiB.
    pub(crate) fn guest_bytes_per_l1_entry(&self) -> u64 {
        let entry_bits = if self.extended_l2() { 4 } else { 3 };
        1 << (2 * self.cluster_bits - entry_bits)
    }

    /// Returns the width of a refcount in bits: 1 to 64.
    pub(crate) fn refcount_bits(&self) -> u64 {
        1 << self.refcount_order
    }
}

/// Reads the first `len` bytes of the file, or all of a shorter file.
fn read_prefix(file: &dyn Source, len: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; to_usize(file.len().min(len))];
    file.read_exact_at(&mut bytes, 0)
        .map_err(|e| Error::io("cannot read", e).in_structure("header").at(0))?;
    Ok(bytes)
}

/// Returns the incompatible features.
///
/// # Errors
/// Returns [`Unsupported`](crate::ErrorKind::Unsupported) if any of them is unknown. The message
/// has their names from the feature name table if that can be read.
fn known_features(raw: &RawHeader, extensions: &Result<Extensions>) -> Result<Incompatible> {
    let bits = raw.incompatible_features.get();
    Incompatible::from_bits(bits).ok_or_else(|| {
        let mut unknown = bits & !Incompatible::all().bits();
        let mut names = Vec::new();
        for (bit, name) in extensions.iter().flat_map(|e| &e.incompatible_names) {
            if *bit < 64 && unknown & (1 << bit) != 0 {
                unknown &= !(1 << bit);
                names.push(name.clone());
            }
        }
        if unknown != 0 {
            names.push(format!("Unknown incompatible feature: {unknown:x}"));
        }
        Error::unsupported(format!("Unsupported qcow2 feature(s): {}", names.join(", ")))
            .in_structure("header")
            .at(72)
    })
}

fn codec(raw: &RawHeader, features: Incompatible) -> Result<Codec> {
    let codec = match raw.compression_type {
        0 => Codec::Deflate,
        1 => Codec::Zstd,
        other => {
            return Err(Error::unsupported(format!("compression type {other} is unknown"))
                .in_structure("header")
                .at(104));
        }
    };
    if features.contains(Incompatible::COMPRESSION) != (codec != Codec::Deflate) {
        return Err(Error::corrupt(
            "header",
            format!(
                "compression type {} contradicts the compression feature bit",
                raw.compression_type
            ),
        )
        .at(104));
    }
    Ok(codec)
}

fn backing_name(raw: &RawHeader, first_cluster: &[u8], cluster: u64) -> Result<Option<String>> {
    let offset = raw.backing_file_offset.get();
    let len = raw.backing_file_size.get();
    if offset == 0 {
        return Ok(None);
    }
    let end = offset.checked_add(u64::from(len)).filter(|&end| end <= cluster);
    let Some(end) = end.filter(|_| len <= MAX_BACKING_NAME) else {
        return Err(Error::corrupt(
            "header",
            format!(
                "the backing file name has {len} bytes at {offset:#x}, but must have at most \
                 {MAX_BACKING_NAME} and be in the first cluster"
            ),
        )
        .at(8));
    };
    let Some(name) = first_cluster.get(to_usize(offset)..to_usize(end)) else {
        return Err(Error::corrupt("backing file name", "the file ends within it").at(offset));
    };
    Ok(Some(text(name)).filter(|name| !name.is_empty()))
}

/// Decodes text from the image, up to the first zero byte.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests;
