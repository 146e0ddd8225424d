//! What files hold: a table of contents, each once, however many names share it.

use super::host::{self, HostDirs, HostFile, OpenDirs};
use super::same;
use super::tree::Tree;
use crate::error::{Error, Result};
use crate::storage::number::{to_index, to_u32, to_u64};
use crate::storage::source::Source;
use std::collections::HashMap;
use std::sync::Arc;

/// Shorter files of the host are not compared with each other: it would cost more time than it
/// saves space. Reading a hundred thousand of them once more takes as long as writing them.
const WORTH_COMPARING: u64 = 64 << 10;

/// With how many others of the same length and samples a file is compared at most.
const CLASSES: usize = 8;

/// One file's bytes.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) len: u64,
    pub(super) data: Data,
}

/// Where the bytes come from.
#[derive(Debug)]
pub(super) enum Data {
    Host(HostFile),
    Bytes(Arc<[u8]>),
    Source(Arc<dyn Source>),
}

/// All contents, by number.
#[derive(Debug, Default)]
pub(super) struct Contents {
    list: Vec<Content>,
    /// What came as bytes, to find the same bytes again.
    by_bytes: HashMap<Arc<[u8]>, u32>,
    /// What came as stretches of a file.
    by_place: HashMap<(usize, u64, u64), u32>,
    /// What came from elsewhere, by length and sample.
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
        let id = id.ok_or_else(|| Error::limit("more than 4 thousand million files"))?;
        self.list.push(content);
        Ok(id)
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
        // The list keeps the source, and with it the file, whose address so stays its own.
        let file = source.as_file().map(|(file, start)| (std::ptr::from_ref(file).addr(), start));
        let place = file.map(|(file, start)| (file, start, source.len()));
        if let Some(&id) = place.and_then(|place| self.by_place.get(&place)) {
            return Ok(id);
        }
        // A file that has no place is in memory, or behind something that has to be asked.
        let sample = match place {
            Some(_) => None,
            None => same::sample(&*source).ok().map(|sample| (source.len(), sample)),
        };
        let alike = sample.and_then(|sample| self.by_sample.get(&sample));
        for &other in alike.into_iter().flatten() {
            if let Data::Source(other_source) = &self.get(other).data
                && same::is_same(&*source, &**other_source).unwrap_or(false)
            {
                return Ok(other);
            }
        }
        let id = self.add(Content { len: source.len(), data: Data::Source(source) })?;
        if let Some(place) = place {
            self.by_place.insert(place, id);
        }
        if let Some(sample) = sample {
            let alike = self.by_sample.entry(sample).or_default();
            alike.extend(Some(id).filter(|_| alike.len() < CLASSES));
        }
        Ok(id)
    }

    /// Finds files of the host with the same bytes: of each content, the one that stands for it.
    /// Of those whose lengths coincide three small samples are read, and of those whose samples
    /// do all bytes. What cannot be read is found out when it is written. The contents `but` keep
    /// to themselves: boot images, into which something will be written.
    pub(super) fn find_same(
        &self,
        tree: &Tree,
        dirs: &HostDirs,
        open: &mut OpenDirs,
        but: &[u32],
    ) -> Vec<u32> {
        let mut stands_for: Vec<u32> = (0..to_u32(self.list.len())).collect();
        let mut by_len: HashMap<u64, Vec<u32>> = HashMap::new();
        for (id, content) in (0..).zip(&self.list) {
            let from_host = matches!(content.data, Data::Host(_));
            if from_host && content.len >= WORTH_COMPARING && !but.contains(&id) {
                by_len.entry(content.len).or_default().push(id);
            }
        }
        let mut source = |id: u32| {
            let Content { len, data: Data::Host(file) } = self.get(id) else { return None };
            host::source(open.open_file(dirs, tree, file, *len).ok()?).ok()
        };
        for alike in by_len.values().filter(|alike| alike.len() > 1) {
            let mut classes: HashMap<u64, Vec<u32>> = HashMap::new();
            for &id in alike {
                let Some(this) = source(id) else { continue };
                let Ok(sample) = same::sample(&this) else { continue };
                let others = classes.entry(sample).or_default();
                let mut is_same = |other: u32| {
                    let other = source(other);
                    other.is_some_and(|other| same::is_same(&this, &other).unwrap_or(false))
                };
                match others.iter().copied().find(|&other| is_same(other)) {
                    Some(other) => stands_for[to_index(id)] = other,
                    None if others.len() < CLASSES => others.push(id),
                    None => {}
                }
            }
        }
        stands_for
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_bytes_are_one_content() {
        let mut contents = Contents::default();
        let first = contents.add_bytes(b"one".to_vec()).expect("adds");
        let other = contents.add_bytes(b"two".to_vec()).expect("adds");
        assert_eq!(contents.add_bytes(b"one".to_vec()).expect("adds"), first);
        assert_ne!(first, other);
        assert_eq!(contents.len(), 2);
    }
}
