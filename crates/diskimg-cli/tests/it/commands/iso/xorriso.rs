//! Tests of xorriso's own commands, compared with xorriso.

use super::argv::run_as;
use crate::support::{Lab, Ran};

const GRUB_MBR: &str = "/usr/lib/grub/i386-pc/boot_hybrid.img";
const ISOLINUX: &str = "/usr/lib/ISOLINUX/isolinux.bin";
const ISOHYBRID_MBR: &str = "/usr/lib/ISOLINUX/isohdpfx.bin";

impl Lab {
    fn tree(&self) {
        self.file("d/a.txt", "a\n");
        self.file("d/sub/b.txt", "b\n");
        self.file("d/sub/deep/c.txt", "c\n");
        self.file("d/boot/grub/eltorito.img", &"e".repeat(30_000));
        std::os::unix::fs::symlink("a.txt", self.path("d/link")).expect("links");
        self.file("efi.img", &"f".repeat(1_474_560));
        self.file("new.cfg", "new\n");
    }

    /// Creates `name` with xorriso.
    fn made(&self, name: &str, options: &str) {
        let args = format!("-as mkisofs -quiet -o {name} {options}");
        self.tool("xorriso", &args.split(' ').collect::<Vec<_>>());
    }

    fn xorriso(&self, line: &str) -> Ran {
        run_as(self, "xorriso", &line.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs the same commands with diskimg and xorriso; returns both.
    fn xorriso_pair(&self, line: &str) -> [Ran; 2] {
        let words: Vec<_> = line.split_whitespace().collect();
        let theirs = self.command("xorriso").args(&words).output().expect("xorriso runs");
        [run_as(self, "xorriso", &words), Ran::new(theirs)]
    }

    /// Asserts that exit code and results are equal.
    #[track_caller]
    fn same_results(&self, line: &str) -> String {
        let [ours, theirs] = self.xorriso_pair(line);
        assert_eq!((ours.code, &ours.out), (theirs.code, &theirs.out), "{line}: {}", ours.err);
        ours.out
    }

    /// Runs commands that write `out.iso` with diskimg and xorriso. Asserts that exit code, trees
    /// and boot records are equal, and leaves `ours.iso` and `theirs.iso`.
    #[track_caller]
    fn same_image(&self, line: &str) -> Ran {
        let words: Vec<_> = line.split_whitespace().collect();
        let before = std::fs::read(self.path("out.iso")).ok();
        let restore = || match &before {
            Some(bytes) => std::fs::write(self.path("out.iso"), bytes).expect("writes"),
            None => drop(std::fs::remove_file(self.path("out.iso"))),
        };
        let ours = run_as(self, "xorriso", &words);
        std::fs::rename(self.path("out.iso"), self.path("ours.iso")).unwrap_or_else(|e| {
            panic!("{line}: {e}: {}", ours.err);
        });
        restore();
        let theirs = self.command("xorriso").args(&words).output().expect("xorriso runs");
        assert_eq!(ours.code, theirs.status.code(), "{line}: {}", ours.err);
        std::fs::rename(self.path("out.iso"), self.path("theirs.iso")).expect("xorriso writes");
        restore();
        for tree in ["-R", "-J"] {
            if self.has_tree(tree, "theirs.iso") {
                let [ours, theirs] = ["ours.iso", "theirs.iso"].map(|i| self.isoinfo(i, tree));
                assert_eq!(ours, theirs, "{line}: {tree}");
            }
        }
        assert_eq!(self.boot("ours.iso"), self.boot("theirs.iso"), "{line}");
        let verified = self.line("iso verify ours.iso");
        assert_eq!(verified.code, Some(0), "{line}: {}", verified.out);
        ours
    }

    /// Returns the boot records as xorriso describes them, without addresses and dates.
    fn boot(&self, image: &str) -> Vec<String> {
        let args = ["-indev", image, "-report_el_torito", "as_mkisofs"];
        let text = String::from_utf8(self.tool("xorriso", &args)).expect("UTF-8");
        let line = |line: &str| {
            let line = line.split(" --interval").next().unwrap_or(line);
            line.split("_start_").next().unwrap_or(line).to_owned()
        };
        text.lines().filter(|line| !line.starts_with("--modification-date")).map(line).collect()
    }
}

/// Creates images with several kinds of boot records.
fn bootable_images(lab: &Lab) -> Vec<&'static str> {
    lab.tree();
    lab.made("plain.iso", "-V PLAIN -J d");
    lab.made(
        "mbr.iso",
        "-V MBR -append_partition 2 0xef efi.img -e --interval:appended_partition_2:all:: \
         -no-emul-boot d",
    );
    lab.made(
        "gpt.iso",
        "-V GPT -b boot/grub/eltorito.img -no-emul-boot -boot-load-size 4 -boot-info-table \
         -append_partition 2 0xef efi.img -appended_part_as_gpt -eltorito-alt-boot \
         -e --interval:appended_partition_2:all:: -no-emul-boot d",
    );
    lab.made(
        "grub.iso",
        &format!(
            "-V GRUB --grub2-mbr {GRUB_MBR} -partition_offset 16 --mbr-force-bootable \
             -append_partition 2 28732ac11ff8d211ba4b00a0c93ec93b efi.img -appended_part_as_gpt \
             -iso_mbr_part_type a2a0d0ebe5b9334487c068b6b72699c7 -c /boot.catalog \
             -b /boot/grub/eltorito.img -no-emul-boot -boot-load-size 4 -boot-info-table \
             --grub2-boot-info -eltorito-alt-boot -e --interval:appended_partition_2:all:: \
             -no-emul-boot d"
        )
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" "),
    );
    std::fs::copy(lab.path("efi.img"), lab.path("d/efi.img")).expect("copies");
    std::fs::copy(ISOLINUX, lab.path("d/isolinux.bin")).expect("needs isolinux");
    lab.made(
        "isohybrid.iso",
        &format!(
            "-V ISOHYBRID -isohybrid-mbr {ISOHYBRID_MBR} -b isolinux.bin -no-emul-boot \
             -boot-load-size 4 -boot-info-table -eltorito-alt-boot -e efi.img -no-emul-boot \
             -isohybrid-gpt-basdat d"
        )
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" "),
    );
    vec!["plain.iso", "mbr.iso", "gpt.iso", "grub.iso", "isohybrid.iso"]
}

