//! What the partitions of a disk contain.

use super::recognize::{Recognized, recognize};
use crate::error::{Error, ErrorKind, Result};
use crate::partition::{Partition, Role};
use crate::storage::source::{Source, WindowSource};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::sync::Arc;

/// Maximum number of places in which file systems are looked for. Partitions may be in the same
/// place.
const MAX_PLACES: usize = 128;

/// What the partitions of a disk contain; returned by [`contents`].
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Contents {
    /// What each partition contains, in the order of the partitions.
    pub recognized: Vec<Option<Recognized>>,
    /// Why contents are not known. Each error says of which partition.
    pub errors: Vec<Error>,
}

/// Recognizes the contents of the partitions of a disk. An extended partition has none. A partition
/// that cannot be read, or is in the 129th place or a later one, is among the errors.
///
/// # Errors
/// Returns [`Transient`](ErrorKind::Transient) or [`Cancelled`](ErrorKind::Cancelled).
pub fn contents(disk: &Arc<dyn Source>, partitions: &[Partition]) -> Result<Contents> {
    let mut contents = Contents::default();
    let mut places: HashMap<Range<u64>, Option<Recognized>> = HashMap::new();
    for partition in partitions {
        let range = partition.range(disk.len()).filter(|_| partition.role != Role::Extended);
        let Some(range) = range else {
            contents.recognized.push(None);
            continue;
        };
        let is_full = places.len() >= MAX_PLACES;
        let found = match places.entry(range.clone()) {
            Entry::Occupied(place) => Ok(place.get().clone()),
            Entry::Vacant(_) if is_full => {
                let message = format!("only {MAX_PLACES} places are searched for file systems");
                Err(Error::limit(message))
            }
            Entry::Vacant(place) => {
                let found = recognize_range(disk, range);
                // A place that cannot be read counts, too.
                place.insert(found.as_ref().ok().cloned().flatten());
                found
            }
        };
        let found = found.or_else(|error| match error.kind() {
            ErrorKind::Transient | ErrorKind::Cancelled => Err(error),
            _ => {
                let place = format!("in partition {}", partition.number);
                contents.errors.push(error.prepend_hint(place));
                Ok(None)
            }
        })?;
        contents.recognized.push(found);
    }
    Ok(contents)
}

fn recognize_range(disk: &Arc<dyn Source>, range: Range<u64>) -> Result<Option<Recognized>> {
    let window = WindowSource::new(Arc::clone(disk), range);
    let Ok(window) = window else { return Ok(None) };
    let window: Arc<dyn Source> = Arc::new(window);
    recognize(&window)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::source::MemorySource;

    fn partitions(count: u32, start: impl Fn(u64) -> u64) -> Vec<Partition> {
        let partition = |number: u32| Partition {
            number,
            start: start(number.into()),
            length: 512,
            kind: "0x83".into(),
            kind_name: None,
            name: None,
            id: None,
            bootable: false,
            role: Role::Primary,
        };
        (1..=count).map(partition).collect()
    }

    #[test]
    fn contents_are_recognized_in_a_bounded_number_of_places() {
        let mut bytes = vec![0; 256 * 512];
        bytes.chunks_mut(512).for_each(|sector| sector[..6].copy_from_slice(b"LUKS\xba\xbe"));
        let disk: Arc<dyn Source> = Arc::new(MemorySource::new(bytes));
        let known = |found: &Contents| found.recognized.iter().flatten().count();
        let found = contents(&disk, &partitions(200, |number| number * 512)).expect("reads");
        assert_eq!((known(&found), found.recognized.len(), found.errors.len()), (128, 200, 72));
        assert_eq!(found.errors[0].kind(), ErrorKind::Limit);
        let text = found.errors[0].to_string();
        assert!(text.contains("128 places") && text.contains("in partition 129"), "{text}");
        let found = contents(&disk, &partitions(8192, |_| 512)).expect("reads");
        assert_eq!((known(&found), found.errors.len()), (8192, 0), "all in one place");
    }
}
