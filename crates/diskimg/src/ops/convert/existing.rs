//! Converting into a file or device that is there already (`-n`).

use super::input::Input;
use super::{Report, SECTOR, Settings, Sparse};
use crate::error::{Error, ErrorKind, Result};
use crate::model::format::Format;
use crate::model::image::Image;
use crate::open::OpenOptions;
use crate::storage::output::Output;
use crate::storage::source::{FileSource, Source};
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
/// made. What lies behind the source's end is task over.
fn rewrite(mut settings: Settings<'_>, mut input: Input, path: &Path) -> Result<Report> {
    let unsupported = |what: &str| {
        Error::unsupported(format!("the existing target has {what}"))
            .in_file(path)
            .hint("convert into a new file instead of using -n")
    };
    let old = open_old(settings.format, path, &unsupported)?;
    require_room(input.size(), old.size(), path)?;
    let mut options = old.layers().next().map(|layer| layer.create_options()).unwrap_or_default();
    options.extend(settings.options);
    settings.options = options;
    let size = old.size();
    // The source's last sector is the source's as a whole, as with qemu-img:
    // zeros fill it up. An image that follows starts with a sector.
    let from = input.size().next_multiple_of(SECTOR).min(size);
    if from < size && !(settings.target_is_zero && settings.sparse != Sparse::Off) {
        if !std::fs::metadata(path).is_ok_and(|m| m.is_file()) {
            return Err(unsupported(
                "more bytes than the source, on a device where they would be overwritten",
            ));
        }
        input.push(old, from..size)?;
    }
    input.pad_to(size);
    let output =
        Output::create(path).map_err(|e| Error::io("cannot create the output", e).in_file(path))?;
    settings.run(input, output, Some(size))
}

/// Opens the image that is to be rewritten, if it can be.
fn open_old(format: Format, path: &Path, unsupported: &dyn Fn(&str) -> Error) -> Result<Image> {
    let further_files = || unsupported("further files (extents or a data file)");
    let options = OpenOptions::new().format(format);
    let facts = options.clone().metadata_only(true).open(path)?.info(0)?;
    if facts.backing_filename.is_some() {
        return Err(unsupported("a backing file"));
    }
    if !facts.snapshots.is_empty() {
        return Err(unsupported("internal snapshots, which would be lost"));
    }
    if facts.encrypted {
        return Err(unsupported("encryption"));
    }
    let old = options.open(path).map_err(|e| match e.kind() {
        // Without a backing file, only these can be elsewhere.
        ErrorKind::Refused => further_files(),
        _ => e,
    })?;
    // VirtualBox's children name no parent: it is found, or not, by its UUID.
    if old.layers().len() > 1 {
        return Err(unsupported("a backing file"));
    }
    if old.layers().any(|layer| layer.files().len() > 1) {
        return Err(further_files());
    }
    Ok(old)
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
