//! The configuration file: TOML, owned by the user who runs the command or by root.

use super::{KEYS, LIMITS, Setting, check};
use crate::args::advice;
use crate::failure::Failure;
use std::env;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

/// The variable that names another file; if it is empty, there is none.
const VARIABLE: &str = "DISKIMG_CONFIG";

/// Maximum length in bytes.
const MAX_LEN: u64 = 1 << 20;

/// Returns the path of the file, if it exists.
///
/// # Errors
/// If the file that the environment names does not exist.
pub(super) fn path() -> Result<Option<PathBuf>, Failure> {
    match env::var_os(VARIABLE) {
        Some(name) if name.is_empty() => Ok(None),
        Some(name) => {
            let path = PathBuf::from(name);
            match path.metadata() {
                Ok(_) => Ok(Some(path)),
                Err(e) => Err(Failure::error(format!("{VARIABLE}: {}: {e}", path.display()))),
            }
        }
        None => {
            let path = directory().map(|directory| directory.join("diskimg").join("config.toml"));
            Ok(path.filter(|path| path.exists()))
        }
    }
}

/// Returns the user's directory for configuration files.
#[cfg(not(windows))]
fn directory() -> Option<PathBuf> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))
}

#[cfg(windows)]
fn directory() -> Option<PathBuf> {
    env::var_os("APPDATA").map(PathBuf::from).filter(|path| path.is_absolute())
}

/// Reads the settings in the file.
pub(super) fn read(path: &Path) -> Result<Vec<Setting>, Failure> {
    let name = path.display().to_string();
    let text = contents(path).map_err(|e| {
        Failure::error(format!("{name}: {e} (--no-config ignores the configuration)"))
    })?;
    parse(&text, &name)
}

fn contents(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    require_trusted(&file)?;
    let mut text = String::new();
    file.take(MAX_LEN + 1).read_to_string(&mut text)?;
    match text.len() as u64 > MAX_LEN {
        true => Err(io::Error::other("it is longer than 1 MiB")),
        false => Ok(text),
    }
}

/// Refuses a file that another user could have written: it would decide how this user's images are
/// read.
#[cfg(unix)]
fn require_trusted(file: &File) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    const OTHERS_WRITE: u32 = 0o022;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let user = rustix::process::geteuid().as_raw();
    if metadata.uid() != user && metadata.uid() != 0 {
        return Err(io::Error::other("it belongs to another user"));
    }
    if metadata.mode() & OTHERS_WRITE != 0 {
        return Err(io::Error::other("other users can write it: chmod go-w"));
    }
    Ok(())
}

#[cfg(not(unix))]
fn require_trusted(_file: &File) -> io::Result<()> {
    Ok(())
}

/// Parses the text of the file `name`.
fn parse(text: &str, name: &str) -> Result<Vec<Setting>, Failure> {
    let at = |span: Range<usize>| position(text, name, span.start);
    let failure = |span, message: &str| Failure::error(format!("{}: {message}", at(span)));
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(e) => return Err(failure(e.span().unwrap_or(0..0), e.message())),
    };
    let mut settings = Vec::new();
    let mut add = |prefix: &str, key: &Spanned<DeString<'_>>, value: &Spanned<DeValue<'_>>| {
        let name = format!("{prefix}{}", key.get_ref());
        let Some(value_text) = scalar(value.get_ref()) else {
            return Err(failure(value.span(), &format!("{name}: expected text or a number")));
        };
        if let Err(message) = check(&name, &value_text) {
            let span = if message.starts_with("unknown") { key.span() } else { value.span() };
            return Err(failure(span, &message));
        }
        settings.push(Setting { key: name, value: value_text, origin: at(key.span()) });
        Ok(())
    };
    for (key, value) in table.get_ref() {
        match (key.get_ref().as_ref(), value.get_ref()) {
            (LIMITS, DeValue::Table(limits)) => {
                for (key, value) in limits {
                    add("limits.", key, value)?;
                }
            }
            (LIMITS, _) => return Err(failure(value.span(), "limits: expected a table")),
            (known, _) if KEYS.contains(&known) => add("", key, value)?,
            (unknown, _) => {
                let message = format!("unknown key '{unknown}'");
                let known = KEYS.into_iter().chain([LIMITS]);
                let known_list = known.clone().collect::<Vec<_>>().join(", ");
                let hint = advice::suggestion(unknown, known)
                    .unwrap_or_else(|| format!("known keys: {known_list}"));
                return Err(failure(key.span(), &format!("{message} ({hint})")));
            }
        }
    }
    Ok(settings)
}

/// Returns a string or an integer as text.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Returns `FILE:LINE:COLUMN` of a byte offset, both counted from 1.
fn position(text: &str, name: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("{name}:{line}:{column}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        match parse(text, "f").expect_err(text) {
            Failure::Error { message, .. } => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn settings_have_the_position_of_their_keys() {
        let text =
            "# comment\nthreads = 4\nexternal-files = \"none\"\n[limits]\n  bitmaps = \"1k\"\n";
        let found = parse(text, "f").expect("parses");
        let shown: Vec<_> = found.iter().map(|s| (&*s.key, &*s.value, &*s.origin)).collect();
        for wanted in [
            ("threads", "4", "f:2:1"),
            ("external-files", "none", "f:3:1"),
            ("limits.bitmaps", "1k", "f:5:3"),
        ] {
            assert!(shown.contains(&wanted), "{shown:?}");
        }
        assert!(parse("", "f").expect("empty").is_empty());
    }

    #[test]
    fn errors_have_positions_and_suggestions() {
        for (text, wanted) in [
            ("thread = 4", "f:1:1: unknown key 'thread' (did you mean 'threads'?)"),
            ("\nverify = true", "f:2:1: unknown key 'verify' (known keys: color, external-files,"),
            ("threads = 40", "f:1:11: invalid value '40' for threads"),
            ("threads = [4]", "f:1:11: threads: expected text or a number"),
            ("sandbox = \"off\"", "f:1:11: the sandbox is switched off on the command line only"),
            ("color = \"é\"", "f:1:9: invalid value 'é' for color (one of: auto, always, never)"),
            ("limits = 4", "f:1:10: limits: expected a table"),
            ("[limits]\nbitmap = 4", "f:2:1: unknown limit 'bitmap' (did you mean 'bitmaps'?)"),
            ("[limits]\nbitmaps = \"x\"", "f:2:11: 'x' is not a number"),
            ("threads = 4\nthreads = 5", "f:2:1: duplicate key"),
            ("threads =", "f:1:10: "),
            ("threads = 4 5", "f:1:"),
        ] {
            let found = error(text);
            assert!(found.starts_with(wanted), "{text}: {found}");
        }
    }
}
