//! The forms in which a raw disk can be written.

use crate::error::{Error, Result};

/// The form of a new raw image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Subformat {
    /// The bytes of the disk.
    #[default]
    Flat,
    /// Compressed by gzip.
    Gzip,
    /// Compressed by zstd.
    Zstd,
    /// What Google Compute Engine imports: `disk.raw` in a tar archive, compressed by gzip.
    Gce,
}

impl Subformat {
    const ALL: [Self; 4] = [Self::Flat, Self::Gzip, Self::Zstd, Self::Gce];

    fn name(self) -> &'static str {
        match self {
            Self::Flat => "flat",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Gce => "gce",
        }
    }

    /// Parses the create option `subformat`.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) for an unknown name.
    pub(super) fn parse(name: Option<&str>) -> Result<Self> {
        let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(Self::Flat) };
        Self::ALL.into_iter().find(|known| known.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            Error::invalid(format!("unknown subformat '{name}'")).hint(format!("one of {known}"))
        })
    }
}
