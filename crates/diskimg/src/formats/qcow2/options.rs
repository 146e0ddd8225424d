//! The create options of qcow2.

use super::header::{MAX_CLUSTER_BITS, MAX_L1_BYTES, MIN_CLUSTER_BITS, MIN_EXTENDED_CLUSTER_BITS};
use super::tables::L2Layout;
use crate::error::{Error, Result};
use crate::model::options::{COMPRESSION_LEVEL, EXTENT_SIZE_HINT, NOCOW, OptionKind, OptionSpec};
use crate::model::target::CreateRequest;

/// The options with QEMU's defaults, in the order in which `qemu-img create` prints them.
pub(super) const OPTIONS: &[OptionSpec] = &[
    OptionSpec::new("encryption", OptionKind::Switch, "Encrypt the image (must be off)"),
    OptionSpec::new("cluster_size", OptionKind::Size, "qcow2 cluster size").default("65536"),
    OptionSpec::new("extended_l2", OptionKind::Switch, "Extended L2 tables").default("off"),
    OptionSpec::new(
        "preallocation",
        OptionKind::Text,
        "Preallocation mode (allowed values: off, metadata, falloc, full)",
    ),
    OptionSpec::new(
        "compression_type",
        OptionKind::Text,
        "Compression method used for image cluster compression (zlib, zstd)",
    )
    .default("zlib"),
    OptionSpec::new(
        COMPRESSION_LEVEL.name,
        OptionKind::Number,
        "Compression level: 1 (fastest) to 9 (smallest); up to 19 with zstd",
    ),
    OptionSpec::new("size", OptionKind::Size, "Virtual disk size"),
    OptionSpec::new("compat", OptionKind::Text, "Compatibility level (v2 [0.10] or v3 [1.1])"),
    OptionSpec::new("backing_file", OptionKind::Text, "File name of a base image"),
    OptionSpec::new("backing_fmt", OptionKind::Text, "Image format of the base image"),
    OptionSpec::new("data_file", OptionKind::Text, "File name of an external data file"),
    OptionSpec::new(
        "data_file_raw",
        OptionKind::Switch,
        "The external data file must stay valid as a raw image",
    ),
    OptionSpec::new("lazy_refcounts", OptionKind::Switch, "Postpone refcount updates")
        .default("off"),
    OptionSpec::new(
        "refcount_bits",
        OptionKind::Number,
        "Width of a reference count entry in bits",
    )
    .default("16"),
    NOCOW,
    EXTENT_SIZE_HINT,
];

/// The options of an existing image that can be changed, and those that may be given unchanged.
pub(super) const AMEND_OPTIONS: &[OptionSpec] = &[
    OptionSpec::new("backing_file", OptionKind::Text, "File name of a base image"),
    OptionSpec::new("backing_fmt", OptionKind::Text, "Image format of the base image"),
    OptionSpec::new("compat", OptionKind::Text, "Compatibility level (v2 [0.10] or v3 [1.1])"),
    OptionSpec::new("data_file", OptionKind::Text, "File name of an external data file"),
    OptionSpec::new(
        "data_file_raw",
        OptionKind::Switch,
        "The external data file must stay valid as a raw image",
    ),
    OptionSpec::new("lazy_refcounts", OptionKind::Switch, "Postpone refcount updates"),
    OptionSpec::new(
        "refcount_bits",
        OptionKind::Number,
        "Width of a reference count entry in bits",
    ),
    OptionSpec::new("size", OptionKind::Size, "Virtual disk size"),
];

/// Returns the version that `compat` names.
///
/// # Errors
/// Returns [`Invalid`](crate::ErrorKind::Invalid) for another value.
pub(super) fn version(options: &crate::Options) -> Result<Option<u32>> {
    match options.get("compat") {
        None => Ok(None),
        Some("1.1" | "v3") => Ok(Some(3)),
        Some("0.10" | "v2") => Ok(Some(2)),
        Some(other) => Err(Error::invalid(format!("Unknown compatibility level {other}"))
            .hint("use 0.10 (v2) or 1.1 (v3)")),
    }
}

/// Returns the binary logarithm of `refcount_bits`.
///
/// # Errors
/// Returns [`Invalid`](crate::ErrorKind::Invalid) if it is not a power of two up to 64.
pub(super) fn refcount_order(options: &crate::Options) -> Result<Option<u32>> {
    match options.number("refcount_bits")? {
        None => Ok(None),
        Some(bits @ (1 | 2 | 4 | 8 | 16 | 32 | 64)) => Ok(Some(bits.trailing_zeros())),
        Some(_) => {
            Err(Error::invalid("Refcount width must be a power of two and may not exceed 64 bits"))
        }
    }
}

