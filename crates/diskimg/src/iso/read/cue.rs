//! Cue sheets: text files that describe the tracks in a `.bin` file of raw sectors.
//!
//! ```text
//!   FILE "disc.bin" BINARY
//!     TRACK 01 MODE1/2352
//!       INDEX 01 00:00:00          minutes, seconds, frames (75 per second, one sector each)
//! ```

use crate::error::{Error, Result};
use crate::iso::IsoOptions;
use crate::open::external_files::{ExternalFiles, Resolver};
use crate::storage::number::to_usize;
use crate::storage::source::{Source, WindowSource};
use std::sync::Arc;

/// Returns the sectors of the first data track if the file name extension of `source` is `.cue`,
/// otherwise `source` itself. The cue sheet can refer only to a file in its own directory, and only
/// if `options` allow that.
///
/// # Errors
/// As [`CueSheet::parse`]. Also returns [`ErrorKind::Limit`](crate::ErrorKind::Limit) if the cue
/// sheet is too long, [`ErrorKind::Refused`](crate::ErrorKind::Refused) if `options` do not allow
/// external files, [`ErrorKind::Io`](crate::ErrorKind::Io) if the file cannot be opened.
pub(crate) fn track(source: Arc<dyn Source>, options: &IsoOptions) -> Result<Arc<dyn Source>> {
    let Some(path) = source.path() else { return Ok(source) };
    if !path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("cue")) {
        return Ok(source);
    }
    let limit = options.limits.descriptor_bytes;
    if source.len() > limit {
        let found = format!("{} bytes", source.len());
        return Err(Error::over_limit("descriptor_bytes", found, limit).in_structure("cue sheet"));
    }
    let mut text = vec![0; to_usize(source.len())];
    source.read_exact_at(&mut text, 0).map_err(|e| Error::io("cannot read the cue sheet", e))?;
    let sheet = CueSheet::parse(&text)?;
    let policy = options.external_files.min(ExternalFiles::SameDir);
    let file = Resolver::new(Some(path), policy).open("track", &sheet.file)?;
    let start = sheet.first_sector.saturating_mul(sheet.sector_bytes);
    let end = file.len();
    let track = WindowSource::new(file, start..end)
        .map_err(|e| Error::io("the track starts beyond the end of its file", e))?;
    Ok(Arc::new(track))
}

/// The first data track of a cue sheet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CueSheet {
    /// Name of the file, without directories.
    pub(crate) file: String,
    /// Length of a sector in bytes.
    pub(crate) sector_bytes: u64,
    /// Number of the track's first sector in the file.
    pub(crate) first_sector: u64,
}

impl CueSheet {
    /// Parses a cue sheet.
    ///
    /// # Errors
    /// - [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) if it has no data track.
    /// - [`ErrorKind::Refused`](crate::ErrorKind::Refused) if the file is in another directory.
    /// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) if the tracks before it have a
    ///   different sector length.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let text = String::from_utf8_lossy(bytes);
        let mut sheet = Parser::default();
        for line in text.trim_start_matches('\u{feff}').lines() {
            let words = words(line);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            if let Some(found) = sheet.line(&words)? {
                return Ok(found);
            }
        }
        Err(corrupt("it has no data track"))
    }
}

/// State after the lines parsed so far.
#[derive(Default)]
struct Parser {
    file: Option<String>,
    mode: Option<String>,
    /// Length of a sector in bytes, in the tracks of this file so far.
    sector_bytes: Option<u64>,
}

impl Parser {
    fn line(&mut self, words: &[&str]) -> Result<Option<CueSheet>> {
        let command = words.first().map(|word| word.to_ascii_uppercase());
        match (command.as_deref(), words) {
            (Some("FILE"), [_, name, ..]) => {
                *self = Self { file: Some((*name).to_owned()), ..Self::default() };
            }
            (Some("TRACK"), [_, _, mode, ..]) => {
                let mode = mode.to_ascii_uppercase();
                let bytes = sector_bytes(&mode)?;
                if self.sector_bytes.is_some_and(|before| before != bytes) {
                    let what = "tracks of different sector lengths in one file";
                    return Err(Error::unsupported(what).in_structure("cue sheet"));
                }
                self.sector_bytes = Some(bytes);
                self.mode = Some(mode);
            }
            (Some("INDEX"), [_, number, time, ..]) if number.parse() == Ok(1) => {
                return self.index(time);
            }
            _ => {}
        }
        Ok(None)
    }

