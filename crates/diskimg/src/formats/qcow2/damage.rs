//! What a check says about damage beyond its findings: what a repair may do.

/// Damage that a check has found.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Damage {
    /// References may be missing, because a structure that has some cannot be read or an entry is
    /// invalid. Clusters that nothing refers to may be in use, so they must not become free.
    pub(super) incomplete: bool,
    /// Host offset of the first region beyond the end of the file to which an entry refers. If the
    /// file grows beyond it, the entry refers to something else.
    pub(super) first_beyond_end: Option<u64>,
    /// A cluster has more references than a refcount can store.
    pub(super) overflown: bool,
    /// An L1 or L2 entry can be corrected without changing what the guest reads.
    pub(super) entries: bool,
    /// An entry of the snapshot table lacks extra data.
    pub(super) snapshots: bool,
    /// The bitmap directory or a bitmap table is damaged.
    pub(super) bitmaps: bool,
    /// The refcount table or a reference to a refcount block is invalid.
    pub(super) refcounts: bool,
}
