//! The segment files of an image: their names, and what each of them contains.
//!
//! ```text
//!   disk.E01 … disk.E99   disk.EAA … disk.EZZ   disk.FAA … disk.ZZZ      e01 …, s01 … likewise
//! ```
//!
//! Nothing in an image names the other files: they have the name of the first one, with the next
//! extensions.

use super::header::read_segment_number;
use super::section::{Kind, Section, Sections};
use super::table::{self, Header, Table, in_file};
use super::text::{self, Values};
use super::volume::{self, Digests, Volume};
use crate::error::{Error, ErrorKind, Result};
use crate::open::OpenContext;
use crate::open::external_files::{ExternalFiles, Resolver};
use crate::open::limits::Limits;
use crate::storage::number::{to_u8, to_u64};
use crate::storage::source::{HostFileId, Source};
use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// How messages call the files.
const ROLE: &str = "segment";

/// How messages call all files of an image.
const STRUCTURE: &str = "EWF segments";

/// Number of segments with a numeric extension.
const NUMBERED: u32 = 99;

/// Letters of the alphabet.
const LETTERS: u32 = 26;

/// What the segment files of an image contain.
#[derive(Debug)]
pub(super) struct Acquisition {
    pub(super) files: Vec<Arc<dyn Source>>,
    pub(super) volume: Volume,
    pub(super) values: Values,
    pub(super) tables: Vec<Table>,
    pub(super) digests: Digests,
    /// The sections with digests.
    pub(super) recorded: Vec<RecordedDigests>,
    /// True if two sections have different digests.
    pub(super) digests_differ: bool,
    /// The sectors that could not be read during the acquisition.
    pub(super) errors: Vec<Range<u64>>,
    /// True if other segments follow that were not opened.
    pub(super) has_unopened: bool,
    /// True if the acquisition was not finished.
    pub(super) is_incomplete: bool,
    /// Why what follows the chunks found so far is not known, if only some can be read.
    pub(super) damage: Option<String>,
    /// What reading tolerates.
    pub(super) warnings: Vec<String>,
}

/// A section with digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RecordedDigests {
    /// Name of the section, and the segment that has it.
    pub(super) structure: String,
    /// Host offset of its contents.
    pub(super) at: u64,
    pub(super) digests: Digests,
}

/// Maximum number of sections with digests that are verified. Programs write one of each kind.
const MAX_DIGESTS: usize = 8;

/// Maximum number of damaged sections that warnings describe one by one.
const MAX_WARNINGS: usize = 16;

/// Reads the segment files of an image.
struct Reader<'a> {
    context: &'a OpenContext<'a>,
    /// The limits, reduced by what the segments read so far use.
    limits: Limits,
    files: Vec<Arc<dyn Source>>,
    seen: HashSet<HostFileId>,
    volume: Option<Volume>,
    values: Values,
    /// Whether a section `header` and a section `header2` were read.
    read_headers: [bool; 2],
    tables: Vec<Table>,
    digests: Digests,
    recorded: Vec<RecordedDigests>,
    digests_differ: bool,
    errors: Vec<Range<u64>>,
    is_incomplete: bool,
    warnings: Vec<String>,
    /// Number of warnings that were left out.
    more_warnings: u64,
}

