//! Converting into a file or device that is there already (`-n`).

use super::input::Input;
use super::{Report, Settings, Sparse};
use crate::host::output::Output;
use crate::host::source::{FileSource, Source};
use crate::vocabulary::error::{Error, Result};
use crate::vocabulary::format::Format;
use crate::vocabulary::open::OpenOptions;
use std::path::Path;

pub(super) fn run(settings: Settings<'_>, input: Input, path: &Path) -> Result<Report> {
    if settings.backing.is_some() {
        return Err(Error::invalid("a target that exists keeps its own backing file")
            .in_file(path)
            .hint("-B and -n exclude each other"));
    }
    if settings.format.driver().appliance.is_some() {
        let message = format!("{} files are always written anew", settings.format);
        return Err(Error::invalid(message).in_file(path).hint("leave out -n"));
    }
    if settings.format == Format::default() {
        overwrite(settings, input, path)
    } else {
        rewrite(settings, input, path)
    }
}

/// Raw: writes the bytes where they belong.
fn overwrite(settings: Settings<'_>, input: Input, path: &Path) -> Result<Report> {
    let cannot = |e| Error::io("cannot open the existing target", e).in_file(path);
    let size = FileSource::open(path).map_err(cannot)?.len();
    require_room(input.size(), size, path)?;
    let output = Output::in_place(path, settings.target_is_zero).map_err(cannot)?;
    settings.run(input, output, Some(size))
}

/// Other formats: builds the image anew beside the old one, as the old one was
/// made. What lies behind the source's end is carried over.
fn rewrite(mut settings: Settings<'_>, mut input: Input, path: &Path) -> Result<Report> {
    let old = OpenOptions::new().format(settings.format).metadata_only(true).open(path)?;
    let unsupported = |what: &str| {
        Err(Error::unsupported(format!("the existing target has {what}"))
            .in_file(path)
            .hint("convert into a new file instead of using -n"))
    };
    let details = old.info(0)?;
    if details.backing_filename.is_some() {
        return unsupported("a backing file");
    }
    if !details.snapshots.is_empty() {
        return unsupported("internal snapshots, which would be lost");
    }
    if details.children.len() > 1 || details.encrypted {
        return unsupported("further files (data file, extents) or encryption");
    }
    let old = OpenOptions::new().format(settings.format).open(path)?;
    require_room(input.size(), old.size(), path)?;
    let mut options = old.layers().next().map(|layer| layer.create_options()).unwrap_or_default();
    options.extend(settings.options);
    settings.options = options;
    let (from, size) = (input.size(), old.size());
    if settings.target_is_zero && settings.sparse != Sparse::Off {
        drop(old);
    } else if from < size && !std::fs::metadata(path).is_ok_and(|m| m.is_file()) {
        return unsupported(
            "more bytes than the source, on a device where they would be overwritten",
        );
    } else {
        input.push(old, from.min(size)..size)?;
    }
    let output =
        Output::create(path).map_err(|e| Error::io("cannot create the output", e).in_file(path))?;
    settings.run(input, output, Some(size))
}

fn require_room(wanted: u64, size: u64, path: &Path) -> Result<()> {
    if wanted > size {
        return Err(Error::invalid(format!(
            "the existing target has {size} bytes, the source needs {wanted}"
        ))
        .in_file(path));
    }
    Ok(())
}
