//! The exact mkisofs command lines of other projects.

use crate::support::{Lab, Ran, diskimg};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Output;

/// Returns a link to diskimg with the name of another program.
fn link_as(lab: &Lab, name: &str) -> PathBuf {
    let link = lab.path("bin").join(name);
    if !link.is_symlink() {
        std::fs::create_dir_all(lab.path("bin")).expect("mkdir");
        symlink(diskimg(), &link).expect("links");
    }
    link
}

fn run(lab: &Lab, argv: &[&str]) -> Output {
    let program = link_as(lab, argv[0]);
    lab.command(program).args(&argv[1..]).output().expect("runs")
}

/// Runs diskimg as `program`.
pub(super) fn run_as(lab: &Lab, program: &str, args: &[&str]) -> Ran {
    Ran::new(run(lab, &[&[program], args].concat()))
}

/// Runs a command line with diskimg and with the original program, which both write `output`, and
/// asserts that names in all trees and identifiers are equal.
#[track_caller]
fn same(lab: &Lab, output: &str, argv: &[&str]) {
    let ran = run(lab, argv);
    let error = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert_eq!((ran.status.code(), error.as_str()), (Some(0), ""), "{argv:?}");
    std::fs::rename(lab.path(output), lab.path("ours.iso")).expect("diskimg writes the image");
    let theirs = if argv[0] == "mkisofs" { "genisoimage" } else { argv[0] };
    lab.tool(theirs, &argv[1..]);
    std::fs::rename(lab.path(output), lab.path("theirs.iso"))
        .expect("the original program writes the image");
    compare(lab);
}

#[track_caller]
fn compare(lab: &Lab) {
    for tree in ["", "-R", "-J"] {
        let theirs = lab.has_tree(tree, "theirs.iso");
        assert_eq!(lab.has_tree(tree, "ours.iso"), theirs, "tree {tree:?}");
        if theirs {
            assert_eq!(lab.names("ours.iso", tree), lab.names("theirs.iso", tree), "{tree:?}");
        }
    }
    let (ours, theirs) = (lab.descriptor("ours.iso"), lab.descriptor("theirs.iso"));
    for key in ["Volume id", "Volume set id", "Publisher id"] {
        assert_eq!(ours.get(key), theirs.get(key), "{key}");
    }
    lab.line("iso verify ours.iso").ok();
}

impl Lab {
    /// Like `isoinfo`, without the version numbers of Joliet names, which only some programs write.
    fn names(&self, image: &str, tree: &str) -> Vec<String> {
        let mut names = self.isoinfo(image, tree);
        if tree == "-J" {
            for name in &mut names {
                if let Some(bare) = name.strip_suffix(";1") {
                    name.truncate(bare.len());
                }
            }
            names.sort();
        }
        names
    }

    /// Returns whether an image has this tree.
    pub(super) fn has_tree(&self, tree: &str, image: &str) -> bool {
        let text = String::from_utf8(self.tool("isoinfo", &["-d", "-i", image])).expect("UTF-8");
        match tree {
            "-R" => text.contains("Rock Ridge signatures"),
            "-J" => text.contains("Joliet with UCS"),
            _ => true,
        }
    }
}

#[test]
fn novas_config_drive() {
    let lab = Lab::new();
    lab.config_drive();
    let argv = [
        "genisoimage",
        "-o",
        "out.iso",
        "-ldots",
        "-allow-lowercase",
        "-allow-multidot",
        "-l",
        "-publisher",
        "OpenStack Nova 29.0.0",
        "-quiet",
        "-J",
        "-r",
        "-V",
        "config-2",
        "drive",
    ];
    same(&lab, "out.iso", &argv);
    // Ironic uses the ISO 9660 names, cloud-init those of Rock Ridge, Windows those of Joliet.
    let file = "/openstack/latest/network_data.json";
    assert!(lab.isoinfo("ours.iso", "").contains(&format!("{file};1")));
    for tree in ["-R", "-J"] {
        assert!(lab.names("ours.iso", tree).contains(&file.to_owned()), "{tree}");
    }
    assert_eq!(lab.descriptor("ours.iso")["Volume id"], "config-2");
    assert_eq!(lab.bsdtar("ours.iso", "openstack/latest/user_data"), b"#cloud-config\n");
    let listed = lab.tool("bsdtar", &["-tvf", "ours.iso", "openstack/latest/user_data"]);
    let listed = String::from_utf8(listed).expect("UTF-8");
    assert!(listed.starts_with("-r--r--r-- "), "{listed}");
}

