//! The programs and clouds that receive images, and what each of them accepts.
//!
//! Sources: AWS, "VM Import/Export requirements"; Microsoft, "Prepare a Windows VHD to upload to
//! Azure", "Information for non-endorsed distributions"; VMware, "Virtual Disk Development Kit";
//! Google, "Manually import boot disks"; OpenStack Glance, `disk_formats` and
//! `vmdk_allowed_types`; Proxmox VE, `qm disk import`; oVirt, "Uploading images".

use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// Bytes of a mebibyte, a gibibyte and a tebibyte.
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// Largest disk that a VHD describes for Hyper-V.
pub(super) const MAX_VHD: u64 = 2040 * GIB;

/// Declares the consumers with documentation, name and title.
macro_rules! consumers {
    ($($(#[doc = $doc:literal])+ $consumer:ident = $name:literal, $title:literal;)+) => {
        /// A program or cloud that receives images. Consumers may be added.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Consumer { $($(#[doc = $doc])+ $consumer,)+ }

        impl Consumer {
            /// All consumers, by name.
            pub const ALL: &'static [Self] = &[$(Self::$consumer,)+];

            /// Returns the name for options and reports, in lower case.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$consumer => $name,)+ }
            }

            /// Returns the name for people.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$consumer => $title,)+ }
            }
        }
    };
}

consumers! {
    /// Amazon EC2: VM Import/Export (`ImportSnapshot`, `ImportImage`), or a snapshot written through
    /// the EBS direct APIs.
    Aws = "aws", "Amazon EC2";
    /// Microsoft Azure: a page blob or a managed disk.
    Azure = "azure", "Azure";
    /// A datastore of VMware ESXi, on which the disk is attached to a virtual machine.
    Esxi = "esxi", "ESXi";
    /// Google Compute Engine: `disk.raw` in a `.tar.gz` archive.
    Gcp = "gcp", "Compute Engine";
    /// OpenStack Glance with its default configuration.
    Glance = "glance", "Glance";
    /// Microsoft Hyper-V.
    Hyperv = "hyperv", "Hyper-V";
    /// oVirt and Red Hat Virtualization: an upload to a storage domain.
    Ovirt = "ovirt", "oVirt";
    /// Proxmox VE: `qm disk import`, or the import of an appliance.
    Proxmox = "proxmox", "Proxmox VE";
    /// Oracle VirtualBox.
    VirtualBox = "virtualbox", "VirtualBox";
    /// VMware vSphere: an import into the inventory or a content library.
    Vsphere = "vsphere", "vSphere";
    /// VMware Workstation, Player and Fusion.
    Workstation = "workstation", "Workstation";
}

impl fmt::Display for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Consumer {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.iter().copied().find(|consumer| consumer.name() == name).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|consumer| consumer.name()).collect();
            Error::invalid(format!("unknown consumer '{name}'"))
                .hint(format!("known consumers: {}", known.join(", ")))
        })
    }
}

/// Returns a size for people: in the largest unit of which it is a multiple.
pub(super) fn size_text(bytes: u64) -> String {
    let units = [(TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB")];
    match units.into_iter().find(|(unit, _)| bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{} {name}", bytes / unit),
        None => format!("{bytes} bytes"),
    }
}

/// A format that a consumer accepts.
#[derive(Debug)]
pub(super) struct Accepted {
    /// Name of the format, as in [`Format::name`](crate::Format::name).
    pub(super) format: &'static str,
    /// The variants; all if there are none. They are those of the options of new images.
    pub(super) variants: &'static [&'static str],
    /// How the format with its variants is called in messages.
    pub(super) text: &'static str,
}

const fn any(format: &'static str, text: &'static str) -> Accepted {
    Accepted { format, variants: &[], text }
}

const fn only(
    format: &'static str,
    variants: &'static [&'static str],
    text: &'static str,
) -> Accepted {
    Accepted { format, variants, text }
}

