//! Modifications of a file, in the order in which they may become durable.

use super::Storage;
use std::io;

/// One modification of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Edit {
    /// Writes these bytes.
    Write {
        /// Offset of the first byte.
        offset: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Makes a range read as zeros.
    Zero {
        /// Offset of the first byte.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Deallocates a range, whose bytes are undefined afterwards.
    Discard {
        /// Offset of the first byte.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Sets the length of the file.
    SetLen(u64),
}

impl Edit {
    /// Returns the modification of the place `by` bytes further on. A length is not changed.
    #[must_use]
    pub(crate) fn moved(mut self, by: u64) -> Self {
        match &mut self {
            Self::Write { offset, .. }
            | Self::Zero { offset, .. }
            | Self::Discard { offset, .. } => {
                *offset += by;
            }
            Self::SetLen(_) => {}
        }
        self
    }

    fn apply(&self, storage: &dyn Storage) -> io::Result<()> {
        match self {
            Self::Write { offset, bytes } => storage.write_all_at(bytes, *offset),
            Self::Zero { offset, len } => storage.write_zeros_at(*offset, *len),
            Self::Discard { offset, len } => storage.discard_at(*offset, *len),
            Self::SetLen(len) => storage.set_len(*len),
        }
    }
}

/// Modifications of a file in phases. Every modification of a phase is durable before any of the
/// next phase begins; those within a phase may become durable in any order, in part, or not at all.
///
/// ```text
///   phase 1: new tables, in free space    ─ flush ─►
///   phase 2: the pointer to them          ─ flush ─►
///   phase 3: the old tables become free   ─ flush ─►
/// ```
///
/// What is written must therefore be correct after every complete phase, and after any part of the
/// phase that follows. A sector of 512 bytes is assumed to be written as a whole or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edits {
    phases: Vec<Vec<Edit>>,
}

impl Edits {
    /// Creates a list without modifications.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a phase. A phase without modifications is omitted.
    pub fn phase(&mut self, edits: impl IntoIterator<Item = Edit>) -> &mut Self {
        let edits: Vec<_> = edits.into_iter().collect();
        if !edits.is_empty() {
            self.phases.push(edits);
        }
        self
    }

    /// Returns the phases in order.
    pub fn phases(&self) -> &[Vec<Edit>] {
        &self.phases
    }

    /// Makes all modifications. They are durable on success.
    ///
    /// # Errors
    /// Returns the underlying error of the first modification or flush that fails. Later phases are
    /// not begun.
    pub fn apply(&self, storage: &dyn Storage) -> io::Result<()> {
        for phase in &self.phases {
            phase.iter().try_for_each(|edit| edit.apply(storage))?;
            storage.barrier()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::edit::MemoryStorage;
    use crate::storage::source::Source;

    #[test]
    fn edits_are_applied_in_order() {
        let storage = MemoryStorage::new(vec![1; 8]);
        let mut edits = Edits::new();
        edits
            .phase([Edit::SetLen(12), Edit::Write { offset: 6, bytes: vec![2; 4] }])
            .phase([])
            .phase([Edit::Zero { offset: 0, len: 7 }]);
        assert_eq!(edits.phases().len(), 2);
        edits.apply(&storage).expect("applies");
        let mut bytes = [9; 12];
        storage.read_exact_at(&mut bytes, 0).expect("reads");
        assert_eq!(bytes, [0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 0, 0]);
        assert_eq!((storage.len(), storage.current_len()), (8, 12));
    }
}
