//! Modifying a QCOW version 1 image in place: writing guest data, and making it empty.

use super::layer::Qcow;
use crate::error::{Error, Result};
use crate::formats::two_level::edit::{ExistingImage, require_consistent, specify};
use crate::model::layer::Layer;
use crate::model::mutable::{MutableLayer, ResizeRequest, WriteRequest};
use crate::model::target::TargetSpec;
use crate::open::OpenContext;
use crate::open::limits::Limits;
use crate::storage::edit::{Edit, Edits, Storage};
use crate::storage::number::to_usize;
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

    fn make_empty(self: Box<Self>) -> Result<bool> {
        require_consistent(&self.image.tables, &self.limits)?;
        let location = &self.image.tables.location;
        let (l1_at, l1_bytes) = (location.l1_at, location.l1_bytes);
        let mut edits = Edits::new();
        edits.phase([Edit::Write { offset: l1_at, bytes: vec![0; to_usize(l1_bytes)] }]);
        let end = location.header_end.max(l1_at + l1_bytes);
        if !self.storage.has_fixed_len() && self.storage.current_len() > end {
            // Nothing refers to the L2 tables and clusters, which follow.
            edits.phase([Edit::SetLen(end)]);
        }
        edits.apply(&*self.storage).map_err(|e| Error::io("cannot modify the image", e))?;
        Ok(true)
    }
}
