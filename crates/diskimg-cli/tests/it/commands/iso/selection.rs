//! Tests of options that hide, sort, list and rename files, compared with genisoimage and xorriso.

use super::argv::run_as;
use crate::support::{Lab, Ran};

impl Lab {
    /// Creates a tree with three files in each of three directories, none with equal contents.
    fn sortable(&self) {
        for dir in ["", "boot/", "z/"] {
            for name in ["a", "b", "c"] {
                self.file(&format!("s/{dir}{name}"), &format!("{dir}{name}").repeat(1000));
            }
        }
    }

    /// Returns the paths of the regular files of an image in the order of their contents.
    fn in_order(&self, image: &str) -> Vec<String> {
        let listed = self.tool("isoinfo", &["-R", "-l", "-i", image]);
        let mut found = Vec::new();
        let mut dir = String::new();
        for line in String::from_utf8(listed).expect("UTF-8").lines() {
            if let Some(name) = line.strip_prefix("Directory listing of ") {
                name.trim().clone_into(&mut dir);
            } else if line.starts_with('-') {
                let extent = line.split(['[', ' ']).filter(|word| !word.is_empty());
                let words: Vec<_> = extent.collect();
                let sector: u32 = words[words.len() - 3].parse().expect("a sector");
                found.push((sector, format!("{dir}{}", words[words.len() - 1])));
            }
        }
        found.sort();
        found.into_iter().map(|(_, name)| name).collect()
    }

    /// Runs the same arguments with diskimg and `program`, which write `ours.iso` and
    /// `theirs.iso`.
    #[track_caller]
    fn both(&self, program: &str, args: &str) -> Ran {
        let args: Vec<_> = args.split_whitespace().collect();
        let ran = run_as(self, program, &[&["-quiet", "-o", "ours.iso"], &args[..]].concat());
        assert_eq!(ran.code, Some(0), "{program} {args:?}: {}", ran.err);
        self.tool(program, &[&["-quiet", "-o", "theirs.iso"], &args[..]].concat());
        ran
    }

    /// Asserts that both images have the same names in every tree.
    #[track_caller]
    fn same_names(&self, context: &str) {
        for tree in ["", "-R", "-J"] {
            let names = |image| self.has_tree(tree, image).then(|| self.isoinfo(image, tree));
            let [ours, theirs] = ["ours.iso", "theirs.iso"].map(names);
            assert_eq!(ours, theirs, "{context}: tree {tree:?}");
        }
        let ran = self.line("iso verify ours.iso");
        assert_eq!(ran.code, Some(0), "{context}: {}", ran.err);
    }
}

#[test]
fn hidden_files_are_in_the_same_trees_as_with_genisoimage() {
    for options in [
        "-hide b.txt",
        "-hide b.txt -hide-joliet a.txt",
        "-hide sub -hide-joliet boot",
        "-hide d/sub/*",
        "-hide d/sub/b.txt -hide a.txt -hide-joliet a.txt",
        "-hide-list list -hide-joliet-list list",
        "-b boot/x.img -c boot.cat -no-emul-boot -hide boot.cat",
        "-b boot/x.img -c boot/boot.cat -no-emul-boot -hide boot/boot.cat -hide-joliet x.img",
    ] {
        let lab = Lab::new();
        lab.file("d/a.txt", "a");
        lab.file("d/sub/b.txt", "b");
        lab.file("d/sub/deep/c.txt", "c");
        lab.file("d/boot/x.img", &"x".repeat(5000));
        lab.file("list", "c.txt\nd/a*\n");
        lab.both("genisoimage", &format!("-J -r {options} d"));
        lab.same_names(options);
    }
    let lab = Lab::new();
    lab.file("d/a.txt", "a");
    lab.file("d/sub/b.txt", "b");
    // xorriso compares with the path on the host, too.
    lab.both("xorrisofs", "-J -hide b.txt -hide-joliet d/a.txt d");
    lab.same_names("xorrisofs");
}

#[test]
fn the_hidden_flag_is_recorded_as_by_genisoimage() {
    let lab = Lab::new();
    lab.sortable();
    lab.both("genisoimage", "-J -R -hidden c -hidden z s");
    for tree in ["-R", "-J"] {
        let flags = |image: &str| {
            let listed = lab.tool("isoinfo", &[tree, "-l", "-i", image]);
            let text = String::from_utf8(listed).expect("UTF-8");
            let lines = text.lines().filter_map(|line| line.split_once(']'));
            let words = |(left, name): (&str, &str)| {
                let flags = left.rsplit(' ').next().unwrap_or_default();
                format!("{} {flags}", name.trim())
            };
            lines.map(words).collect::<Vec<_>>()
        };
        assert_eq!(flags("ours.iso"), flags("theirs.iso"), "{tree}");
        assert!(flags("ours.iso").contains(&"z 03".to_owned()), "{:?}", flags("ours.iso"));
    }
}

