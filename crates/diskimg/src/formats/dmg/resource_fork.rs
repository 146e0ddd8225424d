//! The resource fork, where files before Mac OS X 10.2 have their tables.
//!
//! ```text
//!   0        256                   map
//!   ┌────────┬────────────────────┬────────┬───────────────────────────┬────────────┬───────┐
//!   │ header │ length, bytes; …   │ header │ types: name, number,      │ resources: │ names │
//!   │        │                    │        │ offset of their resources │ offsets    │       │
//!   └────────┴────────────────────┴────────┴───────────────────────────┴────────────┴───────┘
//! ```
//!
//! Apple, *Inside Macintosh: More Macintosh Toolbox*, "Resource File Format".

use super::table::Tables;
use super::trailer::Trailer;
use crate::error::{Error, Result};
use crate::storage::number::{to_index, to_u64};
use crate::storage::source::Source;

/// How messages call it.
pub(super) const FORK: &str = "DMG resource fork";

/// Offset of the list of types from the map, and then of the list of names.
const TYPE_LIST_AT: usize = 24;

/// Length in bytes of an entry of the list of types.
const TYPE: usize = 8;

/// Length in bytes of an entry of a list of resources.
const RESOURCE: usize = 12;

/// Reads the tables of a resource fork.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if it or a table is not valid,
/// [`Limit`](crate::ErrorKind::Limit), [`Io`](crate::ErrorKind::Io).
pub(super) fn read(source: &dyn Source, trailer: &Trailer, max: u64) -> Result<Tables> {
    let (at, len) = trailer.resource_fork;
    let bytes = super::read(source, at, len, max, FORK)?;
    let fork = Fork { bytes: &bytes, at };
    let mut tables = Tables::new(max);
    for resource in fork.resources(*b"blkx")? {
        let resource = resource?;
        tables.add(&resource.name, resource.bytes, trailer).map_err(|e| e.at(at))?;
    }
    Ok(tables)
}

struct Fork<'a> {
    bytes: &'a [u8],
    /// Host offset.
    at: u64,
}

/// A resource.
struct Resource<'a> {
    name: String,
    bytes: &'a [u8],
}

impl<'a> Fork<'a> {
    /// Returns the resources of a type, in the order of the map.
    fn resources(
        &self,
        wanted: [u8; 4],
    ) -> Result<impl Iterator<Item = Result<Resource<'a>>> + use<'a, '_>> {
        let data = to_index(self.long(0)?);
        let map = to_index(self.long(4)?);
        let types = map.saturating_add(self.short(map.saturating_add(TYPE_LIST_AT))?);
        let names = map.saturating_add(self.short(map.saturating_add(TYPE_LIST_AT + 2))?);
        let mut resources = 0..0;
        // The number is stored minus one.
        for index in 0..=self.short(types)? & 0x7fff {
            let entry = types.saturating_add(2 + TYPE * index);
            if self.array(entry)? == wanted {
                let count = self.short(entry + 4)? + 1;
                let first = types.saturating_add(self.short(entry + 6)?);
                resources = first..first.saturating_add(count * RESOURCE);
                break;
            }
        }
        Ok(resources.step_by(RESOURCE).map(move |entry| self.resource(entry, data, names)))
    }

    /// Returns the resource whose entry is at `entry`.
    fn resource(&self, entry: usize, data: usize, names: usize) -> Result<Resource<'a>> {
        let name = match self.short(entry + 2)? {
            0xffff => String::new(),
            at => self.pascal_string(names.saturating_add(at)),
        };
        // The upper eight bits are attributes.
        let at = data.saturating_add(to_index(self.long(entry + 4)? & 0x00ff_ffff));
        let len = to_index(self.long(at)?);
        let start = at + 4;
        let bytes = self.bytes.get(start..start.saturating_add(len));
        Ok(Resource { name, bytes: bytes.ok_or_else(|| self.incomplete(at))? })
    }

    /// Returns a name, which is in an encoding of Mac OS: ASCII is kept.
    fn pascal_string(&self, at: usize) -> String {
        let (len, rest) = match self.bytes.get(at..) {
            Some([len, rest @ ..]) => (usize::from(*len), rest),
            _ => (0, &[][..]),
        };
        String::from_utf8_lossy(&rest[..len.min(rest.len())]).into_owned()
    }

    fn array<const N: usize>(&self, at: usize) -> Result<[u8; N]> {
        let bytes = self.bytes.get(at..).and_then(|rest| rest.first_chunk());
        bytes.copied().ok_or_else(|| self.incomplete(at))
    }

    fn long(&self, at: usize) -> Result<u32> {
        self.array(at).map(u32::from_be_bytes)
    }

    fn short(&self, at: usize) -> Result<usize> {
        self.array(at).map(|bytes| usize::from(u16::from_be_bytes(bytes)))
    }

    fn incomplete(&self, at: usize) -> Error {
        let message = "one of its structures extends beyond its end";
        Error::corrupt(FORK, message).at(self.at.saturating_add(to_u64(at)))
    }
}
