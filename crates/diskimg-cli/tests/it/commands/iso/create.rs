//! Verifies images of `iso create` and `iso remaster` with other programs.

use crate::support::{Lab, diskimg};
use std::os::unix::fs::symlink;
use std::process::Stdio;

#[test]
fn directories_files_and_grafts_are_added_at_their_paths() {
    let lab = Lab::new();
    lab.config_drive();
    lab.seed();
    symlink("user-data", lab.path("link-to-seed")).expect("links");
    lab.run([
        "iso",
        "create",
        "-q",
        "-o",
        "a.iso",
        "-V",
        "My label",
        "drive",
        "user-data",
        "etc/seed/=meta-data",
        "/etc/net=network-config",
        "link-to-seed",
    ])
    .ok();
    for tree in ["rockridge", "joliet"] {
        let names = lab.run(["iso", "ls", "-R", "--namespace", tree, "a.iso"]).ok();
        for name in ["openstack/latest/user_data", "user-data", "etc/seed/meta-data", "etc/net"] {
            assert!(names.lines().any(|line| line == name), "{tree} {name}: {names}");
        }
    }
    assert_eq!(lab.descriptor("a.iso")["Volume id"], "My label");
    // Links given as operands are followed; links inside directories are recorded.
    assert_eq!(lab.bsdtar("a.iso", "link-to-seed"), b"#cloud-config\n");
    lab.tool("7zz", &["t", "a.iso"]);
    lab.line("iso verify a.iso").ok();
}

#[test]
fn profiles_set_the_label_and_require_their_files() {
    let lab = Lab::new();
    lab.seed();
    lab.config_drive();
    lab.line("iso create --nocloud -o seed.iso user-data meta-data").ok();
    assert_eq!(lab.descriptor("seed.iso")["Volume id"], "cidata");
    lab.line("iso create --openstack -o drive.iso drive").ok();
    let fields = lab.descriptor("drive.iso");
    assert_eq!((&*fields["Volume id"], &*fields["Publisher id"]), ("config-2", "OpenStack Nova"));
    lab.line("iso create --oemdrv -o oem.iso ks.cfg=user-data").ok();
    assert_eq!(lab.descriptor("oem.iso")["Volume id"], "OEMDRV");
    lab.line("iso create --openstack -V CONFIG-2 -o drive.iso drive").ok();
    assert_eq!(lab.descriptor("drive.iso")["Volume id"], "CONFIG-2");
    let error = lab.line("iso create --nocloud -o no.iso user-data").fails(1);
    assert!(error.contains("--nocloud requires meta-data"), "{error}");
    let error = lab.line("iso create --openstack -o no.iso user-data").fails(1);
    assert!(error.contains("openstack/latest/meta_data.json"), "{error}");
    lab.line("iso create --nocloud --openstack -o no.iso drive").fails(1);
    lab.line("iso create --nocloud -o ok.iso user-data=network-config meta-data=meta-data").ok();
    assert!(!lab.path("no.iso").exists());
}

#[test]
fn standard_output_gets_the_same_bytes_as_a_file() {
    let lab = Lab::new();
    lab.config_drive();
    lab.line("iso create -o a.iso drive").ok();
    let piped = lab.command(diskimg()).args(["iso", "create", "-o", "-", "drive"]).output();
    let piped = piped.expect("runs");
    assert_eq!((piped.status.code(), piped.stderr), (Some(0), Vec::new()));
    assert!(piped.stdout == lab.read("a.iso"));
}

#[test]
fn a_failure_keeps_the_existing_image_and_leaves_no_temporary_files() {
    let lab = Lab::new();
    lab.file("old.iso", "old image");
    lab.file("dir/a", "a");
    for line in [
        "iso create -o old.iso nope",
        "iso create -o old.iso --bios-boot nope dir",
        "iso create -o old.iso -V 123456789012345678901234567890123 dir",
        "iso create -o old.iso --align 3000 dir",
        "iso create -o old.iso a=",
    ] {
        lab.line(line).fails(1);
        assert_eq!(lab.read("old.iso"), b"old image", "{line}");
    }
    assert_eq!(std::fs::read_dir(lab.path(".")).expect("lists").count(), 2);
}

