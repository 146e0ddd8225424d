//! The disk image formats and their names. The table of what each supports is in [`open`].
//!
//! [`open`]: crate::open

use crate::error::Result;
use std::fmt;
use std::path::Path;

/// A disk image format. A build includes the formats whose cargo features are enabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Format {
    /// The guest's bytes without metadata.
    #[default]
    Raw,
    /// QEMU's copy-on-write format, versions 2 and 3.
    #[cfg(feature = "qcow2")]
    Qcow2,
    /// VMware's virtual disk format.
    #[cfg(feature = "vmdk")]
    Vmdk,
    /// Microsoft's virtual hard disk of Virtual PC and Hyper-V, which QEMU calls `vpc`.
    #[cfg(feature = "vhd")]
    Vhd,
    /// The virtual hard disk of Hyper-V since Windows Server 2012.
    #[cfg(feature = "vhdx")]
    Vhdx,
    /// VirtualBox's virtual disk image.
    #[cfg(feature = "vdi")]
    Vdi,
    /// QEMU's enhanced disk format, which preceded version 3 of qcow2.
    #[cfg(feature = "qed")]
    Qed,
    /// Version 1 of QEMU's copy-on-write format.
    #[cfg(feature = "qcow")]
    Qcow,
    /// The virtual disk of Parallels Desktop and Virtuozzo: an expandable image, or a bundle of
    /// images.
    #[cfg(feature = "parallels")]
    Parallels,
    /// Apple's sparse disk image in one file.
    #[cfg(feature = "sparseimage")]
    Sparseimage,
    /// Apple's sparse disk image in a directory, whose bands are files.
    #[cfg(feature = "sparsebundle")]
    Sparsebundle,
    /// The Apple sparse image format of macOS 26.
    #[cfg(feature = "asif")]
    Asif,
    /// The Expert Witness Compression Format of EnCase and other forensic programs: one or more
    /// segments.
    #[cfg(feature = "ewf")]
    Ewf,
    /// The compressed loopback device of Knoppix, version 2.0.
    #[cfg(feature = "cloop")]
    Cloop,
    /// The growing disk image of Bochs.
    #[cfg(feature = "bochs")]
    Bochs,
    /// Apple's disk image in the Universal Disk Image Format.
    #[cfg(feature = "dmg")]
    Dmg,
    /// A virtual appliance: an OVF package, either one archive (OVA) or an OVF descriptor with its
    /// files. Contains any number of disks.
    #[cfg(feature = "ova")]
    Ova,
    /// An ISO 9660 or UDF file system. The file's bytes are the guest's bytes; [`iso`](crate::iso)
    /// reads the file system.
    #[cfg(feature = "iso")]
    Iso,
}

