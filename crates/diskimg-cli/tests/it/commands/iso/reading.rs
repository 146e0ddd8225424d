//! Tests of the `iso` commands that read images, on images that other programs created.

use crate::support::{Lab, diskimg, write_at};
use std::os::unix::fs::{MetadataExt, symlink};

/// Creates a directory with several kinds of files, and an image of it with genisoimage.
fn image() -> Lab {
    let lab = Lab::new();
    lab.file("dir/boot/Config.Txt", "boot\n");
    lab.file("dir/readme", "read me\n");
    lab.file("dir/größe", "8");
    lab.file("dir/empty", "");
    symlink("boot/Config.Txt", lab.path("dir/link")).expect("links");
    lab.tool(
        "genisoimage",
        &["-quiet", "-input-charset", "utf-8", "-R", "-J", "-V", "Label", "-o", "a.iso", "dir"],
    );
    lab
}

#[test]
fn listings_equal_bsdtars() {
    let lab = image();
    let theirs = lab.tool("env", &["LC_ALL=C.UTF-8", "bsdtar", "-tf", "a.iso"]);
    let theirs = String::from_utf8(theirs).expect("UTF-8");
    let mut theirs: Vec<_> = theirs.lines().map(|line| line.trim_end_matches('/')).collect();
    theirs.retain(|line| *line != ".");
    theirs.sort();
    let ours = lab.line("iso ls -R a.iso").ok();
    let mut ours: Vec<_> = ours.lines().collect();
    ours.sort();
    assert_eq!(ours, theirs);
    assert_eq!(lab.line("iso ls a.iso /boot").ok(), "Config.Txt\n");
    assert_eq!(lab.line("iso ls a.iso boot readme").ok(), "boot/Config.Txt\nreadme\n");
    let long = lab.line("iso ls -l a.iso link").ok();
    assert!(long.starts_with("lrwx") && long.ends_with(" link -> boot/Config.Txt\n"), "{long}");
    let json = lab.line("iso ls -R --output=json a.iso").ok();
    let rows: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let link = rows.as_array().expect("a list").iter().find(|row| row["path"] == "link");
    assert_eq!(link.expect("listed")["target"], "boot/Config.Txt");
    assert_eq!(lab.line("iso ls --output=json a.iso empty").ok().lines().count(), 3);
}

#[test]
fn every_tree_can_be_selected() {
    let lab = image();
    assert!(lab.line("iso ls --namespace joliet a.iso").ok().contains("größe"));
    assert!(lab.line("iso ls --namespace=iso a.iso").ok().contains("README"));
    let error = lab.line("iso ls --namespace udf a.iso").fails(1);
    assert!(error.contains("UDF"), "{error}");
    lab.line("iso ls --session first a.iso").ok();
    lab.line("iso ls --session soon a.iso").fails(1);
}

#[test]
fn control_characters_in_listed_names_are_escaped() {
    let lab = Lab::new();
    lab.file("dir/a\u{1b}[31mb\nc", "x");
    lab.line("iso create -q -o a.iso dir").ok();
    assert_eq!(lab.line("iso ls a.iso").ok(), "a\\u{1b}[31mb\\u{a}c\n");
    let raw = lab.command(diskimg()).args(["iso", "ls", "-0", "a.iso"]).output().expect("runs");
    assert_eq!(raw.stdout, b"a\x1b[31mb\nc\0");
}

#[test]
fn contents_are_the_same_in_every_image_format() {
    let lab = image();
    lab.qemu("convert -f raw -O qcow2 a.iso a.qcow2").ok();
    lab.qemu("convert -f raw -O vmdk a.iso a.vmdk").ok();
    for image in ["a.iso", "a.qcow2", "a.vmdk"] {
        let cat = lab.run(["iso", "cat", image, "readme", "/boot/Config.Txt"]).ok();
        assert_eq!(cat, "read me\nboot\n", "{image}");
        assert!(lab.run(["iso", "info", image]).ok().starts_with("label: Label\n"), "{image}");
    }
    let error = lab.line("iso cat a.iso nope").fails(1);
    assert!(error.contains("nope"), "{error}");
    lab.line("iso cat a.iso boot").fails(1);
    lab.line("iso cat a.iso").fails(1);
    lab.line("iso ls dir/readme").fails(1);
}