const RAW: Accepted = any("raw", "raw");
const QCOW2: Accepted = any("qcow2", "qcow2");
const OVA: Accepted = any("ova", "OVA");
const ISO: Accepted = any("iso", "ISO");
const VDI: Accepted = any("vdi", "VDI");
const STREAM: Accepted = only("vmdk", &["streamOptimized"], "streamOptimized VMDK");
const VHD: Accepted = only("vpc", &["dynamic", "fixed"], "VHD");
const VHDX: Accepted = only("vhdx", &["dynamic", "fixed"], "VHDX");

/// What a kernel needs to work in a virtual machine: one of the modules in each list.
#[derive(Debug)]
pub(super) struct Drivers {
    /// For the disk it boots from.
    pub(super) disk: &'static [&'static str],
    /// For the network.
    pub(super) network: &'static [&'static str],
}

/// Virtual machines of QEMU.
const QEMU: Drivers = Drivers {
    disk: &["virtio_blk", "virtio_scsi", "ahci", "ata_piix", "sym53c8xx"],
    network: &["virtio_net", "e1000", "e1000e", "8139cp", "8139too"],
};
const VMWARE: Drivers = Drivers {
    disk: &["vmw_pvscsi", "mptspi", "mptsas", "BusLogic", "ahci", "nvme", "ata_piix"],
    network: &["vmxnet3", "e1000e", "e1000", "pcnet32"],
};

/// What a consumer accepts.
#[derive(Debug)]
pub(super) struct Requirements {
    /// The formats; the first one is the best.
    pub(super) formats: &'static [Accepted],
    /// The size of the disk must be a multiple of this many bytes.
    pub(super) multiple: u64,
    /// Smallest and largest size of the disk in bytes.
    pub(super) sizes: (u64, u64),
    /// The size of the disk is rounded up to a multiple of this many bytes.
    pub(super) rounded: u64,
    /// Modules of Linux.
    pub(super) drivers: Drivers,
    /// What must be chosen for a disk that only UEFI firmware boots.
    pub(super) uefi: &'static str,
}

/// The requirements of most consumers.
const COMMON: Requirements = Requirements {
    formats: &[],
    multiple: 1,
    sizes: (1, 1 << 63),
    rounded: 1,
    drivers: QEMU,
    uefi: "choose UEFI firmware for the virtual machine",
};

const AWS: Requirements = Requirements {
    formats: &[STREAM, RAW, VHD, VHDX, OVA],
    sizes: (MIB, 64 * TIB),
    rounded: GIB,
    drivers: Drivers {
        disk: &["nvme", "xen_blkfront"],
        network: &["ena", "xen_netfront", "ixgbevf"],
    },
    uefi: "register the image with the boot mode uefi",
    ..COMMON
};

const AZURE: Requirements = Requirements {
    formats: &[only("vpc", &["fixed"], "fixed VHD")],
    multiple: MIB,
    sizes: (20 * MIB, 32_767 * GIB),
    drivers: Drivers { disk: &["hv_storvsc"], network: &["hv_netvsc"] },
    uefi: "create a virtual machine of generation 2",
    ..COMMON
};

const ESXI: Requirements = Requirements {
    formats: &[only("vmdk", &["vmfs"], "VMDK with the layout vmfs"), ISO],
    sizes: (MIB, 62 * TIB),
    drivers: VMWARE,
    uefi: "set the firmware of the virtual machine to EFI",
    ..COMMON
};

const GCP: Requirements = Requirements {
    formats: &[RAW],
    multiple: GIB,
    sizes: (GIB, 64 * TIB),
    drivers: Drivers { disk: &["virtio_scsi", "nvme"], network: &["virtio_net", "gve"] },
    uefi: "create the image with the guest feature UEFI_COMPATIBLE",
    ..COMMON
};

const GLANCE: Requirements = Requirements {
    formats: &[
        QCOW2,
        RAW,
        only(
            "vmdk",
            &["streamOptimized", "monolithicSparse"],
            "VMDK with the layout streamOptimized or monolithicSparse",
        ),
        // What a fixed disk contains looks like a raw disk to Glance.
        only("vpc", &["dynamic"], "dynamic VHD"),
        VHDX,
        VDI,
        ISO,
    ],
    uefi: "set the property hw_firmware_type to uefi",
    ..COMMON
};

