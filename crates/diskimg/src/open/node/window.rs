//! `offset` and `size` of raw: a part of a file as a disk.

use super::options::NodeOptions;
use crate::error::{Error, Result};
use crate::storage::source::{Source, WindowSource};
use std::sync::Arc;

/// Removes `offset` and `size` of a raw node. Returns `None` if neither is given.
pub(super) fn window(node: &mut NodeOptions, len: u64) -> Result<Option<Window>> {
    let (offset, size) = (node.take_size("offset")?, node.take_size("size")?);
    if offset.is_none() && size.is_none() {
        return Ok(None);
    }
    let start = offset.unwrap_or(0);
    if start > len {
        return Err(Error::invalid(format!(
            "Offset ({start}) cannot be greater than size of the containing file ({len})"
        )));
    }
    if size.is_some_and(|size| !size.is_multiple_of(512)) {
        return Err(Error::invalid("Specified size is not multiple of 512"));
    }
    let end = size.map_or(Some(len), |size| start.checked_add(size));
    let Some(end) = end.filter(|&end| end <= len) else {
        let size = size.unwrap_or_default();
        return Err(Error::invalid(format!(
            "The sum of offset ({start}) and size ({size}) has to be smaller or equal to the \
             actual size of the containing file ({len})"
        )));
    };
    Ok(Some(Window { offset, size, range: start..end }))
}

/// A range of a file that is a raw disk.
pub(super) struct Window {
    /// `offset` as given.
    pub(super) offset: Option<u64>,
    /// `size` as given.
    pub(super) size: Option<u64>,
    range: std::ops::Range<u64>,
}

pub(super) fn within(source: &Arc<dyn Source>, window: &Window) -> Result<Arc<dyn Source>> {
    let source = WindowSource::new(Arc::clone(source), window.range.clone());
    Ok(Arc::new(source.map_err(|e| Error::io("cannot read a part of the file", e))?))
}
