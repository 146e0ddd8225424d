//! `preflight` with images of qemu-img and disks of sfdisk, mkfs and mtools: for each rule, an image
//! that breaks it and one that does not.

use crate::support::{Lab, write_at};
use serde_json::Value;
use std::fs;

/// Runs a line of shell commands, which must succeed.
fn sh(lab: &Lab, line: &str) {
    let output = lab.command("sh").args(["-ec", line]).env("LC_ALL", "C.UTF-8").output();
    let output = output.expect("sh runs");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Returns the result of a check. The exit code must agree with it.
fn result(lab: &Lab, consumer: &str, image: &str) -> Value {
    let ran = lab.line(&format!("preflight --for {consumer} --output=json {image}"));
    let found: Value = serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
    let accepted = found["accepted"].as_bool().expect("a Boolean");
    assert_eq!(ran.code, Some(if accepted { 0 } else { 2 }), "{ran:?}");
    assert_eq!(found["for"], consumer);
    found
}

/// Returns the codes of the findings of a severity.
fn codes(found: &Value, severity: &str) -> Vec<String> {
    let findings = found["findings"].as_array().expect("an array").iter();
    let findings = findings.filter(|finding| finding["severity"] == severity);
    findings.map(|finding| finding["code"].as_str().expect("text").to_owned()).collect()
}

fn errors(lab: &Lab, consumer: &str, image: &str) -> Vec<String> {
    codes(&result(lab, consumer, image), "error")
}

fn warnings(lab: &Lab, consumer: &str, image: &str) -> Vec<String> {
    codes(&result(lab, consumer, image), "warning")
}

/// Images of 1 GiB of all formats and layouts, by name.
fn images(lab: &Lab) -> Vec<&'static str> {
    const BY_QEMU: [(&str, &str); 12] = [
        ("raw.img", "raw"),
        ("qcow2.img", "qcow2"),
        ("vdi.img", "vdi"),
        ("qed.img", "qed"),
        ("vhdx.img", "vhdx"),
        ("vhd.img", "vpc -o force_size=on"),
        ("fixed.img", "vpc -o force_size=on,subformat=fixed"),
        ("sparse.vmdk", "vmdk -o subformat=monolithicSparse"),
        ("flat.vmdk", "vmdk -o subformat=monolithicFlat"),
        ("split.vmdk", "vmdk -o subformat=twoGbMaxExtentSparse"),
        ("stream.vmdk", "vmdk -o subformat=streamOptimized"),
        ("parallels.img", "parallels"),
    ];
    for (name, options) in BY_QEMU {
        let (format, options) = options.split_once(' ').unwrap_or((options, ""));
        sh(lab, &format!("qemu-img create -q -f {format} {options} {name} 1G"));
    }
    // qemu-img has no such layout.
    lab.line("create -q -f vmdk -o subformat=vmfs vmfs.vmdk 1G").ok();
    BY_QEMU.iter().map(|(name, _)| *name).chain(["vmfs.vmdk"]).collect()
}

#[test]
fn each_consumer_accepts_its_formats_and_no_others() {
    let lab = Lab::new();
    let images = images(&lab);
    let hosted = ["sparse.vmdk", "flat.vmdk", "split.vmdk"];
    for (consumer, accepted) in [
        ("aws", &["raw.img", "vhd.img", "fixed.img", "vhdx.img", "stream.vmdk"][..]),
        ("azure", &["fixed.img"]),
        ("esxi", &["vmfs.vmdk"]),
        ("gcp", &["raw.img"]),
        (
            "glance",
            &[
                "raw.img",
                "qcow2.img",
                "vdi.img",
                "vhd.img",
                "vhdx.img",
                "sparse.vmdk",
                "stream.vmdk",
            ],
        ),
        ("hyperv", &["vhdx.img", "vhd.img", "fixed.img"]),
        ("ovirt", &["raw.img", "qcow2.img"]),
        ("proxmox", &images),
        ("virtualbox", &[&["vdi.img", "vhd.img", "fixed.img"][..], &hosted].concat()),
        ("vsphere", &["stream.vmdk"]),
        ("workstation", &hosted),
    ] {
        for image in &images {
            let found = errors(&lab, consumer, image);
            let is_accepted = accepted.contains(image);
            assert_eq!(found.is_empty(), is_accepted, "{consumer}, {image}: {found:?}");
            let about_format = found.iter().any(|code| code == "format" || code == "variant");
            assert_eq!(about_format, !is_accepted, "{consumer}, {image}: {found:?}");
        }
    }
}

