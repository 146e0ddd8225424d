//! Writing guest data into an existing QED image.
//!
//! While the image is modified, its header says that it needs a check, because clusters are leaked
//! after a crash. A flag that was set before is kept: QEMU clears it after its own check.
//!
//! The name of the backing file is in the header, whose first sector refers to it: a new name is
//! written where the old one is not, and then the sector.

use super::header::{FEATURES_AT, Features, HEADER, MAX_BACKING_NAME, RawHeader};
use super::layer::Qed;
use crate::error::{Error, Result};
use crate::formats::two_level::edit::{ExistingImage, specify};
use crate::model::backing::Backing;
use crate::model::layer::Layer;
use crate::model::mutable::{MutableLayer, ResizeRequest, WriteRequest};
use crate::model::target::TargetSpec;
use crate::open::OpenContext;
use crate::open::limits::Limits;
use crate::storage::edit::{Edit, Edits, Storage};
use crate::storage::number::{to_index, to_u32, to_u64};
use crate::storage::source::Source;
use std::sync::Arc;
use zerocopy::FromBytes;

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
        .map_err(|e| Error::io("cannot read it", e).in_structure(HEADER))?;
    bytes[..8].copy_from_slice(&features.bits().to_le_bytes());
    bytes[16..].fill(0);
    Ok(Edit::Write { offset: FEATURES_AT, bytes })
}

impl MutableLayer for QedMut {
    fn resize(&mut self, request: &ResizeRequest<'_>) -> Result<()> {
        super::resize::resize(&self.image, &*self.storage, request, &self.limits)
    }

    fn backing_edits(&self, backing: Option<&Backing>) -> Result<Edits> {
        header_edits(&*self.storage, backing)
    }

    fn into_target(self: Box<Self>, request: &WriteRequest) -> Result<Option<Box<dyn TargetSpec>>> {
        if request.compress {
            return Err(Error::invalid("Compression not supported for this file format"));
        }
        let features = self.image.header.features;
        let existing = ExistingImage {
            has_backing: self.image.parent().is_some() || request.hides_backing,
            before: Some(set_features(&*self.storage, features | Features::NEED_CHECK)?),
            after: Some(set_features(&*self.storage, features)?),
            storage: Arc::clone(&self.storage),
        };
        specify(existing, &self.image.tables, false, &self.limits).map(Some)
    }
}

/// Length in bytes of what is written as a whole.
const SECTOR: usize = 512;

/// Returns the modifications that make the header refer to another backing file, or to none.
fn header_edits(storage: &dyn Storage, backing: Option<&Backing>) -> Result<Edits> {
    let name = backing.map_or(&[][..], |backing| backing.name.as_bytes());
    if name.len() > to_index(MAX_BACKING_NAME) {
        let message = format!("its name has more than {MAX_BACKING_NAME} bytes");
        return Err(Error::limit(message));
    }
    let mut sector = vec![0; SECTOR];
    storage
        .read_exact_at(&mut sector, 0)
        .map_err(|e| Error::io("cannot read it", e).in_structure(HEADER))?;
    let (raw, _) = RawHeader::mut_from_prefix(&mut sector)
        .map_err(|_| Error::corrupt(HEADER, "the file ends within it"))?;
    let header_bytes = u64::from(raw.cluster_size.get()) * u64::from(raw.header_size.get());
    let old = to_index(raw.backing_filename_offset.get());
    let old = old..old.saturating_add(to_index(raw.backing_filename_size.get()));
    // Where the name is, from sector 1 on, unless the old one is there.
    let at = match old.start < SECTOR + name.len() && old.end > SECTOR {
        true => old.end,
        false => SECTOR,
    };
    if to_u64(at.saturating_add(name.len())) > header_bytes {
        return Err(Error::limit("No space left in the file header"));
    }
    let mut features = Features::from_bits_retain(raw.features.get());
    features.set(Features::BACKING_FILE, backing.is_some());
    let is_raw = backing.is_some_and(|backing| backing.format.as_deref() == Some("raw"));
    features.set(Features::BACKING_IS_RAW, is_raw);
    raw.features = features.bits().into();
    raw.autoclear_features = 0.into();
    raw.backing_filename_offset = if name.is_empty() { 0 } else { to_u32(at) }.into();
    raw.backing_filename_size = to_u32(name.len()).into();
    let mut edits = Edits::new();
    if !name.is_empty() {
        edits.phase([Edit::Write { offset: to_u64(at), bytes: name.to_vec() }]);
    }
    edits.phase([Edit::Write { offset: 0, bytes: sector }]);
    Ok(edits)
}
