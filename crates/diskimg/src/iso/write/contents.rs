//! What files hold: a table of contents, each once, however many names share it.

use super::host::HostFile;
use crate::host::source::Source;
use crate::vocabulary::error::{Error, Result};
use std::collections::HashMap;
use std::sync::Arc;

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
}

impl Contents {
    pub(super) fn get(&self, id: u32) -> &Content {
        &self.list[id as usize]
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
        let id = self.add(Content { len: bytes.len() as u64, data })?;
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
        let id = self.add(Content { len: source.len(), data: Data::Source(source) })?;
        if let Some(place) = place {
            self.by_place.insert(place, id);
        }
        Ok(id)
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
