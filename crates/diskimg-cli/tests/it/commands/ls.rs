//! Compares `ls` with sfdisk, blkid, debugfs, 7-Zip and mounted file systems.

use crate::support::{Lab, Ran, write_at};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Unpacks a disk of the repository's test data.
fn unpack(lab: &Lab, name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/files");
    let packed = folder.join(format!("{name}.gz"));
    let output = lab.command("gzip").arg("-dc").arg(packed).output().expect("gzip runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::write(lab.path(name), output.stdout).expect("writes");
}

fn lab(names: &[&str]) -> Lab {
    let lab = Lab::new();
    names.iter().for_each(|name| unpack(&lab, name));
    lab
}

/// Runs a program that must succeed.
fn tool(lab: &Lab, line: &str) -> String {
    let mut words = line.split_whitespace();
    let program = words.next().expect("a program");
    let output = lab.command(program).args(words).env("LC_ALL", "C.UTF-8").output();
    let output = output.unwrap_or_else(|e| panic!("cannot run {program}: {e}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a program with a script on its standard input.
fn script(lab: &Lab, line: &str, text: &str) {
    fs::write(lab.path("script"), text).expect("writes");
    let mut command = lab.command("sh");
    let output = command.args(["-c", &format!("{line} < script")]).output().expect("runs");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// Returns the description of a disk by `ls --output=json`.
fn description(lab: &Lab, image: &str) -> Value {
    parsed(&lab.line(&format!("ls --output=json {image}")).ok())
}

/// Returns what `ls -R --output=json` lists, by path.
fn files(lab: &Lab, image: &str) -> BTreeMap<Vec<u8>, Value> {
    let rows = parsed(&lab.line(&format!("ls -R --output=json {image}")).ok());
    let rows = rows.as_array().expect("an array").clone();
    let path = |row: &Value| match row["path_bytes"].as_str() {
        Some(hex) => (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal"))
            .collect(),
        None => row["path"].as_str().expect("text").as_bytes().to_vec(),
    };
    rows.into_iter().map(|row| (path(&row), row)).collect()
}

/// Asserts that partitions and what they contain equal what sfdisk and blkid find.
#[track_caller]
fn assert_same_partitions(lab: &Lab, image: &str) {
    let sector = 512;
    let ours = description(lab, image)["partition-table"].clone();
    let sfdisk = parsed(&tool(lab, &format!("sfdisk --json {image}")));
    let table = &sfdisk["partitiontable"];
    let scheme = if table["label"] == "dos" { "mbr" } else { "gpt" };
    assert_eq!((&ours["scheme"], &ours["id"]), (&json!(scheme), &table["id"]), "{image}");
    assert_eq!(ours["sector-bytes"], sector);
    let theirs: Vec<_> = table["partitions"].as_array().expect("partitions").clone();
    let ours: Vec<_> = ours["partitions"].as_array().expect("partitions").clone();
    assert_eq!(ours.len(), theirs.len(), "{image}");
    for (ours, theirs) in ours.iter().zip(&theirs) {
        let number = |key: &str| theirs[key].as_u64().expect("a number") * sector;
        let (start, length) = (number("start"), number("size"));
        assert_eq!((&ours["start"], &ours["length"]), (&json!(start), &json!(length)), "{image}");
        let node = theirs["node"].as_str().expect("a node");
        assert_eq!(node, format!("{image}{}", ours["number"]));
        let kind = theirs["type"].as_str().expect("a type");
        match scheme {
            "mbr" => assert_eq!(ours["type"], format!("0x{kind:0>2}")),
            _ => assert_eq!(ours["type"], kind),
        }
        assert_eq!(ours["bootable"], theirs["bootable"].as_bool().unwrap_or(false));
        assert_eq!(ours["name"].as_str().unwrap_or(""), theirs["name"].as_str().unwrap_or(""));
        if let Some(uuid) = theirs["uuid"].as_str() {
            assert_eq!(ours["id"], uuid);
        }
        if ours["role"] != "extended" {
            let found = blkid(lab, image, start, length);
            assert_eq!(ours["file-system"], found, "{image}, partition {}", ours["number"]);
        }
    }
}

/// Returns what blkid recognizes in a part of a file.
fn blkid(lab: &Lab, image: &str, start: u64, length: u64) -> Value {
    let (start, length) = (start.to_string(), length.to_string());
    let args = ["-p", "-o", "export", "-O", &start, "-S", &length, image];
    let output = lab.command("blkid").args(args).output().expect("blkid runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{key}=")))?;
        Some(Value::from(line.replace('\\', "")))
    };
    let Some(kind) = value("TYPE") else { return Value::Null };
    let keys = [("type", Some(kind)), ("label", value("LABEL")), ("uuid", value("UUID"))];
    keys.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

#[test]
fn partitions_equal_those_of_sfdisk_and_blkid() {
    let lab = lab(&["mbr.img", "gpt.img", "ext4.img", "fat16.img"]);
    let file = |name: &str, len| fs::File::create(lab.path(name)).expect("creates").set_len(len);
    for (name, len) in [("many.img", 16 << 20), ("whole.img", 1 << 20)] {
        file(name, len).expect("extends");
    }
    let logical: String = (0..20).map(|n| format!("start={}, size=64\n", 4096 + 256 * n)).collect();
    let table = format!("label: dos\nstart=2048, size=1024\nstart=3072, type=f\n{logical}");
    script(&lab, "sfdisk -q many.img", &table);
    write_at(&lab.path("many.img"), 4096 * 512, &lab.read("fat16.img")[..64 * 512]);
    script(&lab, "sfdisk -q whole.img", "label: gpt\n");
    for image in ["mbr.img", "gpt.img", "many.img"] {
        assert_same_partitions(&lab, image);
    }
    let empty = description(&lab, "whole.img");
    assert_eq!(empty["partition-table"]["partitions"], json!([]));
    assert_eq!(description(&lab, "ext4.img")["partition-table"], Value::Null);
}

#[test]
#[ignore = "needs root: attaches a loop device"]
fn partitions_of_a_disk_with_large_sectors_equal_those_of_sfdisk() {
    let lab = lab(&["ext4.img"]);
    for (label, options) in [("gpt", ""), ("dos", "--sector-size 4096")] {
        let disk = lab.path("4k.img");
        fs::File::create(&disk).expect("creates").set_len(64 << 20).expect("extends");
        let device = tool(&lab, "losetup --sector-size 4096 -f --show 4k.img").trim().to_owned();
        let table = format!("label: {label}\nstart=256, size=1024, type=linux\nsize=2048\n");
        script(&lab, &format!("sfdisk -q {device}"), &table);
        let theirs = parsed(&tool(&lab, &format!("sfdisk --json {device}")));
        tool(&lab, &format!("losetup -d {device}"));
        write_at(&disk, 256 * 4096, &lab.read("ext4.img"));
        let ours = parsed(&lab.line(&format!("ls --output=json {options} 4k.img")).ok());
        let ours = &ours["partition-table"];
        assert_eq!(ours["sector-bytes"], 4096, "{label}");
        let partitions = theirs["partitiontable"]["partitions"].as_array().expect("partitions");
        assert_eq!(partitions.len(), 2, "{label}");
        for (index, theirs) in partitions.iter().enumerate() {
            let bytes = |key: &str| theirs[key].as_u64().expect("a number") * 4096;
            assert_eq!(ours["partitions"][index]["start"], bytes("start"), "{label}");
            assert_eq!(ours["partitions"][index]["length"], bytes("size"), "{label}");
        }
        assert_eq!(ours["partitions"][0]["file-system"]["label"], "four", "{label}");
    }
}

#[test]
fn contents_are_recognized_like_blkid_does() {
    let lab = lab(&["ext2.img", "ext4.img", "fat12.img", "fat16.img", "fat32.img"]);
    let made = [
        ("mkswap -q -L swapped", "swap.img", 4),
        ("mkfs.ext3 -q -L third", "ext3.img", 8),
        ("mkfs.vfat -n FLOPPY -S 512", "floppy.img", 1),
    ];
    for (command, name, mib) in made {
        fs::File::create(lab.path(name)).expect("creates").set_len(mib << 20).expect("extends");
        tool(&lab, &format!("{command} {name}"));
    }
    fs::create_dir(lab.path("tree")).expect("creates");
    tool(&lab, "xorriso -as mkisofs -quiet -V VOLUME -o disc.img tree");
    let names = ["ext2", "ext3", "ext4", "fat12", "fat16", "fat32", "swap", "floppy", "disc"];
    for name in names.map(|name| format!("{name}.img")) {
        let len = lab.read(&name).len() as u64;
        assert_eq!(description(&lab, &name)["file-system"], blkid(&lab, &name, 0, len), "{name}");
    }
    // Their tools are not needed for the tests.
    let signatures: [(u64, &[u8], &str); 8] = [
        (0, b"XFSB\0\0\x10\0", "xfs"),
        (0x10040, b"_BHRfS_M", "btrfs"),
        (3, b"NTFS    ", "ntfs"),
        (0, b"LUKS\xba\xbe\0\x02", "crypto_LUKS"),
        (3, b"EXFAT   ", "exfat"),
        (0, b"hsqs", "squashfs"),
        (4096, b"\xfc\x4e\x2b\xa9\x01\0\0\0", "linux_raid_member"),
        (128 << 10, b"\x0c\xb1\xba\0\0\0\0\0", "zfs_member"),
    ];
    for (offset, bytes, kind) in signatures {
        fs::write(lab.path("signature.img"), vec![0; 1 << 20]).expect("writes");
        write_at(&lab.path("signature.img"), offset, bytes);
        // Some are recognized as images that are not supported.
        let found = description(&lab, "-f raw signature.img");
        assert_eq!(found["file-system"]["type"], kind);
        let error = lab.line("ls -f raw signature.img:0").fails(1);
        assert!(error.contains(&format!("the contents of {kind} are not supported")), "{error}");
    }
}

/// Creates a directory tree with files of all types that do not need root.
fn tree(lab: &Lab) {
    let text = "mkdir -p src/dir/sub src/empty; echo hello > src/dir/file.txt
        ln -s dir/file.txt src/link; ln -s /dir src/dirlink; mkfifo src/fifo
        ln -s loop src/loop; ln -s $(printf '%0200d' 0) src/long
        : > \"src/$(printf 'new\\nline')\"; : > \"src/$(printf 'bad\\377')\"
        : > \"src/$(printf 'rtl\\342\\200\\256gpj.exe')\"; : > src/old; chmod 4750 src/dir/file.txt
        for i in $(seq 600); do : > \"src/dir/sub/a long name of file number $i\"; done
        find src -exec touch -h -d @1600000000 {} +; touch -d 1960-01-01T00:00:00Z src/old";
    let output = lab.command("sh").args(["-ec", text]).output().expect("sh runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Options of mke2fs that change where names and inodes are.
const EXT: [&str; 10] = [
    "-t ext2 -b 1024",
    "-t ext2 -b 4096 -O ^filetype,^dir_index",
    "-t ext3 -b 1024",
    "-t ext3 -b 4096 -I 128",
    "-t ext4 -b 1024",
    "-t ext4 -b 4096",
    "-t ext4 -O inline_data -I 256",
    "-t ext4 -O meta_bg,^resize_inode -b 1024 -g 1024",
    "-t ext4 -O ^64bit,^metadata_csum,bigalloc",
    "-t ext4 -O sparse_super2,ea_inode,large_dir,mmp,casefold,encrypt",
];

/// Creates `NUMBER.img` with the tree, with each of [`EXT`].
fn ext_images(lab: &Lab) -> Vec<String> {
    tree(lab);
    let make = |(number, options): (usize, &&str)| {
        let name = format!("{number}.img");
        tool(lab, &format!("mke2fs -q -F -d src {options} {name} 48M"));
        name
    };
    EXT.iter().enumerate().map(make).collect()
}

/// Returns what debugfs prints of a directory: type, permissions and size by name.
fn debugfs(lab: &Lab, image: &str, dir: &str) -> BTreeMap<String, (u32, u64)> {
    let output = lab.command("debugfs").args(["-R", &format!("ls -p {dir}"), image]).output();
    let output = output.expect("debugfs runs").stdout;
    let text = String::from_utf8_lossy(&output).into_owned();
    // /INODE/MODE/UID/GID/NAME/SIZE/
    let lines = text.lines().filter(|line| line.starts_with('/'));
    let entries = lines.filter_map(|line| {
        let fields: Vec<_> = line.split('/').collect();
        let mode = u32::from_str_radix(fields[2], 8).ok()?;
        Some((fields[5].to_owned(), (mode, fields[6].parse().unwrap_or(0))))
    });
    entries.filter(|(name, _)| name != "." && name != "..").collect()
}

#[test]
fn files_equal_those_of_debugfs() {
    let lab = Lab::new();
    for image in ext_images(&lab) {
        for dir in ["/dir", "/dir/sub"] {
            let rows = parsed(&lab.line(&format!("ls --output=json {image}:0 {dir}")).ok());
            let ours: BTreeMap<_, _> = rows
                .as_array()
                .expect("an array")
                .iter()
                .map(|row| {
                    let path = row["path"].as_str().expect("text");
                    let name = path.rsplit('/').next().expect("a name").to_owned();
                    let mode = row["mode"].as_str().map(|mode| u32::from_str_radix(mode, 8));
                    let kind = if row["type"] == "file" { 0o100_000 } else { 0o040_000 };
                    let mode = kind | mode.expect("a mode").expect("octal");
                    (name, (mode, row["size"].as_u64().unwrap_or(0)))
                })
                .collect();
            assert_eq!(ours, debugfs(&lab, &image, dir), "{image} {dir}");
        }
    }
}

/// Returns the attributes that `find` prints of a tree, by path.
fn found(lab: &Lab, root: &str) -> BTreeMap<Vec<u8>, Value> {
    let format = r"%P\t%y\t%m\t%U\t%G\t%s\t%T@\t%l\0";
    let output = lab.command("find").args([root, "-mindepth", "1", "-printf", format]).output();
    let output = output.expect("find runs").stdout;
    let entries = output.split(|&byte| byte == 0).filter(|entry| !entry.is_empty());
    let entry = |entry: &[u8]| {
        let fields: Vec<_> = entry.split(|&byte| byte == b'\t').collect();
        let text = |index: usize| String::from_utf8_lossy(fields[index]).into_owned();
        let kind = match fields[1] {
            b"d" => "directory",
            b"l" => "symlink",
            b"p" => "fifo",
            b"c" => "character-device",
            _ => "file",
        };
        let number = |index: usize| text(index).parse::<u64>().expect("a number");
        let mut row = json!({
            "type": kind, "mode": format!("{:0>4}", text(2)),
            "uid": number(3), "gid": number(4),
        });
        if kind == "file" {
            row["size"] = number(5).into();
        }
        if kind == "symlink" {
            row["target"] = text(7).into();
        }
        row["seconds"] = text(6).split('.').next().expect("seconds").into();
        (fields[0].to_vec(), row)
    };
    entries.map(entry).collect()
}

/// Returns rows of `ls` with the keys of [`found`]; times are compared by `date`.
fn comparable(rows: BTreeMap<Vec<u8>, Value>) -> BTreeMap<Vec<u8>, Value> {
    let keys = ["type", "mode", "uid", "gid", "size", "target"];
    let row = |row: Value| {
        let mut kept = json!({});
        for key in keys.iter().filter(|key| !row[**key].is_null()) {
            kept[*key] = row[*key].clone();
        }
        kept
    };
    rows.into_iter().map(|(path, found)| (path, row(found))).collect()
}

#[test]
#[ignore = "needs root: mounts file systems"]
fn files_equal_those_of_the_mounted_file_system() {
    let lab = Lab::new();
    let images = ext_images(&lab);
    // Linux does not mount the others without further modules or an unlocked device.
    for image in images.iter().take(EXT.len() - 1) {
        fs::create_dir_all(lab.path("mnt")).expect("creates");
        tool(&lab, &format!("mount -o ro,loop {image} mnt"));
        let mut mounted = found(&lab, "mnt");
        tool(&lab, "umount mnt");
        let ours = files(&lab, &format!("{image}:0"));
        let seconds = |text: &str| tool(&lab, &format!("date -d {text} +%s")).trim().to_owned();
        let some = ["dir", "old", "link", "lost+found", "dir/sub/a long name of file number 7"];
        for path in some.map(str::as_bytes) {
            let modified = ours[path]["modified"].as_str().expect("a time");
            assert_eq!(mounted[path]["seconds"], seconds(modified), "{image}");
        }
        for row in mounted.values_mut() {
            row.as_object_mut().expect("an object").remove("seconds");
        }
        assert_eq!(comparable(ours), mounted, "{image}");
    }
}

#[test]
fn fat_equals_7_zip() {
    let lab = lab(&["fat12.img", "fat16.img", "fat32.img"]);
    for image in ["fat12.img", "fat16.img", "fat32.img"] {
        let args = ["l", "-slt", "-tfat", image];
        let mut command = lab.command("7zz");
        let output = command.args(args).env("TZ", "UTC").env("LC_ALL", "C.UTF-8").output();
        let output = output.expect("7zz runs");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let (_, list) = text.split_once("----------\n").expect("a list");
        let entry = |block: &str| {
            let value = |key: &str| {
                let line = block.lines().find_map(|line| line.strip_prefix(&format!("{key} = ")));
                line.unwrap_or_default().to_owned()
            };
            let is_dir = value("Folder") == "+";
            let size = if is_dir { String::new() } else { value("Size") };
            let time = value("Modified")[..19].replace(' ', "T");
            (value("Path").into_bytes(), (is_dir, size, time))
        };
        let blocks = list.trim().split("\n\n").filter(|block| block.starts_with("Path"));
        let theirs: BTreeMap<_, _> = blocks.map(entry).collect();
        let ours: BTreeMap<_, _> = files(&lab, &format!("{image}:0"))
            .into_iter()
            .map(|(path, row)| {
                let size = row["size"].as_u64().map(|size| size.to_string()).unwrap_or_default();
                let time = row["modified"].as_str().expect("a time")[..19].to_owned();
                (path, (row["type"] == "directory", size, time))
            })
            .collect();
        assert!(ours.contains_key("Long directory näme".as_bytes()), "{image}");
        assert_eq!(ours.len(), 6, "{image}");
        assert_eq!(ours, theirs, "{image}");
    }
}

#[test]
fn the_journal_is_replayed() {
    let lab = lab(&["journal.img"]);
    let before = lab.line("ls journal.img").ok();
    assert!(before.contains("later\n") && !before.contains("empty\n"), "{before}");
    // What e2fsck makes of it.
    fs::copy(lab.path("journal.img"), lab.path("checked.img")).expect("copies");
    drop(lab.command("e2fsck").args(["-fy", "checked.img"]).output().expect("e2fsck runs"));
    assert_eq!(files(&lab, "journal.img:0"), files(&lab, "checked.img:0"));
    // Without the flag that the file system needs recovery, the journal is not read.
    let mut bytes = lab.read("journal.img");
    bytes[1024 + 0x60] &= !4;
    fs::write(lab.path("clean.img"), bytes).expect("writes");
    assert!(lab.line("ls clean.img").ok().contains("empty\n"));
}

#[test]
fn disks_in_other_formats_are_listed_alike() {
    let lab = lab(&["gpt.img", "mbr.img"]);
    let wanted = lab.line("ls -lR gpt.img:2").ok();
    for (format, name) in [("qcow2", "a.qcow2"), ("vmdk", "a.vmdk"), ("ova", "a.ova")] {
        lab.line(&format!("convert -O {format} gpt.img {name}")).ok();
        let image = if format == "ova" { "a.ova:1" } else { name };
        assert_eq!(lab.line(&format!("ls -lR {image}:2")).ok(), wanted, "{format}");
        let wanted = lab.line("ls gpt.img").ok().replace("gpt.img", image);
        assert_eq!(lab.line(&format!("ls {image}")).ok(), wanted, "{format}");
    }
    lab.line("convert -O ova gpt.img mbr.img two.ova").ok();
    assert!(lab.line("ls two.ova:2").ok().contains("Extended"));
    assert_eq!(lab.line("ls -lR two.ova:1:2").ok(), wanted);
    // The ext2 file system is the only one with this label, but of two disks none is the default.
    assert_eq!(lab.line("ls -lR a.ova:LABEL=two").ok(), wanted);
    assert!(lab.line("ls two.ova:LABEL=two").fails(1).contains("appliance.ova:1"));
    assert_eq!(lab.line("ls -lR two.ova:2:LABEL=two").ok(), lab.line("ls -lR mbr.img:5").ok());
}

#[test]
fn partitions_are_selected_by_number_label_name_and_uuid() {
    let lab = lab(&["gpt.img", "fat12.img"]);
    let wanted = lab.line("ls -l gpt.img:2").ok();
    for selector in [
        "LABEL=two",
        "UUID=11111111-2222-3333-4444-555555555555",
        "PARTLABEL=Wurzel",
        "PARTUUID=22222222-2222-3333-4444-555555555555",
    ] {
        assert_eq!(lab.line(&format!("ls -l gpt.img:{selector}")).ok(), wanted, "{selector}");
        assert_eq!(lab.line(&format!("ls -l -p {selector} gpt.img")).ok(), wanted, "{selector}");
    }
    // The name of a file has precedence; -p is not ambiguous.
    fs::copy(lab.path("fat12.img"), lab.path("gpt.img:2")).expect("copies");
    assert!(lab.line("ls gpt.img:2").ok().contains("SHORT.TXT"));
    assert_eq!(lab.line("ls -l -p 2 gpt.img").ok(), wanted);
    assert_eq!(
        lab.line("ls -l json:{\"driver\":\"raw\",\"file.filename\":\"gpt.img\"} -p 2").ok(),
        wanted
    );
}

#[test]
fn paths_and_links_are_followed() {
    let lab = Lab::new();
    tree(&lab);
    tool(&lab, "mke2fs -q -t ext4 -d src disk.img 16M");
    let ls = |args: &str| lab.line(&format!("ls disk.img:0 {args}"));
    assert_eq!(ls("/dirlink").ok(), "file.txt\nsub\n");
    assert_eq!(ls("dir/../dirlink/").ok(), "file.txt\nsub\n");
    assert_eq!(ls("/link").ok(), "link\n");
    assert!(ls("-l link").ok().trim_end().ends_with("link -> dir/file.txt"));
    assert_eq!(ls("/dir/file.txt /empty /dir").ok(), "dir/file.txt\ndir/file.txt\ndir/sub\n");
    assert!(ls("/loop/x").fails(1).contains("too many symbolic links"));
    assert!(ls("/dir/file.txt/x").fails(1).contains("no file or directory"));
    assert!(ls("/nothing").fails(1).contains("disk.img: no file or directory '/nothing'"));
}

#[test]
fn names_are_escaped_for_people_and_exact_for_programs() {
    let lab = lab(&["ext4.img"]);
    let text = lab.line("ls ext4.img").ok();
    assert!(text.contains("new\\u{a}line\n") && text.contains("bidi\\u{202e}gpj.exe\n"), "{text}");
    let files = files(&lab, "ext4.img:0");
    assert!(files.contains_key(&b"bad\xff"[..]));
    assert_eq!(files[&b"new\nline"[..]]["path"], "new\nline");
}

#[test]
fn what_cannot_be_listed_is_said() {
    let lab = lab(&["mbr.img", "gpt.img"]);
    for (args, wanted) in [
        ("mbr.img:3", "no partition 3 (partitions: 1, 2, 5, 6)"),
        ("mbr.img:2", "partition 2 is extended (its logical partitions have numbers from 5)"),
        ("mbr.img:6", "mbr.img:6: no file system is recognized"),
        ("mbr.img /boot", "the disk has partitions (choose one, as in mbr.img:1)"),
        ("mbr.img:0", "the disk has partitions (choose one, as in mbr.img:1)"),
        ("-p LABEL=x gpt.img", "no partition LABEL=x (partitions: 1, 2)"),
        ("--sector-size 520 mbr.img", "a sector size of 520 bytes, not 512 or 4096"),
    ] {
        let error = lab.line(&format!("ls {args}")).fails(1);
        assert!(error.contains(wanted), "{args}: {error}");
    }
    assert!(lab.line("ls -p x mbr.img").fails(1).contains("invalid partition 'x'"));
    // The same label twice.
    let ext2 = lab.read("gpt.img")[1024 * 512..1536 * 512].to_vec();
    write_at(&lab.path("mbr.img"), 2048 * 512, &ext2);
    let error = lab.line("ls mbr.img:LABEL=two").fails(1);
    assert!(error.contains("partitions 5 and 6 are LABEL=two: use a number"), "{error}");
    // Truncated in the middle of the disk, and before it.
    let file = fs::OpenOptions::new().write(true).open(lab.path("gpt.img")).expect("opens");
    file.set_len(400 << 10).expect("truncates");
    let ran = lab.line("ls gpt.img");
    assert!(ran.out.contains("Wurzel") && ran.err.contains("GPT"), "{ran:?}");
    let error = lab.line("ls gpt.img:2").fails(1);
    assert!(error.contains("partition 2 is beyond the end of the disk"), "{error}");
}

#[test]
fn a_hybrid_iso_image_has_partitions_and_files() {
    let lab = Lab::new();
    tree(&lab);
    fs::write(lab.path("mbr.bin"), [0x90; 432]).expect("writes");
    fs::write(lab.path("efi.img"), vec![0; 300 << 10]).expect("writes");
    let options = "-isohybrid-mbr mbr.bin -eltorito-alt-boot -e link -no-emul-boot \
        -append_partition 2 0xef efi.img -appended_part_as_gpt";
    fs::remove_file(lab.path("src/link")).expect("removes");
    fs::write(lab.path("src/link"), [0; 4096]).expect("writes");
    tool(&lab, &format!("xorriso -as mkisofs -quiet -R -V HYBRID {options} -o hybrid.iso src"));
    let found = description(&lab, "hybrid.iso");
    assert_eq!(found["file-system"]["type"], "iso9660");
    assert_same_partitions(&lab, "hybrid.iso");
    let wanted = lab.line("iso ls -lR hybrid.iso").ok();
    assert_eq!(lab.line("ls -lR hybrid.iso:0").ok(), wanted);
    assert_eq!(lab.line("ls hybrid.iso /dir").ok(), "file.txt\nsub\n");
}

#[test]
fn hostile_file_systems_end_with_an_error() {
    let lab = lab(&["fat16.img", "ext2.img", "mbr.img"]);
    let damaged = |name: &str, changes: &[(u64, &[u8])]| -> Ran {
        fs::copy(lab.path(name), lab.path("damaged.img")).expect("copies");
        for (offset, bytes) in changes {
            write_at(&lab.path("damaged.img"), *offset, bytes);
        }
        lab.within_seconds(10, "ls -lR damaged.img")
    };
    // The clusters of a directory form a loop: cluster 2, the first directory, is its own next.
    let boot = lab.read("fat16.img");
    let number = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
    let (fat, data) = (number(14) * 512, (number(14) + 2 * number(22)) * 512 + number(17) * 32);
    let full = [b'A'; 512];
    let ran = damaged("fat16.img", &[(fat + 4, &[2, 0]), (data, &full)]);
    assert!(ran.fails(1).contains("form a loop at 2"));
    // 2^32 - 1 block groups; 2^40 bytes in the root directory.
    let groups: [(u64, &[u8]); 2] = [(1024 + 4, &[0xff; 4]), (1024 + 0x20, &[1, 0, 0, 0])];
    assert!(damaged("ext2.img", &groups).code.is_some_and(|code| code < 2));
    let inode = inode_offset(&lab, "ext2.img", 2);
    let error = damaged("ext2.img", &[(inode + 0x6c, &[0, 1, 0, 0])]).fails(1);
    assert!(error.contains("their total length exceeds that of the image"), "{error}");
    let error = lab.line("ls --limit directory_bytes=100 ext2.img").fails(1);
    assert!(error.contains("--limit directory_bytes=N"), "{error}");
    // A directory in itself: its entry in the root refers to the root.
    let root = lab.read("ext2.img");
    let at = root.windows(5).position(|bytes| bytes == b"empty").expect("a name") as u64;
    let ran = damaged("ext2.img", &[(at - 8, &[2, 0, 0, 0])]);
    assert!(ran.fails(1).contains("reached by more than one path, or contained in itself"));
    // The extended boot records of an MBR form a loop.
    let ebr: [(u64, &[u8]); 1] = [(1024 * 512 + 446 + 16 + 8, &[0, 0, 0, 0])];
    let ran = damaged("mbr.img", &ebr);
    assert!(ran.out.contains("Extended"), "{ran:?}");
    assert!(ran.err.contains("the extended boot records form a loop"), "{ran:?}");
}

/// Length of a block of [`ext`].
const BLOCK: usize = 64 << 10;

/// Returns an entry of a directory of [`ext`].
fn entry(inode: u32, name: &[u8], len: usize) -> Vec<u8> {
    let mut bytes = inode.to_le_bytes().to_vec();
    bytes.extend(u16::try_from(len).expect("fits").to_le_bytes());
    bytes.extend([u8::try_from(name.len()).expect("fits"), 0]);
    bytes.extend(name);
    bytes.resize(len, 0);
    bytes
}

/// Returns an ext4 file system with two blocks in its root directory: names of the empty directory
/// 11 and of the symbolic link 12, whose target is `target` and then zeros.
fn ext(first: &[u8], fill: u32, target: &[u8], target_len: u32) -> Vec<u8> {
    let mut image = vec![0; 7 * BLOCK];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    let longs = [(0, 64), (4, 7), (0x18, 6), (0x20, 65_528), (0x28, 64), (0x4c, 1), (0x60, 0x42)];
    for (at, value) in longs {
        put(1024 + at, &u32::to_le_bytes(value));
    }
    put(1024 + 0x38, &[0x53, 0xef]);
    put(1024 + 0x58, &[0, 1]);
    put(BLOCK + 8, &[2]);
    let mut inode = |number: usize, mode: u16, size: u32, extents: &[(u16, u16)]| {
        let mut bytes = vec![0; 256];
        bytes[..2].copy_from_slice(&mode.to_le_bytes());
        bytes[4..8].copy_from_slice(&size.to_le_bytes());
        bytes[0x22] = 8;
        bytes[0x28..0x2c].copy_from_slice(&[0x0a, 0xf3, extents.len() as u8, 0]);
        for (index, (logical, physical)) in extents.iter().enumerate() {
            let at = 0x34 + index * 12;
            bytes[at..at + 2].copy_from_slice(&logical.to_le_bytes());
            bytes[at + 4] = 1;
            bytes[at + 8..at + 10].copy_from_slice(&physical.to_le_bytes());
        }
        put(2 * BLOCK + (number - 1) * 256, &bytes);
    };
    inode(2, 0x41ed, 2 * BLOCK as u32, &[(0, 3), (1, 4)]);
    inode(11, 0x41ed, 0, &[]);
    inode(12, 0xa1ff, target_len, &[(0, 5)]);
    for (block, first) in [(3, first), (4, &[])] {
        let mut names = first.to_vec();
        while names.len() + 24 <= BLOCK {
            names.extend(entry(fill, b"a", 12));
        }
        names.extend(entry(fill, b"a", BLOCK - names.len()));
        put(block * BLOCK, &names);
    }
    put(5 * BLOCK, target);
    image
}

#[test]
fn the_targets_and_names_of_a_directory_are_bounded() {
    let lab = Lab::new();
    fs::write(lab.path("links.img"), ext(&[], 12, b"target", 4095)).expect("writes");
    let ran = lab.within_seconds(10, "ls --limit directory_bytes=1M links.img");
    assert_eq!(ran.out.lines().count(), (1 << 20) / 4095);
    assert!(ran.fails(1).contains("--limit directory_bytes=N"));
    let ran = lab.within_seconds(10, "ls --limit tree_entries=100 links.img");
    assert_eq!(ran.out.lines().count(), 100);
    assert!(ran.fails(1).contains("--limit tree_entries=N"));
}

#[test]
fn looking_up_a_path_is_bounded() {
    let lab = Lab::new();
    let first = [entry(11, b"x", 12), entry(12, b"boot", 12)].concat();
    let target = [&b"x/../".repeat(818)[..], b"boot"].concat();
    let len = u32::try_from(target.len()).expect("fits");
    fs::write(lab.path("names.img"), ext(&first, 11, &target, len)).expect("writes");
    let error = lab.within_seconds(10, "ls names.img /boot").fails(1);
    assert!(error.contains("too many names in '/boot/'"), "{error}");
    // It is shown itself if it is not followed, as in a directory.
    assert!(lab.line("ls names.img").ok().contains("boot\n"));
    let mut target = b"/boot".to_vec();
    target.resize(100, b'/');
    fs::write(lab.path("loop.img"), ext(&first, 11, &target, 100)).expect("writes");
    let error = lab.line("ls loop.img /boot").fails(1);
    assert!(error.contains("too many symbolic links in '/boot/'"), "{error}");
    // A link that leads nowhere is not an error.
    let mut target = b"/missing".to_vec();
    target.resize(100, b'/');
    fs::write(lab.path("none.img"), ext(&first, 11, &target, 100)).expect("writes");
    assert_eq!(lab.line("ls none.img /boot").ok(), "boot\n");
    // Two names in a directory are looked up by reading it twice.
    let names = lab.line("ls none.img").ok().lines().count();
    let line = |limit: usize| format!("ls --limit tree_entries={limit} none.img x/../a");
    assert_eq!(lab.line(&line(names + 1)).ok(), "");
    let error = lab.line(&line(names)).fails(1);
    assert!(error.contains("--limit tree_entries=N"), "{error}");
}

#[test]
fn a_journal_is_not_longer_than_its_file_system() {
    let lab = lab(&["journal.img"]);
    let inode = inode_offset(&lab, "journal.img", 8);
    write_at(&lab.path("journal.img"), inode + 4, &(512_u32 << 20).to_le_bytes());
    let ran = lab.within_seconds(10, "ls journal.img");
    assert!(ran.out.contains("empty\n"), "{ran:?}");
    assert!(ran.err.contains("blocks in a file system of which"), "{ran:?}");
}

#[test]
fn partitions_that_cannot_be_read_do_not_hide_others() {
    let lab = lab(&["mbr.img"]);
    lab.line("convert -f raw -O qcow2 -o cluster_size=512 mbr.img mbr.qcow2").ok();
    let wanted = lab.line("ls mbr.qcow2:5").ok();
    let whole = lab.line("ls mbr.qcow2").ok();
    // The first cluster of partition 1 is beyond the end of the file.
    let bytes = lab.read("mbr.qcow2");
    let number = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    let cluster = description(&lab, "mbr.qcow2")["partition-table"]["partitions"][0]["start"]
        .as_u64()
        .expect("a number")
        / 512;
    let l1 = number(40) + cluster / 64 * 8;
    let l2 = number(l1 as usize) & 0xff_ffff_ffff_fe00;
    let lost = (1_u64 << 63 | 1 << 40).to_be_bytes();
    write_at(&lab.path("mbr.qcow2"), l2 + cluster % 64 * 8, &lost);
    let ran = lab.line("ls mbr.qcow2");
    assert_eq!(ran.out.lines().count(), whole.lines().count(), "{ran:?}");
    assert!(ran.fails(1).contains("in partition 1"));
    let ran = lab.line("ls --output=json mbr.qcow2");
    let partitions = parsed(&ran.out)["partition-table"]["partitions"].clone();
    assert_eq!(partitions[0]["file-system"], Value::Null);
    assert_ne!(partitions[2]["file-system"], Value::Null);
    assert_eq!(ran.code, Some(1));
    // Others are not read.
    assert!(lab.line("ls mbr.qcow2:1").fails(1).contains("the file ends at"));
    assert_eq!(lab.line("ls mbr.qcow2:5").ok(), wanted);
}

/// Returns the offset of an inode in an image.
fn inode_offset(lab: &Lab, image: &str, number: u32) -> u64 {
    let output = lab.command("debugfs").args(["-R", &format!("imap <{number}>"), image]).output();
    let text = String::from_utf8_lossy(&output.expect("debugfs runs").stdout).into_owned();
    // … located at block 35, offset 0x0080
    let (_, place) = text.split_once("located at block ").expect("a block");
    let (block, offset) = place.trim().split_once(", offset 0x").expect("an offset");
    let offset = u64::from_str_radix(offset, 16).expect("hexadecimal");
    block.parse::<u64>().expect("a number") * 1024 + offset
}

#[test]
fn qemu_img_has_no_such_command() {
    let lab = lab(&["gpt.img"]);
    std::os::unix::fs::symlink(crate::support::diskimg(), lab.path("qemu-img")).expect("links");
    let run =
        |args: &[&str]| Ran::new(lab.command("./qemu-img").args(args).output().expect("runs"));
    assert!(run(&["ls", "gpt.img"]).fails(1).contains("Command not found: ls"));
    assert!(!run(&["--help"]).ok().contains("\n  ls "));
}
