//! How a file system allocates the space of a new file.

/// Requests to the file system for a new, empty file. A file system that does not know them ignores
/// them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct AllocationHints {
    /// Write blocks in place even if the file system otherwise writes changed blocks elsewhere
    /// (btrfs: `chattr +C`).
    pub no_copy_on_write: bool,
    /// Allocate space in units of this many bytes (XFS); 0 for the file system's default.
    pub extent_size: u64,
}