/// Opens the other segments and reads the sections of all of them.
///
/// # Errors
/// As [`Driver::open`](crate::open::driver::Driver::open).
pub(super) fn read(first: Arc<dyn Source>, context: &OpenContext<'_>) -> Result<Acquisition> {
    let number = read_segment_number(&*first)?;
    if number != 1 {
        let first_name = Names::of(context).and_then(|names| names.of_first(number));
        let hint = match first_name {
            Some(name) => format!("open the first segment, probably {name}"),
            None => "open the first segment".to_owned(),
        };
        return Err(Error::invalid(format!("it is segment {number} of an image")).hint(hint));
    }
    let mut reader = Reader {
        context,
        limits: context.limits.clone(),
        seen: first.identity().into_iter().collect(),
        files: vec![first],
        volume: None,
        values: Values::new(),
        read_headers: [false; 2],
        tables: Vec::new(),
        digests: Digests::default(),
        recorded: Vec::new(),
        digests_differ: false,
        errors: Vec::new(),
        is_incomplete: false,
        warnings: Vec::new(),
        more_warnings: 0,
    };
    let (mut has_unopened, mut damage) = (false, None);
    loop {
        let is_last = match reader.read_segment() {
            Ok(is_last) => is_last,
            Err(error) if reader.tolerates(&error) => {
                damage = Some(error.without_remedy());
                break;
            }
            Err(error) => return Err(error),
        };
        if is_last {
            break;
        }
        if context.metadata_only && !context.with_extents {
            has_unopened = true;
            break;
        }
        match reader.open_next() {
            Ok(()) => {}
            Err(error) if context.metadata_only || reader.tolerates(&error) => {
                damage = Some(error.without_remedy());
                break;
            }
            Err(error) => return Err(error),
        }
    }
    reader.finish(has_unopened, damage)
}

/// Returns true if another segment follows the one in `source`, as far as its sections can be read.
#[cfg(feature = "inspect")]
pub(super) fn ends_with_next(source: &dyn Source) -> bool {
    matches!(Sections::new(source).last(), Some(Ok(Section { kind: Kind::Next, .. })))
}

