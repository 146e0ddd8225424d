//! Converts into an existing file or device (`-n`).

use super::input::Input;
use super::{Report, SECTOR, Settings, Sparse};
use crate::error::{Error, ErrorKind, Result};
use crate::model::format::Format;
use crate::model::image::Image;
use crate::open::OpenOptions;
use crate::remedy::Remedy;
use crate::storage::locking::Lock;
use crate::storage::output::Output;
use crate::storage::source::{FileSource, Source};
use std::path::Path;

/// Runs a conversion into the existing file or device at `path`.
pub(super) fn run(settings: Settings<'_>, input: Input, path: &Path) -> Result<Report> {
    if settings.backing.is_some() {
        return Err(Error::invalid("an existing target keeps its own backing file")
            .in_file(path)
            .with_remedy(Remedy::WriteNewImage));
    }
    if settings.format.driver().appliance.is_some() {
        let message = format!("existing {} files cannot be rewritten", settings.format);
        return Err(Error::invalid(message).in_file(path).with_remedy(Remedy::WriteNewImage));
    }
    if settings.format == Format::default() {
        overwrite(settings, input, path)
    } else {
        rewrite(settings, input, path)
    }
}

/// Overwrites a raw target in place.
fn overwrite(settings: Settings<'_>, input: Input, path: &Path) -> Result<Report> {
    let cannot_open = |e| Error::io("cannot open the existing target", e).in_file(path);
    let size = FileSource::open(path).map_err(cannot_open)?.len();
    require_room(input.size(), size, path)?;
    let output = Output::in_place(path, settings.target_is_zero).map_err(cannot_open)?;
    settings.run(input, output, Some(size))
}

/// Replaces a target of any other format with a new image that has the same create options. Data
/// beyond the end of the source is copied from the old image.
fn rewrite(mut settings: Settings<'_>, mut input: Input, path: &Path) -> Result<Report> {
    let unsupported = |what: &str| {
        Error::unsupported(format!("the existing target has {what}"))
            .in_file(path)
            .with_remedy(Remedy::WriteNewImage)
    };
    let old = open_old(settings.format, path, &unsupported)?;
    require_room(input.size(), old.size(), path)?;
    let mut options = old.layers().next().map(|layer| layer.create_options()).unwrap_or_default();
    options.extend(settings.options);
    settings.options = options;
    let size = old.size();
    // The last sector of the source is padded with zeros, as qemu-img does. The old image's data
    // starts at the next sector.
    let from = input.size().next_multiple_of(SECTOR).min(size);
    let output =
        Output::create(path).map_err(|e| Error::io("cannot create the output", e).in_file(path))?;
    if from < size && !(settings.target_is_zero && settings.sparse != Sparse::Off) {
        if !std::fs::metadata(path).is_ok_and(|m| m.is_file()) {
            return Err(unsupported(
                "more bytes than the source, on a device where they would be overwritten",
            ));
        }
        for file in old.layers().flat_map(|layer| layer.files()) {
            file.lock(Lock::READ).map_err(|e| Error::io("cannot lock it", e).in_file(path))?;
        }
        input.push(old, from..size)?;
    }
    input.pad_to(size);
    settings.run(input, output, Some(size))
}

/// Opens the image that is to be rewritten.
///
/// # Errors
/// Returns [`Unsupported`](crate::ErrorKind::Unsupported) if rewriting it would lose something.
fn open_old(format: Format, path: &Path, unsupported: &dyn Fn(&str) -> Error) -> Result<Image> {
    let further_files = || unsupported("further files (extents or a data file)");
    // Not locked yet: the output checks for locks of others, which this process's would prevent.
    let options = OpenOptions::new().format(format).force_share(true);
    let info = options.clone().metadata_only(true).strict(true).open(path)?.info(0)?;
    if info.backing_filename.is_some() {
        return Err(unsupported("a backing file"));
    }
    if !info.snapshots.is_empty() {
        return Err(unsupported("internal snapshots, which would be lost"));
    }
    if info.encrypted {
        return Err(unsupported("encryption"));
    }
    let old = options.open(path).map_err(|e| match e.kind() {
        // There is no backing file, so the policy can only have refused these.
        ErrorKind::Refused => further_files(),
        _ => e,
    })?;
    // VirtualBox's differencing images do not name their parent; it is found by its UUID.
    if old.layers().len() > 1 {
        return Err(unsupported("a backing file"));
    }
    if old.layers().any(|layer| layer.files().len() > 1) {
        return Err(further_files());
    }
    Ok(old)
}

/// # Errors
/// Returns [`Invalid`](crate::ErrorKind::Invalid) if `wanted` bytes do not fit into `size`.
fn require_room(wanted: u64, size: u64, path: &Path) -> Result<()> {
    if wanted > size {
        return Err(Error::invalid(format!(
            "the existing target has {size} bytes, but the source needs {wanted}"
        ))
        .in_file(path));
    }
    Ok(())
}