#[test]
fn sizes_are_bounded_and_multiples() {
    let lab = Lab::new();
    let azure = |size: u64| {
        let line = "qemu-img create -q -f vpc -o force_size=on,subformat=fixed";
        sh(&lab, &format!("{line} disk.vhd {size}"));
        errors(&lab, "azure", "disk.vhd")
    };
    assert_eq!(azure(64 << 20), [""; 0]);
    assert_eq!(azure((64 << 20) + 512), ["size-multiple"]);
    assert_eq!(azure(19 << 20), ["size-range"]);
    assert_eq!(azure(20 << 20), [""; 0]);
    sh(&lab, "truncate -s 1025M gcp.raw; truncate -s 2G good.raw");
    assert_eq!(errors(&lab, "gcp", "gcp.raw"), ["size-multiple"]);
    assert_eq!(errors(&lab, "gcp", "good.raw"), [""; 0]);
    sh(&lab, "qemu-img create -q -f vmdk disk.vmdk 8T; qemu-img create -q -f vmdk large.vmdk 9T");
    assert_eq!(errors(&lab, "workstation", "disk.vmdk"), [""; 0]);
    assert_eq!(errors(&lab, "workstation", "large.vmdk"), ["size-range"]);
    lab.line("create -q -f vhdx large.vhdx 10T").ok();
    assert_eq!(errors(&lab, "hyperv", "large.vhdx"), [""; 0]);
}

#[test]
fn the_image_must_be_complete_and_readable_by_all() {
    let lab = Lab::new();
    sh(
        &lab,
        "qemu-img create -q -f qcow2 base.qcow2 1G
         qemu-img create -q -f qcow2 -F qcow2 -b base.qcow2 overlay.qcow2
         qemu-img create -q -f qcow2 -o data_file=data.raw external.qcow2 1G
         qemu-img create -q -f qcow2 saved.qcow2 1G
         qemu-img snapshot -c before saved.qcow2
         qemu-img create -q -f qcow2 -o lazy_refcounts=on dirty.qcow2 1G",
    );
    // The first incompatible feature: reference counts may be out of date.
    write_at(&lab.path("dirty.qcow2"), 72 + 7, &[1]);
    assert_eq!(errors(&lab, "proxmox", "base.qcow2"), [""; 0]);
    assert_eq!(errors(&lab, "proxmox", "overlay.qcow2"), ["backing-file"]);
    assert_eq!(errors(&lab, "proxmox", "external.qcow2"), ["external-file"]);
    assert!(warnings(&lab, "proxmox", "saved.qcow2").contains(&"snapshots".into()));
    assert!(warnings(&lab, "proxmox", "dirty.qcow2").contains(&"dirty".into()));
    for code in ["snapshots", "dirty"] {
        assert!(!warnings(&lab, "proxmox", "base.qcow2").contains(&code.into()));
    }
    // Glance refuses what `inspect` refuses.
    let found = result(&lab, "glance", "overlay.qcow2");
    let messages: Vec<_> = found["findings"].as_array().expect("an array").iter().collect();
    assert!(messages.iter().any(|f| f["code"] == "unsafe"), "{found}");
    assert_eq!(errors(&lab, "glance", "base.qcow2"), [""; 0]);
}

#[test]
fn vmware_requires_version_3_of_the_stream() {
    let lab = Lab::new();
    sh(&lab, "qemu-img create -q -f vmdk -o subformat=streamOptimized disk.vmdk 1G");
    assert_eq!(errors(&lab, "vsphere", "disk.vmdk"), [""; 0]);
    write_at(&lab.path("disk.vmdk"), 4, &1_u32.to_le_bytes());
    assert_eq!(errors(&lab, "vsphere", "disk.vmdk"), ["version"]);
    assert_eq!(errors(&lab, "glance", "disk.vmdk"), [""; 0]);
}

