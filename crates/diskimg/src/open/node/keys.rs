//! The keys and drivers of QEMU.

/// Keys that the nodes of one format have, beyond those of every node and of children.
#[derive(Debug)]
pub(crate) struct NodeKeys {
    /// Keys that tune QEMU and make no difference here.
    pub(crate) ignored: &'static [&'static str],
    /// The image may be encrypted: `encrypt.format` and `encrypt.key-secret`.
    pub(crate) encrypt: bool,
    /// The image may have an external data file: `data-file`.
    pub(crate) data_file: bool,
}

impl NodeKeys {
    /// No keys.
    pub(crate) const NONE: Self = Self { ignored: &[], encrypt: false, data_file: false };
}

/// Keys of every node that make no difference for reading.
pub(super) const GENERIC: [&str; 6] =
    ["auto-read-only", "cache.direct", "cache.no-flush", "detect-zeroes", "discard", "read-only"];

/// Keys of a file that make no difference here.
pub(super) const FILE: [&str; 5] =
    ["aio", "aio-max-batch", "pr-manager", "drop-cache", "x-check-cache-dropped"];

/// Drivers for files of the host.
pub(super) const FILE_DRIVERS: [&str; 3] = ["file", "host_device", "host_cdrom"];

/// Drivers for a disk that stores nothing.
pub(super) const NULL_DRIVERS: [&str; 2] = ["null-co", "null-aio"];

/// The driver of what fails on purpose.
pub(super) const FAULTY_DRIVER: &str = "blkdebug";

/// QEMU's other protocols and filters.
pub(super) const OTHER_DRIVERS: [&str; 21] = [
    "blklogwrites",
    "blkreplay",
    "blkverify",
    "compress",
    "copy-on-read",
    "ftp",
    "ftps",
    "gluster",
    "http",
    "https",
    "iscsi",
    "luks",
    "nbd",
    "nfs",
    "nvme",
    "preallocate",
    "quorum",
    "rbd",
    "ssh",
    "throttle",
    "vvfat",
];
