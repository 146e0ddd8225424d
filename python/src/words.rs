//! The enumerations of the library as Python sees them: arguments and results that are one of
//! several words. `_types.py` lists the words for type checkers; a test compares the two.

use crate::errors::exception;
use diskimg::check::RepairScope;
use diskimg::inspection::Code;
use diskimg::iso::write::{CylinderAlignment, Emulation, Hide, Joliet, RockRidge};
use diskimg::iso::{Droppable, Namespace};
use diskimg::preflight::{Code as PreflightCode, Consumer};
use diskimg::{DigestAlgorithm, Error, ExternalFiles, Format, Preallocation, Reflink, Severity};
use pyo3::prelude::*;
use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

/// An enumeration: its name in `_types.py`, its words, and how a word is parsed.
struct Enumeration {
    name: &'static str,
    words: fn() -> Vec<String>,
    parse: fn(&str) -> Option<String>,
}

fn parse<T: FromStr<Err = Error> + Display>(text: &str) -> Option<String> {
    text.parse().ok().map(|value: T| value.to_string())
}

macro_rules! enumerations {
    ($($name:literal = $type:ty),+ $(,)?) => {
        &[$(Enumeration {
            name: $name,
            words: || <$type>::ALL.iter().map(ToString::to_string).collect(),
            parse: parse::<$type>,
        }),+]
    };
}

const ENUMERATIONS: &[Enumeration] = enumerations! {
    "Format" = Format,
    "ExternalFiles" = ExternalFiles,
    "Reflink" = Reflink,
    "DigestAlgorithm" = DigestAlgorithm,
    "Preallocation" = Preallocation,
    "RepairScope" = RepairScope,
    "Severity" = Severity,
    "CylinderAlignment" = CylinderAlignment,
    "Droppable" = Droppable,
    "Emulation" = Emulation,
    "FindingCode" = Code,
    "Consumer" = Consumer,
    "PreflightCode" = PreflightCode,
    "Hide" = Hide,
    "JolietMode" = Joliet,
    "NamespaceChoice" = Namespace,
    "RockRidgeMode" = RockRidge,
};

/// Returns the enumerations with their words.
#[pyfunction]
pub(crate) fn words() -> Vec<(&'static str, Vec<String>)> {
    ENUMERATIONS.iter().map(|one| (one.name, (one.words)())).collect()
}

/// Returns the word of the enumeration `name` that `text` means, in any case, or `None`.
#[pyfunction]
pub(crate) fn word(name: &str, text: &str) -> Option<String> {
    let enumeration = ENUMERATIONS.iter().find(|one| one.name == name)?;
    (enumeration.parse)(text).or_else(|| (enumeration.parse)(&text.to_lowercase()))
}

/// Returns the format that a new file of this name has unless another is given.
///
/// # Errors
/// Raises `UnsupportedError` if its extension is that of a format that is not supported.
#[pyfunction]
pub(crate) fn format_of_name(py: Python<'_>, name: PathBuf) -> PyResult<&'static str> {
    let format = Format::of_new_file(&name).map_err(|error| exception(py, &error))?;
    Ok(format.name())
}
