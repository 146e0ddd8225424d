//! Defaults of options, from the configuration file and from the environment.
//!
//! ```text
//!   config.toml  <  environment  <  command line
//! ```
//!
//! Only diskimg itself has them: programs that run it as qemu-img or mkisofs expect exactly what the
//! command line says. A setting can make diskimg stricter or its output different to look at; none
//! changes what an image contains, or switches the sandbox off.

mod file;

use crate::args::advice;
use crate::confine::Sandbox;
use crate::failure::Failure;
use crate::output::color::When;
use clap::ValueEnum;
use diskimg::{ExternalFiles, Limits, parse_size};
use std::ffi::OsString;
use std::path::PathBuf;

/// The keys of the configuration file, except the table `limits`. Each is the name of an option and,
/// as `DISKIMG_` with the name in upper case, a variable.
const KEYS: [&str; 4] = ["color", "external-files", "sandbox", "threads"];

/// The table of limits.
const LIMITS: &str = "limits";

/// The defaults of options.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    /// The configuration file, if there is one.
    pub(crate) file: Option<PathBuf>,
    /// The values, of which later ones replace earlier ones.
    values: Vec<Setting>,
}

/// A default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    /// One of [`KEYS`], or `limits.NAME`.
    pub(crate) key: String,
    pub(crate) value: String,
    /// Where it is set: `FILE:LINE:COLUMN`, or the name of a variable.
    pub(crate) origin: String,
}

impl Settings {
    /// Reads the configuration file and the environment, unless `argv` has `--no-config`.
    ///
    /// # Errors
    /// If the file cannot be read or trusted, or if a key or a value is invalid.
    pub(crate) fn load(argv: &[OsString]) -> Result<Self, Failure> {
        let mut options = argv.iter().take_while(|word| *word != "--");
        if options.any(|word| word == "--no-config") {
            return Ok(Self::default());
        }
        let mut settings = Self::default();
        if let Some(path) = file::path()? {
            settings.values = file::read(&path)?;
            settings.file = Some(path);
        }
        settings.values.extend(from_environment()?);
        Ok(settings)
    }

    /// Returns the values in effect, in the order of their keys.
    pub(crate) fn in_effect(&self) -> Vec<&Setting> {
        let mut values: Vec<&Setting> = Vec::new();
        for setting in &self.values {
            values.retain(|other| other.key != setting.key);
            values.push(setting);
        }
        values.sort_by_key(|setting| (setting.key.starts_with(LIMITS), &setting.key));
        values
    }

    fn get(&self, key: &str) -> Option<&str> {
        let found = self.values.iter().rev().find(|setting| setting.key == key);
        found.map(|setting| setting.value.as_str())
    }

    /// When colors are used.
    pub(crate) fn color(&self) -> Option<When> {
        When::from_str(self.get("color")?, false).ok()
    }

    /// The sandbox, for commands that are parsed without clap.
    pub(crate) fn sandbox(&self) -> Option<Sandbox> {
        Sandbox::from_str(self.get("sandbox")?, false).ok()
    }

    /// Makes the values defaults of the options in `grammar`.
    pub(crate) fn apply(&self, grammar: clap::Command) -> clap::Command {
        let limits: Vec<_> = self.values.iter().filter_map(Setting::limit).collect();
        let set = |arg: clap::Arg| {
            let value = match arg.get_id().as_str() {
                "configured" if !limits.is_empty() => return arg.default_values(limits.clone()),
                "external_files" => self.get("external-files"),
                id @ ("sandbox" | "threads") => self.get(id),
                _ => None,
            };
            match value {
                Some(value) => arg.default_value(value.to_owned()).hide_default_value(true),
                None => arg,
            }
        };
        let nested = |command: clap::Command| command.mut_args(set);
        grammar.mut_args(set).mut_subcommands(|command| {
            let command = command.mut_args(set);
            command.mut_subcommands(nested)
        })
    }
}

impl Setting {
    /// Returns `NAME=VALUE` if it is a limit.
    fn limit(&self) -> Option<String> {
        let name = self.key.strip_prefix(LIMITS)?.strip_prefix('.')?;
        Some(format!("{name}={}", self.value))
    }
}

