//! An existing image as the target of a conversion, before anything is written.

use super::write::Writer;
use super::{BitmapChanges, Disk, Qcow2Mut};
use crate::error::{Error, Result};
use crate::formats::qcow2::target::cluster_encoder;
use crate::model::bitmap::DirtyBitmap;
use crate::model::layer::Layer;
use crate::model::mutable::WriteRequest;
use crate::model::target::{Target, TargetSpec, UnitEncoder};
use crate::storage::codec::Codec;
use crate::storage::edit::{FileStorage, Storage};
use crate::storage::lock;
use crate::storage::output::Output;
use crate::storage::source::Source;
use std::sync::{Arc, Mutex};

/// Specifies the image as a target.
pub(super) fn specify(mut image: Qcow2Mut, request: &WriteRequest) -> Result<Box<dyn TargetSpec>> {
    let header = image.header();
    if request.compress && header.external_data() {
        let message = "an image with an external data file cannot have compressed clusters";
        return Err(Error::unsupported(message));
    }
    let spec = ExistingSpec {
        size: header.size,
        quantum: header.cluster_size(),
        codec: request.compress.then_some(header.codec),
        hides_backing: request.hides_backing,
        bitmaps: Vec::new(),
        image: Mutex::default(),
    };
    if let Some(file) = image.old.files().get(1) {
        image.data_file = Some(open_data_file(&**file, true)?);
    }
    *lock(&spec.image) = Some(image);
    Ok(Box::new(spec))
}

/// Opens the external data file for writing, and locks it if `locks` is set.
pub(super) fn open_data_file(file: &dyn Source, locks: bool) -> Result<Arc<dyn Storage>> {
    let Some(path) = file.path() else {
        return Err(Error::unsupported("the external data file is not a file of this host"));
    };
    let reopen = if locks { FileStorage::reopen } else { FileStorage::reopen_unlocked };
    let storage = reopen(path, file)
        .map_err(|e| Error::io("cannot open the external data file", e).in_file(path))?;
    Ok(Arc::new(storage))
}

#[derive(Debug)]
struct ExistingSpec {
    size: u64,
    quantum: u64,
    /// The codec, if clusters are compressed.
    codec: Option<Codec>,
    /// The image is about to get a backing file.
    hides_backing: bool,
    /// The bitmaps that are added.
    bitmaps: Vec<DirtyBitmap>,
    /// Taken when writing starts.
    image: Mutex<Option<Qcow2Mut>>,
}

impl TargetSpec for ExistingSpec {
    fn size(&self) -> u64 {
        self.size
    }

    fn quantum(&self) -> u64 {
        self.quantum
    }

    fn alignment(&self) -> u64 {
        self.quantum
    }

    fn encoder(&self) -> Option<Box<dyn UnitEncoder>> {
        self.codec.map(cluster_encoder)
    }

    fn set_bitmaps(&mut self, bitmaps: Vec<DirtyBitmap>) -> Result<bool> {
        if let Some(image) = &*lock(&self.image) {
            let mut changes = BitmapChanges::of(image)?;
            if !changes.add_copies(Disk::of(image.header()), bitmaps.clone())? {
                return Ok(false);
            }
        }
        self.bitmaps = bitmaps;
        Ok(true)
    }

    fn start(&self, _: &mut Output) -> Result<Box<dyn Target>> {
        let image = lock(&self.image).take();
        let image = image.ok_or_else(|| Error::invalid("the image is being written already"))?;
        let mut writer = Writer::start(image, self.hides_backing)?;
        writer.new_bitmaps.clone_from(&self.bitmaps);
        Ok(Box::new(writer))
    }
}
