//! What an ISO image says of itself.

use crate::error::Result;
use crate::iso::boot::{BootCatalog, SystemArea};
use crate::iso::image::{IsoImage, Namespace};
use crate::iso::read::VolumeDescriptor;
use crate::iso::read::sessions::SessionInfo;
use crate::iso::udf::UdfInfo;
use serde::Serialize;

/// What an ISO image says of itself, without a look at its files.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct IsoInfo {
    /// The volume's name: Joliet's and UDF's where the primary descriptor has none.
    pub label: String,
    /// The name space that is shown.
    pub namespace: Namespace,
    /// All that could be shown.
    pub namespaces: Vec<Namespace>,
    /// Bytes of the image, in sectors of 2048.
    pub image_bytes: u64,
    /// Bytes of the volume. More than the image has if it was cut short; fewer if something
    /// follows: partitions, padding.
    pub volume_bytes: u64,
    /// The volume descriptors of the session that is shown.
    pub volumes: Vec<VolumeDescriptor>,
    /// What UDF says of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udf: Option<UdfInfo>,
    /// El Torito's boot catalog, where it can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootCatalog>,
    /// MBR, GPT and Apple partition map.
    pub system_area: SystemArea,
    /// Sessions, the first one first.
    pub sessions: Vec<SessionInfo>,
}

impl IsoInfo {
    pub(crate) fn of(image: &IsoImage) -> Result<Self> {
        let volumes = image.descriptors.volumes.clone();
        let udf = image.udf.as_ref().map(|udf| udf.info().clone());
        let labels = volumes.iter().map(|volume| &volume.volume_id);
        let label = labels.chain(udf.iter().map(|udf| &udf.label)).find(|label| !label.is_empty());
        let label = label.cloned().unwrap_or_default();
        // A damaged catalog is a finding of `verify`, and hides nothing else.
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