const HYPER_V: Requirements = Requirements {
    formats: &[VHDX, VHD, ISO],
    sizes: (3 * MIB, 64 * TIB),
    drivers: Drivers { disk: &["hv_storvsc", "ata_piix"], network: &["hv_netvsc", "tulip"] },
    uefi: "create a virtual machine of generation 2",
    ..COMMON
};

const OVIRT: Requirements = Requirements {
    formats: &[QCOW2, RAW, ISO],
    uefi: "choose a chipset with UEFI for the virtual machine",
    ..COMMON
};

const PROXMOX: Requirements = Requirements {
    formats: &[
        QCOW2,
        RAW,
        any("vmdk", "VMDK"),
        VDI,
        any("vpc", "VHD"),
        any("vhdx", "VHDX"),
        any("qed", "QED"),
        any("parallels", "Parallels"),
        OVA,
        ISO,
    ],
    uefi: "choose the firmware OVMF for the virtual machine",
    ..COMMON
};

const VIRTUALBOX: Requirements = Requirements {
    formats: &[
        VDI,
        only(
            "vmdk",
            &["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"],
            "VMDK other than streamOptimized and vmfs",
        ),
        VHD,
        OVA,
        ISO,
    ],
    drivers: Drivers {
        disk: &["ahci", "ata_piix", "mptspi", "virtio_scsi", "nvme"],
        network: &["e1000", "virtio_net", "pcnet32"],
    },
    uefi: "enable EFI for the virtual machine",
    ..COMMON
};

const VSPHERE: Requirements = Requirements {
    formats: &[OVA, STREAM, ISO],
    sizes: (MIB, 62 * TIB),
    drivers: VMWARE,
    uefi: "set the firmware of the virtual machine to EFI",
    ..COMMON
};

const WORKSTATION: Requirements = Requirements {
    formats: &[
        only(
            "vmdk",
            &["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"],
            "VMDK other than streamOptimized and vmfs",
        ),
        OVA,
        ISO,
    ],
    sizes: (MIB, 8 * TIB),
    drivers: VMWARE,
    uefi: "set the firmware of the virtual machine to UEFI",
    ..COMMON
};

impl Consumer {
    pub(super) const fn requirements(self) -> &'static Requirements {
        match self {
            Self::Aws => &AWS,
            Self::Azure => &AZURE,
            Self::Esxi => &ESXI,
            Self::Gcp => &GCP,
            Self::Glance => &GLANCE,
            Self::Hyperv => &HYPER_V,
            Self::Ovirt => &OVIRT,
            Self::Proxmox => &PROXMOX,
            Self::VirtualBox => &VIRTUALBOX,
            Self::Vsphere => &VSPHERE,
            Self::Workstation => &WORKSTATION,
        }
    }

    /// Returns what is written of the formats that are accepted, such as "raw, VHD or VHDX".
    pub(super) fn accepted(self) -> String {
        let texts: Vec<_> = self.requirements().formats.iter().map(|format| format.text).collect();
        match &*texts {
            [all @ .., last] if !all.is_empty() => format!("{} or {last}", all.join(", ")),
            _ => texts.join(", "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Format;

    #[test]
    fn names_are_unique_and_formats_exist() {
        for (i, consumer) in Consumer::ALL.iter().enumerate() {
            assert_eq!(consumer.name().parse::<Consumer>().expect("parses"), *consumer);
            assert!(Consumer::ALL[..i].iter().all(|other| other.name() < consumer.name()));
            let requirements = consumer.requirements();
            assert!(!requirements.formats.is_empty(), "{consumer}");
            for accepted in requirements.formats {
                accepted.format.parse::<Format>().expect("a format");
            }
            assert!(requirements.sizes.0 < requirements.sizes.1, "{consumer}");
        }
        let error = "no-such-cloud".parse::<Consumer>().expect_err("unknown").to_string();
        assert!(error.contains("azure"), "{error}");
    }

    #[test]
    fn accepted_formats_are_listed() {
        assert_eq!(Consumer::Azure.accepted(), "fixed VHD");
        assert_eq!(Consumer::Vsphere.accepted(), "OVA, streamOptimized VMDK or ISO");
        assert_eq!(Consumer::Ovirt.accepted(), "qcow2, raw or ISO");
    }
}
