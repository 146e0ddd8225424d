//! Writing guest data into an existing QED image.
//!
//! While the image is modified, its header says that it needs a check, because clusters are leaked
//! after a crash. A flag that was set before is kept: QEMU clears it after its own check.

use super::header::{FEATURES_AT, Features};
use super::layer::Qed;
use crate::error::{Error, Result};
use crate::formats::two_level::edit::{ExistingImage, specify};
use crate::model::layer::Layer;
use crate::model::mutable::{MutableLayer, ResizeRequest, WriteRequest};
use crate::model::target::TargetSpec;
use crate::open::OpenContext;
use crate::open::limits::Limits;
use crate::storage::edit::{Edit, Storage};
use crate::storage::source::Source;
use std::sync::Arc;

/// An image open for modification.
#[derive(Debug)]
struct QedMut {
    storage: Arc<dyn Storage>,
    image: Qed,
    limits: Limits,
}

/// Opens an image for modification.
pub(super) fn open(
    storage: Arc<dyn Storage>,
    context: &OpenContext<'_>,
) -> Result<Box<dyn MutableLayer>> {
    let source: Arc<dyn Source> = storage.clone();
    let image = Qed::open(source, context)?;
    Ok(Box::new(QedMut { storage, image, limits: context.limits.clone() }))
}

/// Returns the modification that sets the features. Unknown compatible features are kept, and unknown
/// autoclear features are cleared; there are no known ones.
pub(super) fn set_features(storage: &dyn Storage, features: Features) -> Result<Edit> {
    let mut bytes = vec![0; 24];
    storage
        .read_exact_at(&mut bytes, FEATURES_AT)
        .map_err(|e| Error::io("cannot read it", e).in_structure(super::header::HEADER))?;
    bytes[..8].copy_from_slice(&features.bits().to_le_bytes());
    bytes[16..].fill(0);
    Ok(Edit::Write { offset: FEATURES_AT, bytes })
}

impl MutableLayer for QedMut {
    fn resize(&mut self, _: &ResizeRequest<'_>) -> Result<()> {
        Err(Error::unsupported("images of format qed cannot be resized"))
    }

    fn into_target(self: Box<Self>, request: &WriteRequest) -> Result<Option<Box<dyn TargetSpec>>> {
        if request.compress {
            return Err(Error::invalid("Compression not supported for this file format"));
        }
        let features = self.image.header.features;
        let existing = ExistingImage {
            has_backing: self.image.parent().is_some(),
            before: Some(set_features(&*self.storage, features | Features::NEED_CHECK)?),
            after: Some(set_features(&*self.storage, features)?),
            storage: Arc::clone(&self.storage),
        };
        specify(existing, &self.image.tables, false, &self.limits).map(Some)
    }
}