#[test]
fn ironics_and_openstacksdks_config_drive() {
    for (program, publisher) in
        [("mkisofs", "Ironic"), ("genisoimage", "metalsmith"), ("xorrisofs", "metalsmith")]
    {
        let lab = Lab::new();
        lab.config_drive();
        let argv = [
            program,
            "-o",
            "out.iso",
            "-ldots",
            "-allow-lowercase",
            "-allow-multidot",
            "-l",
            "-publisher",
            publisher,
            "-quiet",
            "-J",
            "-r",
            "-V",
            "config-2",
            "drive",
        ];
        if program == "xorrisofs" {
            // xorriso has neither -allow-multidot nor -ldots, so only diskimg is run.
            let ran = run(&lab, &argv);
            assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
            assert_eq!(lab.descriptor("out.iso")["Publisher id"], publisher);
            assert_eq!(lab.bsdtar("out.iso", "ec2/2009-04-04/meta-data.json"), b"{}");
        } else {
            same(&lab, "out.iso", &argv);
        }
    }
}

#[test]
fn ironics_boot_isos() {
    let lab = Lab::new();
    lab.file("tree/isolinux/isolinux.bin", &"x".repeat(30_000));
    lab.file("tree/isolinux/isolinux.cfg", "DEFAULT x\n");
    lab.file("tree/boot/grub/efiboot.img", &"y".repeat(100_000));
    lab.file("tree/vmlinuz", "kernel");
    let bios = [
        "mkisofs",
        "-r",
        "-V",
        "IPA",
        "-J",
        "-l",
        "-publisher",
        "ironic",
        "-no-emul-boot",
        "-boot-load-size",
        "4",
        "-boot-info-table",
        "-b",
        "isolinux/isolinux.bin",
        "-o",
        "out.iso",
        "tree",
    ];
    same(&lab, "out.iso", &bios);
    let boot = |image: &str| {
        let args = ["-indev", image, "-report_el_torito", "plain"];
        let text = String::from_utf8(lab.tool("xorriso", &args)).expect("UTF-8");
        let lines =
            text.lines().filter(|line| line.contains(" boot img ") || line.contains(" img path "));
        // Without the last column, which is the address.
        lines
            .map(|line| line.rsplit_once(' ').map_or(line, |(l, _)| l).trim().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(boot("ours.iso"), boot("theirs.iso"));
    assert!(!boot("ours.iso").is_empty());
    let efi = [
        "mkisofs",
        "-r",
        "-V",
        "IPA",
        "-l",
        "-publisher",
        "ironic",
        "-e",
        "boot/grub/efiboot.img",
        "-no-emul-boot",
        "-o",
        "out.iso",
        "tree",
    ];
    same(&lab, "out.iso", &efi);
    assert_eq!(boot("ours.iso"), boot("theirs.iso"));
}

#[test]
fn cloud_localds_and_cloud_inits_documentation() {
    for argv in [
        &[
            "genisoimage",
            "-output",
            "out.iso",
            "-volid",
            "cidata",
            "-joliet",
            "-rock",
            "user-data",
            "meta-data",
        ][..],
        &[
            "genisoimage",
            "-output",
            "out.iso",
            "-volid",
            "cidata",
            "-rational-rock",
            "-joliet",
            "user-data",
            "meta-data",
            "network-config",
        ],
    ] {
        let lab = Lab::new();
        lab.seed();
        same(&lab, "out.iso", argv);
        assert_eq!(lab.descriptor("ours.iso")["Volume id"], "cidata");
        for tree in ["-R", "-J"] {
            assert!(lab.names("ours.iso", tree).contains(&"/user-data".to_owned()));
        }
        assert_eq!(lab.bsdtar("ours.iso", "meta-data"), b"instance-id: i-1\n");
        lab.tool("7zz", &["t", "ours.iso"]);
    }
}

#[test]
fn virt_install() {
    for program in ["xorrisofs", "genisoimage", "mkisofs"] {
        let lab = Lab::new();
        lab.file("dir/user-data", "#cloud-config\n");
        lab.file("dir/meta-data", "x");
        let argv = [
            program,
            "-o",
            "out.iso",
            "-J",
            "-input-charset",
            "utf8",
            "-rational-rock",
            "-V",
            "cidata",
            "dir",
        ];
        same(&lab, "out.iso", &argv);
        // virt-install also reads images with xorriso.
        let found = lab.tool("xorriso", &["-indev", "ours.iso", "-find"]);
        assert!(String::from_utf8_lossy(&found).contains("/user-data'"));
        lab.tool(
            "xorriso",
            &["-osirrox", "on", "-indev", "ours.iso", "-extract", "/user-data", "got"],
        );
        assert_eq!(lab.read("got"), b"#cloud-config\n");
    }
}

#[test]
fn packer() {
    for argv in [
        &[
            "xorriso",
            "-as",
            "genisoimage",
            "-rock",
            "-joliet",
            "-volid",
            "cidata",
            "-output",
            "out.iso",
            "dir",
        ][..],
        &["mkisofs", "-joliet", "-volid", "cidata", "-o", "out.iso", "dir"],
    ] {
        let lab = Lab::new();
        lab.file("dir/user-data", "#cloud-config\n");
        lab.file("dir/sub/Autounattend.xml", "<x/>");
        same(&lab, "out.iso", argv);
    }
}

#[test]
fn proxmox_reads_the_image_from_standard_output() {
    let lab = Lab::new();
    lab.file("dir/user-data", "#cloud-config\n");
    lab.file("dir/vendor-data", "");
    let argv = ["genisoimage", "-quiet", "-iso-level", "3", "-J", "-R", "-V", "cidata", "dir"];
    let ran = run(&lab, &argv);
    assert_eq!((ran.status.code(), ran.stderr), (Some(0), Vec::new()));
    std::fs::write(lab.path("ours.iso"), ran.stdout).expect("writes");
    std::fs::write(lab.path("theirs.iso"), lab.tool(argv[0], &argv[1..])).expect("writes");
    compare(&lab);
}

#[test]
fn kubevirt() {
    let lab = Lab::new();
    lab.seed();
    let argv = [
        "xorrisofs",
        "-output",
        "out.iso",
        "-volid",
        "cidata",
        "-joliet",
        "-rock",
        "user-data",
        "meta-data",
        "network-config",
    ];
    same(&lab, "out.iso", &argv);
}

#[test]
fn grafts_path_lists_and_exclusions_equal_genisoimages() {
    let lab = Lab::new();
    lab.config_drive();
    lab.seed();
    lab.file("list", "drive/ec2\nlisted/x=meta-data\n");
    lab.file("a=b", "a name with an equals sign");
    let argv = [
        "genisoimage",
        "-quiet",
        "-o",
        "out.iso",
        "-R",
        "-graft-points",
        "-path-list",
        "list",
        "-m",
        "*.json",
        "-x",
        "drive/openstack/content",
        "etc/seed/=user-data",
        "etc/name=meta-data",
        "drive",
        r"odd\=name=a\=b",
    ];
    same(&lab, "out.iso", &argv);
    let names = lab.isoinfo("ours.iso", "-R");
    assert!(names.contains(&"/odd=name".to_owned()), "{names:?}");
}

#[test]
fn iso_9660_names_equal_genisoimages() {
    for options in [
        &[][..],
        &["-l"],
        &["-iso-level", "2"],
        &["-N", "-d"],
        &["-relaxed-filenames"],
        &["-U"],
        &["-R", "-D"],
        &["-r", "-uid", "7"],
    ] {
        let lab = Lab::new();
        for name in [
            "user-data",
            ".hidden",
            "meta_data.json",
            "UPPER.TXT",
            "two.dots.txt",
            "noext",
            "a b~c",
            "sub/Deep.Name.tar",
            "a-very-long-file-name-that-goes-on.text",
        ] {
            // With -U, diskimg and xorriso allow 37 characters, genisoimage 31.
            if options == ["-U"] && name.len() > 31 {
                continue;
            }
            lab.file(&format!("dir/{name}"), name);
        }
        let argv = [&["genisoimage", "-quiet", "-o", "out.iso"][..], options, &["dir"]].concat();
        same(&lab, "out.iso", &argv);
    }
}

/// On RHEL 9, genisoimage is a link to a link to xorriso.
#[test]
fn the_name_selects_the_program_and_links_are_not_resolved() {
    let lab = Lab::new();
    lab.seed();
    std::fs::create_dir_all(lab.path("alternatives")).expect("mkdir");
    symlink(link_as(&lab, "xorrisofs"), lab.path("alternatives/mkisofs")).expect("links");
    symlink("../alternatives/mkisofs", lab.path("bin/genisoimage")).expect("links");
    let argv = ["genisoimage", "-quiet", "-o", "out.iso", "-V", "cidata", "user-data"];
    let ran = run(&lab, &argv);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    // genisoimage adds Rock Ridge only with an option, xorriso by default.
    assert!(!lab.has_tree("-R", "out.iso"));
}