#[test]
fn lists_and_reports_equal_xorrisos() {
    let lab = Lab::new();
    for image in bootable_images(&lab) {
        for commands in [
            "-find",
            "-pkt_output on -find",
            "-find / -type f",
            "-find /sub -maxdepth 1",
            "-find / -name *.txt -exec lsdl --",
            "-find / -wholename /sub/*",
            "-find / -type f -exec report_lba --",
            "-find /nope",
            "-ls",
            "-ls /sub /boot --",
            "-ls /nope",
            "-lsl /sub",
            "-lsd /sub /a.txt --",
            "-lsdl /sub",
            "-pvd_info",
            "-report_el_torito plain",
            "-report_el_torito cmd",
            "-report_el_torito as_mkisofs",
            "-report_system_area as_mkisofs",
        ] {
            if commands.starts_with("-lsl") {
                // xorriso shows the number of blocks, too.
                let [ours, theirs] = lab.xorriso_pair(&format!("-indev {image} {commands}"));
                assert_eq!(theirs.out.split_once('\n').expect("lines").1, ours.out);
                continue;
            }
            lab.same_results(&format!("-indev {image} {commands}"));
        }
        let [ours, theirs] = lab.xorriso_pair(&format!("-indev {image} -toc"));
        for key in ["Boot record  :", "Boot catalog :", "ISO session  :"] {
            let line = |text: &str| text.lines().find(|l| l.starts_with(key)).map(str::to_owned);
            assert_eq!(line(&ours.out), line(&theirs.out), "{image}");
        }
        // Scripts look for these lines on standard error.
        for key in ["Drive current:", "Boot record  :", "Volume id    :"] {
            let line = |text: &str| text.lines().find(|l| l.starts_with(key)).map(str::to_owned);
            assert_eq!(line(&ours.err), line(&theirs.err), "{image}");
            assert!(line(&ours.err).is_some() || key.starts_with("Boot"));
        }
        let [ours, theirs] = lab.xorriso_pair(&format!("-indev {image} -report_system_area plain"));
        for line in ours.out.lines() {
            assert!(theirs.out.contains(line.trim_end()), "{image}: {line}: {}", theirs.out);
        }
    }
}

