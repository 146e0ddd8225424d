//! Reading of ISO 9660: volume descriptors, directories, Rock Ridge, Joliet.

mod both;
pub(crate) mod cue;
pub(crate) mod descriptor;
pub(crate) mod path_table;
pub(crate) mod record;
mod rock_ridge;
pub(crate) mod sectors;
pub(crate) mod sessions;
mod susp;
pub(crate) mod tree;
pub(crate) mod zisofs;

pub use descriptor::{VolumeDescriptor, VolumeKind};
pub use sessions::SessionInfo;
