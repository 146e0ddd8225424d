//! Directories: file identifier descriptors, one after the other (4/8.6, 4/14.4).

use super::partition::Place;
use super::raw::{self, FileIdentifier, characteristics, id};
use super::volume::UdfVolume;
use super::{entry, tag, text};
use crate::iso::node::{Entry, Node};
use crate::vocabulary::error::{Error, Result};

const NAME: &str = "file identifier descriptor";

/// The files in a directory. Hidden ones are among them; deleted ones and the parent are not.
pub(super) fn read(volume: &UdfVolume, dir: &Node) -> Result<Vec<Entry>> {
    let here = |e: Error| e.in_structure("directory").at(dir.location);
    if !dir.is_dir() {
        return Err(here(Error::invalid("this is no directory")));
    }
    let limit = volume.limits.directory_bytes;
    let bytes = entry::read_all(volume, dir.extents(), limit).map_err(here)?;
    let mut entries = Vec::new();
    let mut cost = 0;
    let mut at = 0;
    // Some writers leave zeros behind the last.
    while bytes[at..].iter().any(|&b| b != 0) {
        let (found, length) = identifier(volume, dir, &bytes, at).map_err(here)?;
        at += length;
        if let Some((name, place)) = found {
            let node = entry::node(volume, place, &mut cost)?;
            // A file named again and again takes little on disk, but its extents much in memory.
            if cost > limit {
                return Err(here(Error::limit("its files have more extents than it has bytes")));
            }
            entries.push(Entry { name, node });
        }
    }
    Ok(entries)
}

/// A name, and where the file entry is.
type Named = (Vec<u8>, Place);

/// The descriptor at `at`, unless it names nothing, and its length.
fn identifier(
    volume: &UdfVolume,
    dir: &Node,
    bytes: &[u8],
    at: usize,
) -> Result<(Option<Named>, usize)> {
    let corrupt = |what: &str| Error::corrupt("directory", format!("{what} at byte {at} of it"));
    let too_short = || corrupt("a file identifier descriptor is cut short");
    let bytes = &bytes[at..];
    let (head, rest) = raw::read::<FileIdentifier>(bytes).ok_or_else(too_short)?;
    let name_start = usize::from(head.implementation_use.get());
    let used = size_of::<FileIdentifier>() + name_start + usize::from(head.name_length);
    let whole = bytes.get(..used).ok_or_else(too_short)?;
    tag::check(NAME, whole, &[id::FILE_IDENTIFIER], dir.location, None, &volume.notes)
        .map_err(|_| corrupt("no file identifier descriptor is"))?;
    // Padded to four bytes; the last one may lack that.
    let length = used.next_multiple_of(4).min(bytes.len());
    if head.characteristics & (characteristics::DELETED | characteristics::PARENT) != 0 {
        return Ok((None, length));
    }
    let name = text::cs0(&rest[name_start..][..usize::from(head.name_length)]);
    let name = name.filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| corrupt("a name that cannot be read is"))?;
    Ok((Some((name.into_bytes(), Place::from(&head.icb.address))), length))
}
