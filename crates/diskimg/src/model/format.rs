//! The disk image formats, by name. What each can do is in the table, [`open::driver`].
//!
//! [`open::driver`]: crate::open

use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// A disk image format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Format {
    /// The guest's bytes and nothing else.
    #[default]
    Raw,
    /// QEMU's copy-on-write format, versions 2 and 3.
    Qcow2,
    /// VMware's virtual disk.
    Vmdk,
    /// A virtual appliance: an OVF package, as one archive (OVA) or as files
    /// beside their descriptor. It holds any number of disks.
    Ova,
    /// An ISO 9660 or UDF file system: its bytes are the guest's. What is in it, [`iso`](crate::iso)
    /// tells.
    Iso,
}

impl Format {
    /// Every format, in the order in which they are probed.
    pub const ALL: &'static [Self] = &[Self::Qcow2, Self::Vmdk, Self::Ova, Self::Iso, Self::Raw];

    /// The format's name, as `-f` and `-O` of qemu-img take it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Ova => "ova",
            Self::Iso => "iso",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.iter().copied().find(|f| f.name() == name).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|f| f.name()).collect();
            Error::invalid(format!("Unknown driver '{name}'"))
                .hint(format!("known formats: {}", known.join(", ")))
        })
    }
}