#[test]
fn appliances_and_discs_are_accepted_where_they_are_usual() {
    let lab = Lab::new();
    sh(&lab, "truncate -s 1G disk.raw; mkdir files; genisoimage -quiet -o disc.iso files");
    lab.line("convert -f raw -O ova disk.raw disk.ova").ok();
    for consumer in ["aws", "proxmox", "virtualbox", "vsphere", "workstation"] {
        assert_eq!(errors(&lab, consumer, "disk.ova"), [""; 0], "{consumer}");
    }
    assert_eq!(errors(&lab, "azure", "disk.ova"), ["format"]);
    for consumer in ["esxi", "glance", "hyperv", "ovirt", "proxmox", "virtualbox", "vsphere"] {
        assert_eq!(errors(&lab, consumer, "disc.iso"), [""; 0], "{consumer}");
    }
    assert_eq!(errors(&lab, "azure", "disc.iso"), ["format"]);
}

#[test]
fn compressed_files_are_not_decompressed_by_anyone() {
    let lab = Lab::new();
    sh(
        &lab,
        "head -c 1M /dev/urandom > disk.raw; truncate -s 1G disk.raw; gzip -1 -k disk.raw
         tar --format=oldgnu -Sczf disk.tar.gz disk.raw",
    );
    for (consumer, file, found) in [
        ("aws", "disk.raw", &[][..]),
        ("aws", "disk.raw.gz", &["compressed"]),
        ("gcp", "disk.raw.gz", &["compressed"]),
        ("aws", "disk.tar.gz", &["format"]),
        ("gcp", "disk.tar.gz", &[]),
    ] {
        let ran = lab.line(&format!(
            "preflight --for {consumer} --output=json --limit unpacked_ratio=2000 {file}"
        ));
        let result = serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
        assert_eq!(codes(&result, "error"), found, "{consumer}, {file}");
    }
}

#[test]
fn images_that_are_not_complete_are_rejected() {
    let lab = Lab::new();
    sh(
        &lab,
        "head -c 8M /dev/urandom > disk.raw; truncate -s 1G disk.raw
         qemu-img convert -f raw -O vpc -o force_size=on disk.raw cut.vhd
         qemu-img convert -f raw -O vhdx disk.raw cut.vhdx",
    );
    for image in ["cut.vhd", "cut.vhdx"] {
        assert_eq!(errors(&lab, "aws", image), [""; 0], "{image}");
        sh(&lab, &format!("truncate -s 5M {image}"));
        let found = errors(&lab, "aws", image);
        assert!(found.contains(&"damaged".into()), "{image}: {found:?}");
    }
}

#[test]
fn hyper_v_requires_files_without_holes() {
    let lab = Lab::new();
    sh(&lab, "qemu-img create -q -f vhdx disk.vhdx 1G; cp --sparse=never disk.vhdx full.vhdx");
    assert!(warnings(&lab, "hyperv", "disk.vhdx").contains(&"sparse-file".into()));
    assert!(!warnings(&lab, "hyperv", "full.vhdx").contains(&"sparse-file".into()));
    assert!(!warnings(&lab, "aws", "disk.vhdx").contains(&"sparse-file".into()));
}

/// Makes a disk of 1 GiB with a GPT that has an EFI system partition with `loaders`, and a Linux
/// partition with the files in the directory `root`.
fn disk(lab: &Lab, name: &str, loaders: &[&str]) {
    sh(
        lab,
        &format!(
            "truncate -s 1G {name}
             printf 'label: gpt\\nstart=2048,size=65536,type=uefi\\ntype=linux\\n' |
                 sfdisk -q {name}
             truncate -s 32M esp; mkfs.vfat esp > esp.log
             mmd -i esp ::/EFI ::/EFI/BOOT"
        ),
    );
    for loader in loaders {
        sh(lab, &format!("echo loader | mcopy -i esp - ::/EFI/BOOT/{loader}"));
    }
    sh(
        lab,
        &format!(
            "dd if=esp of={name} bs=1M seek=1 conv=notrunc status=none
             mkdir -p root; truncate -s 900M linux; mkfs.ext4 -q -d root linux
             dd if=linux of={name} bs=1M seek=33 conv=notrunc,sparse status=none"
        ),
    );
}

/// Writes a GPT that counts sectors of 4096 bytes, which sfdisk does on such disks only (UEFI
/// specification, 5.3).
const GPT_OF_4096: &str = r#"
import struct, uuid, zlib
S, N = 4096, (1 << 30) // 4096
kind = uuid.UUID("0FC63DAF-8483-4772-8E79-3D69D8477DE4").bytes_le
entry = kind + bytes(range(16)) + struct.pack("<QQQ", 256, 999, 0)
entries = entry.ljust(128 * 128, b"\0")
def header(own, other, at):
    def text(crc):
        return struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, crc, 0, own, other, 6,
            N - 6, bytes(16), at, 128, 128, zlib.crc32(entries))
    return text(zlib.crc32(text(0)))