#[test]
fn a_signal_interrupts_iso_create_and_no_files_are_left() {
    let lab = Lab::new();
    std::fs::write(lab.path("big"), vec![7; 256 << 20]).expect("writes");
    let child = lab
        .command(diskimg())
        .args(["iso", "create", "-o", "a.iso", "big"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    // Waits for the temporary file.
    while std::fs::read_dir(lab.path(".")).expect("lists").count() < 2 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let pid = child.id().to_string();
    assert!(lab.command("kill").args(["-INT", &pid]).status().expect("kills").success());
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert_eq!(std::fs::read_dir(lab.path(".")).expect("lists").count(), 1);
}

#[test]
fn an_image_can_boot_from_disc_and_from_disk() {
    let lab = Lab::new();
    lab.file("tree/isolinux/isolinux.bin", &"x".repeat(30_000));
    lab.file("mbr.bin", &"\u{1}".repeat(432));
    lab.file("efi.img", &"y".repeat(100_000));
    lab.line(
        "iso create -o a.iso --bios-boot /isolinux/isolinux.bin --boot-info-table \
         --hybrid-mbr mbr.bin --append-efi efi.img tree",
    )
    .ok();
    let report = lab.tool("xorriso", &["-indev", "a.iso", "-report_el_torito", "plain"]);
    let report = String::from_utf8(report).expect("UTF-8");
    for part in ["BIOS", "UEFI", "/isolinux/isolinux.bin", "boot-info-table"] {
        assert!(report.contains(part), "{part}: {report}");
    }
    let text = lab.line("iso boot a.iso").ok();
    for part in ["boot entry 1: bios", "boot entry 2: efi", "MBR partition 2: type 0xef"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn remaster_adds_replaces_and_removes_files() {
    let lab = Lab::new();
    lab.config_drive();
    lab.seed();
    lab.line("iso create --openstack -o a.iso drive").ok();
    lab.run([
        "iso",
        "remaster",
        "a.iso",
        "-o",
        "b.iso",
        "--remove",
        "/ec2",
        "--add",
        "openstack/latest/user_data=meta-data",
        "--add",
        "new/=user-data",
    ])
    .ok();
    assert_eq!(lab.descriptor("b.iso")["Volume id"], "config-2");
    let names = lab.isoinfo("b.iso", "-R");
    assert!(!names.iter().any(|name| name.starts_with("/ec2")), "{names:?}");
    assert_eq!(lab.bsdtar("b.iso", "openstack/latest/user_data"), b"instance-id: i-1\n");
    assert_eq!(lab.bsdtar("b.iso", "new/user-data"), b"#cloud-config\n");
    assert_eq!(lab.bsdtar("b.iso", "openstack/content/0000"), b"some file");
    let error = lab.line("iso remaster a.iso -o c.iso --remove nope").fails(1);
    assert!(error.contains("--remove nope"), "{error}");
    assert!(!lab.path("c.iso").exists());
}

#[test]
fn udf_is_written_and_kept_when_an_image_is_rebuilt() {
    let lab = Lab::new();
    lab.config_drive();
    lab.seed();
    lab.line("iso create --udf -V BRIDGE -o a.iso drive").ok();
    lab.line("iso remaster -q a.iso -o b.iso --add seed=user-data").ok();
    lab.line("mkisofs -quiet -udf -r -V BRIDGE -o c.iso drive").ok();
    for (image, seed) in [("a.iso", false), ("b.iso", true), ("c.iso", false)] {
        lab.line(&format!("iso verify {image}")).ok();
        let names = lab.run(["iso", "ls", "-R", "--namespace", "udf", image]).ok();
        let has = |name: &str| names.lines().any(|line| line == name);
        assert!(has("openstack/latest/user_data") && has("seed") == seed, "{image}: {names}");
        lab.tool("7zz", &["t", "-tudf", image]);
        let info = lab.tool("udfinfo", &[image]);
        assert!(String::from_utf8_lossy(&info).contains("label=BRIDGE\n"), "{image}");
    }
    let line = "iso create --udf -V BRIDGE -o - drive";
    let piped = lab.command(diskimg()).args(line.split(' ')).output().expect("runs");
    assert!(piped.stdout == lab.read("a.iso"));
}

#[test]
fn a_file_of_4_gib_is_limited_in_iso_9660_only_on_request() {
    let lab = Lab::new();
    lab.file("tree/other", "other");
    let huge = std::fs::File::create(lab.path("tree/huge")).expect("creates");
    huge.set_len((4 << 30) + 5).expect("sparse");
    let error = lab.line("mkisofs -quiet -udf -o a.iso tree").fails(1);
    assert!(error.contains("-iso-level 3"), "{error}");
    for (options, in_iso) in [
        ("mkisofs -quiet -allow-limited-size -o a.iso tree", "4294965248"),
        ("mkisofs -quiet -udf -iso-level 3 -o a.iso tree", "4294967301"),
    ] {
        lab.line(options).ok();
        let size = |namespace: &str| {
            let listed = lab.run(["iso", "ls", "-l", "--namespace", namespace, "a.iso"]).ok();
            let line =
                listed.lines().find(|line| line.to_lowercase().contains("huge")).map(str::to_owned);
            line.expect("listed").split_whitespace().nth(3).map(str::to_owned)
        };
        assert_eq!(size("udf").as_deref(), Some("4294967301"), "{options}");
        assert_eq!(size("iso").as_deref(), Some(in_iso), "{options}");
    }
}

#[test]
fn an_output_that_is_one_of_the_inputs_is_refused() {
    let lab = Lab::new();
    std::fs::create_dir(lab.path("d")).expect("mkdir");
    std::fs::write(lab.path("d/f"), b"contents").expect("writes");
    std::fs::write(lab.path("efi.img"), [7; 70_000]).expect("writes");
    std::fs::hard_link(lab.path("d/f"), lab.path("other-name")).expect("links");
    std::fs::hard_link(lab.path("efi.img"), lab.path("linked.img")).expect("links");
    for line in [
        "iso create -o d/f d/f",
        "iso create -o d/f d",
        "iso create -o other-name d",
        "mkisofs -quiet -o d/f d",
        "mkisofs -quiet -o linked.img -append_partition 2 0xef efi.img d",
        "mkisofs -quiet -o linked.img -append_partition 2 0xef --interval:local_fs:0-65535::efi.img d",
        "xorriso -outdev linked.img -blank as_needed -map d /d -append_partition 2 0xef efi.img",
    ] {
        let ran = lab.line(line);
        assert!(ran.code != Some(0) && ran.err.contains("one of the files"), "{line}: {ran:?}");
        assert_eq!(lab.read("d/f"), b"contents", "{line}");
        assert_eq!(lab.read("efi.img"), [7; 70_000], "{line}");
    }
    // An image may be replaced by a changed one.
    lab.line("iso create -q -o a.iso d").ok();
    lab.line("iso remaster -q a.iso -a efi.img -o a.iso").ok();
    assert!(lab.line("iso ls a.iso").ok().contains("efi.img"));
}
