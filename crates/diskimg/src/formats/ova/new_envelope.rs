//! The descriptor of a new appliance, similar to those that VMware writes.

use super::options::{Adapter, Machine};
use std::fmt::Write;

/// What the descriptor records about a disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct DiskInfo {
    /// Number of guest bytes.
    pub(super) capacity: u64,
    /// Size of its file in bytes.
    pub(super) size: u64,
    /// Total size in bytes of the grains that are not zeros.
    pub(super) populated: u64,
}

/// Returns the file name of the disk with this index.
pub(super) fn disk_name(stem: &str, index: usize) -> String {
    format!("{stem}-disk{}.vmdk", index + 1)
}

/// Returns the maximum number of disks of a machine.
pub(super) fn max_disks(adapter: Adapter) -> usize {
    match adapter {
        // Two controllers with two disks each.
        Adapter::Ide => 2 * 2,
        Adapter::LsiLogic | Adapter::BusLogic => 4 * SCSI_SLOTS,
    }
}

/// Number of disks per SCSI controller, which has 16 addresses and occupies address 7 itself.
const SCSI_SLOTS: usize = 15;

/// Values of `rasd:ResourceType` (CIM_ResourceAllocationSettingData).
const PROCESSOR: u32 = 3;
const MEMORY: u32 = 4;
const IDE_CONTROLLER: u32 = 5;
const SCSI_CONTROLLER: u32 = 6;
const ETHERNET: u32 = 10;
const DISK: u32 = 17;

const HEAD: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:cim="http://schemas.dmtf.org/wbem/wscim/1/common" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:vmw="http://www.vmware.com/schema/ovf" xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
"#;

const FORMAT: &str = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized";

/// The network to which the adapter is connected: vSphere's default.
const NETWORK: &str = "VM Network";