mbr = bytes(446) + struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, N - 1)
with open("large-sectors.raw", "r+b") as disk:
    disk.write(mbr.ljust(510, b"\0") + b"\x55\xaa")
    for own, other, at in [(1, N - 1, 2), (N - 1, 1, N - 5)]:
        disk.seek(own * S); disk.write(header(own, other, at))
        disk.seek(at * S); disk.write(entries)
"#;

#[test]
fn partition_tables_must_fit_the_disk() {
    let lab = Lab::new();
    disk(&lab, "disk.raw", &["BOOTX64.EFI"]);
    assert_eq!(errors(&lab, "aws", "disk.raw"), [""; 0]);
    assert_eq!(warnings(&lab, "aws", "disk.raw"), [""; 0]);
    sh(&lab, "cp disk.raw damaged.raw; cp disk.raw grown.raw; cp disk.raw cut.raw");
    write_at(&lab.path("damaged.raw"), (1 << 30) - 512, &[0; 512]);
    assert_eq!(warnings(&lab, "gcp", "damaged.raw"), ["partition-table"]);
    sh(&lab, "truncate -s 2G grown.raw");
    assert_eq!(warnings(&lab, "gcp", "grown.raw"), ["partition-table"]);
    sh(&lab, "truncate -s 900M cut.raw");
    assert!(errors(&lab, "aws", "cut.raw").contains(&"partition-beyond-end".into()));
    // `resize --fix-gpt` is the remedy.
    lab.line("resize -q -f raw --fix-gpt grown.raw +0").ok();
    assert_eq!(warnings(&lab, "gcp", "grown.raw"), [""; 0]);
    // EBS volumes have whole GiB.
    lab.line("resize -q -f raw --fix-gpt grown.raw 2049M").ok();
    assert_eq!(warnings(&lab, "aws", "grown.raw"), ["partition-table"]);
    assert_eq!(warnings(&lab, "proxmox", "grown.raw"), [""; 0]);

    sh(&lab, "truncate -s 3T large.raw; echo 'type=83' | sfdisk -q -X dos large.raw");
    assert!(warnings(&lab, "proxmox", "large.raw").contains(&"mbr-size".into()));
    sh(&lab, "truncate -s 1G small.raw; echo 'type=83' | sfdisk -q -X dos small.raw");
    assert!(!warnings(&lab, "proxmox", "small.raw").contains(&"mbr-size".into()));
    sh(&lab, "truncate -s 1G empty.raw; truncate -s 1G fat.raw; mkfs.vfat fat.raw > fat.log");
    assert_eq!(warnings(&lab, "proxmox", "empty.raw"), ["no-partition-table"]);
    let found = result(&lab, "proxmox", "fat.raw");
    assert_eq!(codes(&found, "warning"), ["no-partition-table"]);
    assert_eq!(found["boot"]["bios"], false, "the code of a file system is not that of a disk");
    // Both headers are lost, or count other sectors.
    sh(&lab, "cp disk.raw lost.raw");
    write_at(&lab.path("lost.raw"), 512, &[0; 512]);
    write_at(&lab.path("lost.raw"), (1 << 30) - 512, &[0; 512]);
    assert!(warnings(&lab, "gcp", "lost.raw").contains(&"partition-table".into()));
    sh(&lab, &format!("truncate -s 1G large-sectors.raw; python3 -c '{GPT_OF_4096}'"));
    assert!(warnings(&lab, "aws", "large-sectors.raw").contains(&"sector-size".into()));
}

