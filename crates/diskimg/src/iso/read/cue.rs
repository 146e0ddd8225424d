//! Cue sheets: text that says what is in a `.bin` file of raw sectors.
//!
//! ```text
//!   FILE "disc.bin" BINARY
//!     TRACK 01 MODE1/2352
//!       INDEX 01 00:00:00          minutes, seconds, frames (75 a second): a sector each
//! ```

use crate::error::{Error, Result};
use crate::iso::IsoOptions;
use crate::open::external_files::{ExternalFiles, Resolver};
use crate::storage::number::to_usize;
use crate::storage::source::{Source, WindowSource};
use std::sync::Arc;

/// The sectors of the first data track, if `source` is called as cue sheets are; else `source`
/// itself. Which file the sheet may name, the options say: never one elsewhere.
///
/// # Errors
/// As [`CueSheet::parse`]; [`ErrorKind::Limit`](crate::ErrorKind::Limit) if it is too long,
/// [`ErrorKind::Refused`](crate::ErrorKind::Refused) and [`ErrorKind::Io`](crate::ErrorKind::Io) if
/// the file cannot be opened.
pub(crate) fn track(source: Arc<dyn Source>, options: &IsoOptions) -> Result<Arc<dyn Source>> {
    let Some(path) = source.path() else { return Ok(source) };
    if !path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("cue")) {
        return Ok(source);
    }
    let most = options.limits.descriptor_bytes;
    if source.len() > most {
        let found = format!("{} bytes", source.len());
        return Err(Error::over_limit("descriptor_bytes", found, most).in_structure("cue sheet"));
    }
    let mut text = vec![0; to_usize(source.len())];
    source.read_exact_at(&mut text, 0).map_err(|e| Error::io("cannot read the cue sheet", e))?;
    let sheet = CueSheet::parse(&text)?;
    let policy = options.external_files.min(ExternalFiles::SameDir);
    let file = Resolver::new(Some(path), policy).open("track", &sheet.file)?;
    let start = sheet.first_sector.saturating_mul(sheet.sector_bytes);
    let end = file.len();
    let track = WindowSource::new(file, start..end)
        .map_err(|e| Error::io("the track begins behind the end of its file", e))?;
    Ok(Arc::new(track))
}

/// The first track with data that a cue sheet names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CueSheet {
    /// The file: a plain name, in the cue sheet's own directory.
    pub(crate) file: String,
    /// Bytes of a sector.
    pub(crate) sector_bytes: u64,
    /// Sectors of the file before the track's first one.
    pub(crate) first_sector: u64,
}

impl CueSheet {
    /// Parses a cue sheet.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) if it has no data track,
    /// [`ErrorKind::Refused`](crate::ErrorKind::Refused) if that is in a file elsewhere,
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) if it stands behind tracks with other sectors.
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
        Err(corrupt("it has no track with data"))
    }
}

/// What the lines so far say.
#[derive(Default)]
struct Parser {
    file: Option<String>,
    mode: Option<String>,
    /// Bytes of a sector in the tracks of this file so far.
    sectors: Option<u64>,
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
                if self.sectors.is_some_and(|before| before != bytes) {
                    let what = "tracks with other sectors stand before the data in one file";
                    return Err(Error::unsupported(what).in_structure("cue sheet"));
                }
                self.sectors = Some(bytes);
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
        let (Some(mode), Some(sector_bytes)) = (&self.mode, self.sectors) else {
            return Err(corrupt("an index stands before a track"));
        };
        if mode == "AUDIO" {
            return Ok(None);
        }
        let file = self.file.clone().ok_or_else(|| corrupt("a track stands before a file"))?;
        if file.is_empty() || matches!(&*file, "." | "..") || file.contains(['/', '\\', '\0']) {
            let what = format!("its data are in '{file}', which is no plain name");
            return Err(Error::refused(what)
                .in_structure("cue sheet")
                .hint("the file must be in the cue sheet's own directory"));
        }
        let first_sector = frames(time).ok_or_else(|| corrupt("an index is no time"))?;
        Ok(Some(CueSheet { file, sector_bytes, first_sector }))
    }
}

/// The words of a line; those in quotes are one.
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

/// Bytes of a sector in a track of that mode.
fn sector_bytes(mode: &str) -> Result<u64> {
    let bytes = match mode {
        "AUDIO" => Some(2352),
        "CDG" => Some(2448),
        _ => mode.split_once('/').and_then(|(_, bytes)| bytes.parse().ok()),
    };
    bytes.filter(|bytes| (2048..=2448).contains(bytes)).ok_or_else(|| {
        let what = format!("a track of mode '{mode}'");
        Error::unsupported(what).in_structure("cue sheet")
    })
}

/// `minutes:seconds:frames` in frames, of which a second has 75.
fn frames(time: &str) -> Option<u64> {
    let mut parts = time.split(':').map(|part| part.parse::<u32>().ok().map(u64::from));
    let (minutes, seconds, frames) = (parts.next()??, parts.next()??, parts.next()??);
    let right = parts.next().is_none() && seconds < 60 && frames < 75;
    right.then_some((minutes * 60 + seconds) * 75 + frames)
}

fn corrupt(what: &'static str) -> Error {
    Error::corrupt("cue sheet", what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn the_first_track_with_data_is_found() {
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
    fn a_file_elsewhere_is_refused() {
        for name in ["../a.bin", "/etc/passwd", "a\\b.bin", "..", "sub/a.bin"] {
            let sheet = format!("FILE \"{name}\" BINARY\nTRACK 01 MODE1/2352\nINDEX 01 00:00:00");
            let error = CueSheet::parse(sheet.as_bytes()).expect_err("elsewhere");
            assert_eq!(error.kind(), ErrorKind::Refused, "{name}");
        }
    }

    #[test]
    fn what_is_no_sheet_or_has_no_data_is_an_error() {
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