/// The compression method of clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    /// Raw deflate with a window of 4 KiB.
    Zlib,
    /// Zstandard.
    #[cfg(feature = "zstd")]
    Zstd,
}

impl Compression {
    /// Returns the highest compression level.
    fn max_level(self) -> u32 {
        match self {
            Self::Zlib => 9,
            #[cfg(feature = "zstd")]
            Self::Zstd => 19,
        }
    }
}

/// The space allocated in advance for clusters without data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Preallocation {
    /// None.
    Off,
    /// All clusters are allocated in the tables; the file is sparse.
    Metadata,
    /// As `Metadata`, and the file system reserves the space.
    Falloc,
    /// As `Metadata`, and zeros are written to all clusters.
    Full,
}

/// A consistent set of create options.
#[derive(Debug, Clone)]
pub(super) struct CreateOptions {
    /// Version 2 (`compat=0.10`) or 3 (`compat=1.1`).
    pub(super) version: u32,
    /// The cluster size is `1 << cluster_bits` bytes.
    pub(super) cluster_bits: u32,
    /// Refcounts are `1 << refcount_order` bits wide.
    pub(super) refcount_order: u32,
    pub(super) compression: Compression,
    /// Compression level; `None` for the encoder's default.
    pub(super) compression_level: Option<u32>,
    pub(super) data_file: Option<String>,
    pub(super) data_file_raw: bool,
    pub(super) extended_l2: bool,
    pub(super) lazy_refcounts: bool,
    pub(super) preallocation: Preallocation,
}

/// QEMU's default cluster size in bytes.
const DEFAULT_CLUSTER_SIZE: u64 = 64 << 10;

impl CreateOptions {
    /// Parses the options of a request and verifies that they can be combined.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if they cannot.
    pub(super) fn from_request(request: &CreateRequest<'_>) -> Result<Self> {
        let mut options = Self::parse(request.options)?;
        options.compression_level =
            request.options.compression_level(options.compression.max_level(), request.compress)?;
        let overlay = request.backing.is_some();
        let forbid =
            |bad: bool, why: &'static str| if bad { Err(Error::invalid(why)) } else { Ok(()) };
        forbid(
            overlay && options.data_file_raw,
            "Backing file and data-file-raw cannot be used at the same time",
        )?;
        forbid(
            overlay && options.preallocation != Preallocation::Off && !options.extended_l2,
            "Backing file and preallocation can only be used at the same time if extended_l2 is enabled",
        )?;
        forbid(
            request.compress && options.data_file.is_some(),
            "Compression is not possible with an external data file",
        )?;
        forbid(
            request.compress && options.preallocation != Preallocation::Off,
            "Compression and preallocation not supported at the same time",
        )?;
        Ok(options)
    }

    /// Parses the options.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) for invalid values and combinations.
    pub(super) fn parse(options: &crate::Options) -> Result<Self> {
        let version = match options.get("compat") {
            None | Some("1.1" | "v3") => 3,
            Some("0.10" | "v2") => 2,
            Some(other) => {
                return Err(Error::invalid(format!("Invalid compatibility level: '{other}'"))
                    .hint("use 0.10 (v2) or 1.1 (v3)"));
            }
        };
        if options.switch("encryption")? == Some(true) {
            return Err(Error::unsupported("encrypted images cannot be created"));
        }
        let extended_l2 = options.switch("extended_l2")?.unwrap_or(false);
        let cluster_bits = cluster_bits(options.size("cluster_size")?, extended_l2)?;
        let refcount_order = refcount_order(options)?.unwrap_or(4);
        let compression = match options.get("compression_type") {
            None | Some("zlib") => Compression::Zlib,
            #[cfg(feature = "zstd")]
            Some("zstd") => Compression::Zstd,
            #[cfg(not(feature = "zstd"))]
            Some("zstd") => {
                return Err(Error::unsupported(
                    "this build does not include Zstandard (cargo feature zstd)",
                ));
            }
            Some(other) => {
                return Err(Error::invalid(format!("Invalid compression type: '{other}'"))
                    .hint("use zlib or zstd"));
            }
        };
        let preallocation = match options.get("preallocation") {
            None | Some("off") => Preallocation::Off,
            Some("metadata") => Preallocation::Metadata,
            Some("falloc") => Preallocation::Falloc,
            Some("full") => Preallocation::Full,
            Some(other) => {
                return Err(Error::invalid(format!("Unsupported preallocation mode '{other}'"))
                    .hint("use off, metadata, falloc or full"));
            }
        };
        let parsed = Self {
            version,
            cluster_bits,
            refcount_order,
            compression,
            compression_level: None,
            data_file: options.get("data_file").filter(|f| !f.is_empty()).map(str::to_owned),
            data_file_raw: options.switch("data_file_raw")?.unwrap_or(false),
            extended_l2,
            lazy_refcounts: options.switch("lazy_refcounts")?.unwrap_or(false),
            preallocation,
        };
        parsed.check_version()?;
        if parsed.data_file_raw && parsed.data_file.is_none() {
            return Err(Error::invalid("data-file-raw requires data-file"));
        }
        Ok(parsed.with_implied_preallocation())
    }