#[test]
fn a_file_that_is_hidden_everywhere_is_still_written() {
    let lab = Lab::new();
    lab.file("d/secret", &"needle".repeat(1000));
    lab.file("d/a", "a");
    lab.both("genisoimage", "-J -r -hide secret -hide-joliet secret d");
    let image = lab.read("ours.iso");
    assert!(image.windows(12).any(|bytes| bytes == b"needleneedle"));
}

#[test]
fn contents_are_sorted_as_by_genisoimage_and_xorriso() {
    for list in [
        "s/z/c 100\ns/boot 50\ns/a -5\n",
        "s/z/c 100\ns/z/* 10\n",
        "s/z/* 10\ns/z/c\t100\n",
        "s/c 7\nb 20\n",
        "s 5\ns/boot/b 6\n",
    ] {
        let lab = Lab::new();
        lab.sortable();
        lab.file("list", list);
        lab.both("genisoimage", "-R -sort list s");
        assert_eq!(lab.in_order("ours.iso"), lab.in_order("theirs.iso"), "{list}");
    }
    for options in [
        "--sort-weight 0 / --sort-weight 1 /boot",
        "--sort-weight 5 /z/c --sort-weight 1 /boot --sort-weight 3 z/a --sort-weight -7 /a",
        "--sort-weight-list list",
    ] {
        let lab = Lab::new();
        lab.sortable();
        lab.file("list", "2 /z\n1 /boot\n3 /boot/c\n");
        lab.both("xorrisofs", &format!("s {options}"));
        assert_eq!(lab.in_order("ours.iso"), lab.in_order("theirs.iso"), "{options}");
    }
    let lab = Lab::new();
    lab.sortable();
    lab.file("list", "s/a high\n");
    for (line, message) in [
        ("mkisofs -o x.iso -sort list s", "'s/a high': expected FILE WEIGHT"),
        ("mkisofs -o x.iso -sort nope s", "nope"),
        ("mkisofs -o x.iso --sort-weight 1 /nope s", "/nope: no such file"),
        ("mkisofs -o x.iso --sort-weight-list list s", "expected WEIGHT PATH"),
    ] {
        let error = lab.line(line).fails(1);
        assert!(error.contains(message), "{line}: {error}");
    }
}

#[test]
fn boot_catalog_and_boot_images_come_before_sorted_files() {
    let lab = Lab::new();
    lab.sortable();
    lab.both("xorrisofs", "-b z/b -no-emul-boot s --sort-weight 9 /z/c");
    let order = lab.in_order("ours.iso");
    assert_eq!(order[..3], ["/boot.catalog", "/z/b", "/z/c"]);
}

#[test]
fn translation_tables_equal_genisoimages() {
    for (options, table) in [
        ("-T", "TRANS.TBL"),
        ("-T -l -allow-lowercase", "TRANS.TBL"),
        ("-table-name yy.tbl -hide a.txt", "yy.tbl"),
        ("-J -translation-table -hide-joliet-trans-tbl", "TRANS.TBL"),
    ] {
        let lab = Lab::new();
        lab.file("d/a.txt", "a");
        lab.file("d/a long name with spaces.text", "b");
        lab.file("d/sub/UPPER", "c");
        std::fs::create_dir(lab.path("d/empty")).expect("mkdir");
        std::os::unix::fs::symlink("../x y", lab.path("d/sub/link")).expect("links");
        lab.tool("mkfifo", &["d/fifo"]);
        lab.both("genisoimage", &format!("-R {options} d"));
        // An empty directory has no table.
        for dir in ["", "sub/"] {
            let path = format!("/{dir}{table}");
            let read =
                |image| String::from_utf8(lab.tool("isoinfo", &["-R", "-x", &path, "-i", image]));
            assert_eq!(read("ours.iso"), read("theirs.iso"), "{options}: {path}");
        }
        for tree in ["", "-R"] {
            assert_eq!(lab.isoinfo("ours.iso", tree), lab.isoinfo("theirs.iso", tree), "{options}");
        }
        let joliet = options.contains("-J");
        if joliet {
            assert!(!lab.isoinfo("ours.iso", "-J").iter().any(|path| path.ends_with("TBL")));
        }
        lab.run(["iso", "verify", "ours.iso"]);
    }
    // xorriso accepts the option, but writes no tables.
    let lab = Lab::new();
    lab.seed();
    lab.both("xorrisofs", "-T user-data");
    lab.same_names("xorrisofs -T");
}