#[test]
fn an_extracted_tree_equals_the_original() {
    let lab = image();
    lab.line("iso extract -C out a.iso").ok();
    lab.tool("diff", &["-r", "--no-dereference", "dir", "out"]);
    let time = |name: &str| std::fs::metadata(lab.path(name)).expect("reads metadata").mtime();
    assert_eq!(time("out/readme"), time("dir/readme"));
    let error = lab.line("iso extract -C out a.iso").fails(1);
    assert!(error.contains("/readme: "), "{error}");
    lab.line("iso extract --overwrite -C out a.iso").ok();
    lab.line("iso extract -C boot a.iso boot").ok();
    assert_eq!(lab.read("boot/Config.Txt"), b"boot\n");
    let stdout = lab.line("iso extract -v -C some a.iso readme").ok();
    assert_eq!((stdout.as_str(), lab.read("some/readme")), ("readme\n", b"read me\n".to_vec()));
    let error = lab.line("iso extract --max-bytes 3 -C less a.iso readme").fails(1);
    assert!(error.contains('3'), "{error}");
    // The limit applies to all paths together.
    lab.line("iso extract --max-bytes 13 -C both a.iso readme boot").ok();
    let error = lab.line("iso extract --max-bytes 12 -C neither a.iso readme boot").fails(1);
    assert!(error.contains("5 bytes exceeds the 4 bytes"), "{error}");
}

#[test]
fn the_exit_code_of_verify_tells_errors_from_warnings() {
    let lab = image();
    lab.line("iso verify a.iso").ok();
    let json = lab.line("iso verify --output=json a.iso").ok();
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["summary"]["errors"], 0);
    assert_eq!(json["filename"], "a.iso");
    lab.line("iso verify nope.iso").fails(1);
    // Truncated before the contents of the last file, which are followed by padding: an error.
    let bytes = lab.read("a.iso");
    std::fs::write(lab.path("cut.iso"), &bytes[..bytes.len() - 152 * 2048]).expect("writes");
    let cut = lab.line("iso verify cut.iso");
    assert_eq!(cut.code, Some(2), "{}{}", cut.out, cut.err);
    assert!(cut.out.contains("error: "), "{}", cut.out);
    // One of the two copies of a both-endian number: a warning.
    write_at(&lab.path("a.iso"), 16 * 2048 + 84, &[0xff; 4]);
    let odd = lab.line("iso verify a.iso");
    assert_eq!(odd.code, Some(3), "{}{}", odd.out, odd.err);
    assert!(odd.out.contains("endian-mismatch"), "{}", odd.out);
}

#[test]
fn differences_are_listed_and_set_the_exit_code() {
    let lab = image();
    assert_eq!(lab.line("iso diff a.iso a.iso").ok(), "");
    assert_eq!(lab.line("iso diff --content a.iso dir").ok(), "");
    lab.file("other/boot/Config.Txt", "root\n");
    lab.file("other/readme", "read me, too\n");
    lab.file("other/größe", "8");
    lab.file("other/new/one", "");
    symlink("readme", lab.path("other/link")).expect("links");
    std::fs::create_dir(lab.path("other/empty")).expect("mkdir");
    lab.line("iso create -q --rock-ridge preserved -o b.iso other").ok();
    let ran = lab.line("iso diff -c a.iso b.iso");
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert_eq!(
        ran.out,
        "/boot/Config.Txt: contents differ at byte 0\n\
         /empty: type file, directory\n\
         /link: target boot/Config.Txt, readme\n\
         /new: only in B\n\
         /readme: size 8, 13\n"
    );
    assert_eq!(lab.line("iso diff -q a.iso b.iso").code, Some(1));
    let json = lab.line("iso diff --output=json b.iso a.iso");
    let json: serde_json::Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(json[2]["what"], "only in A");
    lab.line("iso diff a.iso nope").fails(2);
    lab.line("iso diff a.iso").fails(2);
}

#[test]
fn boot_entries_are_shown() {
    let lab = Lab::new();
    lab.file("dir/boot.bin", &"x".repeat(4096));
    lab.tool(
        "genisoimage",
        &[
            "-quiet",
            "-R",
            "-b",
            "boot.bin",
            "-no-emul-boot",
            "-boot-load-size",
            "4",
            "-o",
            "a.iso",
            "dir",
        ],
    );
    let text = lab.line("iso boot a.iso").ok();
    assert!(text.contains("boot entry 1: bios"), "{text}");
    assert!(text.contains("loads 4 sectors"), "{text}");
    let json = lab.line("iso boot --output=json a.iso").ok();
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["boot"]["entries"][0]["load-sectors"], 4);
    assert_eq!(lab.line("iso boot --output json dir/boot.bin").code, Some(1));
}

