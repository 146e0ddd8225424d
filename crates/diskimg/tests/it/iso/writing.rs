//! Images written by diskimg, read by the kernel, xorriso, isoinfo, bsdtar, 7-Zip, pycdlib and
//! diskimg.

use super::tree::{self, Content, Manifest, assert_same, manifest};
use diskimg::Severity;
use diskimg::iso::write::{Builder, CreateOptions, Joliet, Level, NameRules, Plan, RockRidge};
use diskimg::iso::{IsoImage, IsoOptions, Namespace, Timestamp};
use diskimg::storage::source::{FileSource, MemorySource};
use diskimg::{Durability, ErrorKind, Output};
use diskimg_testkit::tool::{full, run};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// A temporary directory with a tree and the image created from it.
pub struct Case {
    dir: tempfile::TempDir,
}

impl Case {
    pub fn new(fill: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tree")).unwrap();
        fill(&dir.path().join("tree"));
        Self { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn tree(&self) -> PathBuf {
        self.path("tree")
    }

    pub fn plan(&self, options: CreateOptions) -> Plan {
        let mut builder = Builder::new(options);
        builder.add_tree(b"", self.tree()).unwrap();
        builder.plan().unwrap()
    }

    /// Writes the image to a file and as a stream, which must be equal, and returns its path.
    pub fn write(&self, options: CreateOptions) -> PathBuf {
        let (plan, image) = (self.plan(options), self.path("image.iso"));
        let output = Output::create(&image).unwrap();
        plan.write(output, Durability::Cached, &mut |_| Ok(())).unwrap();
        let mut emitted = Vec::new();
        plan.emit(&mut emitted).unwrap();
        assert_eq!(emitted.len() as u64, plan.size());
        assert!(fs::read(&image).unwrap() == emitted, "the file differs from the stream");
        image
    }

    /// Runs a command that extracts the image to the current directory, and returns the files.
    pub fn extracted(&self, program: &str, args: &[&str]) -> Manifest {
        let out = self.path("out");
        fs::create_dir(&out).unwrap();
        let mut command = Command::new(program);
        let done = command.args(args).current_dir(&out).output().unwrap();
        let stderr = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{program}: {stderr}");
        let found = manifest(&out);
        run("chmod", [OsStr::new("-R"), OsStr::new("u+rwX"), out.as_os_str()]);
        fs::remove_dir_all(&out).unwrap();
        found
    }
}

pub fn preserved() -> CreateOptions {
    let mut options = CreateOptions::default();
    options.rock_ridge = Some(RockRidge::Preserved);
    options
}

/// Asserts that diskimg finds no problem in the image.
pub fn assert_verifies(image: &Path) {
    let source = Arc::new(FileSource::open(image).unwrap());
    let iso = IsoImage::open(source, &IsoOptions::default()).unwrap();
    let mut found = Vec::new();
    iso.verify(&mut |finding| {
        if finding.severity > Severity::Note {
            found.push(format!("{finding:?}"));
        }
    })
    .unwrap();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn bsdtar_and_xorriso_extract_the_source_tree() {
    let case = Case::new(tree::hard);
    let image = case.write(preserved());
    let image = image.to_str().unwrap();
    assert_verifies(Path::new(image));
    let mut expected = manifest(&case.tree());
    // Without -P, bsdtar treats `a:` in `a:b` as a drive.
    let found = case.extracted("bsdtar", &["-xPf", image]);
    assert_same(&found, &expected);
    // xorriso does not open an image with a link of more than 1024 bytes.
    fs::remove_file(case.tree().join("link-long")).unwrap();
    expected.remove(&b"link-long"[..]);
    let image = case.write(preserved());
    let args = ["-osirrox", "on", "-indev", image.to_str().unwrap(), "-extract", "/", "."];
    assert_same(&case.extracted("xorriso", &args), &expected);
}

#[test]
fn an_image_with_only_joliet_is_read_by_bsdtar_and_7_zip() {
    let case = Case::new(tree::plain);
    let mut options = CreateOptions::default();
    options.rock_ridge = None;
    options.names = NameRules::strict();
    options.names.level = Level::Three;
    let image = case.write(options);
    assert_verifies(&image);
    let expected = manifest(&case.tree());
    let image = image.to_str().unwrap();
    assert_same(&case.extracted("bsdtar", &["-xf", image]), &expected);
    assert_same(&case.extracted("7zz", &["x", "-bd", image]), &expected);
}

#[test]
fn seven_zip_extracts_an_image_with_rock_ridge_and_joliet() {
    let case = Case::new(tree::plain);
    let image = case.write(CreateOptions::default());
    let found = case.extracted("7zz", &["x", "-bd", image.to_str().unwrap()]);
    assert_same(&found, &manifest(&case.tree()));
}

/// Returns the names of all files in one of the trees.
fn isoinfo(image: &Path, tree: &str) -> Vec<String> {
    let image = image.to_str().unwrap();
    let mut args = vec!["-f"];
    args.extend(Some(tree).filter(|tree| !tree.is_empty()));
    args.extend(["-i", image]);
    let mut names: Vec<_> = run("isoinfo", args).lines().map(String::from).collect();
    names.sort();
    names
}

fn seed() -> Builder {
    let mut options = CreateOptions::default();
    options.volume_id = "config-2".into();
    options.publisher = "OpenStack Compute 1".into();
    let mut builder = Builder::new(options);
    builder.add_bytes(b"openstack/latest/meta_data.json", "{}").unwrap();
    builder.add_bytes(b"/openstack/latest/network_data.json", "{\"links\": []}").unwrap();
    builder.add_bytes(b"openstack/latest/user_data", "#cloud-config").unwrap();
    builder.add_bytes(b"openstack/content/0000", vec![7; 5000]).unwrap();
    builder.add_directory(b"ec2/latest").unwrap();
    builder
}

#[test]
fn a_config_drive_has_the_same_names_in_all_three_trees() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("seed.iso");
    let mut out = fs::File::create(&image).unwrap();
    seed().plan().unwrap().emit(&mut out).unwrap();
    assert_verifies(&image);
    let names = [
        "/ec2",
        "/ec2/latest",
        "/openstack",
        "/openstack/content",
        "/openstack/content/0000",
        "/openstack/latest",
        "/openstack/latest/meta_data.json",
        "/openstack/latest/network_data.json",
        "/openstack/latest/user_data",
    ];
    for tree in ["-R", "-J"] {
        assert_eq!(isoinfo(&image, tree), names, "{tree}");
    }
    let with_versions: Vec<_> = isoinfo(&image, "");
    assert!(with_versions.contains(&"/openstack/latest/network_data.json;1".to_owned()));
    let described = run("isoinfo", ["-d", "-i", image.to_str().unwrap()]);
    for line in
        ["Volume id: config-2", "Publisher id: OpenStack Compute 1", "Joliet with UCS level 3"]
    {
        assert!(described.contains(line), "{described}");
    }
    let label = run("blkid", ["-p", "-s", "LABEL", "-o", "value", image.to_str().unwrap()]);
    assert_eq!(label.trim(), "config-2");
}

#[test]
fn names_that_joliet_cannot_represent_cause_warnings_and_stay_unique() {
    let mut builder = Builder::new(CreateOptions::default());
    let names = ["a:b", "a;b", "a_b", "emoji-😀.txt"];
    for name in names {
        builder.add_bytes(name.as_bytes(), name).unwrap();
    }
    let long = ["x", "y"].map(|end| format!("{}{end}.text", "n".repeat(90)));
    for name in &long {
        builder.add_bytes(name.as_bytes(), name.as_bytes()).unwrap();
    }
    let plan = builder.plan().unwrap();
    assert_eq!(plan.warnings().len(), 4, "{:?}", plan.warnings());
    assert!(plan.warnings()[0].contains("\"a:b\""));
    let mut bytes = Vec::new();
    plan.emit(&mut bytes).unwrap();
    let mut options = IsoOptions::default();
    options.namespace = Namespace::Joliet;
    let iso = IsoImage::open(Arc::new(MemorySource::new(bytes)), &options).unwrap();
    let found: Vec<_> = iso.walk().map(|found| found.unwrap().path).collect();
    let cut = "n".repeat(59);
    let mut expected = vec!["a_b".to_owned(), "a_b000".into(), "a_b001".into()];
    expected.extend(["emoji-😀.txt".to_owned()]);
    expected.extend([format!("{}000.text", &cut[..56]), format!("{cut}.text")]);
    assert_eq!(found, expected.iter().map(|name| name.as_bytes()).collect::<Vec<_>>());
}

#[test]
fn relocated_directories_are_found_at_their_original_paths() {
    let case = Case::new(|dir| {
        let deep = dir.join("1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("bottom"), "deep").unwrap();
        fs::create_dir_all(dir.join("1/2/3/4/5/6/7/other")).unwrap();
        fs::write(dir.join("1/2/3/4/5/6/7/other/file"), "less deep").unwrap();
    });
    let expected = manifest(&case.tree());
    for deep in [true, false] {
        let mut options = CreateOptions::default();
        options.deep_directories = deep;
        // 7-Zip and bsdtar see relocated directories only in a Joliet tree.
        options.joliet = None;
        let image = case.write(options);
        assert_verifies(&image);
        let args = ["-osirrox", "on", "-indev", image.to_str().unwrap(), "-extract", "/", "."];
        let mut found = case.extracted("xorriso", &args);
        assert_eq!(found.remove(&b"rr_moved"[..]).is_some(), !deep);
        assert_same(&found, &expected);
        let mut names: Vec<_> =
            expected.keys().map(|n| format!("/{}", String::from_utf8_lossy(n))).collect();
        names.sort();
        let listed = isoinfo(&image, "-R");
        let listed: Vec<_> = listed.into_iter().filter(|name| !name.contains("rr_moved")).collect();
        if deep {
            assert_eq!(listed, names);
        }
        let source = Arc::new(FileSource::open(&image).unwrap());
        let iso = IsoImage::open(source, &IsoOptions::default()).unwrap();
        let mut found: Vec<_> = iso.walk().map(|found| found.unwrap().path).collect();
        found.retain(|name| name != b"rr_moved");
        found.sort();
        assert_eq!(found, expected.keys().cloned().collect::<Vec<_>>());
    }
}

#[test]
fn the_bytes_do_not_depend_on_the_location_or_the_creation_order_of_the_tree() {
    let first = Case::new(tree::hard);
    let second = Case::new(|dir| {
        // Different inode numbers and a different order of directory entries.
        for n in 0..50 {
            fs::write(dir.join(format!("gone-{n}")), "").unwrap();
        }
        tree::hard(dir);
        for n in 0..50 {
            fs::remove_file(dir.join(format!("gone-{n}"))).unwrap();
        }
    });
    for case in [&first, &second] {
        tree::set_times(&case.tree(), 1_600_000_000);
    }
    let mut options = CreateOptions::default();
    // `set_times` does not set the times of links and pipes.
    options.latest = Some(Timestamp::from_seconds(1_600_000_000));
    let [a, b] = [&first, &second].map(|case| fs::read(case.write(options.clone())).unwrap());
    assert!(a == b);
    // No recorded time is later, and the image does not name diskimg.
    options.latest = Some(Timestamp::from_seconds(1_500_000_000));
    let image = fs::read(first.write(options)).unwrap();
    assert_eq!(&image[0x8000 + 813..][..17], b"2017071402400000\0");
    let (_, tables) = image.split_at(0x8000);
    assert!(!tables[..4096].windows(7).any(|bytes| bytes == b"diskimg"), "the image names diskimg");
}

#[test]
fn equal_contents_are_stored_once() {
    let case = Case::new(|dir| {
        fs::write(dir.join("a"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(dir.join("a"), dir.join("b")).unwrap();
        fs::write(dir.join("f"), vec![1; 1 << 20]).unwrap();
        // Differs, but not in the bytes that are sampled.
        let mut other = vec![1; 1 << 20];
        other[9000] = 2;
        fs::write(dir.join("g"), other).unwrap();
    });
    let mut builder = Builder::new(CreateOptions::default());
    builder.add_tree(b"", case.tree()).unwrap();
    builder.add_path(b"c", case.tree().join("a")).unwrap();
    builder.add_bytes(b"d", vec![2; 1 << 20]).unwrap();
    builder.add_bytes(b"e", vec![2; 1 << 20]).unwrap();
    let plan = builder.plan().unwrap();
    assert!((3 << 20..(3 << 20) + (64 << 10)).contains(&plan.size()), "{}", plan.size());
    let image = case.path("image.iso");
    plan.emit(&mut fs::File::create(&image).unwrap()).unwrap();
    assert_verifies(&image);
    let listed = run("isoinfo", ["-l", "-R", "-i", image.to_str().unwrap()]);
    let links = |name: &str| {
        let line = listed.lines().find(|line| line.trim_end().ends_with(&format!(" {name}")));
        line.unwrap().split_whitespace().nth(1).unwrap().parse::<u32>().unwrap()
    };
    // `a`, `b` and `c` are one file; the others only have the same contents.
    assert_eq!(["a", "b", "c", "d", "e", "f", "g"].map(links), [3, 3, 3, 1, 1, 1, 1]);
}

#[test]
fn a_file_that_changes_after_planning_is_an_error() {
    /// A part of the error message, and the change to the file.
    type Change = (&'static str, fn(&Path));
    let changes: [Change; 6] = [
        ("length", |path| fs::write(path, "longer than it was").unwrap()),
        ("length", |path| fs::write(path, "").unwrap()),
        ("modification time changed", |path| {
            fs::write(path, "eight by").unwrap();
            let later = std::time::SystemTime::now() + std::time::Duration::from_secs(9);
            fs::File::open(path).unwrap().set_modified(later).unwrap();
        }),
        ("cannot open", |path| fs::remove_file(path).unwrap()),
        ("cannot open", |path| {
            fs::rename(path, path.with_extension("moved")).unwrap();
            symlink(path.with_extension("moved"), path).unwrap();
        }),
        ("no longer a regular file", |path| {
            fs::remove_file(path).unwrap();
            run("mkfifo", [path]);
        }),
    ];
    for (message, change) in changes {
        let case = Case::new(|dir| {
            fs::create_dir(dir.join("dir")).unwrap();
            fs::write(dir.join("dir/file"), "8 bytes.").unwrap();
        });
        let plan = case.plan(CreateOptions::default());
        change(&case.tree().join("dir/file"));
        let error = plan.emit(&mut Vec::new()).expect_err(message);
        let error = format!("{error:#}");
        assert!(error.contains(message) && error.contains("dir/file"), "{message}: {error}");
    }
}

#[test]
fn a_directory_replaced_by_a_link_after_planning_is_an_error() {
    let case = Case::new(|dir| {
        fs::create_dir(dir.join("dir")).unwrap();
        fs::write(dir.join("dir/file"), "8 bytes.").unwrap();
    });
    let plan = case.plan(CreateOptions::default());
    let dir = case.tree().join("dir");
    fs::rename(&dir, case.path("elsewhere")).unwrap();
    symlink(case.path("elsewhere"), &dir).unwrap();
    assert!(plan.emit(&mut Vec::new()).expect_err("a link").to_string().contains("tree/dir"));
}

#[test]
fn links_are_followed_on_request_but_loops_are_errors() {
    let case = Case::new(|dir| {
        fs::create_dir(dir.join("real")).unwrap();
        fs::write(dir.join("real/file"), "content").unwrap();
        symlink("real", dir.join("to-dir")).unwrap();
        symlink("real/file", dir.join("to-file")).unwrap();
    });
    let mut options = CreateOptions::default();
    options.follow_symlinks = true;
    let image = case.write(options.clone());
    let found = case.extracted("bsdtar", &["-xf", image.to_str().unwrap()]);
    assert_eq!(found[&b"to-file"[..]], Content::File(b"content".to_vec()));
    assert_eq!(found[&b"to-dir/file"[..]], Content::File(b"content".to_vec()));
    symlink("..", case.tree().join("real/up")).unwrap();
    let mut builder = Builder::new(options);
    let error = builder.add_tree(b"", case.tree()).expect_err("a loop");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("real/up"), "{error}");
}

#[test]
fn a_symbolic_link_without_rock_ridge_is_an_error() {
    let case = Case::new(|dir| symlink("x", dir.join("link")).unwrap());
    let mut options = CreateOptions::default();
    options.rock_ridge = None;
    let mut builder = Builder::new(options);
    builder.add_tree(b"", case.tree()).unwrap();
    let error = builder.plan().expect_err("a link").to_string();
    assert!(error.contains("\"link\" is a symbolic link"), "{error}");
}

#[test]
fn trees_are_merged_patterns_exclude_files_and_files_can_be_removed() {
    let case = Case::new(tree::plain);
    let mut builder = Builder::new(CreateOptions::default());
    builder.exclude("*.text");
    builder.exclude("*/tree/empty*");
    builder.add_tree(b"", case.tree()).unwrap();
    builder.add_bytes(b"dir/more", "replaced").unwrap();
    builder.add_path(b"copy/of/dir", case.tree().join("dir")).unwrap();
    builder.add_path(b"copy/one", case.tree().join("one")).unwrap();
    assert!(builder.remove(b"dir/sub"));
    assert!(!builder.remove(b"dir/sub") && !builder.remove(b""));
    assert!(builder.add_bytes(b"dir", "").is_err(), "a file replaced a directory");
    assert!(builder.add_bytes(b"../x", "").is_err(), "an invalid path was accepted");
    let image = case.path("image.iso");
    builder.plan().unwrap().emit(&mut fs::File::create(&image).unwrap()).unwrap();
    let mut found = case.extracted("bsdtar", &["-xf", image.to_str().unwrap()]);
    let names = [
        "big",
        "copy",
        "copy/of",
        "copy/of/dir",
        "copy/of/dir/more",
        "copy/of/dir/sector",
        "copy/of/dir/sub",
        "copy/of/dir/sub/page",
        "copy/one",
        "dir",
        "dir/more",
        "dir/sector",
        "one",
    ];
    assert_eq!(found.keys().cloned().collect::<Vec<_>>(), names.map(|n| n.as_bytes().to_vec()));
    assert_eq!(found.remove(&b"dir/more"[..]), Some(Content::File(b"replaced".to_vec())));
}

#[test]
fn an_image_built_from_the_nodes_of_an_image_is_equal() {
    let case = Case::new(tree::hard);
    let image = case.write(preserved());
    let source = Arc::new(FileSource::open(&image).unwrap());
    let iso = IsoImage::open(source, &IsoOptions::default()).unwrap();
    let mut builder = Builder::new(preserved());
    builder.add_node(b"", iso.root(), None).unwrap();
    for found in iso.walk() {
        let found = found.unwrap();
        let regular = found.node.file_type == diskimg::iso::FileType::Regular;
        let contents = regular.then(|| iso.contents(&found.node).unwrap());
        builder.add_node(&found.path, &found.node, contents).unwrap();
    }
    let mut again = Vec::new();
    builder.plan().unwrap().emit(&mut again).unwrap();
    assert!(again == fs::read(&image).unwrap());
}

#[test]
fn contents_are_aligned() {
    let case = Case::new(tree::plain);
    let mut options = CreateOptions::default();
    options.alignment = 65_536;
    options.padding = 150;
    let image = case.write(options);
    assert_verifies(&image);
    let source = Arc::new(FileSource::open(&image).unwrap());
    let iso = IsoImage::open(source, &IsoOptions::default()).unwrap();
    for found in iso.walk() {
        let node = found.unwrap().node;
        let extents = node.extents().iter().filter(|_| !node.is_dir() && node.size > 0);
        assert!(extents.filter_map(|extent| extent.offset).all(|at| at % 65_536 == 0));
    }
    let expected = manifest(&case.tree());
    assert_same(&case.extracted("bsdtar", &["-xf", image.to_str().unwrap()]), &expected);
}

/// Creates a sparse file of more than 4 GiB.
pub fn huge(dir: &Path) -> u64 {
    use std::os::unix::fs::FileExt;
    let len = (4 << 30) + (100 << 20) + 7;
    let file = fs::File::create(dir.join("huge")).unwrap();
    file.set_len(len).unwrap();
    file.write_all_at(b"begin", 0).unwrap();
    // Across the end of the first extent.
    file.write_all_at(b"middle", 0xFFFF_F800 - 3).unwrap();
    file.write_all_at(b"end", len - 3).unwrap();
    fs::write(dir.join("zz-after"), "after").unwrap();
    len
}

#[test]
fn a_file_of_more_than_4_gib_has_several_extents() {
    let case = Case::new(|dir| {
        huge(dir);
    });
    let len = fs::metadata(case.tree().join("huge")).unwrap().len();
    let mut options = CreateOptions::default();
    options.names.level = Level::Two;
    let mut builder = Builder::new(options);
    builder.add_tree(b"", case.tree()).unwrap();
    let error = builder.plan().expect_err("level 2").to_string();
    assert!(error.contains("\"huge\"") && error.contains("level 3"), "{error}");

    let image = case.path("image.iso");
    let plan = case.plan(CreateOptions::default());
    plan.write(Output::create(&image).unwrap(), Durability::Cached, &mut |_| Ok(())).unwrap();
    let metadata = fs::metadata(&image).unwrap();
    assert_eq!(metadata.len(), plan.size());
    assert!(metadata.blocks() * 512 < 64 << 20, "holes were written");
    let image = image.to_str().unwrap();
    let listed = run("bsdtar", ["-tvf", image]);
    assert!(listed.contains(&format!(" {len} ")), "{listed}");
    let listed = run("7zz", ["l", "-ba", image]);
    assert!(listed.contains(&format!(" {len} ")), "{listed}");
    let listed = run("xorriso", ["-indev", image, "-find", "/huge", "-exec", "lsdl"]);
    assert!(listed.contains(&format!(" {len} ")), "{listed}");
    // bsdtar reads the whole file, holes included.
    if full() {
        let tail = Command::new("sh")
            .args(["-c", "bsdtar -xOf \"$0\" huge | tail -c 100000000 | tail -c 3", image])
            .output()
            .unwrap();
        assert_eq!(tail.stdout, b"end");
    }
    assert_verifies(Path::new(image));
}

#[test]
#[allow(clippy::print_stderr, reason = "reports a skipped test")]
fn pycdlib_reads_images() {
    let python = std::env::var_os("DISKIMG_ORACLES");
    let python = python.map_or("python3".into(), |dir| Path::new(&dir).join("bin/python"));
    let has = Command::new(&python).args(["-c", "import pycdlib"]).output();
    if !has.is_ok_and(|done| done.status.success()) {
        eprintln!("skipped: pycdlib is not installed");
        return;
    }
    let case = Case::new(|dir| {
        tree::plain(dir);
        fs::write(dir.join("n".repeat(255)), "long").unwrap();
        symlink("x/".repeat(300), dir.join("link")).unwrap();
    });
    let image = case.write(CreateOptions::default());
    let program = "import pycdlib, sys
iso = pycdlib.PyCdlib()
iso.open(sys.argv[1])
for space in ('rr_path', 'joliet_path'):
    for at, dirs, files in iso.walk(**{space: '/'}):
        for name in files:
            print(space, at.rstrip('/') + '/' + name)
iso.get_file_from_iso(sys.argv[2], joliet_path='/big')
";
    let out = case.path("big");
    let done = Command::new(&python).args(["-c", program]).args([&image, &out]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(fs::read(&out).unwrap() == fs::read(case.tree().join("big")).unwrap());
    let listed = String::from_utf8_lossy(&done.stdout).into_owned();
    for name in ["rr_path /dir/sub/file-number-7.text", "joliet_path /dir/sub/file-number-7.text"] {
        assert!(listed.contains(name), "{listed}");
    }
}

#[test]
#[ignore = "needs root, xfsprogs and loop devices; ./test.sh runs it as root"]
fn aligned_contents_share_their_blocks_with_the_source_files() {
    let mounted = diskimg_testkit::tool::MountedFs::xfs();
    let tree = mounted.path("tree");
    fs::create_dir(&tree).unwrap();
    for n in 0..8 {
        fs::write(
            tree.join(format!("{n}")),
            diskimg_testkit::disk::noise(n, (8 << 20) + 77 * n as usize),
        )
        .unwrap();
    }
    let used = || {
        run("sync", ["-f", mounted.path("").to_str().unwrap()]);
        let output = run("df", ["--output=used", "-B1", mounted.path("").to_str().unwrap()]);
        output.lines().last().unwrap().trim().parse::<u64>().unwrap()
    };
    let before = used();
    let mut options = CreateOptions::default();
    options.alignment = 4096;
    let mut builder = Builder::new(options);
    builder.add_tree(b"", &tree).unwrap();
    let plan = builder.plan().unwrap();
    let image = mounted.path("image.iso");
    plan.write(Output::create(&image).unwrap(), Durability::Flushed, &mut |_| Ok(())).unwrap();
    let grown = used() - before;
    assert!(grown < 8 << 20, "{grown} more bytes are used");
    let mut emitted = Vec::new();
    plan.emit(&mut emitted).unwrap();
    assert!(fs::read(&image).unwrap() == emitted);
}

/// Returns whether the kernel supports ISO 9660.
fn kernel_reads_iso() -> bool {
    kernel_reads("iso9660", "isofs")
}

/// Returns whether the kernel supports a file system, after loading its module.
#[allow(clippy::print_stderr, reason = "reports a skipped test")]
pub fn kernel_reads(file_system: &str, module: &str) -> bool {
    let _ = Command::new("modprobe").arg(module).status();
    let known = fs::read_to_string("/proc/filesystems").unwrap().contains(file_system);
    if !known {
        eprintln!("skipped: this kernel does not support {file_system}");
    }
    known
}

/// An image mounted by the kernel.
pub struct Mounted(pub PathBuf);

impl Mounted {
    fn new(image: &Path, at: PathBuf, options: &str) -> Self {
        Self::as_type("iso9660", image, at, options)
    }

    pub fn as_type(file_system: &str, image: &Path, at: PathBuf, options: &str) -> Self {
        fs::create_dir(&at).unwrap();
        let options = format!("loop,ro,{options}");
        run(
            "mount",
            ["-t", file_system, "-o", &options, image.to_str().unwrap(), at.to_str().unwrap()],
        );
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
#[ignore = "mounts: needs root and loop devices; ./test.sh runs it as root"]
fn the_kernel_reads_every_file_and_its_attributes() {
    if !kernel_reads_iso() {
        return;
    }
    let case = Case::new(|dir| {
        tree::hard(dir);
        // The kernel truncates longer names.
        fs::remove_file(dir.join("d".repeat(255))).unwrap();
        fs::remove_dir(dir.join(format!("{}x", "d".repeat(254)))).unwrap();
        for (name, kind, major, minor) in [
            ("null", "c", "1", "3"),
            ("disk", "b", "8", "17"),
            ("far", "b", "259", "70000"),
            ("zero", "c", "0", "5"),
        ] {
            run("mknod", [dir.join(name).to_str().unwrap(), kind, major, minor]);
        }
        fs::create_dir_all(dir.join("1/2/3/4/5/6/7/8/9/10")).unwrap();
        fs::write(dir.join("1/2/3/4/5/6/7/8/9/10/file"), "deep").unwrap();
        run("chown", ["1234:70000", dir.join("one").to_str().unwrap()]);
        tree::set_times(dir, 1_234_567_890);
        huge(dir);
    });
    let huge = fs::metadata(case.tree().join("huge")).unwrap().len();
    for deep in [true, false] {
        let mut options = preserved();
        options.deep_directories = deep;
        let image = case.path("image.iso");
        let plan = case.plan(options);
        plan.write(Output::create(&image).unwrap(), Durability::Cached, &mut |_| Ok(())).unwrap();
        let mounted = Mounted::new(&image, case.path("mnt"), "nojoliet");
        let read = run("tail", ["-c", "3", mounted.0.join("huge").to_str().unwrap()]);
        assert_eq!(
            (read.as_str(), fs::metadata(mounted.0.join("huge")).unwrap().len()),
            ("end", huge)
        );
        let contents = |dir: &Path| {
            // Skips the huge file, which does not fit into memory.
            let mut names = Manifest::new();
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().as_bytes().to_vec();
                if path.is_dir() && !path.is_symlink() {
                    for (below, content) in manifest(&path) {
                        names.insert([&name[..], b"/", &below].concat(), content);
                    }
                    names.insert(name, Content::Directory);
                } else if path.is_symlink() {
                    let link = fs::read_link(&path).unwrap();
                    names.insert(name, Content::Link(link.as_os_str().as_bytes().to_vec()));
                } else if name != b"huge" {
                    let kind = fs::symlink_metadata(&path).unwrap();
                    let content = if kind.is_file() {
                        Content::File(fs::read(&path).unwrap())
                    } else {
                        Content::Other
                    };
                    names.insert(name, content);
                }
            }
            names
        };
        let expected = contents(&case.tree());
        let mut found = contents(&mounted.0);
        assert_eq!(found.remove(&b"rr_moved"[..]).is_some(), !deep);
        assert_same(&found, &expected);
        for name in expected.keys() {
            let name = Path::new(OsStr::from_bytes(name));
            let [mut a, mut b] =
                [&mounted.0, &case.tree()].map(|dir| tree::attributes(&dir.join(name)));
            if name == Path::new("big") || name == Path::new("dir/big-again") {
                assert_eq!(a.3, 2);
            }
            // The kernel computes the link count of a relocated directory itself.
            (a.3, b.3) = (0, 0);
            assert_eq!(a, b, "{}", name.display());
        }
    }
}

#[test]
#[ignore = "mounts: needs root and loop devices; ./test.sh runs it as root"]
fn the_kernel_reads_joliet_and_the_primary_tree() {
    if !kernel_reads_iso() {
        return;
    }
    let case = Case::new(|dir| {
        tree::plain(dir);
        fs::write(dir.join("emoji-😀.txt"), "smile").unwrap();
    });
    let mut options = CreateOptions::default();
    options.joliet = Some(Joliet::Long);
    let image = case.write(options);
    let expected = manifest(&case.tree());
    {
        let mounted = Mounted::new(&image, case.path("mnt"), "norock,iocharset=utf8");
        assert_same(&manifest(&mounted.0), &expected);
    }
    let mounted = Mounted::new(&image, case.path("mnt"), "norock,nojoliet,map=off");
    let found = manifest(&mounted.0);
    assert!(found.contains_key(&b"dir/sub/file-number-7.text;1"[..]));
}
