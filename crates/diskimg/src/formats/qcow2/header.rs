//! The header: bytes → [`RawHeader`] → [`Header`], which everything else trusts.
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
//! Specification: QEMU's `docs/interop/qcow2`, sections "Header" and
//! "Additional fields". The limits are QEMU's own where the specification has
//! none: an image beyond them could not have been made by it nor be read by it.

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

/// Cluster sizes are 512 bytes …
pub(crate) const MIN_CLUSTER_BITS: u32 = 9;

/// … to 2 MiB (QEMU's limit, named in the specification).
pub(crate) const MAX_CLUSTER_BITS: u32 = 21;

/// A cluster with extended L2 entries is at least 16 KiB: a subcluster is no
/// smaller than a sector.
pub(crate) const MIN_EXTENDED_CLUSTER_BITS: u32 = 14;

/// Bytes of an L1 table that we write (QEMU's limit on what it reads).
pub(crate) const MAX_L1_BYTES: u64 = 32 << 20;

/// Bytes of a refcount table that we write (QEMU's limit on what it reads).
pub(crate) const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;

/// Refcounts are 1 to 64 bits wide: 2 to the power of 0 … 6.
pub(crate) const MAX_REFCOUNT_ORDER: u32 = 6;

/// The width of version 2's refcounts: 16 bits.
pub(crate) const V2_REFCOUNT_ORDER: u32 = 4;

/// Bytes of a backing file's name.
pub(crate) const MAX_BACKING_NAME: u32 = 1023;

/// A version 2 header.
pub(crate) const V2_HEADER_BYTES: u32 = 72;

/// The shortest version 3 header.
pub(crate) const MIN_V3_HEADER_BYTES: u32 = 104;

bitflags! {
    /// Features that a reader must know, or keep its hands off.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct Incompatible: u64 {
        /// Refcounts may be wrong: the image was not closed.
        const DIRTY = 1 << 0;
        /// Any structure may be wrong.
        const CORRUPT = 1 << 1;
        /// Guest clusters lie in another file.
        const DATA_FILE = 1 << 2;
        /// `compression_type` is not deflate.
        const COMPRESSION = 1 << 3;
        /// L2 entries are 16 bytes and know subclusters.
        const EXTENDED_L2 = 1 << 4;
    }
}

bitflags! {
    /// Features that a reader may ignore.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct Compatible: u64 {
        /// Writers may set the dirty bit and postpone refcounts.
        const LAZY_REFCOUNTS = 1 << 0;
    }
}

bitflags! {
    /// Features that a writer must switch off if it does not know them.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct Autoclear: u64 {
        /// The bitmaps extension is up to date.
        const BITMAPS = 1 << 0;
        /// The external data file is a raw image in its own right.
        const DATA_FILE_RAW = 1 << 1;
    }
}

/// The header as it lies in the file: versions 2 (the first 72 bytes) and 3.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RawHeader {
    /// [`MAGIC`].
    pub(crate) magic: [u8; 4],
    /// 2 or 3.
    pub(crate) version: U32,
    /// Where the backing file's name is; 0: there is none.
    pub(crate) backing_file_offset: U64,
    /// Bytes of that name.
    pub(crate) backing_file_size: U32,
    /// A cluster is 1 << this many bytes.
    pub(crate) cluster_bits: U32,
    /// Guest bytes.
    pub(crate) size: U64,
    /// 0 none, 1 AES, 2 LUKS.
    pub(crate) crypt_method: U32,
    /// Entries of the active L1 table.
    pub(crate) l1_size: U32,
    /// Host offset of the active L1 table.
    pub(crate) l1_table_offset: U64,
    /// Host offset of the refcount table.
    pub(crate) refcount_table_offset: U64,
    /// Clusters of the refcount table.
    pub(crate) refcount_table_clusters: U32,
    /// Internal snapshots.
    pub(crate) nb_snapshots: U32,
    /// Host offset of the snapshot table.
    pub(crate) snapshots_offset: U64,
    /// [`Incompatible`].
    pub(crate) incompatible_features: U64,
    /// [`Compatible`].
    pub(crate) compatible_features: U64,
    /// [`Autoclear`].
    pub(crate) autoclear_features: U64,
    /// A refcount is 1 << this many bits.
    pub(crate) refcount_order: U32,
    /// Where the header ends and its extensions begin.
    pub(crate) header_length: U32,
    /// 0 deflate, 1 zstd.
    pub(crate) compression_type: u8,
    /// Zero.
    pub(crate) padding: [u8; 7],
}

