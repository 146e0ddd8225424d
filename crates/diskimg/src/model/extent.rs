//! Extents: what a format says about a range of guest bytes.

use crate::storage::codec::Codec;
use std::ops::Range;

/// Where bytes lie on the host: a file of the layer (an index into
/// [`Layer::files`](crate::Layer::files)) and a byte offset in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HostOffset {
    /// Index into the layer's files.
    pub file: usize,
    /// Bytes from the start of that file.
    pub offset: u64,
}

impl HostOffset {
    fn forward(self, bytes: u64) -> Self {
        Self { offset: self.offset + bytes, ..self }
    }
}

/// A range of guest bytes that one layer treats alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// Guest bytes; never empty.
    pub guest: Range<u64>,
    /// Where they are.
    pub kind: Kind,
}

/// Where the bytes of an extent are.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Stored verbatim from this place on: can be borrowed, shared, copied in
    /// the kernel.
    Data(HostOffset),
    /// Zeros that this layer vouches for: they hide the parent. The place is
    /// the space set aside for them (a preallocated cluster, a hole in a raw
    /// file), if there is any.
    Zero(Option<HostOffset>),
    /// Part of an encoded unit.
    Encoded(Encoded),
    /// This layer is silent: its parent answers. Without a parent: zeros.
    Unallocated,
}

/// A unit that must be decoded as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Where the stored bytes start.
    pub place: HostOffset,
    /// How many stored bytes there are at most; padding may be among them.
    pub stored: u32,
    /// The guest bytes that decoding yields; contains the extent's range.
    pub unit: Range<u64>,
    /// How they are encoded.
    pub codec: Codec,
}

impl Extent {
    /// The part of this extent within `range`, which must overlap it.
    #[must_use]
    pub fn clip(&self, range: &Range<u64>) -> Self {
        let guest = self.guest.start.max(range.start)..self.guest.end.min(range.end);
        debug_assert!(guest.start < guest.end);
        let kind = self.kind.forward(guest.start - self.guest.start);
        Self { guest, kind }
    }
}

impl Kind {
    /// The same, `bytes` further into the extent.
    #[must_use]
    pub fn forward(&self, bytes: u64) -> Self {
        match self {
            Self::Data(place) => Self::Data(place.forward(bytes)),
            Self::Zero(place) => Self::Zero(place.map(|p| p.forward(bytes))),
            Self::Encoded(_) | Self::Unallocated => self.clone(),
        }
    }

    /// True if `next`, `len` bytes further on, merely continues this.
    fn continues(&self, len: u64, next: &Self) -> bool {
        self.forward(len) == *next
    }

    /// True if the bytes are known to be zero without looking, in an image of
    /// which this is the last word.
    pub fn is_zero(&self) -> bool {
        matches!(self, Self::Zero(_) | Self::Unallocated)
    }
}

/// Appends an extent, merging it with the last one where it merely continues
/// that. Empty ranges vanish.
pub fn push(extents: &mut Vec<Extent>, guest: Range<u64>, kind: Kind) {
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

/// An extent of a whole chain: which layer answers, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainExtent {
    /// Guest bytes; never empty.
    pub guest: Range<u64>,
    /// The layer that answers: 0 is the image itself, 1 its backing file, …
    pub depth: usize,
    /// Where the bytes are. [`Kind::Unallocated`] here means that no layer holds
    /// them: they read as zeros.
    pub kind: Kind,
}

impl ChainExtent {
    /// The part of this extent within `range`, which must overlap it.
    #[must_use]
    pub fn clip(&self, range: &Range<u64>) -> Self {
        let extent = Extent { guest: self.guest.clone(), kind: self.kind.clone() }.clip(range);
        Self { guest: extent.guest, depth: self.depth, kind: extent.kind }
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.guest.end - self.guest.start
    }

    /// Never true: extents are not empty.
    pub fn is_empty(&self) -> bool {
        self.guest.is_empty()
    }
}

/// As [`push`], for a chain.
pub(crate) fn push_chain(extents: &mut Vec<ChainExtent>, extent: ChainExtent) {
    if extent.guest.is_empty() {
        return;
    }
    if let Some(last) = extents.last_mut()
        && last.depth == extent.depth
        && last.guest.end == extent.guest.start
        && last.kind.continues(last.len(), &extent.kind)
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
    fn neighbours_merge_only_where_one_continues_the_other() {
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