/// The options that a report gives rebuild an image with diskimg, too.
#[test]
fn a_report_for_mkisofs_is_a_command_line_that_is_understood() {
    let lab = Lab::new();
    lab.tree();
    lab.made(
        "in.iso",
        "-V REPORTED -b boot/grub/eltorito.img -no-emul-boot -boot-load-size 4 -boot-info-table d",
    );
    let report = lab.xorriso("-indev in.iso -report_el_torito as_mkisofs");
    let options = report.out.replace('\'', "").replace('\n', " ");
    let args = format!("-as mkisofs -quiet -o out.iso {options} d");
    lab.xorriso(&args).ok();
    assert_eq!(lab.boot("out.iso"), lab.boot("in.iso"));
}

#[test]
fn new_images_equal_xorrisos() {
    for commands in [
        "-map d / -volid Z",
        "-map d / -mkdir /new/dir -- -rm_r /sub -- -rm /link -- -chmod 0700 /a.txt -- \
         -chmod_r u+w,go-rwx /boot --",
        "-add d/a.txt d/sub --",
        "-pathspecs on -add /x/y=d/a.txt q=d/sub --",
        "-map d /deep/er -cd /deep -map new.cfg relative.cfg",
        "-map new.cfg /file/ -joliet on -padding 0",
        "-map d / -rm /nope --",
        "-joliet on -compliance joliet_long_names:iso_9660_level=3 -map d /",
        "-volid foo",
        "-boot_image any keep -map d / -end -find",
        "-map d / -boot_image any bin_path=/boot/grub/eltorito.img",
        "-boot_image isolinux dir=/isolinux -map d/boot/grub/eltorito.img \
         /isolinux/isolinux.bin -boot_image isolinux partition_table=on \
         -boot_image isolinux system_area=/usr/lib/ISOLINUX/isohdpfx.bin",
        "-uid 7 -gid 8 -map d / -volset_id S -publisher P -application_id A -system_id X \
         -preparer_id Q -copyright_file COPY.TXT",
    ] {
        let lab = Lab::new();
        lab.tree();
        lab.same_image(&format!("-outdev out.iso {commands}"));
        let [ours, theirs] = ["ours.iso", "theirs.iso"].map(|image| {
            let listed = lab.tool("xorriso", &["-indev", image, "-find", "/", "-exec", "lsdl"]);
            let text = String::from_utf8(listed).expect("UTF-8");
            // Permissions and names; directories made on the way have the time of the run.
            let line = |line: &str| format!("{} {}", &line[..30], &line[56..]);
            text.lines().map(line).collect::<Vec<_>>()
        });
        // The catalog's permissions differ.
        let files = |lines: Vec<String>| lines.into_iter().filter(|l| !l.starts_with('e'));
        assert!(files(ours).eq(files(theirs)), "{commands}");
        let [ours, theirs] = ["ours.iso", "theirs.iso"].map(|image| lab.descriptor(image));
        for key in ["Volume id", "Volume set id", "Publisher id", "Application id", "System id"] {
            assert_eq!(ours.get(key), theirs.get(key), "{commands}: {key}");
        }
    }
}