const _: () = assert!(size_of::<RawHeader>() == RawHeader::BYTES);

impl RawHeader {
    /// The header that QEMU writes today.
    pub(crate) const BYTES: usize = 112;

    /// The bytes to store: 72 in version 2, 104 or 112 in version 3, as
    /// `header_length` says.
    pub(crate) fn encoded(&self) -> &[u8] {
        let len = match self.version.get() {
            2 => V2_HEADER_BYTES,
            _ => self.header_length.get(),
        };
        &self.as_bytes()[..to_index(len).min(Self::BYTES)]
    }

    /// Takes the header off the beginning of a file. What is not there of a
    /// short version 3 header, or not meant in version 2, is zero.
    fn parse(bytes: &[u8]) -> Result<Self> {
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
                "it does not begin with the magic bytes of qcow2",
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
                        format!("its length is {len}, at least {MIN_V3_HEADER_BYTES} allowed"),
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
                .hint("versions 2 and 3 are"));
            }
        }
        Ok(header)
    }
}

/// How the guest's bytes are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encryption {
    /// AES-CBC with a key made of the password itself.
    Aes,
    /// LUKS, with a header in clusters of its own.
    Luks,
}

impl Encryption {
    /// QEMU's name for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Aes => "aes",
            Self::Luks => "luks",
        }
    }
}

/// A table in the image file: where it begins, how many entries it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Table {
    /// Host offset.
    pub(crate) offset: u64,
    /// Entries of 8 bytes.
    pub(crate) entries: u64,
}

impl Table {
    /// Its length: at most [`MAX_L1_BYTES`] and the like.
    pub(crate) fn bytes(self) -> u64 {
        self.entries * 8
    }
}

/// The header, validated.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    /// 2 or 3.
    pub(crate) version: u32,
    /// A cluster is 1 << this many bytes.
    pub(crate) cluster_bits: u32,
    /// Guest bytes, a multiple of 512.
    pub(crate) size: u64,
    /// The guest's bytes are not to be had as they are.
    pub(crate) encryption: Option<Encryption>,
    /// The active L1 table: long enough for `size`, inside the file.
    pub(crate) l1: Table,
    /// The refcount table; it need not be inside the file, reading guest bytes
    /// does not ask it.
    pub(crate) refcount_table: Table,
    /// A refcount is 1 << this many bits.
    pub(crate) refcount_order: u32,
    /// Internal snapshots.
    pub(crate) snapshot_count: u32,
    /// Host offset of the snapshot table, aligned if there are snapshots.
    pub(crate) snapshots_offset: u64,
    /// Only known bits.
    pub(crate) incompatible: Incompatible,
    /// Unknown bits are kept.
    pub(crate) compatible: Compatible,
    /// Unknown bits are kept.
    pub(crate) autoclear: Autoclear,
    /// How compressed clusters are encoded.
    pub(crate) codec: Codec,
    /// What the header extensions say.
    pub(crate) extensions: Extensions,
    /// The backing file's name.
    pub(crate) backing: Option<String>,
}

