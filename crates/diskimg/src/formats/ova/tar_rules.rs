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

use super::spelling;
use super::tar_members::BLOCK;
use super::unpack::read_some;
use crate::error::{Error, Result};
use crate::report::inspection::{Code, Inspection};
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::Source;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Maximum number of findings for one archive.
const MAX_FINDINGS: usize = 8;

/// Maximum number of zeros after the end of the archive: the padding of the largest usual record.
const MAX_PADDING: u64 = 1 << 20;

/// Maximum number of parts of a name.
const MAX_DEPTH: usize = 16;

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

    /// Verifies the map of a sparse file in GNU tar's old format, of which `size` bytes are stored,
    /// and returns the number of blocks with further pieces.
    fn sparse_blocks(&mut self, header: &Header<'_>, size: u64) -> Result<u64> {
        const HEADER_MORE: usize = 482;
        const BLOCK_MORE: usize = 504;
        let mut map = SparseMap::default();
        map.add(&header.0[386..HEADER_MORE]);
        let mut more = header.0[HEADER_MORE] != 0;
        let mut blocks = 0;
        while more {
            let mut list = [0; to_usize(BLOCK)];
            blocks += 1;
            let is_whole = self.read(self.at + blocks * BLOCK, &mut list)? == list.len();
            map.add(&list[..BLOCK_MORE]);
            more = is_whole && list[BLOCK_MORE] != 0;
        }
        if !map.describes(size, number(&header.0[483..495])) {
            self.problem(self.at, "a map of a sparse member that programs read differently");
        }
        Ok(blocks)
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

    fn pax(&mut self, stated: &mut Stated, size: u64, global: bool) -> Result<()> {
        let bytes = self.extension(size)?;
        if !global && std::mem::replace(&mut stated.pax, true) {
            self.problem(self.at, "several pax headers of one member");
        }
        let mut rest = &bytes[..];
        while rest.first().is_some_and(|&byte| byte != 0) {
            let Some((key, value, following)) = pax_record(rest) else {
                self.problem(self.at, "pax records that are not canonical");
                return Ok(());
            };
            rest = following;
            let matters =
                matches!(key, b"path" | b"size" | b"linkpath") || key.starts_with(b"GNU.sparse.");
            match key {
                b"hdrcharset" if value == b"ISO-IR 10646 2000 UTF-8" => {}
                b"hdrcharset" => self.problem(self.at, "pax names in another character set"),
                _ if matters && global => {
                    self.problem(self.at, "pax attributes that all following members have");
                }
                _ if matters && (value.is_empty() || value.contains(&0)) => {
                    self.problem(self.at, "an empty pax value, or one with a zero byte");
                }
                b"path" => self.state_name(stated, value.to_vec()),
                b"size" => {
                    let size = std::str::from_utf8(value).ok().filter(|_| is_digits(value));
                    let size = size.and_then(|size| size.parse().ok());
                    if size.is_none() || stated.size.is_some() {
                        self.problem(self.at, "several pax sizes, or one that is not a number");
                    }
                    stated.size = size;
                }
                _ if !matters && !is_harmless(key) => {
                    let key = String::from_utf8_lossy(key);
                    self.problem(self.at, format!("the pax attribute '{key}'"));
                }
                b"uid" | b"gid" | b"mtime" | b"atime" | b"ctime" if !is_decimal(value) => {
                    self.problem(self.at, "a pax value that is not a number");
                }
                _ => {}
            }
        }
        if rest.iter().any(|&byte| byte != 0) {
            self.problem(self.at, "bytes after pax records");
        }
        Ok(())
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

/// A header block.
struct Header<'a>(&'a [u8; 512]);

impl Header<'_> {
    const PREFIX: usize = 345;

    /// Names, offsets and lengths of the numbers that do not place a member.
    const NUMBERS: [(&'static str, usize, usize); 6] = [
        ("mode", 100, 8),
        ("owner", 108, 8),
        ("group", 116, 8),
        ("time", 136, 12),
        ("device", 329, 8),
        ("device", 337, 8),
    ];

    fn kind(&self) -> u8 {
        self.0[156]
    }

    fn is_file(&self) -> bool {
        !matches!(self.kind(), b'1'..=b'6' | b'L' | b'K' | b'x' | b'g')
    }

    fn size(&self) -> Option<u64> {
        number(&self.0[124..136])
    }

    fn is_ustar(&self) -> bool {
        self.0[257..265] == *b"ustar\x0000"
    }

    /// Returns the name, with the prefix if the format has one.
    fn name(&self) -> Vec<u8> {
        let text =
            |field: &[u8]| field.split(|&byte| byte == 0).next().unwrap_or_default().to_vec();
        let name = text(&self.0[..100]);
        let prefix = text(&self.0[Self::PREFIX..500]);
        match self.is_ustar() && !prefix.is_empty() {
            true => [&prefix[..], b"/", &name].concat(),
            false => name,
        }
    }

    /// Describes what programs interpret differently.
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if number(&self.0[148..156]).is_none() {
            problems.push("its checksum is not a canonical number".to_owned());
        }
        // Python's list ends, without an error, at a header with a number that it cannot parse.
        for (name, at, len) in Self::NUMBERS {
            let field = &self.0[at..at + len];
            let is_empty = field.iter().all(|byte| matches!(byte, 0 | b' '));
            if !is_empty && number(field).is_none() {
                problems.push(format!("its {name} is not a canonical number"));
            }
        }
        match self.size() {
            None => problems.push("its size is not a canonical number".into()),
            Some(0) => {}
            Some(size) if !self.is_file() && matches!(self.kind(), b'1'..=b'6') => {
                problems.push(format!("a directory or link of {size} bytes"));
            }
            Some(_) => {}
        }
        match self.kind() {
            b'0' | 0 | b'7' | b'5' | b'L' | b'K' | b'x' | b'g' | b'S' => {}
            b'1' | b'2' => problems.push("a link".into()),
            b'3' | b'4' | b'6' => problems.push("a device or FIFO".into()),
            other => problems.push(format!("an unknown type {other:#04x}")),
        }
        // Python uses the prefix in every format but GNU's extensions, star's is shorter.
        let has_prefix = self.0[Self::PREFIX] != 0 && !matches!(self.kind(), b'L' | b'K' | b'S');
        if has_prefix && !self.is_ustar() {
            problems.push("a prefix of its name, which this kind of archive does not have".into());
        }
        if has_prefix && self.0[508..] == *b"tar\0" {
            problems.push("a header of star".into());
        }
        problems
    }
}

