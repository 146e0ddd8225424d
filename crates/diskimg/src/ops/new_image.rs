//! What every new image starts with: its size, and the image it builds on.

use crate::error::{Error, Result};
use crate::model::format::Format;
use crate::model::image::Image;
use crate::model::options::Options;
use crate::model::target::Backing;
use crate::open::OpenOptions;
use crate::open::external_files::{ExternalFiles, Resolver};
use crate::open::limits::Limits;
use crate::storage::output::{self, Output};
use std::path::Path;

/// The size a new image gets: raw keeps any length, the others have whole sectors.
pub(super) fn whole_size(format: Format, size: u64) -> Result<u64> {
    size.checked_next_multiple_of(format.driver().sector)
        .filter(|&size| size <= i64::MAX as u64)
        .ok_or_else(|| Error::limit(format!("a disk of {size} bytes")))
}

/// `backing_file` and `backing_fmt` among the options mean the same as
/// [`Convert::backing`], which wins.
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
            *backing = name.filter(|n| !n.is_empty()).map(|name| Backing {
                name,
                format,
                content_id: None,
            })
        }
    }
}

/// Opens the image that a new one at `output` will build on, and notes its
/// content ID.
pub(super) fn open_backing(
    backing: &mut Backing,
    output: Option<&Path>,
    external_files: ExternalFiles,
    limits: &Limits,
) -> Result<Image> {
    // The user names this file, not an image: any file will do.
    let resolver = Resolver::new(output, ExternalFiles::Any);
    let path = resolver.resolve("backing file", &backing.name)?;
    let format = backing.format.as_deref().map(str::parse).transpose()?;
    let options = OpenOptions::new().format(format).external_files(external_files);
    let image = options.limits(limits.clone()).open(&path)?;
    if image.format().driver().appliance.is_some() {
        return Err(Error::invalid("a disk of an appliance cannot be a backing file")
            .hint("no other program could open the new image: convert the disk first")
            .in_file(path));
    }
    backing.content_id =
        image.layers().next().and_then(|layer| layer.content_ids().into_iter().next());
    Ok(image)
}

/// A backing file's name may lead to what is about to be replaced: the main
/// file is looked at now, each companion before it is opened.
pub(super) fn protect_backing(output: &mut Output, backing: &Image) -> Result<()> {
    const WHY: &str = "the output cannot be its own backing file";
    let replaced = output.path().and_then(output::existing_identity);
    if backing.identities().any(|own| Some(own) == replaced) {
        return Err(Error::refused(WHY));
    }
    output.protect(backing.identities(), WHY);
    Ok(())
}
