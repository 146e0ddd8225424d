//! Information about an ISO image.

use crate::error::Result;
use crate::iso::boot::{BootCatalog, SystemArea};
use crate::iso::image::{IsoImage, Namespace};
use crate::iso::read::VolumeDescriptor;
use crate::iso::read::sessions::SessionInfo;
use crate::iso::udf::UdfInfo;
use serde::Serialize;

/// Information about an ISO image, without reading its files.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct IsoInfo {
    /// Volume identifier: that of the first volume descriptor that has one, else UDF's.
    pub label: String,
    /// The selected name space.
    pub namespace: Namespace,
    /// All namespaces that can be selected.
    pub namespaces: Vec<Namespace>,
    /// Length of the image in bytes, as sectors of 2048 bytes.
    pub image_bytes: u64,
    /// Length of the volume in bytes. Greater than the image's length if the image is truncated;
    /// less if partitions or padding follow the volume.
    pub volume_bytes: u64,
    /// The volume descriptors of the selected session.
    pub volumes: Vec<VolumeDescriptor>,
    /// The UDF volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udf: Option<UdfInfo>,
    /// The El Torito boot catalog, if it can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootCatalog>,
    /// MBR, GPT and Apple partition map.
    pub system_area: SystemArea,
    /// Sessions, in recorded order.
    pub sessions: Vec<SessionInfo>,
}

impl IsoInfo {
    pub(crate) fn of(image: &IsoImage) -> Result<Self> {
        let volumes = image.descriptors.volumes.clone();
        let udf = image.udf.as_ref().map(|udf| udf.info().clone());
        let labels = volumes.iter().map(|volume| &volume.volume_id);
        let label = labels.chain(udf.iter().map(|udf| &udf.label)).find(|label| !label.is_empty());
        let label = label.cloned().unwrap_or_default();
        // `verify` reports a damaged catalog; here it must not prevent the rest from being shown.
        let boot = image.readable_boot_catalog()?;
        Ok(Self {
            label,
            namespace: image.namespace(),
            namespaces: image.namespaces().collect(),
            image_bytes: image.source.len(),
            volume_bytes: volumes.first().map_or(image.source.len(), VolumeDescriptor::bytes),
            volumes,
            udf,
            system_area: SystemArea::read(&*image.source, boot.as_ref())?,
            boot,
            sessions: image.sessions().to_vec(),
        })
    }
}