/// Parses a number that all programs read alike: octal digits after blanks and before blanks or
/// zero bytes, or a positive number in base 256.
fn number(field: &[u8]) -> Option<u64> {
    if let [0x80, bytes @ ..] = field {
        let value = bytes.iter().try_fold(0u64, |value, &byte| {
            (value < 1 << 56).then_some(value << 8 | u64::from(byte))
        });
        return value.filter(|&value| value < 1 << 63);
    }
    let start = field.iter().take_while(|&&byte| byte == b' ').count();
    let digits = field[start..].iter().take_while(|byte| matches!(byte, b'0'..=b'7')).count();
    let (digits, rest) = field[start..].split_at(digits);
    if rest.iter().any(|byte| !matches!(byte, 0 | b' ')) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

/// Splits off the first pax record: key, value and the following records.
fn pax_record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = records.iter().position(|&byte| byte == b' ')?;
    let digits = records.get(..blank).filter(|digits| is_digits(digits) && digits[0] != b'0')?;
    let length = std::str::from_utf8(digits).ok()?.parse::<usize>().ok()?;
    let record = records.get(blank + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|&byte| byte == b'=').filter(|&at| at > 0)?;
    Some((&record[..equals], &record[equals + 1..], &records[length..]))
}

fn is_digits(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_digit)
}

