//! Ceph's block devices.

use super::{Known, NetworkArgs};
use diskimg::open::Protocol;
use diskimg_remote::rbd::Rbd;
use std::path::PathBuf;
use std::sync::Arc;

pub(super) const RBD: Known = Known { schemes: &["rbd"], protocol, files };

fn protocol(_: &NetworkArgs) -> Arc<dyn Protocol> {
    Arc::new(Rbd::new())
}

fn files(_: &NetworkArgs) -> Vec<PathBuf> {
    Vec::new()
}
