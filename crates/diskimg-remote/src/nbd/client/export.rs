//! What a server and the client agreed on about an export.

use super::violation;
use crate::nbd::wire::{BlockSizes, ContextReply, ExportInfo, MAX_PAYLOAD, TransmissionFlags};
use diskimg::storage::source::SourceError;

/// Maximum of the smallest length of a request: what the protocol allows.
const MAX_MIN_BLOCK: u32 = 64 << 10;

/// An export as it was agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::nbd) struct Export {
    /// Length in bytes.
    pub(super) size: u64,
    pub(super) flags: TransmissionFlags,
    /// Replies are structured.
    pub(super) structured: bool,
    /// Contexts of metadata whose block status can be asked for.
    pub(super) contexts: Vec<ContextReply>,
    /// Offsets and lengths of requests are multiples of it: a power of two.
    pub(super) min_block: u32,
    /// Maximum length of READ and WRITE: a multiple of `min_block`.
    pub(super) max_payload: u32,
}

impl Export {
    /// # Errors
    /// Returns an error if the server contradicts itself.
    pub(super) fn new(
        info: ExportInfo,
        sizes: Option<BlockSizes>,
        structured: bool,
        contexts: Vec<ContextReply>,
    ) -> Result<Self, SourceError> {
        let ExportInfo { size, flags } = info;
        if !flags.contains(TransmissionFlags::HAS_FLAGS) && !flags.is_empty() {
            return Err(violation("the flags of the export are not valid"));
        }
        if size > i64::MAX as u64 {
            return Err(violation(format!("the export has {size} bytes")));
        }
        let sizes = match sizes {
            Some(sizes) => sizes,
            // 512 works with all servers, unless the export has an odd length.
            None if size % u64::from(BlockSizes::DEFAULT.min) == 0 => BlockSizes::DEFAULT,
            None => BlockSizes { min: 1, ..BlockSizes::DEFAULT },
        };
        let BlockSizes { min, max, .. } = sizes;
        if !min.is_power_of_two() || min > MAX_MIN_BLOCK || max < min {
            return Err(violation(format!("requests of {min} to {max} bytes")));
        }
        if size % u64::from(min) != 0 {
            let text = format!("an export of {size} bytes has blocks of {min} bytes");
            return Err(violation(text));
        }
        let aligned = |len: u32| len & !(min - 1);
        Ok(Self {
            size,
            flags,
            structured,
            contexts,
            min_block: min,
            max_payload: aligned(max.min(MAX_PAYLOAD)),
        })
    }

    pub(in crate::nbd) fn is_read_only(&self) -> bool {
        self.flags.contains(TransmissionFlags::READ_ONLY)
    }

    pub(in crate::nbd) fn can_write_zeroes(&self) -> bool {
        self.flags.contains(TransmissionFlags::SEND_WRITE_ZEROES)
    }

    pub(in crate::nbd) fn can_trim(&self) -> bool {
        self.flags.contains(TransmissionFlags::SEND_TRIM)
    }

    pub(in crate::nbd) fn min_block(&self) -> u32 {
        self.min_block
    }

    /// Returns true if the server tells the status of a context.
    pub(in crate::nbd) fn has_context(&self, name: &str) -> bool {
        self.context(name).is_some()
    }

    /// Returns the number by which the server calls a context.
    pub(super) fn context(&self, name: &str) -> Option<u32> {
        self.contexts.iter().find(|context| context.name == name).map(|context| context.id)
    }

    /// Returns true if a connection to `other` continues one to this export.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let names = |export: &Self| -> Vec<String> {
            export.contexts.iter().map(|context| context.name.clone()).collect()
        };
        // The numbers of contexts are those of a connection.
        let contexts = Vec::new();
        let without_numbers = |export: &Self| Self { contexts: contexts.clone(), ..export.clone() };
        without_numbers(self) == without_numbers(other) && names(self) == names(other)
    }
}