/// Returns true for a decimal number, with a sign and a fraction or without.
fn is_decimal(text: &[u8]) -> bool {
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let mut parts = text.splitn(2, |&byte| byte == b'.');
    parts.next().is_some_and(|whole| is_digits(whole) && whole.len() < 20)
        && parts.next().is_none_or(is_digits)
}

/// Returns true for the pax attributes that change neither the list of members nor their contents,
/// whatever their values. Those of other programs may: they have formats for sparse files, for
/// directories and for parts of files.
fn is_harmless(key: &[u8]) -> bool {
    let known = [
        &b"atime"[..],
        b"ctime",
        b"mtime",
        b"uid",
        b"gid",
        b"uname",
        b"gname",
        b"comment",
        b"LIBARCHIVE.creationtime",
        b"SCHILY.dev",
        b"SCHILY.ino",
        b"SCHILY.nlink",
        b"SCHILY.fflags",
    ];
    let families = [&b"LIBARCHIVE.xattr."[..], b"SCHILY.xattr.", b"SCHILY.acl.", b"RHT.security."];
    known.contains(&key) || families.iter().any(|family| key.starts_with(family))
}

/// The pieces of a sparse member in GNU tar's old format: pairs of offset and length.
#[derive(Default)]
struct SparseMap {
    /// Length in bytes of all pieces.
    stored: u64,
    /// Offset of the end of the last piece.
    end: u64,
    /// Whether the last piece has been read: one that is empty, or an unused pair.
    complete: bool,
    invalid: bool,
}

impl SparseMap {
    /// Length in bytes of a pair.
    const PAIR: usize = 24;

    fn add(&mut self, pairs: &[u8]) {
        for pair in pairs.chunks_exact(Self::PAIR) {
            if pair.iter().all(|&byte| byte == 0) {
                self.complete = true;
                continue;
            }
            let piece = number(&pair[..12]).zip(number(&pair[12..]));
            let end = piece.and_then(|(start, len)| start.checked_add(len));
            match (piece, end) {
                (Some((start, len)), Some(end)) if !self.complete && start >= self.end => {
                    self.stored = self.stored.saturating_add(len);
                    self.end = end;
                    self.complete = len == 0;
                }
                _ => self.invalid = true,
            }
        }
    }

    /// Returns true if all programs read the same: `size` bytes are stored, and the last piece ends
    /// where the file does.
    fn describes(&self, size: u64, real_size: Option<u64>) -> bool {
        !self.invalid && self.stored == size && real_size == Some(self.end)
    }
}

/// Hashes of the names of all members and of the directories in them, in a common spelling.
#[derive(Default)]
struct Names {
    files: BTreeSet<u64>,
    directories: BTreeSet<u64>,
}

impl Names {
    /// Adds a name and describes what is wrong with it.
    fn add(&mut self, name: &[u8], is_directory: bool) -> Option<String> {
        let Ok(name) = std::str::from_utf8(name) else {
            return Some("a name that is not UTF-8".into());
        };
        let is_outside = name.starts_with('/') || name.split(['/', '\\']).any(|part| part == "..");
        if is_outside {
            return Some(format!("the name '{name}', which leads outside"));
        }
        if name.contains('\\') || name.contains(char::is_control) {
            return Some(format!("the name '{name}' with a backslash or a control character"));
        }
        // A drive letter, which bsdtar removes, or a stream of a file on Windows.
        if name.contains(':') {
            return Some(format!("the name '{name}' with a colon"));
        }
        if name.contains(is_ignorable) {
            let name = name.escape_unicode();
            return Some(format!("the name '{name}' with a character that file systems ignore"));
        }
        // Windows removes dots and blanks at the end.
        let key = spelling::key(name);
        let parts: Vec<_> = key.split('/').map(|part| part.trim_end_matches(['.', ' '])).collect();
        if parts.len() > MAX_DEPTH {
            return Some(format!("a name with {} parts", parts.len()));
        }
        if parts.iter().any(|part| part.is_empty()) {
            let is_root = is_directory && parts.len() == 1;
            return (!is_root).then(|| format!("the name '{name}' with an empty part"));
        }
        let mut hasher = DefaultHasher::new();
        let mut conflict = false;
        for (index, part) in parts.iter().enumerate() {
            part.hash(&mut hasher);
            let path = hasher.finish();
            let is_file = index + 1 == parts.len() && !is_directory;
            conflict |= match is_file {
                true => self.directories.contains(&path) || !self.files.insert(path),
                false => {
                    self.directories.insert(path);
                    self.files.contains(&path)
                }
            };
        }
        conflict.then(|| format!("another member has the name '{name}', or a spelling of it"))
    }
}