impl Reader<'_> {
    /// Returns true if the chunks before an error are to be read nevertheless.
    fn tolerates(&self, error: &Error) -> bool {
        (self.context.salvage || self.context.tolerates_damage())
            && self.volume.is_some()
            && (error.kind() == ErrorKind::Corrupt || error.kind() == ErrorKind::Io)
    }

    fn finish(self, has_unopened: bool, damage: Option<String>) -> Result<Acquisition> {
        let Some(volume) = self.volume else {
            return Err(Error::corrupt(volume::STRUCTURE, "the first segment has none"));
        };
        let mut warnings = self.warnings;
        if self.more_warnings > 0 {
            warnings.push(format!("damaged sections: {} more", self.more_warnings));
        }
        warnings.extend(damage.clone());
        Ok(Acquisition {
            files: self.files,
            volume,
            values: self.values,
            tables: self.tables,
            digests: self.digests,
            recorded: self.recorded,
            digests_differ: self.digests_differ,
            errors: self.errors,
            has_unopened,
            is_incomplete: self.is_incomplete,
            damage,
            warnings,
        })
    }

    /// Adds a warning about a section. A file may have any number of damaged ones.
    fn warn(&mut self, warning: String) {
        match self.warnings.len() < MAX_WARNINGS {
            true => self.warnings.push(warning),
            false => self.more_warnings += 1,
        }
    }

    /// Opens the segment that follows those opened before.
    fn open_next(&mut self) -> Result<()> {
        let number = to_u64(self.files.len()) + 1;
        if number > self.limits.extent_files {
            let found = format!("the image has at least {number} segments");
            return Err(Error::over_limit("extent_files", found, self.limits.extent_files));
        }
        let Some(names) = Names::of(self.context).filter(|names| names.is_first) else {
            let message = format!("the image has another segment, {number}");
            return Err(Error::unsupported(message)
                .in_structure(STRUCTURE)
                .hint("open it by a name that ends in .E01, next to the other segments"));
        };
        let Some(name) = u32::try_from(number).ok().and_then(|number| names.name(number)) else {
            let message = format!("segment {number} has no name: ZZZ is the last extension");
            return Err(Error::corrupt(STRUCTURE, message));
        };
        let opened = self.resolver().open_path(ROLE, &name);
        let is_missing =
            |error: &Error| error.io_error().is_some_and(|e| e.kind() == io::ErrorKind::NotFound);
        let source = opened.map_err(|error| match is_missing(&error) {
            true => Error::corrupt(STRUCTURE, format!("segment {number} ({name}) is missing"))
                .hint("all segments must be in the same directory"),
            false => error,
        })?;
        let found = read_segment_number(&*source).map_err(|error| named(error, &*source))?;
        if u64::from(found) != number {
            let message = format!("the file {name} is segment {found} instead of {number}");
            return Err(Error::corrupt(STRUCTURE, message));
        }
        if source.identity().is_some_and(|id| !self.seen.insert(id)) {
            let message = format!("the file {name} is another segment as well");
            return Err(Error::corrupt(STRUCTURE, message));
        }
        self.files.push(source);
        Ok(())
    }

    /// Returns the resolver for segments. If only metadata is requested, no files outside the
    /// image's directory are opened.
    fn resolver(&self) -> Resolver<'_> {
        match self.context.resolver.policy {
            ExternalFiles::Any if self.context.metadata_only => {
                Resolver { policy: ExternalFiles::SameDir, ..self.context.resolver }
            }
            _ => self.context.resolver,
        }
    }

    /// Reads the sections of the last file and returns true if it is the last segment.
    fn read_segment(&mut self) -> Result<bool> {
        let file = self.files.len() - 1;
        let source = Arc::clone(&self.files[file]);
        let outcome = self.read_sections(&*source, file);
        outcome.map_err(|error| in_file(error, &self.files, file))
    }

    fn read_sections(&mut self, source: &dyn Source, file: usize) -> Result<bool> {
        let mut sections = Sections::new(source).peekable();
        let mut chunks = None;
        while let Some(section) = sections.next() {
            let section = section?;
            match section.kind {
                Kind::Sectors => chunks = Some(section.contents),
                Kind::Table | Kind::Table2 => {
                    let is_copy = |next: &Result<Section>| {
                        next.as_ref().is_ok_and(|next| next.kind == Kind::Table2)
                    };
                    let copy = match section.kind {
                        Kind::Table => sections.next_if(is_copy).transpose()?,
                        _ => None,
                    };
                    self.add_table(source, file, &section, copy.as_ref(), chunks.clone())?;
                }
                Kind::Next => return Ok(false),
                Kind::Done => return Ok(true),
                _ => self.add(source, file, &section)?,
            }
        }
        // The last item is an error or one of these sections.
        Ok(true)
    }

    /// Adds the table in `section`, or its copy if the header of the table is damaged.
    fn add_table(
        &mut self,
        source: &dyn Source,
        file: usize,
        section: &Section,
        copy: Option<&Section>,
        chunks: Option<Range<u64>>,
    ) -> Result<()> {
        let Some(volume) = &self.volume else {
            return Err(Error::corrupt(table::STRUCTURE, "it comes before the volume section")
                .at(section.contents.start));
        };
        let is_smart = volume.medium.is_none();
        let copy = copy.map(|copy| Header::read(copy, source, is_smart));
        let (header, copy) = match (Header::read(section, source, is_smart), copy) {
            (Ok(header), Some(Ok(copy))) if copy.is_alike(&header) => (header, Some(copy)),
            (Ok(header), None) => (header, None),
            (Ok(header), Some(copy)) => {
                let reason = copy.map_or_else(
                    |error| error.without_remedy(),
                    |_| "it does not have the same number of entries".to_owned(),
                );
                self.warn(format!("the copy of a table is not used: {reason}"));
                (header, None)
            }
            (Err(error), Some(Ok(copy))) => {
                let reason = error.without_remedy();
                self.warn(format!("the copy of a table is used: {reason}"));
                (copy, None)
            }
            (Err(error), _) => return Err(error),
        };
        if header.count == 0 {
            return Ok(());
        }
        let first_chunk = self.tables.last().map_or(0, Table::end_chunk);
        let bytes = to_u64(size_of::<Table>());
        if self.limits.table_bytes < bytes {
            let found = format!("at least {} tables of chunks", self.tables.len() + 1);
            let max = self.context.limits.table_bytes;
            return Err(Error::over_limit("table_bytes", found, max));
        }
        self.limits.table_bytes -= bytes;
        self.tables.push(Table::new(source, file, first_chunk, header, copy, chunks));
        Ok(())
    }

    /// Adds a section that describes the acquisition.
    fn add(&mut self, source: &dyn Source, file: usize, section: &Section) -> Result<()> {
        match section.kind {
            Kind::Header | Kind::Header2 => {
                let is_header2 = section.kind == Kind::Header2;
                let [_, has_header2] = self.read_headers;
                let is_known = has_header2 && !self.values.is_empty();
                // Only the first one of each kind is decompressed, whatever it has: programs write
                // copies of it, but a file may have any number of others.
                let is_read = &mut self.read_headers[usize::from(is_header2)];
                if file > 0 || is_known || std::mem::replace(is_read, true) {
                    return Ok(());
                }
                match text::read_values(section, source, self.context.limits) {
                    // Those of `header2` have precedence.
                    Ok(values) if !values.is_empty() => self.values = values,
                    Ok(_) => {}
                    // The disk does not depend on them.
                    Err(error) if error.kind() == ErrorKind::Corrupt => {
                        self.warn(error.without_remedy());
                    }
                    Err(error) => return Err(error),
                }
            }
            Kind::Volume | Kind::Data => self.add_volume(source, section)?,
            Kind::Hash | Kind::Digest => {
                let (name, digests) = match section.kind {
                    Kind::Hash => ("hash", Digests::read_hash(section, source)),
                    _ => ("digest", Digests::read_digest(section, source)),
                };
                match digests {
                    Ok(digests) => {
                        let structure = format!("EWF {name} section of segment {}", file + 1);
                        let at = section.contents.start;
                        self.add_digests(RecordedDigests { structure, at, digests });
                    }
                    Err(error) if error.kind() == ErrorKind::Corrupt => {
                        self.warn(error.without_remedy());
                    }
                    Err(error) => return Err(error),
                }
            }
            Kind::Errors => match volume::read_errors(section, source, &self.limits) {
                Ok(errors) => {
                    let bytes = to_u64(size_of_val(&errors[..]));
                    self.limits.table_bytes = self.limits.table_bytes.saturating_sub(bytes);
                    self.errors.extend(errors);
                }
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    self.warn(error.without_remedy());
                }
                Err(error) => return Err(error),
            },
            Kind::LogicalFiles => {
                return Err(Error::unsupported("logical evidence, which has files and no disk")
                    .at(section.contents.start));
            }
            Kind::Incomplete if !self.is_incomplete => {
                self.is_incomplete = true;
                self.warnings.push("the acquisition was not finished".to_owned());
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes what was acquired from the first section that says so, and compares the others with it.
    fn add_volume(&mut self, source: &dyn Source, section: &Section) -> Result<()> {
        let volume = match Volume::read(section, source, self.context.limits) {
            Ok(volume) => volume,
            // Logicube's programs write data sections with wrong checksums.
            Err(error) if section.kind == Kind::Data && self.volume.is_some() => {
                self.warn(error.without_remedy());
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let Some(first) = &self.volume else {
            self.volume = Some(volume);
            return Ok(());
        };
        if let (Some(expected), Some(found)) = (first.set(), volume.set())
            && expected != found
        {
            let message = format!(
                "the segment belongs to another acquisition: its set identifier is {found}, and \
                 that of the first segment {expected}"
            );
            return Err(Error::corrupt(STRUCTURE, message).at(section.contents.start));
        }
        if (volume.chunk_bytes, volume.sector_bytes) != (first.chunk_bytes, first.sector_bytes) {
            let message = format!(
                "the segment belongs to another acquisition: its chunks have {} bytes, and those \
                 of the first segment {}",
                volume.chunk_bytes, first.chunk_bytes
            );
            return Err(Error::corrupt(STRUCTURE, message).at(section.contents.start));
        }
        Ok(())
    }

    fn add_digests(&mut self, recorded: RecordedDigests) {
        fn differ<T: PartialEq>(a: Option<T>, b: Option<T>) -> bool {
            a.zip(b).is_some_and(|(a, b)| a != b)
        }
        let (own, found) = (&mut self.digests, recorded.digests);
        self.digests_differ |= differ(own.md5, found.md5) || differ(own.sha1, found.sha1);
        own.md5 = own.md5.or(found.md5);
        own.sha1 = own.sha1.or(found.sha1);
        if self.recorded.len() < MAX_DIGESTS {
            self.recorded.push(recorded);
        }
    }
}

/// Adds the path of a segment to an error.
fn named(error: Error, source: &dyn Source) -> Error {
    match source.path() {
        Some(path) => error.in_file(path),
        None => error,
    }
}

/// The names of the segment files of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Names {
    /// The name of the first one up to the extension's first letter.
    stem: String,
    /// The first letter of the extension.
    letter: u8,
    /// True if it is the extension of the first segment.
    is_first: bool,
}

impl Names {
    /// Returns the names for the image that is being opened; `None` if its own is unknown or does
    /// not have an extension of a segment.
    fn of(context: &OpenContext<'_>) -> Option<Self> {
        let Resolver { image, origin, .. } = context.resolver;
        let name = match origin {
            Some(origin) => origin.url.file_name(),
            None => image.and_then(Path::file_name)?.to_str()?,
        };
        Self::from_name(name)
    }

    fn from_name(name: &str) -> Option<Self> {
        let (stem, extension) = name.rsplit_once('.')?;
        let [letter, rest @ ..] = extension.as_bytes() else { return None };
        let is_alike = |byte: &u8| {
            byte.is_ascii_digit() || byte.is_ascii_lowercase() == letter.is_ascii_lowercase()
        };
        let is_extension = letter.is_ascii_alphabetic()
            && rest.len() == 2
            && rest.iter().all(|byte| byte.is_ascii_alphanumeric() && is_alike(byte));
        let is_first = rest == b"01";
        is_extension.then(|| Self { stem: format!("{stem}."), letter: *letter, is_first })
    }

    /// Returns the name of the first segment, if this is the name of segment `number`.
    fn of_first(&self, number: u16) -> Option<String> {
        // The first letter of later extensions is not that of the first.
        (u32::from(number) <= NUMBERED + LETTERS * LETTERS).then(|| self.name(1)).flatten()
    }

    /// Returns the name of segment `number`, of which the first is 1; `None` after `ZZZ`.
    fn name(&self, number: u32) -> Option<String> {
        let Self { stem, letter, .. } = self;
        if (1..=NUMBERED).contains(&number) {
            return Some(format!("{stem}{}{number:02}", char::from(*letter)));
        }
        let index = number.checked_sub(NUMBERED + 1)?;
        let a = if letter.is_ascii_uppercase() { b'A' } else { b'a' };
        let digits = [
            u32::from(letter - a) + index / (LETTERS * LETTERS),
            index / LETTERS % LETTERS,
            index % LETTERS,
        ];
        if digits[0] >= LETTERS {
            return None;
        }
        let letters = digits.map(|digit| char::from(a + to_u8(digit)));
        Some(format!("{stem}{}", String::from_iter(letters)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_continue_with_letters_after_99() {
        let names = Names::from_name("a.b.E01").expect("is a name");
        for (number, name) in [
            (1, "a.b.E01"),
            (99, "a.b.E99"),
            (100, "a.b.EAA"),
            (125, "a.b.EAZ"),
            (126, "a.b.EBA"),
            (775, "a.b.EZZ"),
            (776, "a.b.FAA"),
            (14_971, "a.b.ZZZ"),
        ] {
            assert_eq!(names.name(number).as_deref(), Some(name));
        }
        assert_eq!((names.name(14_972), names.name(0), names.name(u32::MAX)), (None, None, None));
    }

    #[test]
    fn extensions_keep_their_case_and_their_first_letter() {
        for (first, hundredth) in [("x.e01", "x.eaa"), ("x.s01", "x.saa"), ("x.S01", "x.SAA")] {
            let names = Names::from_name(first).expect("is a name");
            assert_eq!(names.name(100).as_deref(), Some(hundredth));
        }
        for name in ["E01", "x", "x.", "x.E1", "x.E001", "x.001", "x.E0ß", "x.eAA", "x.raw"] {
            let names = Names::from_name(name);
            assert!(names.is_none_or(|names| !names.is_first), "{name}");
        }
    }
}
