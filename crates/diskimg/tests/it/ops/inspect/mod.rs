//! `inspect` beyond what OpenStack checks: appliances, images of several files, allowed findings.

mod appliances;
mod differential;
mod embedded;
mod openstack;
mod volumes;

use crate::open::external_files::with_backing;
use diskimg::Severity;
use diskimg::inspection::{Code, PartitionTable, Role};
use diskimg::{InspectOptions, inspect};
use diskimg_testkit::appliance::{
    OvfDisk, OvfFile, PackageBuilder, VMDK_FORMAT, descriptor, single_disk_descriptor,
};

#[test]
fn an_appliance_is_safe_only_if_its_disks_are() {
    let package = PackageBuilder::new();
    let (ova, bytes) = package.single_disk_ova();
    let found = inspect(&ova, &InspectOptions::new()).unwrap();
    assert!(found.is_safe(), "{found:?}");
    assert_eq!((found.format, found.virtual_size), ("ova", Some(bytes.len() as u64)));

    // A disk with a backing file, a compressed disk, and a missing one.
    package.write("bad.qcow2", with_backing("/etc/passwd"));
    package.write("a.ovf", single_disk_descriptor("bad.qcow2").replace(VMDK_FORMAT, "qcow2"));
    let found =
        inspect(package.tar("bad.ova", "ustar", &["a.ovf", "bad.qcow2"]), &InspectOptions::new());
    let found = found.unwrap();
    let finding = found.finding(Code::BackingFile).expect("no finding");
    assert_eq!((finding.severity, finding.path.as_deref()), (Severity::Error, Some("bad.qcow2")));
    assert_eq!(
        (found.references[0].role, &*found.references[0].name),
        (Role::BackingFile, "/etc/passwd")
    );

    let packed = OvfFile { href: "a-disk1.vmdk", attributes: "ovf:compression=\"gzip\"" };
    package.write(
        "a.ovf",
        descriptor(&[packed], &[OvfDisk { file: Some(1), format: VMDK_FORMAT, attributes: "" }]),
    );
    let found =
        inspect(package.tar("b.ova", "ustar", &["a.ovf", "a-disk1.vmdk"]), &InspectOptions::new());
    assert!(found.unwrap().finding(Code::Packed).is_some());

    package.write("a.ovf", single_disk_descriptor("missing.vmdk"));
    let found = inspect(package.tar("c.ova", "ustar", &["a.ovf"]), &InspectOptions::new()).unwrap();
    assert!(!found.is_safe() && found.finding(Code::Unreadable).is_some(), "{found:?}");

    let found = inspect(package.path("a.ovf"), &InspectOptions::new()).unwrap();
    assert!(!found.is_safe() && found.finding(Code::Extents).is_some(), "{found:?}");
    assert_eq!(found.references[0].name, "missing.vmdk");
}

#[test]
fn a_hybrid_iso_image_is_safe_and_has_a_note() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.iso");
    let mut bytes = vec![0; 64 << 10];
    // A volume with an empty root directory in sector 18.
    bytes[32768..32774].copy_from_slice(b"\x01CD001");
    bytes[34816..34822].copy_from_slice(b"\xffCD001");
    let root = [&[34, 0, 18, 0, 0, 0, 0, 0, 0, 18, 0, 8, 0, 0, 0, 0, 8, 0][..], &[0; 7], &[2]];
    let root = [&root.concat()[..], &[0, 0, 1, 0, 0, 1, 1, 0]].concat();
    for at in [32768 + 156, 36864] {
        bytes[at..at + root.len()].copy_from_slice(&root);
    }
    (bytes[446 + 4], bytes[446 + 8]) = (0x17, 1);
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    for (flag, min_findings) in [(0x80, 1), (0x55, 2)] {
        bytes[446] = flag;
        std::fs::write(&path, &bytes).unwrap();
        let found = inspect(&path, &InspectOptions::new().claimed("iso").unwrap()).unwrap();
        assert!(found.is_safe(), "{found:?}");
        assert!(found.finding(Code::HybridIso).is_some() && found.findings.len() >= min_findings);
        assert_eq!(found.partition_table, Some(PartitionTable::Mbr));
    }
    // A VDI signature in addition makes it a file of several formats.
    bytes[64..68].copy_from_slice(&[0x7f, 0x10, 0xda, 0xbe]);
    std::fs::write(&path, &bytes).unwrap();
    let found = inspect(&path, &InspectOptions::new()).unwrap();
    assert_eq!(found.format, "vdi");
    assert_eq!(found.other_formats, ["iso", "gpt"]);
    assert!(found.finding(Code::SeveralFormats).is_some() && !found.is_safe());
}

#[test]
fn only_allowed_findings_become_warnings() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    let mut bytes = with_backing("base.raw");
    std::fs::write(&path, &bytes).unwrap();
    let allowing = InspectOptions::new().allow(Code::BackingFile);
    let found = inspect(&path, &allowing).unwrap();
    assert!(found.is_safe());
    assert_eq!(found.finding(Code::BackingFile).map(|f| f.severity), Some(Severity::Warning));
    bytes[79] |= 2;
    std::fs::write(&path, &bytes).unwrap();
    let found = inspect(&path, &allowing).unwrap();
    assert!(!found.is_safe());
    assert_eq!(found.findings[0].code, Code::MarkedCorrupt, "the most severe finding is not first");
}