#[test]
fn two_files_with_one_path_are_an_error_or_with_xorriso_a_warning() {
    let lab = Lab::new();
    lab.file("one/same", "1");
    lab.file("two/same", "2");
    for line in [
        "mkisofs -o x.iso one two",
        "mkisofs -o x.iso -J -R one/same two/same",
        "genisoimage -o x.iso -graft-points a/b=one/same a/b=two/same",
        "mkisofs -o x.iso -graft-points a=one a=two",
        "mkisofs -o x.iso one/same one",
        "iso create -o x.iso one two",
        "iso create -o x.iso a/same=one/same a=two",
    ] {
        let error = lab.line(line).fails(1);
        let second = if line.ends_with("one") { "one/same" } else { "two/same" };
        assert!(error.contains("one/same and "), "{line}: {error}");
        assert!(error.contains(&format!("{second} would have the same path")), "{line}: {error}");
        assert!(!lab.path("x.iso").exists());
    }
    for line in ["xorriso -as mkisofs -o x.iso one two", "xorrisofs -o x.iso one two"] {
        let ran = lab.line(line);
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        assert!(ran.err.contains("warning: two/same replaces one/same"), "{}", ran.err);
        assert_eq!(lab.line("iso cat x.iso same").ok(), "2");
    }
    // A boot catalog of an earlier image is replaced, as by genisoimage.
    lab.file("one/boot.cat", "old");
    lab.file("one/boot.img", &"x".repeat(3000));
    lab.line("mkisofs -quiet -o x.iso -b boot.img -c boot.cat -no-emul-boot one").ok();
    lab.file("list", "a=one/same\na=two/same\n");
    let error = lab.line("mkisofs -o y.iso -graft-points -path-list list").fails(1);
    assert!(error.contains("two/same"), "{error}");
}

#[test]
fn the_printed_size_is_that_of_the_image() {
    let lab = Lab::new();
    lab.config_drive();
    for program in ["genisoimage", "xorrisofs"] {
        let theirs = lab.tool(program, &["-quiet", "-R", "-print-size", "drive"]);
        let ours = run_as(&lab, program, &["-quiet", "-R", "-print-size", "drive"]);
        assert_eq!((ours.code, ours.err.as_str()), (Some(0), ""));
        let sectors: u64 = ours.out.trim().parse().expect("a number");
        run_as(&lab, program, &["-quiet", "-R", "-o", "x.iso", "drive"]).ok();
        assert_eq!(lab.read("x.iso").len() as u64, sectors * 2048);
        // The layouts differ, so only the form is equal.
        let theirs = String::from_utf8(theirs).expect("UTF-8");
        assert!(theirs.strip_suffix('\n').is_some_and(|n| n.parse::<u64>().is_ok()), "{theirs}");
        std::fs::remove_file(lab.path("x.iso")).expect("removes");
        let ours = run_as(&lab, program, &["-R", "-print-size", "-o", "x.iso", "drive"]);
        let line = format!("Total extents scheduled to be written = {sectors}\n");
        assert_eq!((ours.err, ours.out), (line, format!("{sectors}\n")));
        assert!(!lab.path("x.iso").exists());
    }
}

#[test]
fn level_4_keeps_names_and_depth() {
    for options in ["", "-R", "-J -r"] {
        let lab = Lab::new();
        lab.file("d/Some Long Name with spaces é.tar.gz", "1");
        lab.file("d/Dir.x/.dot", "2");
        lab.file("d/1/2/3/4/5/6/7/8/9/deep", "3");
        lab.file(&format!("d/{}.txt", "n".repeat(220)), "4");
        lab.both("genisoimage", &format!("-iso-level 4 {options} d"));
        for tree in ["", "-R"] {
            assert_eq!(lab.isoinfo("ours.iso", tree), lab.isoinfo("theirs.iso", tree), "{options}");
        }
        let enhanced = lab.read("ours.iso").chunks(2048).skip(16).take(4).any(|sector| {
            sector.starts_with(b"\x02CD001\x02") && sector[881] == 2 && sector[88..91] == [0; 3]
        });
        assert!(enhanced, "{options}");
        assert_eq!(lab.bsdtar("ours.iso", "Dir.x/.dot"), b"2");
        if options.is_empty() {
            continue;
        }
        lab.tool("xorriso", &["-osirrox", "on", "-indev", "ours.iso", "-extract", "/", "got"]);
        assert_eq!(lab.read("got/1/2/3/4/5/6/7/8/9/deep"), b"3");
    }
}