/// The command of elemental-toolkit.
#[test]
fn elemental() {
    let lab = Lab::new();
    lab.tree();
    lab.same_image(&format!(
        "-volid COS_LIVE -joliet on -padding 0 -outdev out.iso -map d / -chmod 0755 -- \
         -boot_image grub bin_path=/boot/grub/eltorito.img -boot_image grub grub2_mbr={GRUB_MBR} \
         -boot_image grub grub2_boot_info=on -boot_image any cat_path=/boot/boot.catalog \
         -boot_image any cat_hidden=on -boot_image any boot_info_table=on \
         -boot_image any platform_id=0x00 -boot_image any emul_type=no_emulation \
         -boot_image any load_size=2048 -append_partition 2 0xef efi.img \
         -boot_image any next -boot_image any efi_path=--interval:appended_partition_2:all:: \
         -boot_image any platform_id=0xef -boot_image any emul_type=no_emulation"
    ));
    lab.tool("7zz", &["t", "ours.iso"]);
}

/// The commands of mkksiso (lorax).
#[test]
fn mkksiso() {
    let lab = Lab::new();
    lab.tree();
    lab.made(
        "in.iso",
        "-V Fedora-39 -b boot/grub/eltorito.img -no-emul-boot -boot-load-size 4 -boot-info-table d",
    );
    let [ours, theirs] = lab.xorriso_pair("-indev in.iso -pkt_output on -find");
    assert_eq!(ours.out, theirs.out);
    assert!(ours.err.contains("Volume id    : 'Fedora-39'"), "{}", ours.err);
    let ran = run_as(&lab, "osirrox", &["-indev", "in.iso", "-extract", "a.txt", "t/sub/a.txt"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_eq!(lab.read("t/sub/a.txt"), b"a\n");
    lab.same_image(
        "-indev in.iso -outdev out.iso -boot_image any replay -volid NEW -update t/sub/a.txt \
         sub/a.txt -map new.cfg new.cfg",
    );
    assert_eq!(lab.bsdtar("ours.iso", "new.cfg"), b"new\n");
    assert_eq!(lab.descriptor("ours.iso")["Volume id"], "NEW");
    // GRUB searches for the volume by its date, which stays.
    let date = |image: &str| {
        let out = lab.tool("xorriso", &["-indev", image, "-pvd_info"]);
        let text = String::from_utf8(out).expect("UTF-8");
        text.lines().find(|line| line.starts_with("Modif. Time")).map(str::to_owned)
    };
    assert_eq!(date("ours.iso"), date("in.iso"));
}

/// The commands of proxmox-auto-install-assistant: a changed copy of the image.
#[test]
fn proxmox_changes_an_image_in_place() {
    let lab = Lab::new();
    lab.tree();
    lab.made(
        "out.iso",
        "-V PVE -b boot/grub/eltorito.img -no-emul-boot -boot-load-size 4 -boot-info-table d",
    );
    let line = "-boot_image any keep -dev out.iso -map new.cfg /auto-installer-mode.toml";
    lab.same_image(line);
    assert_eq!(lab.bsdtar("ours.iso", "auto-installer-mode.toml"), b"new\n");
    let removed = "-boot_image any keep -indev out.iso -outdev boot.iso -rm_r /sub";
    assert_eq!(lab.xorriso(removed).code, Some(0));
    assert!(!lab.isoinfo("boot.iso", "-R").contains(&"/sub".to_owned()));
}

#[test]
fn without_boot_image_a_changed_image_loses_its_boot_records() {
    let lab = Lab::new();
    lab.tree();
    lab.made("in.iso", "-b boot/grub/eltorito.img -no-emul-boot d");
    for (commands, expected) in [
        ("-map new.cfg /n", false),
        ("-boot_image any discard -map new.cfg /n", false),
        ("-boot_image any keep -map new.cfg /n", true),
    ] {
        std::fs::remove_file(lab.path("out.iso")).ok();
        let ran = lab.xorriso(&format!("-indev in.iso -outdev out.iso {commands}"));
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        let records = lab.line("iso boot out.iso").ok();
        assert_eq!(records.contains("boot entry"), expected, "{commands}: {records}");
        let warns = ran.err.contains("the boot records are discarded: El Torito");
        assert_eq!(warns, !commands.contains("-boot_image"), "{commands}: {}", ran.err);
    }
}

#[test]
fn what_is_left_out_of_a_changed_image_is_said() {
    let lab = Lab::new();
    lab.tree();
    lab.made("in.iso", "d");
    let warnings = |lab: &Lab| {
        std::fs::remove_file(lab.path("out.iso")).ok();
        let ran = lab.xorriso("-indev in.iso -outdev out.iso -map new.cfg /n");
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        ran.err.lines().filter(|line| line.contains("warning")).map(str::to_owned).collect()
    };
    let none: Vec<String> = warnings(&lab);
    assert!(none.is_empty(), "{none:?}");
    let mut image = lab.read("in.iso");
    image[16 * 2048 + 883..][..4].copy_from_slice(b"ISO ");
    image.extend([0; 100_000]);
    image.extend(b"signature");
    std::fs::write(lab.path("in.iso"), image).expect("writes");
    let both: Vec<String> = warnings(&lab);
    assert_eq!(both.len(), 2, "{both:?}");
    assert!(both[0].contains("the application use field"), "{both:?}");
    assert!(both[1].contains("the data after the volume"), "{both:?}");
}

#[test]
fn a_partition_table_without_boot_code() {
    let lab = Lab::new();
    lab.tree();
    for settings in [
        "-boot_image grub partition_table=on",
        "-boot_image any partition_table=on -boot_image any partition_hd_cyl=255 \
         -boot_image any partition_sec_hd=63",
        "-boot_image any partition_table=on -boot_image any partition_hd_cyl=128",
        "-boot_image any partition_table=on -boot_image any partition_table=off",
        "-boot_image isolinux partition_table=on",
    ] {
        lab.same_image(&format!("-outdev out.iso -map d / {settings}"));
        // Status, type and start: the sizes of the images differ.
        let entry = |name: &str| [446, 450, 454].map(|at| lab.read(name)[at]);
        assert_eq!(entry("ours.iso"), entry("theirs.iso"), "{settings}");
        let [ours, theirs] = lab.xorriso_pair("-indev theirs.iso -report_system_area plain");
        // xorriso counts the padding.
        for line in ours.out.lines().filter(|line| !line.starts_with("ISO image size")) {
            assert!(theirs.out.contains(line), "{settings}: {line}: {}", theirs.out);
        }
        lab.same_results("-indev theirs.iso -report_system_area as_mkisofs");
    }
}

#[test]
fn reports_with_control_characters_are_one_line_each() {
    let lab = Lab::new();
    lab.tree();
    lab.file("d/boot/x\ny.img", &"e".repeat(3000));
    let boot = ["-b", "boot/x\ny.img", "-no-emul-boot", "d"];
    let args = ["-as", "mkisofs", "-quiet", "-o", "in.iso"].into_iter().chain(boot);
    lab.tool("xorriso", &args.collect::<Vec<_>>());
    for report in ["plain", "cmd", "as_mkisofs"] {
        let ran = lab.xorriso(&format!("-indev in.iso -report_el_torito {report}"));
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        assert!(ran.out.contains("/boot/x\\u{a}y.img"), "{report}: {}", ran.out);
        let warned = ran.err.contains("control characters are shown escaped");
        assert_eq!(warned, report != "plain", "{report}: {}", ran.err);
    }
}

#[test]
fn an_image_with_several_names_is_the_same_image() {
    let lab = Lab::new();
    lab.tree();
    lab.made("in.iso", "d");
    for erase in ["-indev in.iso -outdev ./in.iso", "-indev ./in.iso -outdev in.iso"] {
        let ran = lab.xorriso(&format!("{erase} -blank all -map new.cfg /only"));
        assert_eq!(ran.code, Some(0), "{erase}: {}", ran.err);
        assert_eq!(lab.isoinfo("in.iso", "-R"), ["/only"], "{erase}");
    }
    lab.made("in.iso", "d");
    std::fs::hard_link(lab.path("in.iso"), lab.path("other.iso")).expect("links");
    let before = lab.read("in.iso");
    let error = lab.xorriso("-dev in.iso -map new.cfg /n").fails(32);
    assert!(error.contains("other names"), "{error}");
    assert!(lab.read("other.iso") == before);
}

#[test]
fn files_are_extracted_as_by_xorriso() {
    let lab = Lab::new();
    lab.tree();
    lab.made("in.iso", "d");
    for (commands, code) in [
        ("-osirrox on -indev in.iso -extract /a.txt got/a", 0),
        ("-osirrox on -indev in.iso -extract a.txt got/relative -extract /sub got/s", 0),
        ("-osirrox on -indev in.iso -extract / got/all", 0),
        ("-osirrox on:auto_chmod_off -indev in.iso -cpx /a.txt /sub/b.txt got", 0),
        ("-osirrox on -dev in.iso -boot_image any keep -extract sub/b.txt got/b", 0),
        ("-osirrox on -indev in.iso -extract /nope got/nope", 5),
        ("-osirrox on -indev in.iso -extract /a.txt got", 5),
        ("-indev in.iso -extract /a.txt got/never", 5),
    ] {
        let mut trees = Vec::new();
        for program in ["ours", "xorriso"] {
            std::fs::remove_dir_all(lab.path("got")).ok();
            std::fs::create_dir(lab.path("got")).expect("mkdir");
            let ran = match program {
                "ours" => lab.xorriso(commands),
                _ => {
                    let words = commands.split_whitespace();
                    Ran::new(lab.command("xorriso").args(words).output().expect("runs"))
                }
            };
            assert_eq!(ran.code, Some(code), "{program} {commands}: {}", ran.err);
            let list = lab.tool("find", &["got", "-printf", "%p %m %s %l\\n"]);
            let list = String::from_utf8(list).expect("UTF-8");
            let mut lines: Vec<_> = list.lines().map(str::to_owned).collect();
            lines.retain(|line| !line.starts_with("got ") && !line.contains(" 4096 "));
            lines.sort();
            trees.push(lines);
        }
        assert_eq!(trees[0], trees[1], "{commands}");
    }
    // A device or a pipe is written to; xorriso, as root, would replace it by a file.
    let ran = lab.xorriso("-osirrox on -indev in.iso -extract /a.txt /dev/stdout");
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "a\n"), "{}", ran.err);
    let ran = run_as(&lab, "osirrox", &["-indev", "in.iso", "-extract", "/a.txt", "got/x"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
}

#[test]
fn errors_have_xorrisos_exit_codes() {
    let lab = Lab::new();
    lab.tree();
    lab.made("in.iso", "d");
    for (commands, code, message) in [
        ("-qux", 5, "not a known command: '-qux'"),
        ("-indev", 5, "-indev: a value is missing"),
        ("-hfsplus on", 5, "the command -hfsplus is not supported"),
        ("-indev nope.iso -find", 5, "nope.iso"),
        ("-indev in.iso -map new.cfg /n", 5, "no -outdev or -dev"),
        ("-indev in.iso -outdev y.iso -map nope /n", 32, "nope"),
        ("-indev in.iso -outdev y.iso -map nope /n -commit", 5, "nope"),
        ("-outdev in.iso -map d /", 32, "not empty"),
        ("-outdev in.iso -map d / -commit", 5, "not empty"),
        ("-outdev y.iso -map d / -map new.cfg /sub", 32, "sub"),
        ("-outdev y.iso -map d / -rm /sub --", 32, "-rm_r"),
        ("-outdev y.iso -map new.cfg /", 32, "only a directory"),
        ("-indev in.iso -indev in.iso", 5, "second image"),
        ("-indev in.iso -outdev y.iso -map new.cfg /n -find", 5, "after a change"),
        ("-outdev y.iso -boot_image any frob=on -map d /", 5, "frob=on is not supported"),
        (
            "-indev in.iso -outdev y.iso -boot_image any keep -append_partition 2 0xef efi.img",
            5,
            "-append_partition together with the boot records",
        ),
        ("-compliance frob", 5, "-compliance frob is not supported"),
        ("-acl on", 5, "-acl on: expected off"),
        ("-overwrite off", 5, "-overwrite off: expected on or nondir"),
        ("-out_charset koi8-r", 5, "expected utf-8"),
        ("-rollback", 5, "the command -rollback is not supported"),
        ("-as cdrecord x", 5, "-as cdrecord is not supported"),
        ("-volid X -as mkisofs -o y.iso d", 5, "-as after other commands is not supported"),
    ] {
        let error = lab.xorriso(commands).fails(code);
        assert!(error.contains(message), "{commands}: {error}");
        assert!(!lab.path("y.iso").exists(), "{commands}");
    }
    let size = lab.read("in.iso").len();
    assert_eq!(lab.xorriso("-outdev in.iso -blank as_needed -map new.cfg /n").code, Some(0));
    assert_ne!(lab.read("in.iso").len(), size);
    let blanked = lab.xorriso("-dev in.iso -blank as_needed -map new.cfg /only");
    assert_eq!(blanked.code, Some(0), "{}", blanked.err);
    assert_eq!(lab.isoinfo("in.iso", "-R"), ["/only"]);
    assert_eq!(lab.xorriso("-indev in.iso -outdev y.iso").code, Some(0));
    assert!(!lab.path("y.iso").exists(), "nothing was changed");
}

/// `grub-mkrescue ... -- -volid X` passes commands after the options of mkisofs.
#[test]
fn settings_may_follow_the_options_of_mkisofs() {
    let lab = Lab::new();
    lab.tree();
    lab.xorriso("-no_rc -report_about WARNING -as mkisofs -quiet -o x.iso d -- -volid CHAOS").ok();
    assert_eq!(lab.descriptor("x.iso")["Volume id"], "CHAOS");
    let error = lab.xorriso("-as mkisofs -o y.iso d -- -map new.cfg /x").fails(5);
    assert!(error.contains("'-map' after --"), "{error}");
    lab.line("--sandbox=off xorriso -outdev z.iso -volid V -map d /");
    assert_eq!(lab.descriptor("z.iso")["Volume id"], "V");
    let help = lab.run(["xorriso", "-help"]).ok();
    assert!(help.contains("Usage: diskimg xorriso") && help.contains("-indev FILE"), "{help}");
}

#[test]
fn values_of_commands_are_checked() {
    let lab = Lab::new();
    std::fs::create_dir(lab.path("d")).expect("mkdir");
    std::fs::write(lab.path("d/f"), b"contents").expect("writes");
    std::fs::write(lab.path("in.dat"), [7; 100_000]).expect("writes");
    for line in [
        "xorriso -outdev in.dat -blank bogus -map d /d",
        "xorriso -outdev new.iso -follow bogus -map d /d",
        "xorriso -outdev new.iso -backslash_codes on -map d /d",
    ] {
        assert_ne!(lab.line(line).code, Some(0), "{line}");
        assert_eq!(lab.read("in.dat"), [7; 100_000], "{line}");
    }
    std::os::unix::fs::symlink("../in.dat", lab.path("d/link")).expect("links");
    let line = "xorriso -outdev new.iso -backslash_codes off -follow link -map d /d";
    assert_eq!(lab.line(line).code, Some(0));
    assert_eq!(lab.bsdtar("new.iso", "d/link"), [7; 100_000]);
}

#[test]
#[ignore = "needs root"]
fn a_device_with_data_is_not_overwritten_unless_it_is_blanked() {
    let lab = Lab::new();
    std::fs::create_dir(lab.path("d")).expect("mkdir");
    std::fs::write(lab.path("disk"), vec![7; 4 << 20]).expect("writes");
    let device = diskimg_testkit::tool::LoopDevice::attach(&lab.path("disk"));
    let line = |blank: &str| {
        lab.line(&format!("xorriso -outdev stdio:{} {blank} -map d /d", device.path().display()))
    };
    assert!(line("").fails(32).contains("not empty"));
    assert!(lab.read("disk").iter().all(|&byte| byte == 7));
    assert_eq!(line("-blank as_needed").code, Some(0));
}
