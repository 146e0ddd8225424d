//! UDF written by diskimg, read by the kernel, 7-Zip, udfinfo, blkid and diskimg, and compared with
//! that of genisoimage.

use super::machine::{bios_image, mbr_code};
use super::tree::{self, Content, Manifest, assert_same, manifest};
use super::writing::{Case, Mounted, assert_verifies, huge, kernel_reads, preserved};
use diskimg::iso::boot::{Platform, SystemArea};
use diskimg::iso::write::{
    AppendedPartition, BootEntry, BootImage, Builder, Charset, CreateOptions, Hide, Level,
    PartitionContents,
};
use diskimg::iso::{FileType, IsoImage, IsoOptions, Namespace, Timestamp};
use diskimg::storage::source::{FileSource, MemorySource, Source};
use diskimg::{Durability, Output};
use diskimg_testkit::hole::Hole;
use diskimg_testkit::tool::run;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

fn bridge() -> CreateOptions {
    let mut options = preserved();
    options.volume_id = "Bridge é".into();
    options.udf = true;
    options
}

fn open(source: Arc<dyn Source>, namespace: Namespace) -> IsoImage {
    let mut options = IsoOptions::default();
    options.namespace = namespace;
    options.strict = true;
    IsoImage::open(source, &options).unwrap()
}

fn udf(image: &Path) -> IsoImage {
    open(Arc::new(FileSource::open(image).unwrap()), Namespace::Udf)
}

