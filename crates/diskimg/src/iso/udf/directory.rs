//! Directories: sequences of file identifier descriptors (4/8.6, 4/14.4).

use super::allocation::Cost;
use super::partition::BlockAddress;
use super::raw::{self, FileIdentifier, characteristics, id};
use super::volume::UdfVolume;
use super::{entry, tag, text};
use crate::error::{Error, Result};
use crate::iso::node::{Attributes, Content, Entry, FileType, Listing, Node};
use crate::storage::number::to_u64;

const NAME: &str = "file identifier descriptor";

/// Returns the files in a directory, including hidden ones, without deleted ones and the parent. A
/// file whose entry is damaged is included with its name, but reading its contents is an error. An
/// invalid file identifier descriptor ends the directory; it is an error only if it is the first
/// one. If the file entries cost too much, the rest is not read.
pub(super) fn read(volume: &UdfVolume, dir: &Node) -> Result<Listing> {
    let here = |e: Error| e.in_structure("directory").at(dir.location);
    match dir.content {
        Content::Unsupported(why) => return Err(here(Error::corrupt("directory", why))),
        _ if !dir.is_dir() => return Err(here(Error::invalid("not a directory"))),
        _ => {}
    }
    let bytes = entry::read_all(volume, dir.extents()).map_err(here)?;
    let mut entries = Vec::new();
    let mut cost = Cost::default();
    let mut ended = None;
    let mut at = 0;
    // Some writers pad the directory with zeros.
    while bytes[at..].iter().any(|&b| b != 0) {
        let (found, length) = match identifier(volume, dir, &bytes, at) {
            Ok(identified) => identified,
            Err(error) if at == 0 => return Err(here(error)),
            Err(error) => {
                let note =
                    format!("{}; the rest of the directory is skipped", error.without_remedy());
                volume.notes.add(dir.location, note);
                break;
            }
        };
        at += length;
        if let Some(Named { name, address, is_dir }) = found {
            let node = match entry::node(volume, address, &mut cost) {
                Ok(node) => node,
                Err(error) if error.is_storage_failure() => return Err(error),
                Err(error) => {
                    volume.notes.add(dir.location, error.without_remedy());
                    placeholder(is_dir, to_u64(at) + dir.location)
                }
            };
            if let Err(error) = require_within(volume, &cost) {
                ended = Some(here(error));
                break;
            }
            entries.push(Entry { name, node });
        }
    }
    Ok(Listing { entries, cost: cost.total(), error: ended })
}

/// Limits the cost of the files in a directory. Many names of one file with many extents take
/// little space on disk, but much memory.
fn require_within(volume: &UdfVolume, cost: &Cost) -> Result<()> {
    let (limit, memory) = (volume.limits.directory_bytes, cost.memory);
    if memory > limit {
        let found = format!("the extents of its files take {memory} bytes");
        return Err(Error::over_limit("directory_bytes", found, limit));
    }
    if memory > volume.source.len() {
        let what = "the extents of its files take more bytes than the image has";
        return Err(Error::limit(what));
    }
    cost.require_within(volume.source.len())
}

/// A name, and the location of its file entry.
struct Named {
    name: Vec<u8>,
    address: BlockAddress,
    is_dir: bool,
}

/// Returns a node for a file whose entry is damaged.
fn placeholder(is_dir: bool, location: u64) -> Node {
    Node {
        file_type: if is_dir { FileType::Directory } else { FileType::Regular },
        size: 0,
        attributes: Attributes::default(),
        link_target: None,
        content: Content::Unsupported("in a file entry that is damaged"),
        location,
    }
}

/// Parses the file identifier descriptor at byte `at` of the directory. Returns its contents, or
/// `None` for a deleted file or the parent, and its length.
fn identifier(
    volume: &UdfVolume,
    dir: &Node,
    bytes: &[u8],
    at: usize,
) -> Result<(Option<Named>, usize)> {
    let corrupt = |what: &str| Error::corrupt("directory", format!("{what} at byte {at} of it"));
    let too_short = || corrupt("truncated file identifier descriptor");
    let bytes = &bytes[at..];
    let (head, rest) = raw::read::<FileIdentifier>(bytes).ok_or_else(too_short)?;
    let name_start = usize::from(head.implementation_use.get());
    let used = size_of::<FileIdentifier>() + name_start + usize::from(head.name_length);
    if used > bytes.len() {
        return Err(too_short());
    }
    // Padded to a multiple of four bytes; the padding of the last one may be missing.
    let length = used.next_multiple_of(4).min(bytes.len());
    let whole = &bytes[..length];
    tag::check(NAME, whole, &[id::FILE_IDENTIFIER], dir.location, None, &volume.notes)
        .map_err(|_| corrupt("no valid file identifier descriptor"))?;
    if head.characteristics & (characteristics::DELETED | characteristics::PARENT) != 0 {
        return Ok((None, length));
    }
    let name = text::cs0(&rest[name_start..][..usize::from(head.name_length)]);
    let name = name.filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| corrupt("invalid file identifier"))?;
    let is_dir = head.characteristics & characteristics::DIRECTORY != 0;
    let named =
        Named { name: name.into_bytes(), address: BlockAddress::from(&head.icb.address), is_dir };
    Ok((Some(named), length))
}
