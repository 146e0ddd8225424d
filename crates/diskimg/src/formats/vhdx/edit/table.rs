//! The block allocation table of an image that is modified: the changed entries are in memory, the
//! others are read when they are needed.

use crate::error::{Error, Result};
use crate::formats::vhdx::bat::{ENTRY_BYTES, Entry};
use crate::formats::vhdx::blocks::STRUCTURE;
use crate::formats::vhdx::read;
use crate::storage::edit::{Edit, Storage};
use crate::storage::number::{to_u64, to_usize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Entries that are read together.
const PAGE_ENTRIES: u64 = 512;

/// Memory in bytes for a changed entry, about.
const CHANGE_BYTES: u64 = 64;

/// The table.
#[derive(Debug)]
pub(super) struct Table {
    storage: Arc<dyn Storage>,
    /// Host offset.
    at: u64,
    entries: u64,
    /// Changed entries by their index, as they will be stored.
    changed: BTreeMap<u64, u64>,
    /// The entries that were read last, and the index of the first one.
    page: Option<(u64, Vec<u8>)>,
}

impl Table {
    /// The table of `entries` entries at host offset `at`.
    pub(super) fn new(storage: Arc<dyn Storage>, at: u64, entries: u64) -> Self {
        Self { storage, at, entries, changed: BTreeMap::new(), page: None }
    }

    /// Returns an entry.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if it cannot be read, [`Corrupt`](crate::ErrorKind::Corrupt) if
    /// it is not valid.
    pub(super) fn get(&mut self, index: u64) -> Result<Entry> {
        let raw = match self.changed.get(&index) {
            Some(&raw) => raw,
            None => self.stored(index)?,
        };
        Entry::parse(raw).ok_or_else(|| {
            let message = format!("entry {index} is {raw:#x}, which is not valid");
            Error::corrupt(STRUCTURE, message).at(self.at + index * ENTRY_BYTES)
        })
    }

    fn stored(&mut self, index: u64) -> Result<u64> {
        let first = index / PAGE_ENTRIES * PAGE_ENTRIES;
        let page = match self.page.take() {
            Some((start, page)) if start == first => page,
            _ => {
                let count = self.entries.saturating_sub(first).min(PAGE_ENTRIES);
                let mut page = vec![0; to_usize(count * ENTRY_BYTES)];
                read(&*self.storage, &mut page, self.at + first * ENTRY_BYTES, STRUCTURE)?;
                page
            }
        };
        let bytes = page.get(to_usize((index - first) * ENTRY_BYTES)..);
        let raw = bytes.and_then(|bytes| bytes.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b));
        self.page = Some((first, page));
        Ok(raw)
    }

    /// Changes an entry.
    pub(super) fn set(&mut self, index: u64, entry: Entry) {
        self.changed.insert(index, entry.encode());
    }

    /// Returns the memory in bytes of the changed entries.
    pub(super) fn memory(&self) -> u64 {
        to_u64(self.changed.len()) * CHANGE_BYTES
    }

    /// Returns the writes that store the changed entries before `end`, which are then no longer in
    /// memory. Other entries are not written.
    pub(super) fn take_before(&mut self, end: u64) -> Vec<Edit> {
        let later = self.changed.split_off(&end);
        let mut edits: Vec<Edit> = Vec::new();
        let mut next = None;
        for (index, raw) in std::mem::replace(&mut self.changed, later) {
            match edits.last_mut() {
                Some(Edit::Write { bytes, .. }) if next == Some(index) => {
                    bytes.extend_from_slice(&raw.to_le_bytes());
                }
                _ => edits.push(Edit::Write {
                    offset: self.at + index * ENTRY_BYTES,
                    bytes: raw.to_le_bytes().to_vec(),
                }),
            }
            next = Some(index + 1);
        }
        self.page = None;
        edits
    }

    /// Returns the write that stores an entry at once.
    pub(super) fn write(&mut self, index: u64, entry: Entry) -> Edit {
        self.page = None;
        let bytes = entry.encode().to_le_bytes().to_vec();
        Edit::Write { offset: self.at + index * ENTRY_BYTES, bytes }
    }
}
