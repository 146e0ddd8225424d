//! Descriptors of appliances that programs read differently: namespaces, encodings, sizes.

use diskimg::inspection::Code;
use diskimg::{InspectOptions, Inspection, Severity, inspect};
use diskimg_testkit::appliance::{
    OvfDisk, OvfFile, PackageBuilder, VMDK_FORMAT, descriptor, single_disk_descriptor,
};

const OVF_1: &str = "http://schemas.dmtf.org/ovf/envelope/1";
const OVF_2: &str = "http://schemas.dmtf.org/ovf/envelope/2";
const DISK: &str = "a-disk1.vmdk";

/// A package with a disk of 2 MiB.
struct Lab(PackageBuilder);

impl Lab {
    fn new() -> Self {
        let package = PackageBuilder::new();
        package.create_vmdk(DISK, 1);
        std::fs::copy(package.path(DISK), package.path("b.vmdk")).unwrap();
        Self(package)
    }

    fn inspect_bytes(&self, descriptor: &[u8], options: &InspectOptions) -> Inspection {
        self.0.write("a.ovf", descriptor);
        let path = self.0.tar("a.ova", "ustar", &["a.ovf", DISK, "b.vmdk"]);
        inspect(path, options).unwrap()
    }

    fn inspect(&self, descriptor: &str) -> Inspection {
        self.inspect_bytes(descriptor.as_bytes(), &InspectOptions::new())
    }
}

/// Returns the descriptor of the disk with a stated capacity in units of a byte.
fn with_capacity(capacity: &str) -> String {
    let attributes = format!("ovf:capacity=\"{capacity}\"");
    descriptor(
        &[OvfFile { href: DISK, attributes: "" }],
        &[OvfDisk { file: Some(1), format: VMDK_FORMAT, attributes: &attributes }],
    )
}

#[test]
fn names_of_ovf_in_several_namespaces_are_refused() {
    let lab = Lab::new();
    let plain = single_disk_descriptor(DISK);
    assert!(lab.inspect(&plain).is_safe());
    let in_ovf_2 = format!("xmlns=\"{OVF_2}\" xmlns:o=\"{OVF_2}\"");
    let other_file = "<File ovf:id=\"file2\" ovf:href=\"b.vmdk\" ";
    let other_disk = "<Disk ovf:diskId=\"d2\" ovf:fileRef=\"file2\" ovf:capacity=\"2097152\" ";
    let typed = format!(
        "<Section xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" \
         xsi:type=\"ovf:DiskSection_Type\">{}</Section>",
        plain.split("<DiskSection>").nth(1).unwrap().split("</DiskSection>").next().unwrap()
    );
    let sections = plain.split_once("<DiskSection>").unwrap();
    for changed in [
        plain
            .replace("</References>", &format!("{other_file}{in_ovf_2}/></References>"))
            .replace("</DiskSection>", &format!("{other_disk}{in_ovf_2}/></DiskSection>")),
        plain.replace(&format!("xmlns=\"{OVF_1}\""), "xmlns=\"urn:x\""),
        plain.replace(&format!("xmlns=\"{OVF_1}\""), &format!("xmlns=\" {OVF_1}\"")),
        plain.replace(&format!("xmlns=\"{OVF_1}\""), &format!("xmlns=\"{OVF_1}/\"")),
        plain.replace("ovf:href", "href"),
        plain.replace("ovf:", ""),
        plain.replace("ovf:fileRef", "o:fileRef").replace("<Disk ", &format!("<Disk {in_ovf_2} ")),
        plain
            .replace("ovf:fileRef", "o:fileRef")
            .replace("<Disk ", &format!("<Disk xmlns:o=\"{OVF_2}\" ")),
        format!("{}{typed}{}", sections.0, sections.1.split_once("</DiskSection>").unwrap().1),
    ] {
        let found = lab.inspect(&changed);
        assert!(found.finding(Code::Descriptor).is_some() && !found.is_safe(), "{changed}");
    }
    // As oVirt and OVF 0.9 write them: elements in no namespace, or all in another one.
    let ovirt = plain
        .replace("<Envelope", "<ovf:Envelope")
        .replace("</Envelope", "</ovf:Envelope")
        .replace(&format!("xmlns=\"{OVF_1}\" "), "")
        .replace(OVF_1, &format!("{OVF_1}/"));
    assert!(lab.inspect(&ovirt).is_safe(), "{:?}", lab.inspect(&ovirt));
    assert!(lab.inspect(&plain.replace(OVF_1, OVF_2)).is_safe());
}