#[test]
fn editors_backup_files_are_excluded_by_name() {
    let lab = Lab::new();
    for name in ["a", "a~", "#b#", "c.bak", "core", "d.bak/e"] {
        lab.file(&format!("x~/t/{name}"), name);
    }
    lab.both("genisoimage", "-R -no-bak x~/t");
    lab.same_names("-no-bak");
    assert_eq!(lab.isoinfo("ours.iso", "-R"), ["/a", "/core"]);
}

#[test]
fn names_are_converted_from_the_character_set_of_the_host() {
    use std::os::unix::ffi::OsStrExt;
    let lab = Lab::new();
    std::fs::create_dir(lab.path("d")).expect("mkdir");
    let name = std::ffi::OsStr::from_bytes(b"gr\x81n-\xe4.txt");
    std::fs::write(lab.path("d").join(name), "x").expect("writes");
    for (program, options, joliet, rock_ridge) in [
        ("genisoimage", "-input-charset cp437", "grün-Σ.txt", &b"gr\x81n-\xe4.txt"[..]),
        ("genisoimage", "-jcharset koi8-r", "gr│n-Д.txt", b"gr\x81n-\xe4.txt"),
        (
            "genisoimage",
            "-input-charset cp437 -output-charset utf-8",
            "grün-Σ.txt",
            "grün-Σ.txt".as_bytes(),
        ),
        ("xorrisofs", "-input-charset CP437", "grün-Σ.txt", "grün-Σ.txt".as_bytes()),
    ] {
        let line = format!("-R -J {options}");
        let args: Vec<_> = line.split_whitespace().chain(["-quiet", "-o", "x.iso", "d"]).collect();
        run_as(&lab, program, &args).ok();
        assert_eq!(lab.line("iso ls --namespace=joliet x.iso").ok(), format!("{joliet}\n"));
        let mut list = lab.command(crate::support::diskimg());
        let listed = list.args(["iso", "ls", "-0", "x.iso"]).output().expect("runs").stdout;
        assert_eq!(listed.strip_suffix(b"\0"), Some(rock_ridge), "{options}");
    }
    let theirs = ["-quiet", "-J", "-R", "-input-charset", "cp437", "-o", "theirs.iso", "d"];
    lab.tool("genisoimage", &theirs);
    assert_eq!(lab.line("iso ls --namespace=joliet theirs.iso").ok(), "grün-Σ.txt\n");
    let error = lab.line("mkisofs -o x.iso -input-charset klingon d").fails(1);
    assert!(error.contains("klingon: expected a known character set"), "{error}");
}

#[test]
fn a_generic_boot_image_is_at_the_start() {
    let lab = Lab::new();
    lab.seed();
    lab.file("boot.img", &"generic boot code ".repeat(1000));
    lab.both("genisoimage", "-G boot.img -copyright COPY.TXT -abstract user-data user-data");
    let [ours, theirs] = ["ours.iso", "theirs.iso"].map(|image| lab.read(image));
    assert!(ours[..32 << 10] == theirs[..32 << 10]);
    for key in ["Copyright File id", "Abstract File id", "Bibliographic File id"] {
        let [ours, theirs] = ["ours.iso", "theirs.iso"].map(|image| lab.descriptor(image));
        assert_eq!(ours.get(key), theirs.get(key), "{key}");
    }
    lab.both("xorrisofs", "-generic-boot boot.img user-data");
    let [ours, theirs] = ["ours.iso", "theirs.iso"].map(|image| lab.read(image));
    assert!(ours[..18_000] == theirs[..18_000]);
}

#[test]
fn deep_directories_are_relocated_to_a_chosen_directory() {
    let lab = Lab::new();
    lab.file("d/1/2/3/4/5/6/7/8/9/deep", "3");
    lab.both("genisoimage", "-R -hide-rr-moved d");
    assert_eq!(lab.isoinfo("ours.iso", "-R"), lab.isoinfo("theirs.iso", "-R"));
    run_as(&lab, "xorrisofs", &["-o", "ours.iso", "-rr_reloc_dir", "/moved", "d"]).ok();
    assert!(lab.isoinfo("ours.iso", "").contains(&"/MOVED".to_owned()));
    // -D wins in any order.
    for options in ["-D -hide-rr-moved", "-hide-rr-moved -D"] {
        lab.both("genisoimage", &format!("-R {options} d"));
        lab.same_names(options);
    }
}