/// Returns the text of the descriptor.
pub(super) fn text(machine: &Machine, disks: &[DiskInfo]) -> String {
    let mut out = Xml(HEAD.to_owned());
    references(&mut out, machine, disks);
    disk_section(&mut out, disks);
    if machine.network {
        network_section(&mut out);
    }
    let name = escaped(&machine.name);
    out.line(1, format_args!(r#"<VirtualSystem ovf:id="{name}">"#));
    out.line(2, format_args!("<Info>A virtual machine</Info>"));
    out.line(2, format_args!("<Name>{name}</Name>"));
    let (number, system) = (machine.os.number(), machine.os.name());
    out.line(
        2,
        format_args!(r#"<OperatingSystemSection ovf:id="{number}" vmw:osType="{system}">"#),
    );
    out.line(3, format_args!("<Info>The kind of installed guest operating system</Info>"));
    out.line(2, format_args!("</OperatingSystemSection>"));
    hardware(&mut out, machine, disks.len());
    out.line(1, format_args!("</VirtualSystem>"));
    out.line(0, format_args!("</Envelope>"));
    out.0
}

fn references(out: &mut Xml, machine: &Machine, disks: &[DiskInfo]) {
    out.line(1, format_args!("<References>"));
    for (i, disk) in disks.iter().enumerate() {
        let (number, href, size) = (i + 1, disk_name(&machine.stem, i), disk.size);
        out.line(
            2,
            format_args!(r#"<File ovf:href="{href}" ovf:id="file{number}" ovf:size="{size}"/>"#),
        );
    }
    out.line(1, format_args!("</References>"));
}

fn disk_section(out: &mut Xml, disks: &[DiskInfo]) {
    out.line(1, format_args!("<DiskSection>"));
    out.line(2, format_args!("<Info>Virtual disk information</Info>"));
    for (i, disk) in disks.iter().enumerate() {
        let DiskInfo { capacity, populated, .. } = disk;
        let number = i + 1;
        out.line(
            2,
            format_args!(
                r#"<Disk ovf:capacity="{capacity}" ovf:capacityAllocationUnits="byte" ovf:diskId="vmdisk{number}" ovf:fileRef="file{number}" ovf:format="{FORMAT}" ovf:populatedSize="{populated}"/>"#
            ),
        );
    }
    out.line(1, format_args!("</DiskSection>"));
}

fn network_section(out: &mut Xml) {
    out.line(1, format_args!("<NetworkSection>"));
    out.line(2, format_args!("<Info>The list of logical networks</Info>"));
    out.line(2, format_args!(r#"<Network ovf:name="{NETWORK}">"#));
    out.line(3, format_args!("<Description>The {NETWORK} network</Description>"));
    out.line(2, format_args!("</Network>"));
    out.line(1, format_args!("</NetworkSection>"));
}

fn hardware(out: &mut Xml, machine: &Machine, disks: usize) {
    out.line(2, format_args!("<VirtualHardwareSection>"));
    out.line(3, format_args!("<Info>Virtual hardware requirements</Info>"));
    out.line(3, format_args!("<System>"));
    out.line(4, format_args!("<vssd:ElementName>Virtual Hardware Family</vssd:ElementName>"));
    out.line(4, format_args!("<vssd:InstanceID>0</vssd:InstanceID>"));
    let (name, version) = (escaped(&machine.name), machine.hardware);
    let tag = "vssd:VirtualSystemIdentifier";
    out.line(4, format_args!("<{tag}>{name}</{tag}>"));
    out.line(4, format_args!("<vssd:VirtualSystemType>vmx-{version:02}</vssd:VirtualSystemType>"));
    out.line(3, format_args!("</System>"));
    let mut items = Items { out, last: 0 };
    items.machine(machine);
    items.disks(machine.adapter, disks);
    if machine.network {
        items.network();
    }
    let firmware = if machine.efi { "efi" } else { "bios" };
    out.line(
        3,
        format_args!(
            r#"<vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="{firmware}"/>"#
        ),
    );
    out.line(2, format_args!("</VirtualHardwareSection>"));
}

/// The virtual hardware items, numbered in order.
struct Items<'a> {
    out: &'a mut Xml,
    last: usize,
}

impl Items<'_> {
    /// Writes an item and returns its `InstanceID`. The schema requires the elements to be in
    /// alphabetical order.
    fn add(&mut self, kind: u32, name: &str, more: &[(&str, String)]) -> usize {
        self.last += 1;
        let mut elements = vec![
            ("ElementName", name.to_owned()),
            ("InstanceID", self.last.to_string()),
            ("ResourceType", kind.to_string()),
        ];
        elements.extend(more.iter().cloned());
        elements.sort_by_key(|(tag, _)| *tag);
        self.out.line(3, format_args!("<Item>"));
        for (tag, value) in elements {
            self.out.line(4, format_args!("<rasd:{tag}>{value}</rasd:{tag}>"));
        }
        self.out.line(3, format_args!("</Item>"));
        self.last
    }

    fn machine(&mut self, machine: &Machine) {
        let Machine { cpus, memory_mib, .. } = machine;
        let quantity = |n: &u64| ("VirtualQuantity", n.to_string());
        let units = |text: &str| ("AllocationUnits", text.to_owned());
        let name = format!("{cpus} virtual CPU(s)");
        self.add(PROCESSOR, &name, &[units("hertz * 10^6"), quantity(cpus)]);
        let name = format!("{memory_mib}MB of memory");
        self.add(MEMORY, &name, &[units("byte * 2^20"), quantity(memory_mib)]);
    }

    /// Writes the disks and the controllers that they need.
    fn disks(&mut self, adapter: Adapter, disks: usize) {
        let (kind, name, slots) = match adapter {
            Adapter::Ide => (IDE_CONTROLLER, "IDE Controller", 2),
            Adapter::LsiLogic | Adapter::BusLogic => {
                (SCSI_CONTROLLER, "SCSI Controller", SCSI_SLOTS)
            }
        };
        let mut controller = 0;
        for disk in 0..disks {
            let (controller_number, slot) = (disk / slots, disk % slots);
            if slot == 0 {
                let mut more = vec![("Address", controller_number.to_string())];
                if kind == SCSI_CONTROLLER {
                    more.push(("ResourceSubType", adapter.name().to_owned()));
                }
                controller = self.add(kind, &format!("{name} {controller_number}"), &more);
            }
            let address = if kind == SCSI_CONTROLLER && slot >= 7 { slot + 1 } else { slot };
            let disk_number = disk + 1;
            self.add(
                DISK,
                &format!("Hard Disk {disk_number}"),
                &[
                    ("AddressOnParent", address.to_string()),
                    ("HostResource", format!("ovf:/disk/vmdisk{disk_number}")),
                    ("Parent", controller.to_string()),
                ],
            );
        }
    }

    fn network(&mut self) {
        self.add(
            ETHERNET,
            "Network adapter 1",
            &[
                ("AddressOnParent", "7".to_owned()),
                ("AutomaticAllocation", "true".to_owned()),
                ("Connection", NETWORK.to_owned()),
                ("ResourceSubType", "E1000".to_owned()),
            ],
        );
    }
}

/// A text of indented lines.
struct Xml(String);

impl Xml {
    fn line(&mut self, depth: usize, line: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{:1$}{line}", "", depth * 2);
    }
}

/// Escapes text for use as an element's content or in a quoted attribute.
fn escaped(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            c => out.push(c),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::super::envelope::Envelope;
    use super::*;
    use crate::model::options::Options;
    use roxmltree::Document;

    fn machine(options: &str) -> Machine {
        Machine::new(&Options::parse(options).expect("parses"), None).expect("fits")
    }

    fn disks(count: usize) -> Vec<DiskInfo> {
        vec![DiskInfo { capacity: 1 << 30, size: 1000, populated: 65536 }; count]
    }

    #[test]
    fn a_new_descriptor_can_be_parsed_and_names_are_escaped() {
        let name = "a <b> & \"c\" 'd' ü";
        let machine = machine(&format!("name={name}"));
        let text = text(&machine, &disks(2));
        let envelope = Envelope::parse(text.as_bytes(), &crate::Limits::default()).expect("parses");
        assert_eq!(envelope.disks.len(), 2);
        let file = envelope.file_of(&envelope.disks[1]).expect("listed");
        assert_eq!(file.href, disk_name(&machine.stem, 1));
        assert_eq!(file.size, Some(1000));
        let document = Document::parse(&text).expect("is XML");
        let named = document.descendants().find(|n| n.tag_name().name() == "Name");
        assert_eq!(named.and_then(|n| n.text()), Some(name));
    }

    #[test]
    fn every_disk_has_its_own_address_on_a_controller() {
        for (adapter, kind, count) in [("lsilogic", 6, 60), ("buslogic", 6, 16), ("ide", 5, 4)] {
            let machine = machine(&format!("adapter_type={adapter},network=off"));
            assert!(count <= max_disks(machine.adapter));
            let text = text(&machine, &disks(count));
            let document = Document::parse(&text).expect("is XML");
            let items = document.descendants().filter(|n| n.tag_name().name() == "Item");
            let mut controllers = Vec::new();
            let mut taken = std::collections::BTreeSet::new();
            for item in items {
                let value = |tag: &str| {
                    let child = item.children().find(|n| n.tag_name().name() == tag)?;
                    child.text()?.parse::<u32>().ok()
                };
                match value("ResourceType") {
                    Some(found) if found == kind => controllers.push(value("InstanceID")),
                    Some(DISK) => {
                        let (parent, address) = (value("Parent"), value("AddressOnParent"));
                        assert!(controllers.contains(&parent), "{adapter}");
                        assert!(address != Some(7) && address < Some(16), "{adapter}");
                        assert!(taken.insert((parent, address)), "{adapter}");
                    }
                    _ => {}
                }
            }
            assert_eq!(taken.len(), count);
        }
    }
}
