//! Extents: how a range of guest bytes is stored.

use crate::storage::codec::Codec;
use std::ops::Range;

/// A position on the host: a file of the layer and a byte offset in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HostOffset {
    /// Index into [`Layer::files`](crate::Layer::files).
    pub file: usize,
    /// Offset in bytes from the start of that file.
    pub offset: u64,
}

impl HostOffset {
    fn forward(self, bytes: u64) -> Self {
        Self { offset: self.offset + bytes, ..self }
    }
}

/// A contiguous range of guest bytes that one layer stores in one way.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Extent {
    /// Range of guest offsets in bytes; never empty.
    pub guest: Range<u64>,
    /// How the range is stored.
    pub kind: Kind,
}

/// How the bytes of an extent are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Stored verbatim, starting at this host offset. Such bytes can be borrowed, shared by
    /// reflink or copied by the kernel.
    Data(HostOffset),
    /// Zeros, whatever the backing file contains. The host offset is that of the space reserved
    /// for them (a preallocated cluster, a hole in a raw file), if any.
    Zero(Option<HostOffset>),
    /// Part of a compressed unit.
    Encoded(Encoded),
    /// Not allocated in this layer: read from the backing file, or as zeros without one.
    Unallocated,
}

/// A compressed unit, which can only be decoded as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Encoded {
    /// Host offset of the stored bytes.
    pub host: HostOffset,
    /// Maximum number of stored bytes; may include padding.
    pub stored: u32,
    /// Number of these bytes that the image says are no padding, at least.
    pub least_stored: u32,
    /// Guest range that decoding yields; contains the extent's range.
    pub unit: Range<u64>,
    /// Codec of the stored bytes.
    pub codec: Codec,
}

impl Extent {
    /// Returns the part of this extent within `range`, which must overlap it.
    #[must_use]
    pub fn clip(&self, range: &Range<u64>) -> Self {
        let guest = self.guest.start.max(range.start)..self.guest.end.min(range.end);
        debug_assert!(guest.start < guest.end);
        let kind = self.kind.forward(guest.start - self.guest.start);
        Self { guest, kind }
    }
}

impl Kind {
    /// Returns the kind of the same extent with its first `bytes` bytes cut off.
    #[must_use]
    pub fn forward(&self, bytes: u64) -> Self {
        match self {
            Self::Data(host) => Self::Data(host.forward(bytes)),
            Self::Zero(host) => Self::Zero(host.map(|p| p.forward(bytes))),
            Self::Encoded(_) | Self::Unallocated => self.clone(),
        }
    }

    /// Returns true if an extent of kind `next` continues one of this kind and length `len`.
    fn continues(&self, len: u64, next: &Self) -> bool {
        self.forward(len) == *next
    }

    /// Returns true if the bytes are known to be zero without reading them. For
    /// [`Unallocated`](Self::Unallocated) this assumes that no backing file follows.
    pub fn is_zero(&self) -> bool {
        matches!(self, Self::Zero(_) | Self::Unallocated)
    }
}

/// Appends an extent, or extends the last one if the new one continues it. Ignores empty ranges.
pub(crate) fn push(extents: &mut Vec<Extent>, guest: Range<u64>, kind: Kind) {
    if guest.is_empty() {
        return;
    }
    if let Some(last) = extents.last_mut()
        && last.guest.end == guest.start
        && last.kind.continues(last.guest.end - last.guest.start, &kind)
    {
        last.guest.end = guest.end;
        return;
    }
    extents.push(Extent { guest, kind });
}

/// An extent of a backing chain: the layer that provides a range, and how it is stored there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChainExtent {
    /// Range of guest offsets in bytes; never empty.
    pub guest: Range<u64>,
    /// Layer that provides the bytes: 0 is the image itself, 1 its backing file, and so on.
    pub depth: usize,
    /// How the range is stored. [`Kind::Unallocated`] means that no layer has it allocated: it
    /// reads as zeros.
    pub kind: Kind,
}

impl ChainExtent {
    /// Returns the part of this extent within `range`, which must overlap it.
    #[must_use]
    pub fn clip(&self, range: &Range<u64>) -> Self {
        let extent = Extent { guest: self.guest.clone(), kind: self.kind.clone() }.clip(range);
        Self { guest: extent.guest, depth: self.depth, kind: extent.kind }
    }

    /// Returns the length in bytes.
    pub fn len(&self) -> u64 {
        self.guest.end - self.guest.start
    }

    /// Returns true if `next` starts where this extent ends and is stored in the same way, so that
    /// the two can be merged.
    pub(crate) fn is_continued_by(&self, next: &Self) -> bool {
        self.depth == next.depth
            && self.guest.end == next.guest.start
            && self.kind.continues(self.len(), &next.kind)
    }

    /// Returns false: extents are never empty.
    pub fn is_empty(&self) -> bool {
        self.guest.is_empty()
    }
}

/// Like [`push`], for a backing chain.
pub(crate) fn push_chain(extents: &mut Vec<ChainExtent>, extent: ChainExtent) {
    if extent.guest.is_empty() {
        return;
    }
    if let Some(last) = extents.last_mut()
        && last.is_continued_by(&extent)
    {
        last.guest.end = extent.guest.end;
        return;
    }
    extents.push(extent);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjacent_extents_merge_only_if_one_continues_the_other() {
        let data = |offset| Kind::Data(HostOffset { file: 0, offset });
        let mut out = Vec::new();
        push(&mut out, 0..10, data(100));
        push(&mut out, 10..20, data(110));
        push(&mut out, 20..30, data(500));
        push(&mut out, 30..30, Kind::Unallocated);
        push(&mut out, 30..40, Kind::Unallocated);
        push(&mut out, 40..50, Kind::Unallocated);
        push(&mut out, 50..60, Kind::Zero(None));
        let ranges: Vec<_> = out.iter().map(|e| e.guest.clone()).collect();
        assert_eq!(ranges, [0..20, 20..30, 30..50, 50..60]);
        assert_eq!(out[0].clip(&(5..12)), Extent { guest: 5..12, kind: data(105) });
    }
}