#[test]
fn a_damaged_directory_is_read_up_to_the_damage_and_reported() {
    let lab = Lab::new();
    for name in ["a.txt", "b.txt", "c.txt"] {
        lab.file(&format!("tree/{name}"), name);
    }
    lab.line("iso create --no-joliet -o whole.iso tree").ok();
    let whole = lab.read("whole.iso");
    let at = whole.windows(7).position(|name| name == b"b.txt;1").expect("the record of b.txt");
    let mut damaged = whole.clone();
    damaged[at - 1] = 255;
    for (name, bytes, what) in [
        ("damaged.iso", &damaged[..], "-byte directory record are invalid"),
        ("cut.iso", &whole[..at - 33], "the image ends within a directory"),
    ] {
        std::fs::write(lab.path(name), bytes).expect("writes");
        for ls in ["ls", "ls -R"] {
            let ran = lab.line(&format!("iso {ls} {name}"));
            assert_eq!(ran.out, "a.txt\n", "{ls} {name}");
            assert!(ran.fails(1).contains(what), "{ls} {name}");
        }
        assert!(lab.line(&format!("iso cat {name} c.txt")).fails(1).contains(what), "{name}");
        let ran = lab.line(&format!("iso extract -C from-{name} {name}"));
        assert!(ran.fails(1).contains(what), "{name}");
        assert!(lab.path(&format!("from-{name}/a.txt")).exists() || name == "cut.iso");
        let verified = lab.line(&format!("iso verify {name}"));
        assert_eq!(verified.code, Some(2), "{}", verified.out);
        assert!(verified.out.contains(what), "{}", verified.out);
    }
}

#[test]
fn a_truncated_image_is_read_with_a_warning() {
    let lab = image();
    let mut bytes = lab.read("a.iso");
    bytes.truncate(bytes.len() - 2048);
    std::fs::write(lab.path("a.iso"), bytes).expect("writes");
    for line in ["iso ls a.iso", "iso extract -C out a.iso", "convert -O iso a.iso b.iso"] {
        let ran = lab.line(line);
        assert_eq!(ran.code, Some(0), "{line}: {}", ran.err);
        let warnings = ran.err.matches("diskimg: warning: a.iso: the volume has").count();
        assert_eq!(warnings, 1, "{line}: {}", ran.err);
    }
    let info = lab.line("info a.iso").ok();
    assert_eq!(info.matches("it is truncated").count(), 1, "{info}");
    // The padding at the end of the image has no files.
    let check = lab.line("check a.iso");
    assert_eq!(check.code, Some(3), "{check:?}");
    assert!(!check.out.contains("No errors") && check.out.contains("warnings were found"));
    let json = lab.line("check --output=json a.iso").out;
    let json: serde_json::Value = serde_json::from_str(&json).expect("is JSON");
    assert!(json["warnings"].as_u64() > Some(0), "{json}");
}

/// Returns the image as raw sectors of 2352 bytes, mode 1.
fn raw_sectors(image: &[u8]) -> Vec<u8> {
    let mut raw = Vec::new();
    for sector in image.chunks(2048) {
        raw.extend([&[0][..], &[255; 10], &[0, 0, 2, 0, 1], sector, &[0; 288]].concat());
    }
    raw
}

#[test]
fn raw_sectors_are_recognized_by_their_contents() {
    let lab = image();
    std::fs::write(lab.path("a.bin"), raw_sectors(&lab.read("a.iso"))).expect("writes");
    lab.line("convert -O iso a.bin b.iso").ok();
    assert!(lab.read("a.iso") == lab.read("b.iso"));
    let info = lab.line("info a.bin").ok();
    assert!(info.contains("file format: iso") && info.contains("raw sectors: 2352 bytes, mode 1"));
    assert!(lab.line("inspect a.bin").ok().contains("file format: iso"));
    lab.line("check a.bin").ok();
}

#[test]
fn a_header_in_the_data_of_raw_sectors_is_reported_by_inspect() {
    let lab = image();
    lab.line("create -f qcow2 x.qcow2 1M").ok();
    let mut vhd = [0; 512];
    vhd[..8].copy_from_slice(b"conectix");
    for (format, header, at_end) in
        [("qcow2", &lab.read("x.qcow2")[..512], false), ("vhd", &vhd[..], true)]
    {
        let mut iso = lab.read("a.iso");
        let start = if at_end { iso.len() - 512 } else { 0 };
        iso[start..start + 512].copy_from_slice(header);
        std::fs::write(lab.path("a.bin"), raw_sectors(&iso)).expect("writes");
        let inspected = lab.line("inspect a.bin");
        assert_eq!(inspected.code, Some(2), "{format}: {inspected:?}");
        assert!(inspected.out.contains(&format!("it is also {format}")), "{inspected:?}");
    }
    // Without sync pattern, the file itself may begin like another format.
    let mut bare: Vec<u8> = Vec::new();
    for sector in lab.read("a.iso").chunks(2048) {
        bare.extend([&[0; 8][..], sector, &[0; 280]].concat());
    }
    bare[..512].copy_from_slice(&lab.read("x.qcow2")[..512]);
    std::fs::write(lab.path("a.bin"), bare).expect("writes");
    assert_eq!(lab.line("inspect a.bin").code, Some(2));
}