#[test]
fn boot_loaders_are_found() {
    let lab = Lab::new();
    disk(&lab, "none.raw", &[]);
    let found = result(&lab, "aws", "none.raw");
    assert_eq!(codes(&found, "warning"), ["no-boot-loader"]);
    assert_eq!(found["boot"]["efi-partition"], true);
    disk(&lab, "uefi.raw", &["BOOTX64.EFI", "bootaa64.efi"]);
    let found = result(&lab, "aws", "uefi.raw");
    assert_eq!(codes(&found, "note"), ["uefi"]);
    assert_eq!(found["boot"]["uefi"], serde_json::json!(["aarch64", "x86_64"]));
    assert_eq!(found["boot"]["bios"], false);
    // The firmware of Hyper-V that boots it does not take a VHD.
    sh(
        &lab,
        "qemu-img convert -f raw -O vpc -o force_size=on uefi.raw uefi.vhd
         qemu-img convert -f raw -O vhdx uefi.raw uefi.vhdx",
    );
    assert_eq!(errors(&lab, "hyperv", "uefi.vhd"), ["firmware-format"]);
    assert_eq!(errors(&lab, "hyperv", "uefi.vhdx"), [""; 0]);
    // The code of a boot loader for a BIOS.
    write_at(&lab.path("uefi.raw"), 0, &[0xeb, 0x63]);
    let found = result(&lab, "aws", "uefi.raw");
    assert_eq!((codes(&found, "note"), &found["boot"]["bios"]), (Vec::new(), &Value::Bool(true)));
    let text = lab.line("preflight --for aws uefi.raw").ok();
    assert!(text.contains("boot code: BIOS, UEFI (aarch64), UEFI (x86_64)"), "{text}");
    assert!(text.contains("accepted by Amazon EC2: yes"), "{text}");
}

#[test]
fn linux_needs_drivers_for_disk_and_network() {
    let lab = Lab::new();
    let folder = "root/usr/lib/modules/6.1.0-9";
    let modules = |dep: &str, builtin: Option<&str>| {
        sh(&lab, &format!("rm -rf root; mkdir -p {folder}; ln -s usr/lib root/lib"));
        fs::write(lab.path(&format!("{folder}/modules.dep")), dep).expect("writes");
        if let Some(builtin) = builtin {
            fs::write(lab.path(&format!("{folder}/modules.builtin")), builtin).expect("writes");
        }
        disk(&lab, "disk.raw", &["BOOTX64.EFI"]);
        sh(
            &lab,
            "qemu-img convert -f raw -O vpc -o force_size=on,subformat=fixed disk.raw disk.vhd",
        );
    };
    modules(
        "kernel/drivers/nvme/host/nvme.ko.xz: kernel/drivers/nvme/host/nvme-core.ko.xz\n\
         kernel/drivers/net/virtio_net.ko:\n",
        Some("kernel/drivers/block/virtio_blk.ko\n"),
    );
    assert_eq!(warnings(&lab, "aws", "disk.raw"), ["network-driver"]);
    assert_eq!(warnings(&lab, "proxmox", "disk.raw"), [""; 0]);
    let found = result(&lab, "azure", "disk.vhd");
    assert_eq!(codes(&found, "warning"), ["disk-driver", "network-driver"]);
    let message = found["findings"][0]["message"].as_str().expect("text");
    assert!(message.contains("hv_storvsc") && message.contains("6.1.0-9"), "{message}");
    let hyperv = "kernel/drivers/scsi/hv_storvsc.ko:\nkernel/drivers/net/hyperv/hv_netvsc.ko:\n";
    modules(hyperv, Some(""));
    assert_eq!(warnings(&lab, "azure", "disk.vhd"), [""; 0]);
    assert_eq!(warnings(&lab, "aws", "disk.raw"), ["disk-driver", "network-driver"]);
    // Without the list of what is built in, nothing is known.
    modules(hyperv, None);
    assert_eq!(warnings(&lab, "aws", "disk.raw"), [""; 0]);
}

#[test]
fn the_command_line_is_checked() {
    let lab = Lab::new();
    sh(&lab, "qemu-img create -q -f qcow2 disk.qcow2 1G");
    let ran = lab.line("preflight disk.qcow2");
    assert!(ran.code == Some(1) && ran.err.contains("--for"), "{ran:?}");
    let ran = lab.line("preflight --for nowhere disk.qcow2");
    assert!(ran.code == Some(1) && ran.err.contains("known consumers: aws, azure"), "{ran:?}");
    let ran = lab.line("preflight --for aws missing.qcow2");
    assert!(ran.code == Some(1) && ran.err.contains("missing.qcow2"), "{ran:?}");
    let ran = lab.line("preflight -q --for azure disk.qcow2");
    assert_eq!((ran.code, &*ran.out, &*ran.err), (Some(2), "", ""));
}
