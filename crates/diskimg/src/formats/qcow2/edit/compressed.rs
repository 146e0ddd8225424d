//! Space for compressed clusters in an existing image.

use super::space::Space;
use crate::error::Result;

/// The host clusters in which compressed clusters are stored one after the other. The refcount of
/// each is the number of compressed clusters in it.
#[derive(Debug, Default)]
pub(super) struct CompressedSpace {
    /// Host offset of the next byte, if the cluster that contains it has room.
    next: Option<u64>,
}

impl CompressedSpace {
    /// Allocates `len` bytes, at most a cluster. Returns their host offset.
    ///
    /// # Errors
    /// As [`Space::allocate`].
    pub(super) fn allocate(&mut self, space: &mut Space, len: u64, size: u64) -> Result<u64> {
        let offset = match self.continued(space, len, size)? {
            Some(offset) => offset,
            None => space.allocate(len.div_ceil(size))?,
        };
        let end = offset + len;
        self.next = (!end.is_multiple_of(size)).then_some(end);
        Ok(offset)
    }

    /// Returns the next byte if `len` bytes fit there.
    fn continued(&self, space: &mut Space, len: u64, size: u64) -> Result<Option<u64>> {
        let Some(next) = self.next else { return Ok(None) };
        let cluster_end = next.next_multiple_of(size);
        let rest = (next + len).saturating_sub(cluster_end);
        if rest > 0 {
            // The data can continue in a new cluster only if that is adjacent.
            if space.end() != cluster_end {
                return Ok(None);
            }
            let more = space.allocate(rest.div_ceil(size))?;
            // It is not if a refcount block came between, or at the end of a device.
            if more != cluster_end || !space.retain(next)? {
                space.release(more, rest, |_| ())?;
                return Ok(None);
            }
        } else if !space.retain(next)? {
            return Ok(None);
        }
        Ok(Some(next))
    }
}
