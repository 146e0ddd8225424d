//! Directories: file identifier descriptors, one after the other (4/8.6, 4/14.4).

use super::partition::BlockAddress;
use super::raw::{self, FileIdentifier, characteristics, id};
use super::volume::UdfVolume;
use super::{entry, tag, text};
use crate::error::{Error, ErrorKind, Result};
use crate::iso::node::{Attributes, Content, Entry, FileType, Node};
use crate::storage::number::to_u64;

const NAME: &str = "file identifier descriptor";

/// The files in a directory. Hidden ones are among them; deleted ones and the parent are not. One
/// whose entry cannot be read has its name, and no contents. What cannot be told apart ends the
/// directory, unless nothing came before it.
pub(super) fn read(volume: &UdfVolume, dir: &Node) -> Result<Vec<Entry>> {
    let here = |e: Error| e.in_structure("directory").at(dir.location);
    match dir.content {
        Content::Unread(why) => return Err(here(Error::corrupt("directory", why))),
        _ if !dir.is_dir() => return Err(here(Error::invalid("this is no directory"))),
        _ => {}
    }
    let most = volume.limits.directory_bytes;
    let bytes = entry::read_all(volume, dir.extents()).map_err(here)?;
    let mut entries = Vec::new();
    let mut cost = 0;
    let mut at = 0;
    // Some writers leave zeros behind the last.
    while bytes[at..].iter().any(|&b| b != 0) {
        let (found, length) = match identifier(volume, dir, &bytes, at) {
            Ok(identified) => identified,
            Err(error) if at == 0 => return Err(here(error)),
            Err(error) => {
                volume.notes.add(dir.location, format!("{error}; what follows is lost"));
                break;
            }
        };
        at += length;
        if let Some(Named { name, place, is_dir }) = found {
            let node = match entry::node(volume, place, &mut cost) {
                Ok(node) => node,
                Err(error) if error.kind() == ErrorKind::Io => return Err(error),
                Err(error) => {
                    volume.notes.add(dir.location, error.to_string());
                    unread(is_dir, to_u64(at) + dir.location)
                }
            };
            // A file named again and again takes little on disk, but its extents much in memory.
            if cost > most {
                let found = format!("its files' extents take {cost} bytes");
                return Err(here(Error::over_limit("directory_bytes", found, most)));
            }
            if cost > volume.source.len() {
                return Err(here(Error::limit("its files' extents take more than the image has")));
            }
            entries.push(Entry { name, node });
        }
    }
    Ok(entries)
}

/// A name, and where the file entry is.
struct Named {
    name: Vec<u8>,
    place: BlockAddress,
    is_dir: bool,
}

/// What stands for a file whose entry cannot be read.
fn unread(is_dir: bool, location: u64) -> Node {
    Node {
        file_type: if is_dir { FileType::Directory } else { FileType::Regular },
        size: 0,
        attributes: Attributes::default(),
        link_target: None,
        content: Content::Unread("in a file entry that is damaged"),
        location,
    }
}

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
    let is_dir = head.characteristics & characteristics::DIRECTORY != 0;
    let named =
        Named { name: name.into_bytes(), place: BlockAddress::from(&head.icb.address), is_dir };
    Ok((Some(named), length))
}