#[test]
fn an_encoding_is_stated_once() {
    let lab = Lab::new();
    let plain = single_disk_descriptor(DISK);
    let other = |declaration: &str| {
        plain.replace("<?xml version=\"1.0\" encoding=\"UTF-8\"?>", declaration)
    };
    let latin = other("<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?>");
    let late = format!("<?xml version=\"1.0\"{}encoding=\"ISO-8859-1\"?>", " ".repeat(300));
    for text in [plain.clone(), format!("\u{feff}{plain}"), latin.clone(), other(&late)] {
        assert!(lab.inspect(&text).is_safe(), "{text}");
    }
    for text in [
        format!("\u{feff}{latin}"),
        other(&late).replace("</Envelope>", "<!-- é --></Envelope>"),
        format!("\n{plain}"),
        other("<?xml version=\"1.1\"?>"),
    ] {
        let found = lab.inspect(&text);
        assert!(!found.is_safe(), "{text}");
    }
}

#[test]
fn the_capacity_in_a_descriptor_is_that_of_the_image() {
    let lab = Lab::new();
    let bounded = InspectOptions::new().max_virtual_size(1 << 30);
    for (capacity, size) in [("2097152", 2 << 20), ("1073741824", 1 << 30)] {
        let found = lab.inspect_bytes(with_capacity(capacity).as_bytes(), &bounded);
        assert!(found.is_safe(), "{found:?}");
        assert_eq!(found.virtual_size, Some(size));
    }
    for capacity in ["2097151", "1048576", "2097664", "1099511627776", "1.5", "9223372036854775808"]
    {
        let found = lab.inspect(&with_capacity(capacity));
        assert!(found.finding(Code::CapacityMismatch).is_some() && !found.is_safe(), "{capacity}");
    }
    // What programs create must be within the bounds.
    let allowed = InspectOptions::new().allow(Code::CapacityMismatch);
    let large = with_capacity("1125899906842624");
    assert!(lab.inspect_bytes(large.as_bytes(), &allowed).is_safe());
    let found = lab.inspect_bytes(large.as_bytes(), &allowed.max_virtual_size(1 << 30));
    assert_eq!(found.virtual_size, Some(1 << 50));
    assert!(found.finding(Code::DiskTooLarge).is_some());
    // A capacity that is set at deployment is not known.
    let property = with_capacity("${size}");
    assert!(lab.inspect(&property).is_safe());
    let found = lab.inspect_bytes(property.as_bytes(), &bounded);
    assert!(found.finding(Code::DiskTooLarge).is_some());
}

#[test]
fn another_size_of_a_file_is_a_warning() {
    let lab = Lab::new();
    let sized = |size: u64| {
        let attributes = format!("ovf:size=\"{size}\"");
        descriptor(
            &[OvfFile { href: DISK, attributes: &attributes }],
            &[OvfDisk { file: Some(1), format: VMDK_FORMAT, attributes: "" }],
        )
    };
    let stored = std::fs::metadata(lab.0.path(DISK)).unwrap().len();
    assert!(lab.inspect(&sized(stored)).finding(Code::Descriptor).is_none());
    let found = lab.inspect(&sized(7));
    let severity = found.finding(Code::Descriptor).map(|finding| finding.severity);
    assert_eq!((severity, found.is_safe()), (Some(Severity::Warning), true));
}