/// Returns true for characters that are not visible, which HFS+ ignores when it compares names.
fn is_ignorable(character: char) -> bool {
    matches!(character, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::source::MemorySource;

    /// Returns a member whose header has `changes`.
    fn member(kind: u8, content: &[u8], changes: &[(usize, &[u8])]) -> Vec<u8> {
        let mut block = vec![0; 512];
        block[..6].copy_from_slice(b"member");
        block[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        block[148..156].copy_from_slice(b"000001\0 ");
        block[156] = kind;
        for (at, bytes) in changes {
            block[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        block.extend(content);
        block.resize(block.len().next_multiple_of(512), 0);
        block
    }

    /// Returns the number of problems in an archive.
    fn problems(members: &[Vec<u8>]) -> usize {
        let source = MemorySource::new([&members.concat()[..], &[0; 1024]].concat());
        let mut found = Inspection::new("a.ova".into(), &source);
        apply(&source, 1 << 10, &mut found).expect("reads");
        found.findings.len()
    }

    #[test]
    fn every_number_of_a_header_is_canonical() {
        for (name, at, len) in Header::NUMBERS {
            for field in [&b"zz"[..], b"9", b"1 7", b"-1", b"\xff\xff\xff\xff\xff\xff\xff\xff"] {
                assert_eq!(problems(&[member(b'0', b"", &[(at, field)])]), 1, "{name} {field:?}");
            }
            let base_256 = [&[0x80][..], &vec![0; len - 3], &[1, 2]].concat();
            for field in [&b"0000644\0"[..], b"    644 ", b"", &base_256] {
                assert_eq!(problems(&[member(b'0', b"", &[(at, field)])]), 0, "{name} {field:?}");
            }
        }
    }

    #[test]
    fn only_harmless_pax_attributes_are_accepted() {
        for (record, expected) in [
            ("19 mtime=1234.5678\n", 0),
            ("22 SCHILY.xattr.a=b=c\n", 0),
            ("16 comment=text\n", 0),
            ("29 SUN.holesdata= 0 512 1024\n", 1),
            ("24 SCHILY.realsize=1024\n", 1),
            ("25 GNU.volume.offset=512\n", 1),
            ("23 SCHILY.filetype=dir\n", 1),
            ("14 x.unknown=\n", 1),
            ("16 mtime=1e1000\n", 1),
        ] {
            let members = [member(b'x', record.as_bytes(), &[]), member(b'0', b"", &[])];
            assert_eq!(problems(&members), expected, "{record}");
        }
    }

    #[test]
    fn a_size_in_pax_belongs_to_an_ordinary_file() {
        let size = || member(b'x', b"12 size=512\n", &[]);
        let content = [7; 512];
        for (kind, expected) in [(b'0', 0), (b'5', 1), (b'S', 2)] {
            let content = if kind == b'5' { &[][..] } else { &content };
            assert_eq!(problems(&[size(), member(kind, content, &[])]), expected, "{kind}");
        }
    }

    #[test]
    fn maps_of_sparse_members_are_canonical() {
        let pair = |start: u64, len: u64| format!("{start:011o}\0{len:011o}\0").into_bytes();
        let unused = || vec![0; 24];
        for (pairs, size, real_size, expected) in [
            (vec![pair(0, 512), pair(1024, 512)], 1024, 1536, 0),
            (vec![pair(512, 512), pair(2048, 0)], 512, 2048, 0),
            (vec![pair(2048, 0)], 0, 2048, 0),
            (vec![pair(0, 512), pair(1024, 512)], 1024, 2048, 1),
            (vec![pair(0, 512), unused(), pair(1024, 512)], 1024, 1536, 1),
            (vec![unused(), pair(0, 512)], 512, 512, 1),
            (vec![pair(0, 512), pair(512, 0), pair(1024, 512)], 1024, 1536, 1),
            (vec![pair(0, 512), pair(256, 512)], 1024, 768, 1),
            (vec![pair(0, 512)], 1024, 512, 1),
            (vec![vec![b'x'; 24]], 0, 0, 1),
        ] {
            let real_size = format!("{real_size:011o}\0");
            let (map, content) = (pairs.concat(), vec![1; size]);
            let changes = [(386, &map[..]), (483, real_size.as_bytes())];
            assert_eq!(problems(&[member(b'S', &content, &changes)]), expected, "{pairs:?}");
        }
    }

    #[test]
    fn numbers_are_canonical() {
        for (field, value) in [
            (&b"00000000017\0"[..], Some(15)),
            (b"        17 \0", Some(15)),
            (b"17\0\0\0\0\0\0\0\0\0\0", Some(15)),
            (b"\x80\0\0\0\0\0\0\0\0\0\0\x11", Some(17)),
            (b"17 17\0\0\0\0\0\0\0", None),
            (b"17\0x\0\0\0\0\0\0\0\0", None),
            (b"0x17\0\0\0\0\0\0\0\0", None),
            (b"+17\0\0\0\0\0\0\0\0\0", None),
            (b"\x80\0\0\0\0\0\0\x11", Some(17)),
            (b"\x80\0\0\x01\0\0\0\0\0\0\0\x11", None),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"\0\0\0\0\0\0\0\0\0\0\0\0", None),
        ] {
            assert_eq!(number(field), value, "{field:?}");
        }
    }

    #[test]
    fn a_file_of_the_old_type_is_a_directory_by_its_own_name() {
        let block = |name: &[u8], kind: u8, content: &[u8]| {
            let mut block = [0; 1024];
            block[..name.len()].copy_from_slice(name);
            block[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
            block[148..156].copy_from_slice(b"000001\0 ");
            block[156] = kind;
            block[512..512 + content.len()].copy_from_slice(content);
            block
        };
        for (kind, expected) in [(0, 1), (b'0', 0)] {
            let record = block(b"x", b'x', b"10 path=e\n");
            let archive = [&record[..], &block(b"d/", kind, b"data"), &[0; 1024]].concat();
            let source = MemorySource::new(archive);
            let mut found = Inspection::new("a.ova".into(), &source);
            apply(&source, 1 << 10, &mut found).expect("reads");
            assert_eq!(found.findings.len(), expected, "{:?}", found.findings);
        }
    }

    #[test]
    fn names_differ_in_any_spelling() {
        let mut names = Names::default();
        for name in ["a/b.vmdk", "a/c", "a/", "d", "./"] {
            let is_directory = name.ends_with('/');
            assert_eq!(names.add(name.as_bytes(), is_directory), None, "{name}");
        }
        for name in [
            &b"A/B.vmdk"[..],
            b"./a//b.vmdk",
            b"a/b.vmdk.",
            b"a",
            b"d/e",
            b"/x",
            b"x/../y",
            b"x\\y",
            b"\xff",
            b"x\ny",
            b"C:x",
            b"x:y",
            "x\u{200d}".as_bytes(),
            b"",
        ] {
            assert!(names.add(name, false).is_some(), "{name:?}");
        }
    }
}