fn read(image: &IsoImage, path: &[u8]) -> Vec<u8> {
    let contents = image.contents(&image.lookup(path).unwrap()).unwrap();
    let mut bytes = vec![0; contents.len() as usize];
    contents.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Returns all files of an image.
fn files(image: &IsoImage) -> Manifest {
    let found = image.walk().map(|found| found.unwrap());
    let files = found.map(|found| {
        let content = match found.node.file_type {
            FileType::Directory => Content::Directory,
            FileType::Regular => Content::File(read(image, &found.path)),
            FileType::Symlink => Content::Link(found.node.link_target.unwrap()),
            FileType::Fifo => Content::Fifo,
            _ => Content::Other,
        };
        (found.path, content)
    });
    files.collect()
}

/// Returns the fields that udfinfo prints, and the start of each extent of a type.
fn udfinfo(image: &Path) -> BTreeMap<String, String> {
    let output = diskimg_testkit::tool::try_run("udfinfo", [image]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut fields = BTreeMap::<String, String>::new();
    for line in text.lines() {
        if let Some((start, kind)) = line.split_once(", type=") {
            let start = start.trim_start_matches("start=").split(',').next().unwrap();
            let known = fields.entry(kind.to_owned()).or_default();
            known.push_str(&format!("{start} "));
        } else if let Some((name, value)) = line.split_once('=') {
            fields.insert(name.to_owned(), value.to_owned());
        }
    }
    fields
}

#[test]
fn the_udf_tree_equals_the_source_tree() {
    let case = Case::new(|dir| {
        tree::hard(dir);
        fs::create_dir_all(dir.join("1/2/3/4/5/6/7/8/9/10")).unwrap();
        fs::write(dir.join("1/2/3/4/5/6/7/8/9/10/file"), "deep").unwrap();
    });
    let mut expected = manifest(&case.tree());
    // A name of 255 bytes of one byte each is cut, and bytes that are not UTF-8 are replaced.
    for (from, to) in
        [("d".repeat(255), "d".repeat(254)), ("d".repeat(254) + "x", "d".repeat(254) + "x")]
    {
        let content = expected.remove(from.as_bytes()).unwrap();
        let is_cut = to.len() < from.len();
        expected.insert(if is_cut { to } else { "d".repeat(251) + "000" }.into_bytes(), content);
    }
    let content = expected.remove(&b"latin-\xe9\xff"[..]).unwrap();
    expected.insert("latin-\u{fffd}\u{fffd}".into(), content);
    let target = format!("/{}/{}", "x".repeat(254), "y".repeat(254));
    expected.insert(b"link-component".to_vec(), Content::Link(target.into_bytes()));
    for deep in [true, false] {
        let mut options = bridge();
        options.deep_directories = deep;
        let plan = case.plan(options.clone());
        let warned = plan.warnings().iter().filter(|warning| warning.contains("UDF")).count();
        assert_eq!(warned, 5, "{:#?}", plan.warnings());
        let image = case.write(options);
        assert_verifies(&image);
        let image = udf(&image);
        let mut found = files(&image);
        // Redundant slashes are not recorded; there are none here.
        assert_same(&found, &expected);
        assert!(found.remove(&b"rr_moved"[..]).is_none());
        // Attributes and hard links.
        for name in ["empty", "big", "dir", "link", "fifo"] {
            let node = image.lookup(name.as_bytes()).unwrap();
            let (mode, uid, gid, links, time, _) = tree::attributes(&case.tree().join(name));
            let attributes = &node.attributes;
            assert_eq!(attributes.mode.unwrap(), mode & 0o7777, "{name}");
            assert_eq!((attributes.uid, attributes.gid), (Some(uid), Some(gid)), "{name}");
            assert_eq!(attributes.modified, Some(Timestamp::from_seconds(time)), "{name}");
            if links > 0 {
                assert_eq!(attributes.links, Some(links as u32), "{name}");
            }
        }
        let serial = |name: &[u8]| image.lookup(name).unwrap().attributes.serial;
        assert_eq!(serial(b"big"), serial(b"dir/big-again"));
    }
}

#[test]
fn seven_zip_extracts_the_udf_tree() {
    let case = Case::new(|dir| {
        tree::plain(dir);
        fs::create_dir_all(dir.join("ünï/名前")).unwrap();
        for name in ["ünï/latin-é", "ünï/名前/emoji-😀.txt", &"x".repeat(200), &"名".repeat(80)]
        {
            fs::write(dir.join(name), name).unwrap();
        }
        fs::hard_link(dir.join("big"), dir.join("big-again")).unwrap();
    });
    for rock_ridge in [bridge().rock_ridge, None] {
        let mut options = bridge();
        options.rock_ridge = rock_ridge;
        let image = case.write(options);
        let image = image.to_str().unwrap();
        run("7zz", ["t", "-tudf", image]);
        let listed = run("7zz", ["l", image]);
        assert!(listed.contains("Type = Udf"), "{listed}");
        let found = case.extracted("7zz", &["x", "-bd", "-tudf", image]);
        assert_same(&found, &manifest(&case.tree()));
    }
}

#[test]
fn the_structures_are_those_of_genisoimage() {
    let case = Case::new(|dir| {
        tree::plain(dir);
        fs::hard_link(dir.join("one"), dir.join("two")).unwrap();
    });
    let mut options = bridge();
    options.volume_id = "BRIDGE".into();
    let ours = case.write(options);
    let theirs = case.path("theirs.iso");
    let args = ["-quiet", "-udf", "-R", "-V", "BRIDGE", "-o"];
    let paths = [theirs.clone(), case.tree()].map(|path| path.to_str().unwrap().to_owned());
    run("genisoimage", args.iter().map(|arg| (*arg).to_owned()).chain(paths));
    assert_same(&files(&udf(&ours)), &files(&udf(&theirs)));
    let (mut ours, mut theirs) = (udfinfo(&ours), udfinfo(&theirs));
    for fields in [&mut ours, &mut theirs] {
        let set = fields.remove("fullvsid").unwrap();
        assert_eq!(set.len(), 16, "{set}");
        // Different by design, and lengths that depend on padding.
        for name in ["filename", "uuid", "winserialnum", "impid", "blocks", "usedblocks", "ANCHOR"]
        {
            fields.remove(name).unwrap();
        }
    }
    assert_eq!(ours, theirs);
    assert_eq!(ours["numfiles"], "67");
    assert_eq!((&*ours["label"], &*ours["numdirs"]), ("BRIDGE", "4"));
}

#[test]
fn identifiers_times_and_labels_are_recorded() {
    let mut options = bridge();
    options.volume_set_id = "set".into();
    options.volume_id = "名😀 twenty characters".into();
    let time = Timestamp::from_seconds(1_600_000_000);
    (options.volume_time, options.file_time) = (Some(time), Some(time));
    let mut builder = Builder::new(options.clone());
    builder.add_bytes(b"a/b", "c").unwrap();
    let case = Case::new(|_| {});
    let image = case.path("image.iso");
    builder.plan().unwrap().emit(&mut fs::File::create(&image).unwrap()).unwrap();
    let info = udfinfo(&image);
    assert_eq!((&*info["label"], &*info["vsid"]), ("名😀 twenty characters", "set"));
    assert!(info["fullvsid"].starts_with("5F5E1000"), "{info:?}");
    assert_eq!((&*info["udfrev"], &*info["integrity"]), ("1.02", "closed"));
    let label = run("blkid", ["-p", "-s", "LABEL", "-o", "value", image.to_str().unwrap()]);
    assert_eq!(label.trim(), "名😀 twenty characters");
    let attributes = udf(&image).lookup(b"a/b").unwrap().attributes;
    assert_eq!((attributes.modified, attributes.changed), (Some(time), Some(time)));
    // Without Rock Ridge, owners are not specified.
    options.rock_ridge = None;
    let mut builder = Builder::new(options);
    builder.add_bytes(b"a", "").unwrap();
    let mut bytes = Vec::new();
    builder.plan().unwrap().emit(&mut bytes).unwrap();
    let attributes = open(Arc::new(MemorySource::new(bytes)), Namespace::Udf);
    let attributes = attributes.lookup(b"a").unwrap().attributes;
    assert_eq!((attributes.uid, attributes.gid, attributes.mode), (None, None, Some(0o555)));
}

#[test]
fn the_last_anchor_is_in_the_last_sector_or_256_sectors_before_it() {
    let case = Case::new(|dir| {
        fs::write(dir.join("boot.bin"), bios_image("a", "b")).unwrap();
        fs::write(dir.join("efi.img"), vec![3; 40_000]).unwrap();
    });
    let entry = |in_gpt| {
        let mut bios = BootEntry::new(Platform::Bios, BootImage::File("boot.bin".into()));
        (bios.load_sectors, bios.info_table) = (Some(4), true);
        let mut efi = BootEntry::new(Platform::Efi, BootImage::File("efi.img".into()));
        efi.in_gpt = in_gpt;
        vec![bios, efi]
    };
    let appended = || {
        let mut partition = AppendedPartition::new(2, 0xef, "");
        let source = Arc::new(MemorySource::new(vec![5; 100_000]));
        partition.contents = PartitionContents::Source(source);
        partition
    };
    for (in_gpt, isohybrid, append, as_gpt) in [
        (false, false, false, false),
        (false, true, false, false),
        (true, true, false, false),
        (true, false, false, false),
        (false, false, true, false),
        (false, false, true, true),
        (true, true, true, false),
    ] {
        let what = format!("{in_gpt} {isohybrid} {append} {as_gpt}");
        let mut options = bridge();
        options.boot = entry(in_gpt);
        options.hybrid.isohybrid_mbr = isohybrid.then(mbr_code);
        options.hybrid.appended.extend(append.then(appended));
        options.hybrid.appended_as_gpt = as_gpt;
        let image = case.write(options);
        assert_verifies(&image);
        let sectors = fs::metadata(&image).unwrap().len() / 2048;
        let last = if in_gpt || as_gpt { sectors - 257 } else { sectors - 1 };
        assert_eq!(udfinfo(&image)["ANCHOR"], format!("256 {last} "), "{what}");
        let area = SystemArea::read(&FileSource::open(&image).unwrap(), None).unwrap();
        assert_eq!(area.oddities, [], "{what}");
        assert_eq!(area.gpt.is_some_and(|gpt| gpt.backup_valid), in_gpt || as_gpt, "{what}");
        // The boot info table is in all trees.
        let udf = udf(&image);
        let iso = open(Arc::new(FileSource::open(&image).unwrap()), Namespace::RockRidge);
        assert_same(&files(&udf), &files(&iso));
        let table = read(&udf, b"boot.bin");
        assert_eq!(table[8..12], 16u32.to_le_bytes());
        let catalog = udf.boot_catalog().unwrap().unwrap();
        assert_eq!(read(&udf, b"boot.cat").len() as u64, 2048);
        assert_eq!(udf.lookup(b"boot.cat").unwrap().extents()[0].offset, Some(catalog.offset));
        // The first anchor is not needed.
        let mut bytes = fs::read(&image).unwrap();
        bytes[256 * 2048..257 * 2048].fill(0);
        open(Arc::new(MemorySource::new(bytes)), Namespace::Udf).lookup(b"efi.img").unwrap();
    }
}

#[test]
fn a_file_of_more_than_4_gib_is_complete_in_udf() {
    let case = Case::new(|dir| {
        huge(dir);
    });
    let len = fs::metadata(case.tree().join("huge")).unwrap().len();
    let mut options = bridge();
    options.names.level = Level::Two;
    let build = |options: &CreateOptions| {
        let mut builder = Builder::new(options.clone());
        builder.add_tree(b"", case.tree()).unwrap();
        builder.plan().map(|_| ()).map_err(|error| error.to_string())
    };
    assert!(build(&options).unwrap_err().contains("level 3"));
    options.limited_sizes = true;
    build(&options).unwrap();
    options.udf = false;
    assert!(build(&options).unwrap_err().contains("UDF"));
    options.udf = true;
    for (level, in_iso) in [(Level::Two, 0xFFFF_F800), (Level::Three, len)] {
        options.names.level = level;
        let image = case.path("image.iso");
        let plan = case.plan(options.clone());
        plan.write(Output::create(&image).unwrap(), Durability::Cached, &mut |_| Ok(())).unwrap();
        assert!(plan.size() < len + (2 << 20), "stored once");
        let source = || Arc::new(FileSource::open(&image).unwrap());
        for (namespace, len) in [
            (Namespace::RockRidge, in_iso),
            (Namespace::Joliet, in_iso),
            (Namespace::Udf, len),
            (Namespace::Auto, len),
        ] {
            let iso = open(source(), namespace);
            let node = iso.lookup(b"huge").unwrap();
            assert_eq!(node.size, len);
            let mut end = [0; 6];
            let contents = iso.contents(&node).unwrap();
            contents.read_exact_at(&mut end, 0xFFFF_F800 - 6).unwrap();
            assert_eq!(&end, b"\0\0\0mid");
            if namespace == Namespace::Udf {
                contents.read_exact_at(&mut end, len - 6).unwrap();
                assert_eq!(&end, b"\0\0\0end");
            }
        }
        let listed = run("7zz", ["l", "-ba", "-tudf", image.to_str().unwrap()]);
        assert!(listed.contains(&format!(" {len} ")), "{listed}");
        assert_verifies(&image);
    }
}

#[test]
fn descriptors_that_do_not_fit_in_the_entry_are_in_allocation_extents() {
    // The entry has space for 234 descriptors, an allocation extent for 253.
    const EXTENT: u64 = (1 << 30) - 2048;
    let case = Case::new(|_| {});
    let mut builder = Builder::new(bridge());
    let lens = [234 * EXTENT, 234 * EXTENT + 1, 486 * EXTENT, 800 * EXTENT + 12_345];
    for (n, len) in lens.iter().enumerate() {
        builder.add_source(format!("{n}").as_bytes(), Arc::new(Hole(*len))).unwrap();
    }
    builder.add_bytes(b"after", "after").unwrap();
    let image = case.path("image.iso");
    let plan = builder.plan().unwrap();
    plan.write(Output::create(&image).unwrap(), Durability::Cached, &mut |_| Ok(())).unwrap();
    let image = udf(&image);
    for (n, len) in lens.iter().enumerate() {
        let node = image.lookup(format!("{n}").as_bytes()).unwrap();
        assert_eq!(node.size, *len);
        // Adjacent extents are merged when they are read.
        assert_eq!(node.extents().len(), 1, "{n}");
    }
    assert_eq!(read(&image, b"after"), b"after");
}

#[test]
fn the_bytes_do_not_depend_on_the_location_of_the_tree() {
    let images = [(), ()].map(|()| {
        let case = Case::new(tree::hard);
        tree::set_times(&case.tree(), 1_600_000_000);
        let mut options = bridge();
        options.latest = Some(Timestamp::from_seconds(1_600_000_000));
        fs::read(case.write(options)).unwrap()
    });
    assert!(images[0] == images[1]);
}

#[test]
fn a_remastered_bridge_is_a_bridge() {
    let case = Case::new(tree::plain);
    let image = case.write(bridge());
    for namespace in [Namespace::Auto, Namespace::Udf] {
        let iso = open(Arc::new(FileSource::open(&image).unwrap()), namespace);
        let mut builder = iso.remaster().unwrap();
        builder.add_bytes(b"added", "new").unwrap();
        let again = case.path("again.iso");
        builder.plan().unwrap().emit(&mut fs::File::create(&again).unwrap()).unwrap();
        assert_verifies(&again);
        let mut expected = manifest(&case.tree());
        expected.insert(b"added".to_vec(), Content::File(b"new".to_vec()));
        assert_same(&files(&udf(&again)), &expected);
        assert_eq!(udfinfo(&again)["label"], "Bridge é");
    }
}

#[test]
fn hidden_files_are_omitted_or_marked_and_names_are_converted() {
    let mut builder = Builder::new(bridge());
    builder.hide("no-udf", Hide::FromUdf);
    builder.hide("only-udf", Hide::FromPrimary);
    builder.hide("only-udf", Hide::FromJoliet);
    builder.hide("flagged", Hide::WithFlag);
    builder.options_mut().charsets.host = Charset::from_name("cp437").unwrap();
    for name in [&b"no-udf"[..], b"only-udf", b"flagged", b"\x81ber"] {
        builder.add_bytes(name, name).unwrap();
    }
    let case = Case::new(|_| {});
    let image = case.path("image.iso");
    builder.plan().unwrap().emit(&mut fs::File::create(&image).unwrap()).unwrap();
    assert_verifies(&image);
    let paths = |namespace| {
        let iso = open(Arc::new(FileSource::open(&image).unwrap()), namespace);
        files(&iso).into_keys().map(|path| String::from_utf8(path).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(paths(Namespace::Udf), ["flagged", "only-udf", "über"]);
    assert_eq!(paths(Namespace::RockRidge), ["flagged", "no-udf", "über"]);
    assert_eq!(read(&udf(&image), b"only-udf"), b"only-udf");
    // The file characteristics: the first identifier is that of the parent.
    let bytes = fs::read(&image).unwrap();
    let flagged = &bytes[260 * 2048 + 40..];
    assert_eq!((flagged[18], &flagged[38..46]), (1, &b"\x08flagged"[..]));
}

#[test]
fn a_patched_boot_image_is_not_a_hard_link_to_an_unpatched_file() {
    let case = Case::new(|dir| {
        fs::write(dir.join("boot.bin"), bios_image("a", "b")).unwrap();
        fs::hard_link(dir.join("boot.bin"), dir.join("a-copy")).unwrap();
    });
    let image = case.write(bridge());
    let iso = open(Arc::new(FileSource::open(&image).unwrap()), Namespace::Auto);
    let mut builder = iso.remaster().unwrap();
    let mut bios = BootEntry::new(Platform::Bios, BootImage::File("boot.bin".into()));
    (bios.load_sectors, bios.info_table) = (Some(4), true);
    builder.options_mut().boot.push(bios);
    let mut bytes = Vec::new();
    builder.plan().unwrap().emit(&mut bytes).unwrap();
    let bytes = Arc::new(MemorySource::new(bytes));
    for namespace in [Namespace::RockRidge, Namespace::Joliet, Namespace::Udf] {
        let iso = open(bytes.clone(), namespace);
        assert_eq!(read(&iso, b"a-copy"), bios_image("a", "b"), "{namespace:?}");
        assert_eq!(read(&iso, b"boot.bin")[8..12], 16u32.to_le_bytes(), "{namespace:?}");
    }
}

#[test]
fn damage_to_the_volume_structures_is_found() {
    let mut builder = Builder::new(bridge());
    builder.add_bytes(b"a", "b").unwrap();
    let mut image = Vec::new();
    builder.plan().unwrap().emit(&mut image).unwrap();
    let last = image.len() / 2048 - 1;
    let messages = |sector: usize, at: usize| {
        let mut bytes = image.clone();
        bytes[sector * 2048 + at] ^= 1;
        let iso = IsoImage::open(Arc::new(MemorySource::new(bytes)), &IsoOptions::default());
        let mut found = Vec::new();
        iso.unwrap().verify(&mut |finding| found.push(finding.message)).unwrap();
        found.join("; ")
    };
    for (sector, at, expected) in [
        (256, 0, "only one anchor"),
        (last, 0, "only one anchor"),
        (33, 100, ""),
        (32, 30, "primary volume descriptor: the CRC is wrong"),
        (48, 30, "primary volume descriptor: the CRC is wrong"),
        (51, 0, "the reserve volume descriptor sequence differs"),
        (64, 200, ""),
        (64, 40, "logical volume integrity descriptor: the CRC is wrong"),
        (257, 100, "file set descriptor: the CRC is wrong"),
        (259, 50, "file entry: the CRC is wrong"),
        (260, 20, "file identifier descriptor: the CRC is wrong"),
        (261, 40, "file entry: the CRC is wrong"),
    ] {
        let found = messages(sector, at);
        assert!(found.contains(expected), "{sector} {at}: {found}");
        assert_eq!(found.is_empty(), expected.is_empty(), "{sector} {at}: {found}");
    }
}

#[test]
#[ignore = "mounts: needs root and loop devices; ./test.sh runs it as root"]
fn the_kernel_reads_the_udf_tree() {
    if !kernel_reads("udf", "udf") {
        return;
    }
    let case = Case::new(|dir| {
        tree::hard(dir);
        // Linux does not read the target of this link.
        fs::remove_file(dir.join("link-long")).unwrap();
        fs::remove_file(dir.join("d".repeat(255))).unwrap();
        fs::remove_dir(dir.join("d".repeat(254) + "x")).unwrap();
        fs::remove_file(dir.join(std::ffi::OsStr::new("link-component"))).unwrap();
        let bytes: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"latin-\xe9\xff");
        fs::remove_file(dir.join(bytes)).unwrap();
        symlink("x".repeat(60).replace('x', "directory/") + "end", dir.join("outside")).unwrap();
        for (name, kind, major, minor) in [("null", "c", "1", "3"), ("far", "b", "259", "70000")] {
            run("mknod", [dir.join(name).to_str().unwrap(), kind, major, minor]);
        }
        run("chown", ["1234:70000", dir.join("one").to_str().unwrap()]);
        tree::set_times(dir, 1_234_567_890);
    });
    let image = case.write(bridge());
    let mounted = Mounted::as_type("udf", &image, case.path("mnt"), "iocharset=utf8");
    let expected = manifest(&case.tree());
    assert_same(&manifest(&mounted.0), &expected);
    for name in expected.keys() {
        let name: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(&name[..]);
        let [a, b] = [&mounted.0, &case.tree()].map(|dir| tree::attributes(&dir.join(name)));
        assert_eq!(a, b, "{}", name.display());
    }
}