    fn index(&self, time: &str) -> Result<Option<CueSheet>> {
        let (Some(mode), Some(sector_bytes)) = (&self.mode, self.sector_bytes) else {
            return Err(corrupt("INDEX without TRACK"));
        };
        if mode == "AUDIO" {
            return Ok(None);
        }
        let file = self.file.clone().ok_or_else(|| corrupt("TRACK without FILE"))?;
        if file.is_empty() || matches!(&*file, "." | "..") || file.contains(['/', '\\', '\0']) {
            let what = format!("'{file}' is not a plain file name");
            return Err(Error::refused(what)
                .in_structure("cue sheet")
                .hint("the file must be in the cue sheet's own directory"));
        }
        let first_sector =
            frames(time).ok_or_else(|| corrupt("the time of an INDEX is invalid"))?;
        Ok(Some(CueSheet { file, sector_bytes, first_sector }))
    }
}

/// Splits a line into words; a quoted string is one word.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => rest.split_once(char::is_whitespace).unwrap_or((rest, "")),
        };
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    words
}

/// Returns the length of a sector in bytes in a track of mode `mode`.
fn sector_bytes(mode: &str) -> Result<u64> {
    let bytes = match mode {
        "AUDIO" => Some(2352),
        "CDG" => Some(2448),
        _ => mode.split_once('/').and_then(|(_, bytes)| bytes.parse().ok()),
    };
    bytes.filter(|bytes| (2048..=2448).contains(bytes)).ok_or_else(|| {
        let what = format!("track mode '{mode}' is not supported");
        Error::unsupported(what).in_structure("cue sheet")
    })
}

/// Converts `minutes:seconds:frames` to frames (75 per second).
fn frames(time: &str) -> Option<u64> {
    let mut parts = time.split(':').map(|part| part.parse::<u32>().ok().map(u64::from));
    let (minutes, seconds, frames) = (parts.next()??, parts.next()??, parts.next()??);
    let is_valid = parts.next().is_none() && seconds < 60 && frames < 75;
    is_valid.then_some((minutes * 60 + seconds) * 75 + frames)
}

fn corrupt(what: &'static str) -> Error {
    Error::corrupt("cue sheet", what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn the_first_data_track_is_found() {
        let sheet = "\u{feff}REM made by hand\r\nFILE \"my disc.bin\" BINARY\r\n  TRACK 01 MODE1/2352\r\n    INDEX 01 00:00:00\r\n";
        let wanted = CueSheet { file: "my disc.bin".into(), sector_bytes: 2352, first_sector: 0 };
        assert_eq!(CueSheet::parse(sheet.as_bytes()).expect("a sheet"), wanted);
        let sheet = "FILE a.bin BINARY\nTRACK 1 AUDIO\nINDEX 1 00:00:00\ntrack 02 mode2/2352\n\
                     PREGAP 00:02:00\nindex 00 01:00:00\nindex 01 01:02:03\n";
        let found = CueSheet::parse(sheet.as_bytes()).expect("a sheet");
        assert_eq!(found.file, "a.bin");
        assert_eq!(found.first_sector, 62 * 75 + 3);
    }

    #[test]
    fn a_file_in_another_directory_is_refused() {
        for name in ["../a.bin", "/etc/passwd", "a\\b.bin", "..", "sub/a.bin"] {
            let sheet = format!("FILE \"{name}\" BINARY\nTRACK 01 MODE1/2352\nINDEX 01 00:00:00");
            let error = CueSheet::parse(sheet.as_bytes()).expect_err("not a plain name");
            assert_eq!(error.kind(), ErrorKind::Refused, "{name}");
        }
    }

    #[test]
    fn an_invalid_sheet_or_one_without_a_data_track_is_an_error() {
        for sheet in [
            "",
            "FILE a BINARY\nTRACK 01 AUDIO\nINDEX 01 00:00:00",
            "TRACK 01 MODE1/2352\nINDEX 01 00:00:00",
            "FILE a BINARY\nINDEX 01 00:00:00",
            "FILE a BINARY\nTRACK 01 MODE1/2352\nINDEX 01 00:99:00",
            "FILE a BINARY\nTRACK 01 MODE1/2352\nINDEX 01 4294967296:00:00",
            "FILE a BINARY\nTRACK 01 MODE1/99\nINDEX 01 00:00:00",
            "FILE a BINARY\nTRACK 01 AUDIO\nTRACK 02 MODE1/2048\nINDEX 01 00:00:00",
        ] {
            CueSheet::parse(sheet.as_bytes()).expect_err(sheet);
        }
    }
}
