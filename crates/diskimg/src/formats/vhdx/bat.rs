//! The block allocation table (BAT): entries, and where those of a block and of a bitmap are.
//!
//! ```text
//!   entry    payload blocks 0 … R-1 │ bitmap of chunk 0 │ payload blocks R … 2R-1 │ bitmap …
//!   R        chunk ratio: 2^23 sectors per bitmap block, in blocks
//!   64 bits  state (3) │ reserved (17) │ host offset in MiB (44)
//! ```
//!
//! MS-VHDX 2.5.

use super::MIB;

/// Sectors for which a bitmap block of 1 MiB has bits.
const SECTORS_PER_BITMAP: u64 = 1 << 23;

/// Length of an entry in bytes.
pub(super) const ENTRY_BYTES: u64 = 8;

/// The state of a payload block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Never written: the parent's bytes, or zeros without one.
    NotPresent,
    /// Contents are not defined; read as zeros.
    Undefined,
    /// Zeros.
    Zero,
    /// Unmapped by the guest; read as zeros.
    Unmapped,
    /// All of it is stored. The bitmap of a chunk, if it is stored, has this state as well.
    Full,
    /// The sectors that the bitmap lists are stored; the others are the parent's.
    Partial,
}

/// An entry of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) state: State,
    /// Host offset in bytes, a multiple of 1 MiB. Without meaning unless the state is
    /// [`State::Full`] or [`State::Partial`].
    pub(super) offset: u64,
}

impl Entry {
    /// Of a block that was never written.
    pub(super) const NOT_PRESENT: Self = Self { state: State::NotPresent, offset: 0 };

    /// Parses an entry; `None` if its state is not defined, reserved bits are set, or its offset is
    /// too large.
    pub(super) fn parse(raw: u64) -> Option<Self> {
        let state = match raw & 7 {
            0 => State::NotPresent,
            1 => State::Undefined,
            2 => State::Zero,
            3 => State::Unmapped,
            6 => State::Full,
            7 => State::Partial,
            _ => return None,
        };
        let offset = raw & !(MIB - 1);
        (raw & (MIB - 1) == raw & 7).then_some(Self { state, offset })
    }

    /// Returns the entry as it is stored.
    pub(super) fn encode(self) -> u64 {
        let state = match self.state {
            State::NotPresent => 0,
            State::Undefined => 1,
            State::Zero => 2,
            State::Unmapped => 3,
            State::Full => 6,
            State::Partial => 7,
        };
        self.offset & !(MIB - 1) | state
    }

    /// Returns true if the block has space in the file.
    pub(super) fn is_stored(self) -> bool {
        matches!(self.state, State::Full | State::Partial)
    }
}

/// The arithmetic of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatLayout {
    /// Number of payload blocks of the disk.
    pub(super) blocks: u64,
    /// Payload blocks for each bitmap block: the chunk ratio.
    pub(super) ratio: u64,
    /// Whether the disk has a parent, so that every chunk has a bitmap entry.
    pub(super) has_parent: bool,
}

impl BatLayout {
    /// Returns the layout for a disk of `size` bytes in blocks of `block_bytes`, a power of two from
    /// 1 to 256 MiB, and with logical sectors of 512 or 4096 bytes.
    pub(super) fn new(size: u64, block_bytes: u64, logical: u64, has_parent: bool) -> Self {
        let ratio = SECTORS_PER_BITMAP * logical / block_bytes;
        Self { blocks: size.div_ceil(block_bytes), ratio, has_parent }
    }

    /// Returns the number of chunks, each of which may have a bitmap.
    pub(super) fn chunks(&self) -> u64 {
        self.blocks.div_ceil(self.ratio)
    }

    /// Returns the index of the entry of a payload block.
    pub(super) fn entry_of_block(&self, block: u64) -> u64 {
        block + block / self.ratio
    }

    /// Returns the index of the entry of a chunk's bitmap.
    pub(super) fn entry_of_bitmap(&self, chunk: u64) -> u64 {
        chunk * (self.ratio + 1) + self.ratio
    }

    /// Returns the number of entries of the table.
    pub(super) fn entries(&self) -> u64 {
        match self.has_parent {
            true => self.chunks() * (self.ratio + 1),
            false => self.blocks + self.blocks.saturating_sub(1) / self.ratio,
        }
    }

    /// Returns the length of the table in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.entries() * ENTRY_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bitmap_entries_follow_the_blocks_of_their_chunk() {
        // 512-byte sectors, blocks of 32 MiB: a chunk is 4 GiB.
        let layout = BatLayout::new(10 << 30, 32 << 20, 512, false);
        assert_eq!((layout.blocks, layout.ratio, layout.chunks()), (320, 128, 3));
        assert_eq!(layout.entry_of_block(127), 127);
        assert_eq!(layout.entry_of_bitmap(0), 128);
        assert_eq!(layout.entry_of_block(128), 129);
        assert_eq!(layout.entries(), 322);
        let child = BatLayout { has_parent: true, ..layout };
        assert_eq!(child.entries(), 3 * 129);
        // A whole chunk needs no entry for its bitmap without a parent.
        assert_eq!(BatLayout::new(4 << 30, 32 << 20, 512, false).entries(), 128);
        assert_eq!(BatLayout::new(0, 1 << 20, 512, false).entries(), 0);
        // 4096-byte sectors: a chunk is 32 GiB.
        assert_eq!(BatLayout::new(1 << 40, 256 << 20, 4096, true).ratio, 128);
        // The largest disk: 2^26 blocks.
        assert_eq!(BatLayout::new(64 << 40, 1 << 20, 512, true).bytes(), (512 << 20) + (128 << 10));
    }

    #[test]
    fn entries_with_undefined_states_or_reserved_bits_are_invalid() {
        for (raw, state) in [
            (0, State::NotPresent),
            (1, State::Undefined),
            (2, State::Zero),
            (3, State::Unmapped),
            (6, State::Full),
            (7, State::Partial),
        ] {
            let entry = Entry { state, offset: 5 << 20 };
            assert_eq!(Entry::parse(5 << 20 | raw), Some(entry));
            assert_eq!(entry.encode(), 5 << 20 | raw);
        }
        for raw in [4, 5, 8, 6 | 1 << 19] {
            assert_eq!(Entry::parse(raw), None, "{raw:#x}");
        }
    }
}
