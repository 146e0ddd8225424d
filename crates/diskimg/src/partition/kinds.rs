//! Descriptions of partition types.

use super::Guid;

/// Types of GPT partitions, from the UEFI specification and the Discoverable Partitions
/// Specification.
const GPT: &[(&str, &str)] = &[
    ("C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "EFI system"),
    ("21686148-6449-6E6F-744E-656564454649", "BIOS boot"),
    ("0FC63DAF-8483-4772-8E79-3D69D8477DE4", "Linux file system"),
    ("0657FD6D-A4AB-43C4-84E5-0933C84B4F4F", "Linux swap"),
    ("E6D6D379-F507-44C2-A23C-238F2A3DF928", "Linux LVM"),
    ("A19D880F-05FC-4D3B-A006-743F0F84911E", "Linux RAID"),
    ("4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", "Linux root (x86-64)"),
    ("B921B045-1DF0-41C3-AF44-4C6F280D3FAE", "Linux root (ARM64)"),
    ("933AC7E1-2EB4-4F13-B844-0E14E2AEF915", "Linux home"),
    ("3B8F8425-20E0-4F3B-907F-1A25A76F98E8", "Linux server data"),
    ("BC13C2FF-59E6-4262-A352-B275FD6F7172", "Linux extended boot"),
    ("EBD0A0A2-B9E5-4433-87C0-68B6B72699C7", "Microsoft basic data"),
    ("E3C9E316-0B5C-4DB8-817D-F92DF00215AE", "Microsoft reserved"),
    ("DE94BBA4-06D1-4D40-A16A-BFD50179D6AC", "Windows recovery"),
    ("48465300-0000-11AA-AA11-00306543ECAC", "Apple HFS"),
    ("7C3457EF-0000-11AA-AA11-00306543ECAC", "Apple APFS"),
    ("516E7CB6-6ECF-11D6-8FF8-00022D09712B", "FreeBSD UFS"),
    ("516E7CBA-6ECF-11D6-8FF8-00022D09712B", "FreeBSD ZFS"),
];

/// Types of MBR partitions.
const MBR: &[(u8, &str)] = &[
    (0x01, "FAT12"),
    (0x04, "FAT16"),
    (0x05, "extended"),
    (0x06, "FAT16"),
    (0x07, "NTFS or exFAT"),
    (0x0b, "FAT32"),
    (0x0c, "FAT32"),
    (0x0e, "FAT16"),
    (0x0f, "extended"),
    (0x17, "hidden NTFS"),
    (0x27, "Windows recovery"),
    (0x82, "Linux swap"),
    (0x83, "Linux"),
    (0x85, "Linux extended"),
    (0x8e, "Linux LVM"),
    (0xa5, "FreeBSD"),
    (0xa6, "OpenBSD"),
    (0xa9, "NetBSD"),
    (0xcd, "ISO 9660"),
    (0xee, "GPT protective"),
    (0xef, "EFI system"),
    (0xfd, "Linux RAID"),
];

/// Describes the type of a GPT partition; returns the GUID if it is not known.
pub(crate) fn gpt(kind: Guid) -> String {
    let guid = kind.to_string();
    let known = GPT.iter().find(|(known, _)| *known == guid);
    known.map_or(guid.clone(), |(_, name)| (*name).to_owned())
}

/// Describes the type of an MBR partition; returns the number if it is not known.
pub(crate) fn mbr(kind: u8) -> String {
    let known = MBR.iter().find(|(known, _)| *known == kind);
    known.map_or_else(|| format!("type {kind:#04x}"), |(_, name)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_types_have_a_description() {
        for (guid, name) in GPT {
            assert_eq!(gpt(guid.parse().expect("a GUID")), *name);
        }
        assert_eq!(gpt(Guid([1; 16])), "01010101-0101-0101-0101-010101010101");
        assert_eq!((mbr(0x83), mbr(0xfe)), ("Linux".to_owned(), "type 0xfe".to_owned()));
        assert!(MBR.is_sorted_by_key(|(kind, _)| kind));
    }
}
