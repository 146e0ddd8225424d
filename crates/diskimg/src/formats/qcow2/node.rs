//! What the caller's description of an image says about it: its encryption and data file.

use super::encryption::Encryption;
use super::header::Header;
use crate::error::{Error, Result};
use crate::open::OpenContext;
use crate::storage::source::Source;
use std::sync::Arc;

/// Opens the external data file: the one that the caller describes or, under the policy, the one
/// that the image names.
pub(super) fn open_data_file(
    header: &Header,
    context: &OpenContext<'_>,
) -> Result<Arc<dyn Source>> {
    if let Some(file) = context.node.and_then(|node| node.data_file.as_ref()) {
        return Ok(Arc::clone(file));
    }
    let Some(name) = &header.extensions.data_file else {
        return Err(Error::corrupt("header", "the external data file has no name"));
    };
    context.resolver.open("data file", name)
}

/// Checks what the caller's description says about the image.
///
/// # Errors
/// Returns [`Invalid`](crate::ErrorKind::Invalid) if the image is encrypted in another way, if there
/// is no such secret, or if the image has no external data file.
pub(super) fn check(header: &Header, context: &OpenContext<'_>) -> Result<()> {
    let Some(node) = context.node else { return Ok(()) };
    let found = header.encryption.map(Encryption::name);
    match (node.encryption.as_deref(), found) {
        (Some(given), None) => {
            return Err(Error::invalid(format!(
                "No encryption in image header, but options specified format '{given}'"
            )));
        }
        (Some(given), Some(found)) if given != found => {
            return Err(Error::invalid(format!(
                "Header reported '{found}' encryption format but options specify '{given}'"
            )));
        }
        _ => {}
    }
    if let (Some(id), Some(_), false) = (&node.key_secret, found, context.metadata_only) {
        context.secrets.require(id)?;
    }
    match node.data_file.is_some() && !header.external_data() {
        true => {
            Err(Error::invalid("'data-file' can only be set for images with an external data file"))
        }
        false => Ok(()),
    }
}