#[test]
fn verify_lists_the_first_thousand_findings_and_counts_all() {
    use diskimg_testkit::iso::{FREE, IsoBuilder, Record, directory, susp};
    let lab = Lab::new();
    let invalid = |n: usize| Record::rock(&format!("f{n}"), 0, 0, &[susp::entry(b"PX", b"")]);
    let records: Vec<_> = (0..3000).map(invalid).collect();
    let bytes = directory(FREE, 20, &[susp::px(0o040_755)], &records);
    let mut dir = Record::rock_dir("d", FREE, &[]);
    dir.size = bytes.len() as u32;
    let image = IsoBuilder::rock_ridge(&[dir]).put(FREE, &bytes).finish();
    std::fs::write(lab.path("a.iso"), image).expect("writes");
    let out = lab.line("iso verify a.iso").out;
    assert!(out.lines().count() == 1002, "{} lines", out.lines().count());
    assert!(out.contains("more findings are not listed"), "{out}");
    let json: serde_json::Value =
        serde_json::from_str(&lab.line("iso verify --output=json a.iso").out).expect("is JSON");
    assert_eq!(json["findings"].as_array().map(Vec::len), Some(1000));
    assert!(json["summary"]["warnings"].as_u64() >= Some(3000), "{}", json["summary"]);
}

#[test]
fn contents_of_files_that_overlap_are_not_compared() {
    use diskimg_testkit::iso::{FREE, IsoBuilder, Record, directory};
    let lab = Lab::new();
    // Each file has nearly all of the image, from another sector on.
    let file = |n: u32| Record::file(format!("F{n}"), n, 800 << 10);
    let bytes = directory(FREE, 20, &[], &(0..100).map(file).collect::<Vec<_>>());
    let mut dir = Record::dir("D", FREE);
    dir.size = bytes.len() as u32;
    let mut image = IsoBuilder::new(&[dir]).put(FREE, &bytes).finish();
    image.resize(1 << 20, 0);
    std::fs::write(lab.path("a.iso"), image).expect("writes");
    lab.line("iso diff a.iso a.iso").ok();
    for command in ["iso diff --content a.iso a.iso", "iso remaster -o b.iso a.iso"] {
        let ran = lab.line(command);
        assert!(ran.err.contains("files overlap"), "{command}: {ran:?}");
    }
}

/// Returns a zisofs file of one block, which has 8 unused `gap` bytes before it.
fn zisofs(contents: &[u8], gap: u8) -> Vec<u8> {
    let mut block = vec![0x78, 1, 1];
    let len = contents.len() as u16;
    block.extend([len.to_le_bytes(), (!len).to_le_bytes()].concat());
    block.extend(contents);
    let (mut a, mut b) = (1u32, 0u32);
    for &byte in contents {
        a = (a + u32::from(byte)) % 65521;
        b = (b + a) % 65521;
    }
    block.extend((b << 16 | a).to_be_bytes());
    let mut file = vec![0x37, 0xE4, 0x53, 0x96, 0xC9, 0xDB, 0xD6, 0x07];
    file.extend((contents.len() as u32).to_le_bytes());
    file.extend([4, 15, 0, 0]);
    file.extend(32u32.to_le_bytes());
    file.extend((32 + block.len() as u32).to_le_bytes());
    file.extend([gap; 8]);
    file.extend(block);
    file
}

#[test]
fn the_same_bytes_are_compared_as_compressed_and_as_plain_files() {
    use diskimg_testkit::iso::{FREE, IsoBuilder, Record, susp};
    let lab = Lab::new();
    let contents = b"some contents";
    for (name, gap) in [("a.iso", 0), ("b.iso", 0xff)] {
        let file = zisofs(contents, gap);
        let len = file.len() as u32;
        let zf = susp::zf(4, 15, contents.len() as u32);
        let records =
            [Record::rock("compressed", FREE, len, &[zf]), Record::rock("plain", FREE, len, &[])];
        let image = IsoBuilder::rock_ridge(&records).put(FREE, &file).finish();
        std::fs::write(lab.path(name), image).expect("writes");
    }
    assert_eq!(lab.line("iso cat a.iso compressed").ok(), "some contents");
    let ran = lab.line("iso diff --content a.iso b.iso");
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), "/plain: contents differ at byte 24\n"));
}

#[test]
fn cat_prints_no_more_than_is_allowed() {
    let lab = Lab::new();
    lab.seed();
    lab.line("iso create -V cidata -o a.iso user-data meta-data").ok();
    let all = "#cloud-config\ninstance-id: i-1\n";
    let cat =
        |max: usize| lab.line(&format!("iso cat --max-bytes {max} a.iso user-data meta-data"));
    assert_eq!(cat(all.len()).ok(), all);
    let ran = cat(all.len() - 1);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""));
    assert!(ran.err.contains("the files have 31 bytes, but at most 30 may be printed"), "{ran:?}");
}
