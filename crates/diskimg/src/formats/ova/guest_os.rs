//! VMware's names of guest operating systems, and their numbers in CIM.

use crate::error::{Error, Result};

/// A guest operating system, as recorded in a descriptor.
#[derive(Debug)]
pub(super) struct GuestOs {
    name: String,
    number: u32,
}

/// Prefixes of VMware's names (`vim.vm.GuestOsIdentifier`) and the numbers of DMTF's
/// `CIM_OperatingSystem.OSType`. A longer prefix comes before a shorter one.
const KNOWN: [(&str, u32); 21] = [
    ("ubuntu64Guest", 94),
    ("ubuntuGuest", 93),
    ("debian", 96),
    ("rhel", 80),
    ("centos", 107),
    ("oracleLinux", 109),
    ("sles", 85),
    ("suse64Guest", 83),
    ("opensuse64Guest", 83),
    ("freebsd", 78),
    // Windows Server 2016 and later, 2012 (R2) and 2008 R2; Windows 10, 11, 8 and 7.
    ("windows9Server64Guest", 118),
    ("windows2019srv", 118),
    ("windows2022srv", 118),
    ("windows8Server64Guest", 112),
    ("windows7Server64Guest", 103),
    ("windows9_64Guest", 120),
    ("windows11_64Guest", 120),
    ("windows8_64Guest", 114),
    ("windows7_64Guest", 105),
    ("otherLinuxGuest", 36),
    ("otherGuest64", OTHER_64),
];

/// CIM's "Linux 64-Bit", "Other" and "Other 64-Bit".
const LINUX_64: u32 = 101;
const OTHER: u32 = 1;
const OTHER_64: u32 = 102;

/// Substrings that identify other Linux systems.
const LINUX_NAMES: [&str; 7] =
    ["inux", "fedora", "photon", "Photon", "coreos", "amazonlinux", "asianux"];

impl GuestOs {
    /// Creates a guest operating system from VMware's name. An unknown name is recorded as it is,
    /// with the number of "Other".
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if the name cannot be one of VMware's.
    pub(super) fn new(name: &str) -> Result<Self> {
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !plain || name.is_empty() || name.len() > 64 {
            return Err(Error::invalid(format!("Invalid parameter '{name}' for os_type"))
                .hint("one of VMware's names, such as otherLinux64Guest or debian12_64Guest"));
        }
        let is_64 = name.contains("64");
        let known = KNOWN.iter().find(|(start, _)| name.starts_with(start));
        let number = match known {
            // The numbers are those of the 64-bit systems.
            Some(("debian" | "rhel" | "centos" | "oracleLinux" | "sles" | "freebsd", _))
                if !is_64 =>
            {
                OTHER
            }
            Some((_, number)) => *number,
            None if is_64 && LINUX_NAMES.iter().any(|word| name.contains(word)) => LINUX_64,
            None if is_64 => OTHER_64,
            None => OTHER,
        };
        Ok(Self { name: name.to_owned(), number })
    }

    /// Value for `vmw:osType`.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Value for `ovf:id` of the `OperatingSystemSection`.
    pub(super) fn number(&self) -> u32 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systems_have_their_numbers_in_cim() {
        for (name, number) in [
            ("otherLinux64Guest", 101),
            ("ubuntu64Guest", 94),
            ("debian12_64Guest", 96),
            ("debian12Guest", 1),
            ("rhel9_64Guest", 80),
            ("rockylinux_64Guest", 101),
            ("vmwarePhoton64Guest", 101),
            ("other5xLinux64Guest", 101),
            ("windows9_64Guest", 120),
            ("windows9Server64Guest", 118),
            ("windows2022srvNext_64Guest", 118),
            ("otherGuest64", 102),
            ("otherGuest", 1),
            ("solaris11_64Guest", 102),
        ] {
            assert_eq!(GuestOs::new(name).expect("plain").number(), number, "{name}");
        }
    }
}