    /// Verifies that version 2 is not combined with features that only version 3 has.
    fn check_version(&self) -> Result<()> {
        let features = [
            (self.refcount_order != 4, "Refcount widths other than 16 bits"),
            (self.lazy_refcounts, "Lazy refcounts"),
            (self.compression != Compression::Zlib, "Non-zlib compression types"),
            (self.extended_l2, "Extended L2 entries"),
            (self.data_file.is_some(), "External data files"),
        ];
        match features.iter().find(|(requested, _)| *requested && self.version < 3) {
            Some((_, what)) => Err(Error::invalid(format!(
                "{what} are only supported with compatibility level 1.1 and above (use compat=v3 or greater)"
            ))),
            None => Ok(()),
        }
    }

    /// Selects `preallocation=metadata` if the data file must stay valid as a raw image, as QEMU
    /// does. Otherwise a guest write would have to update the tables.
    fn with_implied_preallocation(mut self) -> Self {
        if self.data_file_raw && self.preallocation == Preallocation::Off {
            self.preallocation = Preallocation::Metadata;
        }
        self
    }

    pub(super) fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Returns the number of L1 entries for a disk of `size` bytes.
    ///
    /// # Errors
    /// Returns [`Limit`](crate::ErrorKind::Limit) if the table would be larger than QEMU accepts.
    pub(super) fn l1_entries(&self, size: u64) -> Result<u64> {
        let entries = size.div_ceil(self.layout().guest_bytes_per_table());
        if entries * 8 > MAX_L1_BYTES {
            return Err(Error::limit(format!(
                "a disk of {size} bytes needs an L1 table of {} bytes, more than {MAX_L1_BYTES}",
                entries * 8
            ))
            .hint("use a larger cluster_size"));
        }
        Ok(entries)
    }

    /// Returns the layout of the image's L2 tables.
    pub(super) fn layout(&self) -> L2Layout {
        L2Layout {
            cluster_bits: self.cluster_bits,
            extended: self.extended_l2,
            data_file: self.data_file.is_some(),
        }
    }
}

fn cluster_bits(size: Option<u64>, extended_l2: bool) -> Result<u32> {
    let size = size.unwrap_or(DEFAULT_CLUSTER_SIZE);
    if !size.is_power_of_two() || !(1 << MIN_CLUSTER_BITS..=1 << MAX_CLUSTER_BITS).contains(&size) {
        return Err(Error::invalid("Cluster size must be a power of two between 512 and 2048k"));
    }
    if extended_l2 && size < 1 << MIN_EXTENDED_CLUSTER_BITS {
        return Err(Error::invalid(format!(
            "Extended L2 entries are only supported with cluster sizes of at least {} bytes",
            1 << MIN_EXTENDED_CLUSTER_BITS
        )));
    }
    Ok(size.trailing_zeros())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;

    #[test]
    fn options_that_version_2_does_not_have_are_errors() {
        for option in [
            "refcount_bits=8",
            "lazy_refcounts=on",
            #[cfg(feature = "zstd")]
            "compression_type=zstd",
            "extended_l2=on",
            "data_file=x",
        ] {
            let options = Options::parse(&format!("compat=0.10,{option}")).expect("parses");
            let error = CreateOptions::parse(&options).expect_err(option);
            assert!(error.to_string().contains("compat=v3"), "{error}");
        }
    }

    #[test]
    fn values_out_of_range_are_errors() {
        for option in [
            "cluster_size=256",
            "cluster_size=4M",
            "cluster_size=65537",
            "refcount_bits=3",
            "refcount_bits=128",
            "compat=9",
            "compression_type=lzma",
            "preallocation=some",
            "data_file_raw=on",
            "extended_l2=on,cluster_size=8k",
        ] {
            let options = Options::parse(option).expect("parses");
            CreateOptions::parse(&options).expect_err(option);
        }
    }

    #[test]
    fn the_listed_defaults_are_those_in_effect() {
        let defaults = Options::default().in_effect(OPTIONS).expect("fits");
        assert!(defaults.iter().count() > 0);
        let parsed = |options| format!("{:?}", CreateOptions::parse(options).expect("parses"));
        assert_eq!(parsed(&defaults), parsed(&Options::default()));
    }
}
