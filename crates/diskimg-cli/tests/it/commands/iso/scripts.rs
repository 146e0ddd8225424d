//! Command lines of mkisofs, genisoimage and xorriso from build scripts of other projects, with the
//! paths of fixtures. Each is supported, or refused with an error that names the option.

use super::argv::run_as;
use crate::support::Lab;

/// What a command line does.
#[derive(Debug, Clone, Copy)]
enum Outcome {
    /// It writes `out.iso`, whose Rock Ridge tree (or, without one, ISO 9660 tree) contains the
    /// paths.
    Image(&'static [&'static str]),
    /// It prints this.
    Prints(&'static str),
    /// It creates this file.
    Creates(&'static str),
    /// It fails with a message that contains this.
    Refused(&'static str),
}

use Outcome::{Creates, Image, Prints, Refused};

/// Origin, command line, outcome. `@` stands for boot options of ISOLINUX.
const LINES: &[(&str, &str, Outcome)] = &[
    // cloud-init seeds and config drives.
    (
        "cloud-localds",
        "genisoimage -output out.iso -volid cidata -joliet -rock user-data meta-data",
        Image(&["/user-data"]),
    ),
    (
        "OpenStack Nova",
        "genisoimage -o out.iso -ldots -allow-lowercase -allow-multidot -l -publisher Nova \
         -quiet -J -r -V config-2 tree",
        Image(&["/boot/grub/grub.cfg"]),
    ),
    (
        "virt-install",
        "xorrisofs -o out.iso -J -input-charset utf8 -rational-rock -V cidata tree",
        Image(&["/a.txt"]),
    ),
    (
        "a Citrix script",
        "mkisofs -r -J -jcharset utf-8 -V config-2 -o out.iso tree",
        Image(&["/a.txt"]),
    ),
    (
        "Packer",
        "xorriso -as genisoimage -rock -joliet -volid cidata -output out.iso tree",
        Image(&["/a.txt"]),
    ),
    (
        "nixpkgs virtio-win",
        "xorriso -as genisoimage -rock -joliet -volid VIRTIO -output out.iso ./tree",
        Image(&["/a.txt"]),
    ),
    (
        "an Alpine seed",
        "xorriso -as genisoimage -V GMSEED -o out.iso -graft-points /answers=user-data \
         /autorun.sh=meta-data",
        Image(&["/answers", "/autorun.sh"]),
    ),
    // Install media with ISOLINUX.
    (
        "Ubuntu remaster",
        "mkisofs -D -r -V ATTENDLESS_UBUNTU -cache-inodes -J -l @ -o out.iso tree",
        Image(&["/isolinux/isolinux.bin"]),
    ),
    (
        "Ubuntu remaster, charset",
        "genisoimage -input-charset utf-8 -D -r -V ATTENDLESS -cache-inodes -J -l @ -o out.iso \
         tree",
        Image(&["/a.txt"]),
    ),
    (
        "Debian live tutorial",
        "genisoimage -rational-rock -volid Live -cache-inodes -joliet -full-iso9660-filenames @ \
         -output out.iso tree",
        Image(&["/a.txt"]),
    ),
    (
        "live-build",
        "genisoimage -J -l -cache-inodes -allow-multidot -A Debian -publisher live -p preparer \
         -V LIVE @ -o out.iso tree",
        Image(&["/A.TXT;1"]),
    ),
    (
        "CentOS kickstart",
        "mkisofs -o out.iso @ -eltorito-alt-boot -e images/efiboot.img -no-emul-boot -R -J -v \
         -T -graft-points -V CentOS -jcharset utf-8 tree",
        Image(&["/TRANS.TBL", "/a.txt"]),
    ),
    (
        "livecd-tools",
        "mkisofs -o out.iso -J -r -hide-rr-moved -hide-joliet-trans-tbl -V fedora @ tree",
        Image(&["/a.txt"]),
    ),
    (
        "T2 Linux",
        "genisoimage -v -pad -l -r -J -V T2 -A T2 @ -hide-rr-moved -sort sort.list -o out.iso \
         tree",
        Image(&["/a.txt"]),
    ),
    (
        "linux-live-kit",
        "mkisofs -input-charset utf-8 -J -R -D -A LIVE -V LIVE @ -x ./out.iso -hide \
         isolinux/boot.cat -hide-joliet boot.cat -o out.iso tree",
        Image(&["/isolinux/isolinux.bin"]),
    ),
    (
        "an old Ubuntu mirror",
        "mkisofs -quiet -r -J -R @ -hide-rr-moved -x lost+found: -o out.iso tree",
        Image(&["/a.txt"]),
    ),
    (
        "Knoppix",
        "mkisofs -R -L -allow-multidot -l -V KNOPPIX -o out.iso -hide-rr-moved -v tree",
        Image(&["/a.txt"]),
    ),
    (
        "Dell recovery",
        "genisoimage -o out.iso @ -pad -r -J -joliet-long -N -hide-joliet-trans-tbl \
         -cache-inodes -l -publisher Dell -V Dell -m *.exe -m *.sys tree",
        Image(&["/a.txt"]),
    ),
    (
        "Slackware",
        "xorriso -as mkisofs -iso-level 3 -full-iso9660-filenames -R -J -A Slackware \
         -hide-rr-moved -v -d -N @ -o out.iso tree",
        Image(&["/a.txt"]),
    ),
    (
        "Nova (Cuba)",
        "xorriso -as mkisofs -r --sort-weight 0 / --sort-weight 1 /boot -J -l -volid NOVA @ -o \
         out.iso tree",
        Image(&["/a.txt"]),
    ),
    (
        "OpenMandriva",
        "xorriso -as mkisofs -R -r -J -joliet-long -cache-inodes -graft-points -iso-level 3 \
         -full-iso9660-filenames --modification-date=2024010203040500 -omit-version-number \
         -disable-deep-relocation @ -publisher OM -preparer OM -volid OM -o out.iso tree \
         --sort-weight 0 / --sort-weight 1 /boot",
        Image(&["/a.txt"]),
    ),
    (
        "NixOS",
        "xorriso -as mkisofs -iso-level 3 -full-iso9660-filenames -volid NIX -appid nixos \
         -publisher nixos -graft-points @ -r -path-list list --sort-weight 0 / -output out.iso",
        Image(&["/listed/x"]),
    ),
    (
        "Pardus",
        "genisoimage -f -sort sort.list -J -r -l -V Pisi -o out.iso @ -uid 0 -gid 0 -iso-level \
         3 -input-charset utf-8 -publisher P -A A tree",
        Image(&["/a.txt"]),
    ),
    (
        "grub-mkrescue",
        "xorriso -as mkisofs -graft-points --modification-date=2024010203040500 -b \
         boot/grub/eltorito.img -no-emul-boot -boot-load-size 4 -boot-info-table \
         --grub2-boot-info -o out.iso -r tree --sort-weight 0 / --sort-weight 1 /boot",
        Image(&["/boot/grub/eltorito.img"]),
    ),
    (
        "grub-mkrescue with commands",
        "xorriso -as mkisofs -graft-points -o out.iso -r tree -- -volid CHAOS",
        Image(&["/a.txt"]),
    ),
    // Small operating systems and DOS.
    (
        "MEG-OS",
        "mkisofs -iso-level 2 -V MEG-OS -hide-joliet boot.catalog -hide-joliet-trans-tbl -J -r \
         -T -hide boot.catalog -no-emul-boot -b boot/grub/eltorito.img -o out.iso tree",
        Image(&["/TRANS.TBL"]),
    ),
    (
        "TurtlOS",
        "genisoimage -quiet -pad -input-charset ascii -R -A TurtlOS -no-emul-boot \
         -boot-load-size 4 -boot-info-table -b boot/grub/eltorito.img -c boot.catalog -hide \
         eltorito.img -hide boot.catalog -o out.iso tree",
        Image(&["/a.txt"]),
    ),
    (
        "SvarDOS",
        "mkisofs -input-charset cp437 -b floppy.img -hide floppy.img -hide boot.catalog \
         -iso-level 1 -f -V SVARDOS_REPO -o out.iso floppy.img user-data",
        Image(&["/USER_DAT.;1"]),
    ),
    (
        "BIOS update disc",
        "mkisofs -o out.iso -quiet -l -N -boot-info-table -iso-level 4 -no-emul-boot -b \
         isolinux/isolinux.bin -publisher x -A BIOS -V FDBIOSUP -v tree",
        Image(&["/a.txt"]),
    ),
    (
        "game archive",
        "mkisofs -iso-level 4 -J -joliet-long -l -R -o out.iso tree",
        Image(&["/a.txt"]),
    ),
    (
        "ReactOS",
        "genisoimage -quiet -o out.iso -iso-level 4 -publisher R -preparer R -volid R -volset R \
         -no-cache-inodes -graft-points -hide boot.catalog -sort sort.list -no-emul-boot -b \
         boot/grub/eltorito.img tree",
        Image(&["/boot/grub/eltorito.img"]),
    ),
    (
        "NanoBSD",
        "mkisofs -R -l -ldots -allow-lowercase -allow-multidot -hide boot.catalog -o out.iso \
         -no-emul-boot -b boot/grub/eltorito.img tree",
        Image(&["/a.txt"]),
    ),
    (
        "Genode",
        "genisoimage -o out.iso -f -l -R -hide-rr-moved -jcharset utf-8 @ ./tree",
        Image(&["/a.txt"]),
    ),
    (
        "Martus",
        "mkisofs -J -r -T -hide-joliet-trans-tbl -l -V Martus -o out.iso tree",
        Image(&["/TRANS.TBL"]),
    ),
    (
        "K3b",
        "genisoimage -gui -graft-points -print-size -quiet -volid K -volset x -appid K3B \
         -publisher p -preparer K3b -sysid LINUX -volset-size 1 -volset-seqno 1 -rational-rock \
         -joliet -joliet-long -no-cache-inodes -untranslated-filenames -max-iso9660-filenames \
         -translation-table -hide-joliet-trans-tbl -iso-level 3 -path-list list",
        Prints(""),
    ),
    ("Solaris", "mkisofs -quiet -G boot.mbr -R -o out.iso tree", Image(&["/a.txt"])),
    (
        "CD script",
        "mkisofs -r -J -jcharset default -f -l -D -L -V X -P me -p me -abstract a.txt -biblio \
         a.txt -copyright a.txt -graft-points -o out.iso /=tree",
        Image(&["/a.txt"]),
    ),
    // HFS and jigdo.
    (
        "Limine",
        "xorriso -as mkisofs -R -r -J -b boot/grub/eltorito.img -no-emul-boot -boot-load-size 4 \
         -boot-info-table -hfsplus -apm-block-size 2048 tree -o out.iso",
        Refused("-hfsplus"),
    ),
    (
        "debian-cd",
        "genisoimage -r -jigdo-jigdo out.jigdo -jigdo-template out.template -o out.iso tree",
        Refused("-jigdo-jigdo"),
    ),
    ("a Mac hybrid", "mkisofs -hfs -r -J -o out.iso tree", Refused("-hfs")),
    // xorriso's own commands.
    (
        "elemental",
        "xorriso -volid LIVE -joliet on -padding 0 -outdev out.iso -map tree / -chmod 0755 -- \
         -boot_image any keep",
        Image(&["/a.txt"]),
    ),
    (
        "elemental 3",
        "xorriso -volid LIVE -padding 0 -outdev out.iso -map tree /",
        Image(&["/a.txt"]),
    ),
    (
        "mkksiso",
        "xorriso -indev in.iso -outdev out.iso -boot_image any replay -volid NEW -update \
         user-data a.txt -map meta-data ks.cfg",
        Image(&["/ks.cfg"]),
    ),
    ("mkksiso, list", "xorriso -indev in.iso -pkt_output on -find", Prints("R:1: './a.txt'")),
    ("mkksiso, extraction", "osirrox -indev in.iso -extract a.txt got/a.txt", Creates("got/a.txt")),
    (
        "Proxmox assistant",
        "xorriso -boot_image any keep -volume_date uuid 2024010203040500 -dev out.iso -map \
         user-data /auto-installer-mode.toml",
        Image(&["/auto-installer-mode.toml"]),
    ),
    (
        "Proxmox PXE",
        "xorriso -boot_image any keep -indev in.iso -outdev out.iso -rm_r /images",
        Image(&["/a.txt"]),
    ),
    (
        "Nutanix test",
        "xorriso -return_with FAILURE 32 -indev in.iso -outdev out.iso -boot_image any keep \
         -map user-data /u -commit -end",
        Image(&["/u"]),
    ),
    (
        "Windows unattended",
        "xorriso -indev in.iso -outdev out.iso -boot_image any keep -map user-data \
         /autounattend.xml --",
        Image(&["/autounattend.xml"]),
    ),
    (
        "pungi",
        "xorriso -indev in.iso -outdev out.iso -boot_image any replay -joliet on -system_id \
         LINUX -compliance joliet_long_names -volid DVD -map user-data packages/u -end",
        Image(&["/packages/u"]),
    ),
    (
        "Fedora lorax fork",
        "xorriso -indev in.iso -outdev out.iso -volid V -map user-data /casper/u -boot_image \
         any replay -compliance no_emul_toc -padding included -commit",
        Image(&["/casper/u"]),
    ),
    (
        "Ubuntu autoinstall",
        "xorriso -osirrox on -indev in.iso -extract / got",
        Creates("got/boot/grub/grub.cfg"),
    ),
    (
        "virt-install, kernel",
        "xorriso -osirrox on -indev in.iso -extract /boot/grub/grub.cfg got/cfg",
        Creates("got/cfg"),
    ),
    ("Alpine check", "xorriso -indev in.iso -pvd_info", Prints("Volume Id    : INPUT")),
    (
        "ISO check",
        "xorriso -indev in.iso -report_el_torito plain",
        Prints("El Torito boot img :   1  BIOS  y   none"),
    ),
    (
        "Ubuntu rebuild",
        "xorriso -indev in.iso -report_el_torito as_mkisofs",
        Prints("-b '/boot/grub/eltorito.img'"),
    ),
    (
        "a GRUB 1 tutorial",
        "xorriso -outdev out.iso -blank as_needed -map tree / -boot_image grub \
         bin_path=/boot/grub/eltorito.img",
        Image(&["/a.txt"]),
    ),
    (
        "PLD rescue",
        "xorriso -report_about ALL -dev out.iso -in_charset utf-8 -out_charset utf-8 -hardlinks \
         on -acl off -xattr off -pathspecs on -uid 0 -gid 0 -joliet on -rockridge on -volid \
         PLD_NR -volume_date uuid 2024010203040500 -add /boot/boot.img=boot.mbr --",
        Image(&["/boot/boot.img"]),
    ),
    (
        "a Debian stick",
        "xorriso -indev in.iso -outdev out.iso -map user-data /live/u -boot_image any replay \
         -append_partition 3 0x0c floppy.img -commit -end",
        Refused("-append_partition"),
    ),
];

const ISOLINUX: &str = "-b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot \
                        -boot-load-size 4 -boot-info-table";

fn fixtures(lab: &Lab) {
    lab.seed();
    lab.file("tree/a.txt", "a");
    lab.file("tree/boot/grub/grub.cfg", "set timeout=1\n");
    lab.file("tree/boot/grub/eltorito.img", &"e".repeat(30_000));
    lab.file("tree/isolinux/isolinux.bin", &"i".repeat(30_000));
    lab.file("tree/images/efiboot.img", &"f".repeat(100_000));
    lab.file("floppy.img", &"d".repeat(1_474_560));
    lab.file("boot.mbr", &"m".repeat(512));
    lab.file("list", "listed/x=user-data\ntree\n");
    lab.file("sort.list", "tree/boot 50\ntree/a.txt -1\n");
    let args = "-as mkisofs -quiet -o in.iso -V INPUT -b boot/grub/eltorito.img -no-emul-boot tree";
    lab.tool("xorriso", &args.split(' ').collect::<Vec<_>>());
}

#[test]
fn command_lines_of_build_scripts() {
    let mut failures = Vec::new();
    for (origin, line, outcome) in LINES {
        let lab = Lab::new();
        fixtures(&lab);
        if line.contains("-dev out.iso -map") {
            std::fs::copy(lab.path("in.iso"), lab.path("out.iso")).expect("copies");
        }
        let line = line.replace('@', ISOLINUX);
        let words: Vec<_> = line.split_whitespace().collect();
        let ran = run_as(&lab, words[0], &words[1..]);
        let done = match outcome {
            Refused(option) => ran.code != Some(0) && ran.err.contains(option),
            Prints(text) => ran.code == Some(0) && ran.out.contains(text),
            Creates(path) => ran.code == Some(0) && lab.path(path).exists(),
            Image(paths) => {
                ran.code == Some(0) && {
                    let tree = if lab.has_tree("-R", "out.iso") { "-R" } else { "" };
                    let names = lab.isoinfo("out.iso", tree);
                    lab.line("iso verify out.iso").code == Some(0)
                        && paths.iter().all(|path| names.iter().any(|name| name == path))
                }
            }
        };
        if !done {
            failures.push(format!("{origin}: {line}\n  {:?}: {}", ran.code, ran.err));
        }
    }
    let (failed, all) = (failures.len(), LINES.len());
    assert!(failures.is_empty(), "{failed} of {all}:\n{}", failures.join("\n"));
}