impl Format {
    /// All formats, in the order in which they are probed.
    pub const ALL: &'static [Self] = &[
        #[cfg(feature = "qcow2")]
        Self::Qcow2,
        #[cfg(feature = "vmdk")]
        Self::Vmdk,
        #[cfg(feature = "vhd")]
        Self::Vhd,
        #[cfg(feature = "vhdx")]
        Self::Vhdx,
        #[cfg(feature = "vdi")]
        Self::Vdi,
        #[cfg(feature = "qed")]
        Self::Qed,
        #[cfg(feature = "qcow")]
        Self::Qcow,
        #[cfg(feature = "parallels")]
        Self::Parallels,
        #[cfg(feature = "sparseimage")]
        Self::Sparseimage,
        #[cfg(feature = "sparsebundle")]
        Self::Sparsebundle,
        #[cfg(feature = "asif")]
        Self::Asif,
        #[cfg(feature = "ewf")]
        Self::Ewf,
        #[cfg(feature = "cloop")]
        Self::Cloop,
        #[cfg(feature = "bochs")]
        Self::Bochs,
        #[cfg(feature = "dmg")]
        Self::Dmg,
        #[cfg(feature = "ova")]
        Self::Ova,
        #[cfg(feature = "iso")]
        Self::Iso,
        Self::Raw,
    ];

    /// Names of the formats that this build does not include, and their cargo features.
    pub(crate) const LEFT_OUT: &'static [(&'static str, &'static str)] = &[
        #[cfg(not(feature = "qcow2"))]
        ("qcow2", "qcow2"),
        #[cfg(not(feature = "vmdk"))]
        ("vmdk", "vmdk"),
        #[cfg(not(feature = "vhd"))]
        ("vpc", "vhd"),
        #[cfg(not(feature = "vhd"))]
        ("vhd", "vhd"),
        #[cfg(not(feature = "vhdx"))]
        ("vhdx", "vhdx"),
        #[cfg(not(feature = "vdi"))]
        ("vdi", "vdi"),
        #[cfg(not(feature = "qed"))]
        ("qed", "qed"),
        #[cfg(not(feature = "qcow"))]
        ("qcow", "qcow"),
        #[cfg(not(feature = "parallels"))]
        ("parallels", "parallels"),
        #[cfg(not(feature = "parallels"))]
        ("ploop", "parallels"),
        #[cfg(not(feature = "sparseimage"))]
        ("sparseimage", "sparseimage"),
        #[cfg(not(feature = "sparsebundle"))]
        ("sparsebundle", "sparsebundle"),
        #[cfg(not(feature = "asif"))]
        ("asif", "asif"),
        #[cfg(not(feature = "ewf"))]
        ("ewf", "ewf"),
        #[cfg(not(feature = "cloop"))]
        ("cloop", "cloop"),
        #[cfg(not(feature = "bochs"))]
        ("bochs", "bochs"),
        #[cfg(not(feature = "dmg"))]
        ("dmg", "dmg"),
        #[cfg(not(feature = "ova"))]
        ("ova", "ova"),
        #[cfg(not(feature = "iso"))]
        ("iso", "iso"),
    ];

    /// Returns the format's name, as it is written on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            #[cfg(feature = "qcow2")]
            Self::Qcow2 => "qcow2",
            #[cfg(feature = "vmdk")]
            Self::Vmdk => "vmdk",
            #[cfg(feature = "vhd")]
            Self::Vhd => "vpc",
            #[cfg(feature = "vhdx")]
            Self::Vhdx => "vhdx",
            #[cfg(feature = "vdi")]
            Self::Vdi => "vdi",
            #[cfg(feature = "qed")]
            Self::Qed => "qed",
            #[cfg(feature = "qcow")]
            Self::Qcow => "qcow",
            #[cfg(feature = "parallels")]
            Self::Parallels => "parallels",
            #[cfg(feature = "sparseimage")]
            Self::Sparseimage => "sparseimage",
            #[cfg(feature = "sparsebundle")]
            Self::Sparsebundle => "sparsebundle",
            #[cfg(feature = "asif")]
            Self::Asif => "asif",
            #[cfg(feature = "ewf")]
            Self::Ewf => "ewf",
            #[cfg(feature = "cloop")]
            Self::Cloop => "cloop",
            #[cfg(feature = "bochs")]
            Self::Bochs => "bochs",
            #[cfg(feature = "dmg")]
            Self::Dmg => "dmg",
            #[cfg(feature = "ova")]
            Self::Ova => "ova",
            #[cfg(feature = "iso")]
            Self::Iso => "iso",
        }
    }

    /// Returns the name that OpenStack uses: `vhd` where QEMU says `vpc`, `ploop` where it says
    /// `parallels`, otherwise [`name`](Self::name).
    pub const fn openstack_name(self) -> &'static str {
        match self {
            #[cfg(feature = "vhd")]
            Self::Vhd => "vhd",
            #[cfg(feature = "parallels")]
            Self::Parallels => "ploop",
            _ => self.name(),
        }
    }

    /// Returns the format that new files with the extension of `path` usually have: `.qcow2`,
    /// `.vmdk`, `.vhd`, `.vhdx`, `.avhdx`, `.vdi`, `.qed`, `.hds` and `.hdd` (Parallels),
    /// `.sparseimage`, `.sparsebundle`, `.backupbundle`, `.asif`, `.e01` (EWF), `.cloop`, `.ova`
    /// and `.ovf` (an appliance), in any case. A file with another extension, such as `.img` or
    /// `.iso`, can have any format or is raw: `None`.
    ///
    /// This is a guess for files that will be created. The format of an existing file is in its
    /// contents.
    pub fn from_extension(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        match extension.as_str() {
            #[cfg(feature = "qcow2")]
            "qcow2" => Some(Self::Qcow2),
            #[cfg(feature = "vmdk")]
            "vmdk" => Some(Self::Vmdk),
            #[cfg(feature = "vhd")]
            "vhd" => Some(Self::Vhd),
            #[cfg(feature = "vhdx")]
            "vhdx" | "avhdx" => Some(Self::Vhdx),
            #[cfg(feature = "vdi")]
            "vdi" => Some(Self::Vdi),
            #[cfg(feature = "qed")]
            "qed" => Some(Self::Qed),
            #[cfg(feature = "parallels")]
            "hds" | "hdd" => Some(Self::Parallels),
            #[cfg(feature = "sparseimage")]
            "sparseimage" => Some(Self::Sparseimage),
            #[cfg(feature = "sparsebundle")]
            "sparsebundle" | "backupbundle" => Some(Self::Sparsebundle),
            #[cfg(feature = "asif")]
            "asif" => Some(Self::Asif),
            #[cfg(feature = "ewf")]
            "e01" | "s01" => Some(Self::Ewf),
            #[cfg(feature = "cloop")]
            "cloop" => Some(Self::Cloop),
            #[cfg(feature = "ova")]
            "ova" | "ovf" => Some(Self::Ova),
            _ => None,
        }
    }

    /// Returns the format of a backing file from the name that an image records. QEMU's drivers for
    /// files and devices stand for their bytes: libvirt and Cinder record `host_device`.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if no format has this name.
    pub(crate) fn of_backing(name: &str) -> Result<Self> {
        match name {
            "file" | "host_device" | "host_cdrom" => Ok(Self::Raw),
            name => name.parse(),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
