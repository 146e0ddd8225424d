//! Sparse bundle: Apple's sparse disk image in a directory, usually named `.sparsebundle` or, by
//! Time Machine, `.backupbundle`.
//!
//! ```text
//!   disk.sparsebundle/
//!     Info.plist   size of the disk, size of a band: the image's file
//!     Info.bckup   a copy of it
//!     token        empty, unless the disk is encrypted
//!     bands/
//!       0          first band of the disk
//!       2          third band; the second one is zeros
//!       1f         32nd band
//! ```
//!
//! A band is a file whose name is its number in hexadecimal digits, in lower case. A band without a
//! file is zeros, and so is what is beyond the end of its file.
//!
//! A bundle is opened by its directory or by its `Info.plist`. Apple has published no
//! specification; this is the format that libmodi's documentation describes (*Mac OS sparse bundle
//! format*).

mod bands;
mod check;
mod info_plist;
#[cfg(feature = "inspect")]
mod inspect;
mod layer;

use crate::open::driver::Driver;
use std::path::{Path, PathBuf};

/// The name of the property list in a bundle.
const INFO_PLIST: &str = "Info.plist";

/// The name of its copy.
const INFO_COPY: &str = "Info.bckup";

/// The name of the directory of the bands.
const BANDS: &str = "bands";

/// The name of the file that is not empty if the disk is encrypted.
const TOKEN: &str = "token";

/// The extensions of the names of bundles.
const EXTENSIONS: [&str; 2] = ["sparsebundle", "backupbundle"];

pub(crate) static DRIVER: Driver = Driver {
    probe: |buffer| info_plist::looks_like_one(buffer.head),
    // QEMU does not know the format.
    probe_like_qemu: |_| false,
    sector: 512,
    open: |source, context| {
        context.refuse_snapshot(crate::Format::Sparsebundle)?;
        Ok(std::sync::Arc::new(layer::SparseBundle::open(source, context)?))
    },
    #[cfg(feature = "inspect")]
    inspect: inspect::INSPECT,
    ..Driver::READ_ONLY
};

/// Returns the path of the property list if `path` is the directory of a bundle: `Info.plist` or,
/// if there is none, its copy.
pub(crate) fn file_of_bundle(path: &Path) -> Option<PathBuf> {
    if !path.is_dir() {
        return None;
    }
    let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
    let is_named = extension.is_some_and(|found| EXTENSIONS.iter().any(|known| found == *known));
    if !is_named && !path.join(BANDS).is_dir() {
        return None;
    }
    [INFO_PLIST, INFO_COPY].map(|name| path.join(name)).into_iter().find(|file| file.is_file())
}

/// Returns the directory of the bands, whose files are opened when they are read, if `path` is that
/// of a bundle or of its property list.
pub(crate) fn directory_read_later(path: &Path) -> Option<PathBuf> {
    let is_property_list = || {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| [INFO_PLIST, INFO_COPY].contains(&name))
    };
    let bundle = match file_of_bundle(path) {
        Some(_) => path,
        None if is_property_list() => path.parent()?,
        None => return None,
    };
    Some(bundle.join(BANDS)).filter(|bands| bands.is_dir())
}
