//! File contents, stored once for all names that share them.

use super::host::{self, HostDirs, HostFile, OpenDirs};
use super::same;
use super::tree::Tree;
use crate::error::{Error, Result};
use crate::storage::number::{to_index, to_u32, to_u64};
use crate::storage::source::Source;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Minimum length in bytes of host files that are compared with each other. Comparing shorter files
/// takes too much time for the space it saves.
const MIN_COMPARED: u64 = 64 << 10;

/// Maximum number of different contents of the same length and sample that a file is compared with.
const MAX_CANDIDATES: usize = 8;

/// The contents of a file.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) len: u64,
    pub(super) data: Data,
}

/// Source of the bytes.
#[derive(Debug)]
pub(super) enum Data {
    Host(HostFile),
    Bytes(Arc<[u8]>),
    Source(Arc<dyn Source>),
}

/// All contents, identified by their index.
#[derive(Debug, Default)]
pub(super) struct Contents {
    list: Vec<Content>,
    /// Contents given as bytes.
    by_bytes: HashMap<Arc<[u8]>, u32>,
    /// Contents of sources, by the address of the source, which is kept.
    by_source: HashMap<usize, (Arc<dyn Source>, u32)>,
    /// Contents that are a range of an open file: address of the file, offset, length.
    by_file_range: HashMap<(usize, u64, u64), u32>,
    /// Contents from other sources, by length and sample.
    by_sample: HashMap<(u64, u64), Vec<u32>>,
}

impl Contents {
    pub(super) fn get(&self, id: u32) -> &Content {
        &self.list[to_index(id)]
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn add(&mut self, content: Content) -> Result<u32> {
        let id = u32::try_from(self.list.len()).ok().filter(|&id| id < u32::MAX);
        let id = id.ok_or_else(|| Error::limit("more than 2^32 - 1 files"))?;
        self.list.push(content);
        Ok(id)
    }

    /// Returns the path of a content that is a host file.
    pub(super) fn host_path(&self, id: u32, dirs: &HostDirs, tree: &Tree) -> Option<PathBuf> {
        match &self.get(id).data {
            Data::Host(file) => Some(host::path_of(dirs, file.dir, tree.bytes(file.name))),
            _ => None,
        }
    }

    /// Replaces a content.
    pub(super) fn set(&mut self, id: u32, content: Content) {
        self.list[to_index(id)] = content;
    }

    pub(super) fn add_bytes(&mut self, bytes: Vec<u8>) -> Result<u32> {
        let bytes: Arc<[u8]> = bytes.into();
        if let Some(&id) = self.by_bytes.get(&bytes) {
            return Ok(id);
        }
        let data = Data::Bytes(Arc::clone(&bytes));
        let id = self.add(Content { len: to_u64(bytes.len()), data })?;
        self.by_bytes.insert(bytes, id);
        Ok(id)
    }

    pub(super) fn add_source(&mut self, source: Arc<dyn Source>) -> Result<u32> {
        let address = Arc::as_ptr(&source).cast::<()>().addr();
        if let Some((_, id)) = self.by_source.get(&address) {
            return Ok(*id);
        }
        // The address identifies the file, because `list` keeps the source and thus the file open.
        let file = source.as_file().map(|(file, start)| (std::ptr::from_ref(file).addr(), start));
        let range = file.map(|(file, start)| (file, start, source.len()));
        if let Some(&id) = range.and_then(|range| self.by_file_range.get(&range)) {
            return Ok(id);
        }
        // Sources that are not a range of a file are compared by their bytes.
        let sample = match range {
            Some(_) => None,
            None => same::sample(&*source).ok().map(|sample| (source.len(), sample)),
        };
        let candidates = sample.and_then(|sample| self.by_sample.get(&sample));
        for &other in candidates.into_iter().flatten() {
            if let Data::Source(other_source) = &self.get(other).data
                && same::is_same(&*source, &**other_source).unwrap_or(false)
            {
                return Ok(other);
            }
        }
        let data = Data::Source(Arc::clone(&source));
        let id = self.add(Content { len: source.len(), data })?;
        self.by_source.insert(address, (source, id));
        if let Some(range) = range {
            self.by_file_range.insert(range, id);
        }
        if let Some(sample) = sample {
            let candidates = self.by_sample.entry(sample).or_default();
            candidates.extend(Some(id).filter(|_| candidates.len() < MAX_CANDIDATES));
        }
        Ok(id)
    }

    /// Finds host files with the same contents. Returns for each content the one to use in its
    /// place. Samples are read only of files of equal length, and all bytes only of files with
    /// equal samples. Files that cannot be read are skipped here; the error occurs when they are
    /// written. `except` are contents that must stay separate: boot images that will be patched.
    pub(super) fn find_same(
        &self,
        tree: &Tree,
        dirs: &HostDirs,
        open: &mut OpenDirs,
        except: &[u32],
    ) -> Vec<u32> {
        let mut replacements: Vec<u32> = (0..to_u32(self.list.len())).collect();
        let mut by_len: HashMap<u64, Vec<u32>> = HashMap::new();
        for (id, content) in (0..).zip(&self.list) {
            let from_host = matches!(content.data, Data::Host(_));
            if from_host && content.len >= MIN_COMPARED && !except.contains(&id) {
                by_len.entry(content.len).or_default().push(id);
            }
        }
        let mut source = |id: u32| {
            let Content { len, data: Data::Host(file) } = self.get(id) else { return None };
            host::source(open.open_file(dirs, tree, file, *len).ok()?).ok()
        };
        for ids in by_len.values().filter(|ids| ids.len() > 1) {
            let mut by_sample: HashMap<u64, Vec<u32>> = HashMap::new();
            for &id in ids {
                let Some(this) = source(id) else { continue };
                let Ok(sample) = same::sample(&this) else { continue };
                let others = by_sample.entry(sample).or_default();
                let mut is_same = |other: u32| {
                    let other = source(other);
                    other.is_some_and(|other| same::is_same(&this, &other).unwrap_or(false))
                };
                match others.iter().copied().find(|&other| is_same(other)) {
                    Some(other) => replacements[to_index(id)] = other,
                    None if others.len() < MAX_CANDIDATES => others.push(id),
                    None => {}
                }
            }
        }
        replacements
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_bytes_are_stored_once() {
        let mut contents = Contents::default();
        let first = contents.add_bytes(b"one".to_vec()).expect("adds");
        let other = contents.add_bytes(b"two".to_vec()).expect("adds");
        assert_eq!(contents.add_bytes(b"one".to_vec()).expect("adds"), first);
        assert_ne!(first, other);
        assert_eq!(contents.len(), 2);
    }
}
