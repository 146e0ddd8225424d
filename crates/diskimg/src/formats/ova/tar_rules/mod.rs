//! The rules that an untrusted tar archive must keep, so that every program lists the same members:
//! GNU tar, bsdtar, Python's tarfile and this library.
//!
//! ```text
//!   header     canonical numbers, a known magic, only files and directories
//!   names      relative, UTF-8, without backslashes, different in any spelling
//!   pax, L     one statement of a name, and of a size that the header contradicts only if it must
//!   end        zeros only
//! ```
//!
//! The archive has been listed before: headers are valid and members are within the file.

mod header;
mod names;
mod pax;
mod sparse;

use self::header::Header;
use self::names::Names;
use super::tar_members::BLOCK;
use crate::error::{Error, Result};
use crate::report::inspection::{Code, Inspection};
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::{Source, read_some};

/// Maximum number of findings for one archive.
const MAX_FINDINGS: usize = 8;

/// Maximum number of zeros after the end of the archive: the padding of the largest record that a
/// program writes on request.
const MAX_PADDING: u64 = 64 << 20;

/// Length in bytes of the largest size that a header can state in octal digits, plus 1.
const LARGE: u64 = 1 << 33;

/// Verifies the archive in `source`.
///
/// # Errors
/// Returns [`Io`](crate::ErrorKind::Io) if it cannot be read.
pub(super) fn apply(source: &dyn Source, max_extension: u64, found: &mut Inspection) -> Result<()> {
    let mut walk =
        Walk { source, max_extension, at: 0, names: Names::default(), problems: Vec::new() };
    walk.run()?;
    for (at, message) in walk.problems {
        found.add(Code::AmbiguousArchive, at, message);
    }
    Ok(())
}

struct Walk<'a> {
    source: &'a dyn Source,
    /// Maximum length in bytes of an extension member.
    max_extension: u64,
    /// Offset of the next header.
    at: u64,
    names: Names,
    problems: Vec<(u64, String)>,
}

/// What extension members state for the following file.
#[derive(Default)]
struct Stated {
    name: Option<Vec<u8>>,
    size: Option<u64>,
    pax: bool,
}

impl Walk<'_> {
    fn problem(&mut self, at: u64, message: impl Into<String>) {
        if self.problems.len() < MAX_FINDINGS {
            self.problems.push((at, message.into()));
        }
    }

    fn run(&mut self) -> Result<()> {
        let mut stated = Stated::default();
        loop {
            let mut header = [0; to_usize(BLOCK)];
            let len = self.read(self.at, &mut header)?;
            if header.iter().all(|&byte| byte == 0) {
                if stated.name.is_some() || stated.pax {
                    self.problem(self.at, "the archive ends with attributes of no member");
                }
                if (1..header.len()).contains(&len) {
                    self.problem(self.at, "the archive ends within a block");
                }
                return self.end(len);
            }
            let header = Header(&header);
            let at = self.at;
            for message in header.problems() {
                self.problem(at, message);
            }
            // A size that is not canonical has been reported: programs continue at other places.
            let Some(size) = header.size() else { return Ok(()) };
            let size = stated.size.filter(|_| header.is_file()).map_or(size, |stated| {
                if size != stated && stated < LARGE {
                    let message = format!("its size is {size} in the header, {stated} in pax");
                    self.problem(at, message);
                }
                stated
            });
            // Some programs skip that many bytes whatever the member is.
            if stated.size.is_some() && (!header.is_file() || header.kind() == b'S') {
                self.problem(at, "a size in pax that is not followed by an ordinary file");
            }
            let end = self.at.saturating_add(BLOCK + size);
            if end > self.source.len() {
                self.problem(at, "a member that extends beyond the end of the file");
            } else if end.next_multiple_of(BLOCK) > self.source.len() {
                // Programs list the member, and fail then.
                self.problem(at, "a member whose padding extends beyond the end of the file");
            }
            match header.kind() {
                b'L' => self.long_name(&mut stated, size)?,
                b'x' | b'g' => self.pax(&mut stated, size, header.kind() == b'g')?,
                b'K' => {}
                _ => {
                    let Stated { name, .. } = std::mem::take(&mut stated);
                    // To Python, a file of the old type is a directory if the header's own name
                    // ends with a slash, whatever pax says.
                    let is_old = header.kind() == 0 && header.name().ends_with(b"/");
                    let name = name.unwrap_or_else(|| header.name());
                    if is_old || name.ends_with(b"/") && header.kind() != b'5' {
                        self.problem(at, "a file whose name ends with a slash");
                    }
                    if let Some(message) = self.names.add(&name, header.kind() == b'5') {
                        self.problem(at, message);
                    }
                }
            }
            let pieces = if header.kind() == b'S' { self.sparse_blocks(&header, size)? } else { 0 };
            let next = (BLOCK + pieces * BLOCK).checked_add(size);
            let next = next.and_then(|len| at.checked_add(len)).filter(|&end| end < 1 << 63);
            let Some(next) = next else { return Ok(()) };
            self.at = next.next_multiple_of(BLOCK);
        }
    }

    fn long_name(&mut self, stated: &mut Stated, size: u64) -> Result<()> {
        let mut name = self.extension(size)?;
        let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
        if name[end..].iter().any(|&byte| byte != 0) || end == 0 {
            self.problem(self.at, "a long name with a zero byte");
        }
        name.truncate(end);
        self.state_name(stated, name);
        Ok(())
    }

    fn state_name(&mut self, stated: &mut Stated, name: Vec<u8>) {
        if stated.name.replace(name).is_some() {
            self.problem(self.at, "several statements of a member's name");
        }
    }

    /// Reads the contents of the extension member at the current offset. One that is too long has
    /// been refused by the list of members.
    fn extension(&self, size: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; to_usize(size.min(self.max_extension))];
        self.read(self.at + BLOCK, &mut bytes)?;
        Ok(bytes)
    }

    /// Verifies that only padding follows the first block of zeros, of which the file has `len`
    /// bytes.
    fn end(&mut self, len: usize) -> Result<()> {
        let mut at = self.at + to_u64(len);
        let end = self.source.len();
        if end.saturating_sub(at) > MAX_PADDING {
            let more = end - at;
            self.problem(at, format!("{more} bytes follow the end of the archive"));
        }
        let mut buffer = vec![0; 64 << 10];
        let searched = end.min(at + MAX_PADDING);
        while at < searched {
            let part = to_usize((searched - at).min(to_u64(buffer.len())));
            let read = self.read(at, &mut buffer[..part])?;
            if let Some(data) = buffer[..read].iter().position(|&byte| byte != 0) {
                let message =
                    "data follows the end of the archive: some programs find more members";
                self.problem(at + to_u64(data), message);
                return Ok(());
            }
            at += to_u64(part);
        }
        Ok(())
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> Result<usize> {
        read_some(self.source, buf, at)
            .map_err(|e| Error::io("cannot read it", e).in_structure("tar archive").at(at))
    }
}

#[cfg(test)]
mod tests;
