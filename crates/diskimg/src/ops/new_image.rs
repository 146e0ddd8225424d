//! What `convert` and `create` have in common: the size of a new image and its backing file.

use crate::error::{Error, Result};
use crate::model::backing::Backing;
use crate::model::format::Format;
use crate::model::image::Image;
use crate::model::options::{EXTENT_SIZE_HINT, NOCOW, Options};
use crate::open::OpenOptions;
use crate::open::external_files::{ExternalFiles, Resolver};
use crate::remedy::Remedy;
use crate::storage::hints::AllocationHints;
use crate::storage::output::{self, Output};
use crate::storage::sink::Cap;
use std::path::Path;
use std::sync::Arc;

/// Sector size of disks, in bytes.
pub(super) const SECTOR: u64 = 512;

/// Rounds `size` up to whole sectors of the format. Raw keeps any size.
///
/// # Errors
/// Returns [`Limit`](crate::ErrorKind::Limit) if the result exceeds `i64::MAX`.
pub(super) fn whole_size(format: Format, size: u64) -> Result<u64> {
    size.checked_next_multiple_of(format.driver().sector)
        .filter(|&size| size <= i64::MAX as u64)
        .ok_or_else(|| Error::limit(format!("a disk of {size} bytes is too large")))
}

/// Rounds the `size` of an empty disk up to whole sectors, also in raw images, as in QEMU.
///
/// # Errors
/// As [`whole_size`].
pub(super) fn new_disk_size(format: Format, size: u64) -> Result<u64> {
    whole_size(format, size.checked_next_multiple_of(SECTOR).unwrap_or(size))
}

/// Returns the cap for what is written to an output: the smaller of `max_size`, which the caller
/// set for the operation, and `output_bytes`, the [`Limits::output_bytes`] of the source.
///
/// [`Limits::output_bytes`]: crate::Limits::output_bytes
pub(super) fn max_size_cap(max_size: Option<u64>, output_bytes: u64) -> Option<Arc<Cap>> {
    let max_size = max_size.unwrap_or(u64::MAX);
    let max = max_size.min(output_bytes);
    let exceeded = move || {
        let found = "the output takes more bytes";
        let error = match max_size <= output_bytes {
            true => Error::limit(format!("{found}; its maximum size is {max}"))
                .with_remedy(Remedy::RaiseMaxSize),
            false => Error::over_limit("output_bytes", found, max),
        };
        std::io::Error::other(error)
    };
    (max < u64::MAX).then(|| Cap::new(max, exceeded))
}

/// Applies the options [`NOCOW`] and [`EXTENT_SIZE_HINT`] to the files of `output`.
///
/// # Errors
/// Returns [`Invalid`](crate::ErrorKind::Invalid) if a value is invalid.
pub(super) fn set_allocation_hints(output: &mut Output, options: &Options) -> Result<()> {
    output.set_allocation_hints(AllocationHints {
        no_copy_on_write: options.switch(NOCOW.name)?.unwrap_or(false),
        extent_size: options.size(EXTENT_SIZE_HINT.name)?.unwrap_or(0),
    });
    Ok(())
}

/// Takes `backing_file` and `backing_fmt` out of the options. An explicitly given
/// [`Convert::backing`](crate::Convert::backing) takes precedence.
pub(super) fn take_backing(options: &mut Options, backing: &mut Option<Backing>) {
    let name = options.take("backing_file");
    let format = options.take("backing_fmt");
    match backing {
        Some(backing) => {
            if backing.format.is_none() {
                backing.format = format;
            }
        }
        None => {
            *backing =
                name.filter(|n| !n.is_empty()).map(|name| Backing { format, ..Backing::new(name) });
        }
    }
    // QEMU does not know the other names of a format.
    if let Some(name) = backing.as_mut().and_then(|backing| backing.format.as_mut())
        && let Ok(format) = name.parse::<Format>()
    {
        *name = format.name().to_owned();
    }
}

/// Opens the backing file of a new image at `output`, and stores its content ID in `backing`.
pub(super) fn open_backing(
    backing: &mut Backing,
    output: Option<&Path>,
    options: &OpenOptions,
) -> Result<Image> {
    // The user names this file, not an image, so the policy does not apply to it.
    let resolver = Resolver::new(output, ExternalFiles::Any);
    let path = resolver.resolve("backing file", &backing.name)?;
    let format = backing.format.as_deref().map(Format::of_backing).transpose()?;
    let image = options.clone().format(format).open(&path)?;
    if image.format().driver().appliance.is_some() {
        return Err(Error::invalid("a disk of an appliance cannot be a backing file")
            .hint("no other program could open the new image: convert the disk first")
            .in_file(path));
    }
    let top = image.layers().next();
    backing.content_id = top.and_then(|layer| layer.content_ids().into_iter().next());
    backing.disk_id = top.and_then(|layer| layer.disk_id());
    backing.sector_sizes = top.and_then(|layer| layer.sector_sizes());
    Ok(image)
}

const OWN_BACKING_FILE: &str = "the output cannot be its own backing file";

/// Verifies that the output at `path` does not replace a file of its own backing chain.
///
/// # Errors
/// Returns [`Refused`](crate::ErrorKind::Refused) if it does.
pub(super) fn refuse_own_backing(path: Option<&Path>, backing: &Image) -> Result<()> {
    let replaced = path.and_then(output::existing_identity);
    if backing.shares_data_with(replaced.into_iter()) {
        return Err(Error::refused(OWN_BACKING_FILE));
    }
    Ok(())
}

/// Verifies that the output does not replace a file of its own backing chain. The main file is
/// checked now, each companion file when it is created.
///
/// # Errors
/// As [`refuse_own_backing`].
pub(super) fn protect_backing(output: &mut Output, backing: &Image) -> Result<()> {
    refuse_own_backing(output.path(), backing)?;
    output.protect(backing.identities(), OWN_BACKING_FILE);
    Ok(())
}
