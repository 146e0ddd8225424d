//! Writing guest data into an existing QCOW version 1 image.

use super::layer::Qcow;
use crate::error::{Error, Result};
use crate::formats::two_level::edit::{ExistingImage, specify};
use crate::model::layer::Layer;
use crate::model::mutable::{MutableLayer, ResizeRequest, WriteRequest};
use crate::model::target::TargetSpec;
use crate::open::OpenContext;
use crate::open::limits::Limits;
use crate::storage::edit::Storage;
use crate::storage::source::Source;
use std::sync::Arc;

/// An image open for modification.
#[derive(Debug)]
struct QcowMut {
    storage: Arc<dyn Storage>,
    image: Qcow,
    limits: Limits,
}

/// Opens an image for modification.
pub(super) fn open(
    storage: Arc<dyn Storage>,
    context: &OpenContext<'_>,
) -> Result<Box<dyn MutableLayer>> {
    let source: Arc<dyn Source> = storage.clone();
    let image = Qcow::open(source, context)?;
    if image.header.is_encrypted {
        let message = "an encrypted image cannot be modified in place yet";
        return Err(Error::unsupported(message));
    }
    Ok(Box::new(QcowMut { storage, image, limits: context.limits.clone() }))
}

impl MutableLayer for QcowMut {
    fn resize(&mut self, _: &ResizeRequest<'_>) -> Result<()> {
        Err(Error::unsupported("images of format qcow cannot be resized"))
    }

    fn into_target(self: Box<Self>, request: &WriteRequest) -> Result<Option<Box<dyn TargetSpec>>> {
        let existing = ExistingImage {
            has_backing: self.image.parent().is_some() || request.hides_backing,
            before: None,
            after: None,
            storage: Arc::clone(&self.storage),
        };
        specify(existing, &self.image.tables, request.compress, &self.limits).map(Some)
    }
}
