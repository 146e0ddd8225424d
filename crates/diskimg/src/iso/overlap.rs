//! A bound on the work with the contents of all files: they may share their bytes.

use crate::error::{Error, Result};
use crate::iso::image::IsoImage;
use crate::iso::node::{FileExtent, FileType, Node};
use std::collections::HashSet;

/// Maximum total length of all files with different contents, as a multiple of the image's length.
/// Files rarely overlap: a boot image may be a part of another file.
const MAX_RATIO: u64 = 4;

/// Number of bytes that files may overlap in addition, whatever the image's length.
const MIN_OVERLAP: u64 = 16 << 20;

impl IsoImage {
    /// Checks that reading the contents of all regular files in `nodes` takes work in proportion to
    /// the length of the image. Names of the same contents count once.
    ///
    /// # Errors
    /// - [`Corrupt`](crate::ErrorKind::Corrupt) if files overlap so that their total length exceeds
    ///   that of the image several times.
    /// - [`Limit`](crate::ErrorKind::Limit) if they are decompressed, or holes are filled, to more
    ///   than [`unpacked_ratio`](crate::Limits::unpacked_ratio) times the length of the image.
    pub fn require_little_overlap<'a>(
        &self,
        nodes: impl IntoIterator<Item = &'a Node>,
    ) -> Result<()> {
        let image = self.source().len();
        let ratio = self.limits().unpacked_ratio;
        let mut known = HashSet::new();
        let (mut stored, mut size) = (0u64, 0u64);
        for node in nodes.into_iter().filter(|node| node.file_type == FileType::Regular) {
            if !known.insert(node.contents_key()) {
                continue;
            }
            let recorded = node.extents().iter().filter(|extent| extent.offset.is_some());
            stored = recorded.map(|FileExtent { len, .. }| *len).fold(stored, u64::saturating_add);
            size = size.saturating_add(node.size);
            if stored > image.saturating_mul(MAX_RATIO).saturating_add(MIN_OVERLAP) {
                let what = "files overlap: their total length exceeds that of the image \
                            several times";
                return Err(Error::corrupt("ISO image", what).at(node.location));
            }
            if size > image.saturating_mul(ratio) {
                let found = format!("an image of {image} bytes has files of {size} bytes or more");
                return Err(Error::over_limit("unpacked_ratio", found, ratio));
            }
        }
        Ok(())
    }
}