/// Returns the settings in the environment. An empty variable counts as unset.
fn from_environment() -> Result<Vec<Setting>, Failure> {
    let mut settings = Vec::new();
    for key in KEYS.into_iter().chain([LIMITS]) {
        let origin = format!("DISKIMG_{}", key.to_uppercase().replace('-', "_"));
        let Some(text) = std::env::var_os(&origin).filter(|text| !text.is_empty()) else {
            continue;
        };
        let text = text.to_string_lossy().into_owned();
        let pairs = match key {
            LIMITS => text.split(',').map(|pair| limit(pair, &origin)).collect::<Result<_, _>>()?,
            key => vec![(key.to_owned(), text)],
        };
        for (key, value) in pairs {
            check(&key, &value).map_err(|e| Failure::error(format!("{origin}: {e}")))?;
            settings.push(Setting { key, value, origin: origin.clone() });
        }
    }
    Ok(settings)
}

/// Parses `NAME=VALUE` of the variable `origin`.
fn limit(pair: &str, origin: &str) -> Result<(String, String), Failure> {
    match pair.trim().split_once('=') {
        Some((name, value)) => Ok((format!("{LIMITS}.{name}"), value.to_owned())),
        None => Err(Failure::error(format!("{origin}: '{pair}': expected NAME=VALUE,..."))),
    }
}

/// Checks a value.
///
/// # Errors
/// What is wrong with it.
fn check(key: &str, value: &str) -> Result<(), String> {
    let one_of = |known: &[&str]| match known.contains(&value) {
        true => Ok(()),
        false => {
            let message = format!("invalid value '{value}' for {key}");
            Err(format!("{message} (one of: {})", known.join(", ")))
        }
    };
    match key {
        "color" => one_of(&["auto", "always", "never"]),
        "external-files" => {
            one_of(&ExternalFiles::ALL.iter().map(|v| v.name()).collect::<Vec<_>>())
        }
        "sandbox" if value == "off" => {
            Err("the sandbox is switched off on the command line only: --sandbox=off".to_owned())
        }
        "sandbox" => one_of(&["on", "require"]),
        "threads" => match value.parse() {
            Ok(1..=16_u32) => Ok(()),
            _ => Err(format!("invalid value '{value}' for threads (1 to 16)")),
        },
        limit => check_limit(limit.strip_prefix("limits.").unwrap_or(limit), value),
    }
}

fn check_limit(name: &str, value: &str) -> Result<(), String> {
    if !Limits::names().contains(&name) {
        let message = format!("unknown limit '{name}'");
        return Err(advice::with_suggestion(message, name, Limits::names()));
    }
    match parse_size(value) {
        Some(_) => Ok(()),
        None => Err(format!("'{value}' is not a number, which may end in k, M, G, T, P or E")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_value_replaces_an_earlier_one_of_the_same_key() {
        let setting = |key: &str, value: &str| Setting {
            key: key.into(),
            value: value.into(),
            origin: String::new(),
        };
        let values = vec![
            setting("limits.bitmaps", "1"),
            setting("threads", "2"),
            setting("limits.snapshots", "3"),
            setting("threads", "4"),
        ];
        let settings = Settings { file: None, values };
        let shown: Vec<_> = settings.in_effect().into_iter().map(|s| s.value.as_str()).collect();
        assert_eq!(shown, ["4", "1", "3"]);
        assert_eq!(settings.get("threads"), Some("4"));
    }

    #[test]
    fn values_are_checked() {
        for (key, value) in [
            ("color", "always"),
            ("external-files", "same-dir"),
            ("sandbox", "require"),
            ("threads", "16"),
            ("limits.table_bytes", "64M"),
        ] {
            check(key, value).expect(key);
        }
        for (key, value) in [
            ("color", "blue"),
            ("external-files", "some"),
            ("sandbox", "off"),
            ("threads", "0"),
            ("limits.table_byte", "64M"),
            ("limits.table_bytes", "much"),
        ] {
            check(key, value).expect_err(key);
        }
    }
}
