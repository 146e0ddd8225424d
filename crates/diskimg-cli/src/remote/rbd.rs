//! Ceph's block devices.

use super::Known;
use diskimg_remote::rbd::Rbd;
use std::sync::Arc;

pub(super) const RBD: Known = Known {
    schemes: &["rbd"],
    protocol: |_| Arc::new(Rbd::new()),
    files: |_| Vec::new(),
    // A malformed URL is not opened.
    files_of: |_, url| Rbd::new().files(url).unwrap_or_default(),
    prepare: Rbd::load,
};