impl Header {
    /// Reads and validates the header and all that is in the first cluster.
    /// `lenient` opens what is fit for a check, if not for reading.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt), or
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for versions and
    /// features that are not known.
    pub(crate) fn read(file: &dyn Source, limits: &Limits, lenient: bool) -> Result<Self> {
        let raw = RawHeader::parse(&read_prefix(file, to_u64(RawHeader::BYTES))?)?;
        let cluster_bits = raw.cluster_bits.get();
        if !(MIN_CLUSTER_BITS..=MAX_CLUSTER_BITS).contains(&cluster_bits) {
            return Err(Error::corrupt(
                "header",
                format!(
                    "the cluster size is 2^{cluster_bits}, \
                     2^{MIN_CLUSTER_BITS} to 2^{MAX_CLUSTER_BITS} allowed"
                ),
            )
            .at(20));
        }
        let cluster_size = 1u64 << cluster_bits;
        let header_length = u64::from(raw.header_length.get());
        if header_length > cluster_size {
            return Err(Error::corrupt(
                "header",
                format!("its length is {header_length}, more than the first cluster"),
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
            encryption: encryption(raw.crypt_method.get())?,
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
                    "clusters of 2^{} bytes are too small for extended L2 entries, \
                     at least 2^{MIN_EXTENDED_CLUSTER_BITS} allowed",
                    self.cluster_bits
                ),
            )
            .at(20));
        }
        if self.refcount_order > MAX_REFCOUNT_ORDER {
            return Err(Error::corrupt(
                "header",
                format!(
                    "refcounts are 2^{} bits wide, at most 2^{MAX_REFCOUNT_ORDER} allowed",
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
            return Err(Error::corrupt("header", "a raw data file without a data file").at(88));
        }
        self.validate_l1("active L1 table", self.l1, self.size, file_len, limits)
    }

    /// Verifies that a table of pointers is aligned and no larger than may be.
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
                    "it does not start at a multiple of the cluster size {}",
                    self.cluster_size()
                ),
            )
            .at(table.offset));
        }
        Ok(())
    }

    /// Verifies that an L1 table may be read and is long enough for a disk of
    /// `size` bytes.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt), [`Limit`](crate::ErrorKind::Limit).
    pub(crate) fn validate_l1(
        &self,
        name: &'static str,
        table: Table,
        size: u64,
        file_len: u64,
        limits: &Limits,
    ) -> Result<()> {
        self.validate_table(name, table, limits)?;
        let needed = size.div_ceil(self.guest_bytes_per_l1_entry());
        if table.entries < needed {
            return Err(Error::corrupt(
                name,
                format!("{} entries, {needed} needed for {size} bytes", table.entries),
            )
            .at(table.offset));
        }
        let end = table.offset.checked_add(table.bytes());
        if table.entries > 0 && end.is_none_or(|end| end > self.padded(file_len)) {
            return Err(Error::corrupt(
                name,
                format!("its {} bytes leave the file, which ends at {file_len:#x}", table.bytes()),
            )
            .at(table.offset)
            .hint("the file may be truncated"));
        }
        Ok(())
    }

    /// Where the file's last cluster would end if it were whole. Writers may
    /// leave out the end of it; it reads as zeros.
    pub(crate) fn padded(&self, file_len: u64) -> u64 {
        file_len.checked_next_multiple_of(self.cluster_size()).unwrap_or(file_len)
    }

    /// Bytes of a cluster: 512 to 2 MiB.
    pub(crate) fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Whether L2 entries are 16 bytes and know subclusters.
    pub(crate) fn extended_l2(&self) -> bool {
        self.incompatible.contains(Incompatible::EXTENDED_L2)
    }

    /// Whether guest clusters lie in another file.
    pub(crate) fn external_data(&self) -> bool {
        self.incompatible.contains(Incompatible::DATA_FILE)
    }

    /// Whether that file is a raw image in its own right.
    pub(crate) fn data_file_raw(&self) -> bool {
        self.autoclear.contains(Autoclear::DATA_FILE_RAW)
    }

    /// Guest bytes that one L2 table describes: 32 KiB to 512 GiB.
    pub(crate) fn guest_bytes_per_l1_entry(&self) -> u64 {
        let entry_bits = if self.extended_l2() { 4 } else { 3 };
        1 << (2 * self.cluster_bits - entry_bits)
    }

    /// Bits of a refcount: 1 to 64.
    pub(crate) fn refcount_bits(&self) -> u64 {
        1 << self.refcount_order
    }
}

/// The first `most` bytes of the file, or as many as there are.
fn read_prefix(file: &dyn Source, most: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; to_usize(file.len().min(most))];
    file.read_exact_at(&mut bytes, 0)
        .map_err(|e| Error::io("cannot read", e).in_structure("header").at(0))?;
    Ok(bytes)
}

/// The feature bits, if all of them are known. The names of others come from
/// the feature name table, if that can be read.
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

fn encryption(method: u32) -> Result<Option<Encryption>> {
    match method {
        0 => Ok(None),
        1 => Ok(Some(Encryption::Aes)),
        2 => Ok(Some(Encryption::Luks)),
        other => Err(Error::unsupported(format!("encryption method {other} is not known"))
            .in_structure("header")
            .at(32)),
    }
}

fn codec(raw: &RawHeader, features: Incompatible) -> Result<Codec> {
    let codec = match raw.compression_type {
        0 => Codec::Deflate,
        1 => Codec::Zstd,
        other => {
            return Err(Error::unsupported(format!("compression type {other} is not known"))
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
                "the backing file's name is {len} bytes at {offset:#x}, \
                 at most {MAX_BACKING_NAME} in the first cluster allowed"
            ),
        )
        .at(8));
    };
    let Some(name) = first_cluster.get(to_usize(offset)..to_usize(end)) else {
        return Err(Error::corrupt("backing file name", "the file ends within it").at(offset));
    };
    Ok(Some(text(name)).filter(|name| !name.is_empty()))
}

/// Text out of the image, up to a zero byte if there is one.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests;
