//! How much an image may ask of us.

/// Bounds on what an image may demand before it is refused with
/// [`ErrorKind::Limit`](crate::ErrorKind::Limit). The defaults admit everything
/// that QEMU admits.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Images in a backing chain, the top one included.
    pub chain_depth: usize,
    /// Bytes of tables that one layer holds in memory as a whole (a qcow2 L1
    /// table, the grain directories of a VMDK's extents).
    pub table_bytes: u64,
    /// Bytes of a VMDK descriptor.
    pub descriptor_bytes: u64,
    /// Files that a VMDK's extents may be in. Each is held open.
    pub extent_files: usize,
    /// Internal snapshots of a qcow2 image.
    pub snapshots: u32,
    /// Bytes of an OVF descriptor or manifest. 8 MiB by default.
    pub ovf_bytes: u64,
    /// Bytes that a packed appliance, or a packed file of one, may unpack to: in
    /// a temporary file where a disk is read. 256 GiB by default.
    pub unpacked_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            chain_depth: 200,
            table_bytes: 32 << 20,
            descriptor_bytes: 1 << 20,
            extent_files: 32_768,
            snapshots: 65_536,
            ovf_bytes: 8 << 20,
            unpacked_bytes: 256 << 30,
        }
    }
}
