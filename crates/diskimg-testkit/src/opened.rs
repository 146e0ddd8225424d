//! Opens an image by `pread` and by `mmap`, and verifies that both keep what every format promises.

use diskimg::{Error, Image, OpenOptions, conformance};
use std::path::Path;

/// The same, with files mapped.
pub fn mapped(options: &OpenOptions) -> OpenOptions {
    // SAFETY: tests open images in folders of their own, and change none while it is open.
    #[allow(unsafe_code)]
    unsafe {
        options.clone().memory_map()
    }
}

/// Opens an image both ways, and holds both to all promises and against each
/// other. Gives the one that is read with `pread`.
pub fn try_verified(options: &OpenOptions, path: impl AsRef<Path>) -> Result<Image, Error> {
    let image = options.open(&path)?;
    conformance::verify(&image)?;
    let other = mapped(options).open(&path)?;
    conformance::verify(&other)?;
    conformance::verify_alike(&image, &other)?;
    Ok(image)
}

/// As [`try_verified`], of an image with nothing wrong.
pub fn verified(options: &OpenOptions, path: impl AsRef<Path>) -> Image {
    try_verified(options, path).unwrap_or_else(|e| panic!("{e}"))
}
