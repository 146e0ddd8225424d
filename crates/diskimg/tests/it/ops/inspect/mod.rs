//! `inspect` on what OpenStack has no opinion about: appliances, images in parts, what is allowed.

mod openstack;

use crate::open::external_files::with_backing;
use diskimg::inspection::{Code, PartitionTable, Role, Severity};
use diskimg::{InspectOptions, inspect};
use diskimg_testkit::appliance::{DiskLine, FileLine, Kit, VMDK, descriptor, one_disk};

#[test]
fn an_appliance_is_as_safe_as_its_disks() {
    let kit = Kit::new();
    let (ova, bytes) = kit.simple();
    let found = inspect(&ova, &InspectOptions::new()).unwrap();
    assert!(found.is_safe(), "{found:?}");
    assert_eq!((found.format, found.virtual_size), ("ova", Some(bytes.len() as u64)));

    // A disk inside that names a file, one that is packed, one that is not there.
    kit.write("bad.qcow2", with_backing("/etc/passwd"));
    kit.write("a.ovf", one_disk("bad.qcow2").replace(VMDK, "qcow2"));
    let found =
        inspect(kit.tar("bad.ova", "ustar", &["a.ovf", "bad.qcow2"]), &InspectOptions::new());
    let found = found.unwrap();
    let finding = found.finding(Code::BackingFile).expect("is found");
    assert_eq!(
        (finding.severity, finding.member.as_deref()),
        (Severity::Refuse, Some("bad.qcow2"))
    );
    assert_eq!(
        (found.references[0].role, &*found.references[0].name),
        (Role::BackingFile, "/etc/passwd")
    );

    let packed = FileLine { href: "a-disk1.vmdk", more: "ovf:compression=\"gzip\"" };
    kit.write(
        "a.ovf",
        descriptor(&[packed], &[DiskLine { file: Some(1), format: VMDK, more: "" }]),
    );
    let found =
        inspect(kit.tar("b.ova", "ustar", &["a.ovf", "a-disk1.vmdk"]), &InspectOptions::new());
    assert!(found.unwrap().finding(Code::Packed).is_some());

    kit.write("a.ovf", one_disk("missing.vmdk"));
    let found = inspect(kit.tar("c.ova", "ustar", &["a.ovf"]), &InspectOptions::new()).unwrap();
    assert!(!found.is_safe() && found.finding(Code::Unreadable).is_some(), "{found:?}");

    let found = inspect(kit.path("a.ovf"), &InspectOptions::new()).unwrap();
    assert!(!found.is_safe() && found.finding(Code::Extents).is_some(), "{found:?}");
    assert_eq!(found.references[0].name, "missing.vmdk");
}

#[test]
fn an_iso_image_that_is_a_disk_as_well_is_let_in_with_a_note() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.iso");
    let mut bytes = vec![0; 64 << 10];
    bytes[32768..32774].copy_from_slice(b"\x01CD001");
    (bytes[446 + 4], bytes[446 + 8]) = (0x17, 1);
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    for (flag, safe_codes) in [(0x80, 1), (0x55, 2)] {
        bytes[446] = flag;
        std::fs::write(&path, &bytes).unwrap();
        let found = inspect(&path, &InspectOptions::new().claimed("iso").unwrap()).unwrap();
        assert!(found.is_safe(), "{found:?}");
        assert!(found.finding(Code::HybridIso).is_some() && found.findings.len() >= safe_codes);
        assert_eq!(found.partition_table, Some(PartitionTable::Mbr));
    }
    // With a partition table and something else it is two things.
    bytes[64..68].copy_from_slice(&[0x7f, 0x10, 0xda, 0xbe]);
    std::fs::write(&path, &bytes).unwrap();
    let found = inspect(&path, &InspectOptions::new()).unwrap();
    assert_eq!(found.other_formats, ["vdi", "gpt"]);
    assert!(found.finding(Code::SeveralFormats).is_some() && !found.is_safe());
}

#[test]
fn what_is_allowed_becomes_a_warning_and_nothing_else_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    let mut bytes = with_backing("base.raw");
    std::fs::write(&path, &bytes).unwrap();
    let allowing = InspectOptions::new().allow(Code::BackingFile);
    let found = inspect(&path, &allowing).unwrap();
    assert!(found.is_safe());
    assert_eq!(found.finding(Code::BackingFile).map(|f| f.severity), Some(Severity::Warn));
    bytes[79] |= 2;
    std::fs::write(&path, &bytes).unwrap();
    let found = inspect(&path, &allowing).unwrap();
    assert!(!found.is_safe());
    assert_eq!(found.findings[0].code, Code::MarkedCorrupt, "the worst is not first");
}
