//! Files that are hidden, sorted, replaced or listed in translation tables.

use diskimg::ErrorKind;
use diskimg::iso::write::{
    Builder, Charset, CreateOptions, Duplicates, Hide, Level, Plan, TranslationTables,
};
use diskimg::iso::{ExtractOptions, IsoImage, IsoOptions, Namespace};
use diskimg::storage::source::MemorySource;
use std::fs;
use std::path::Path;
use std::sync::Arc;

fn options() -> CreateOptions {
    CreateOptions::default()
}

fn open(plan: &Plan, namespace: Namespace) -> IsoImage {
    let mut image = Vec::new();
    plan.emit(&mut image).expect("emits");
    let mut options = IsoOptions::default();
    options.namespace = namespace;
    IsoImage::open(Arc::new(MemorySource::new(image)), &options).expect("opens")
}

fn names(image: &IsoImage) -> Vec<String> {
    let name = |found: diskimg::Result<diskimg::iso::Found>| {
        String::from_utf8(found.expect("reads").path).expect("UTF-8")
    };
    image.walk().map(name).collect()
}

fn contents(image: &IsoImage, path: &str) -> Vec<u8> {
    let node = image.lookup(path.as_bytes()).expect("exists");
    let source = image.contents(&node).expect("opens");
    let mut bytes = vec![0; usize::try_from(source.len()).expect("fits")];
    source.read_exact_at(&mut bytes, 0).expect("reads");
    bytes
}

fn sector(image: &IsoImage, path: &str) -> u64 {
    let node = image.lookup(path.as_bytes()).expect("exists");
    node.extents()[0].offset.expect("is recorded")
}

fn write(dir: &Path, names: &[&str]) {
    for name in names {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().expect("in dir")).expect("mkdir");
        fs::write(path, name.repeat(1000)).expect("writes");
    }
}

#[test]
fn files_are_hidden_from_one_tree_and_still_written() {
    let dir = tempfile::tempdir().expect("tempdir");
    write(dir.path(), &["a", "dir/b", "dir/c", "both"]);
    let mut builder = Builder::new(options());
    builder.hide("dir", Hide::FromPrimary);
    builder.hide("*/a", Hide::FromJoliet);
    builder.hide("both", Hide::FromPrimary);
    builder.hide("both", Hide::FromJoliet);
    builder.add_tree(b"", dir.path()).expect("adds");
    builder.hide("bytes", Hide::FromPrimary);
    builder.add_bytes(b"x/bytes", *b"given").expect("adds");
    let plan = builder.plan().expect("plans");
    assert_eq!(names(&open(&plan, Namespace::RockRidge)), ["a", "x"]);
    let joliet = open(&plan, Namespace::Joliet);
    assert_eq!(names(&joliet), ["dir", "dir/b", "dir/c", "x", "x/bytes"]);
    assert_eq!(contents(&joliet, "x/bytes"), b"given");
    let mut image = Vec::new();
    plan.emit(&mut image).expect("emits");
    assert!(image.windows(8).any(|bytes| bytes == b"bothboth"));
}

#[test]
fn a_relocated_directory_below_a_hidden_one_is_hidden() {
    let mut options = options();
    options.deep_directories = false;
    let mut builder = Builder::new(options);
    builder.add_bytes(b"1/2/3/4/5/6/7/8/9/deep", *b"x").expect("adds");
    builder.add_bytes(b"a/2/3/4/5/6/7/8/9/deep", *b"y").expect("adds");
    builder.hide("a/hidden", Hide::FromPrimary);
    builder.add_bytes(b"a/hidden", *b"z").expect("adds");
    let plan = builder.plan().expect("plans");
    assert!(names(&open(&plan, Namespace::RockRidge)).contains(&"a/2/3/4/5/6/7/8/9/deep".into()));

    let dir = tempfile::tempdir().expect("tempdir");
    write(dir.path(), &["1/2/3/4/5/6/7/8/9/deep", "other"]);
    let mut hidden = CreateOptions::default();
    hidden.deep_directories = false;
    for pattern in ["1", "5", "9", "8"] {
        let mut builder = Builder::new(hidden.clone());
        builder.hide(pattern, Hide::FromPrimary);
        builder.add_tree(b"", dir.path()).expect("adds");
        let plan = builder.plan().expect("plans");
        let found = names(&open(&plan, Namespace::RockRidge));
        assert!(!found.iter().any(|path| path.ends_with("deep")), "{pattern}: {found:?}");
        assert!(found.contains(&"other".into()));
    }
}

#[test]
fn contents_are_in_the_order_of_their_weights() {
    let dir = tempfile::tempdir().expect("tempdir");
    write(dir.path(), &["a", "b", "dir/c", "dir/d"]);
    let mut builder = Builder::new(options());
    builder.weigh("*/dir", 10);
    builder.weigh("*/dir/d", 20);
    builder.weigh("*/a", -1);
    builder.add_tree(b"", dir.path()).expect("adds");
    let order = |builder: Builder| {
        let image = open(&builder.plan().expect("plans"), Namespace::RockRidge);
        let mut files = ["a", "b", "dir/c", "dir/d"];
        files.sort_by_key(|path| sector(&image, path));
        files
    };
    assert_eq!(order(builder), ["dir/d", "dir/c", "b", "a"]);

    let mut builder = Builder::new(options());
    builder.add_tree(b"", dir.path()).expect("adds");
    assert!(builder.set_weight(b"/dir", 1) && builder.set_weight(b"b", 2));
    assert!(!builder.set_weight(b"nope", 1));
    assert_eq!(order(builder), ["b", "dir/c", "dir/d", "a"]);
}

#[test]
fn a_second_file_with_the_same_path_replaces_the_first_unless_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    write(dir.path(), &["one/same", "two/same"]);
    let build = |duplicates| {
        let mut options = options();
        options.duplicates = duplicates;
        let mut builder = Builder::new(options);
        builder.add_tree(b"", dir.path().join("one"))?;
        builder.add_tree(b"", dir.path().join("two"))?;
        builder.plan()
    };
    for duplicates in [Duplicates::Replace, Duplicates::Report] {
        let plan = build(duplicates).expect("replaces");
        let warned = plan.warnings().iter().any(|warning| warning.contains("replaces"));
        assert_eq!(warned, duplicates == Duplicates::Report);
        let image = open(&plan, Namespace::RockRidge);
        assert!(contents(&image, "same").starts_with(b"two"));
    }
    let error = build(Duplicates::Refuse).expect_err("refuses");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("one/same") && error.to_string().contains("two/same"));
}

#[test]
fn translation_tables_list_the_identifiers() {
    let mut options = options();
    options.rock_ridge = None;
    options.names = diskimg::iso::write::NameRules::strict();
    options.translation_tables = Some(TranslationTables::default());
    let mut builder = Builder::new(options);
    builder.add_bytes(b"dir/a long name.text", *b"x").expect("adds");
    builder.add_directory(b"empty").expect("adds");
    let plan = builder.plan().expect("plans");
    let image = open(&plan, Namespace::Iso);
    let table = String::from_utf8(contents(&image, "DIR/TRANS.TBL")).expect("ASCII");
    assert_eq!(table, format!("F {:<208}\ta long name.text\n", "A_LONG_N.TEX;1"));
    assert!(image.lookup(b"EMPTY/TRANS.TBL").is_err());
    assert!(names(&open(&plan, Namespace::Joliet)).contains(&"dir/TRANS.TBL".into()));
}

#[test]
fn names_in_other_character_sets_are_decoded() {
    let mut options = options();
    options.charsets.host = Charset::from_name("koi8-r").expect("is known");
    let mut builder = Builder::new(options);
    builder.add_bytes(b"\xc4\xc1", *b"x").expect("adds");
    let plan = builder.plan().expect("plans");
    for namespace in [Namespace::RockRidge, Namespace::Joliet] {
        assert_eq!(names(&open(&plan, namespace)), ["да"]);
    }
}

#[test]
fn level_4_records_long_names_with_rock_ridge_that_fits() {
    let long = "n".repeat(250);
    let mut options = options();
    options.names.level = Level::Four;
    let mut builder = Builder::new(options);
    builder.add_bytes(long.as_bytes(), *b"x").expect("adds");
    let plan = builder.plan().expect("plans");
    assert_eq!(names(&open(&plan, Namespace::RockRidge)), [long]);
    assert_eq!(names(&open(&plan, Namespace::Iso)), ["n".repeat(193)]);
}

#[test]
fn permissions_and_owners_are_changed_by_path() {
    let mut options = options();
    options.rock_ridge = Some(diskimg::iso::write::RockRidge::Preserved);
    let mut builder = Builder::new(options);
    builder.add_bytes(b"dir/a", *b"a").expect("adds");
    builder.add_bytes(b"b", *b"b").expect("adds");
    assert!(builder.set_mode(b"dir", true, &|mode, is_dir| if is_dir {
        0o700
    } else {
        mode | 0o111
    }));
    assert!(builder.set_owner(b"b", false, Some(7), None));
    assert!(!builder.set_owner(b"nope", false, Some(7), None));
    assert_eq!(builder.is_directory(b"dir"), Some(true));
    assert_eq!(builder.is_directory(b"nope"), None);
    let image = open(&builder.plan().expect("plans"), Namespace::RockRidge);
    let attributes = |path: &str| image.lookup(path.as_bytes()).expect("exists").attributes;
    assert_eq!(attributes("dir").mode.map(|mode| mode & 0o7777), Some(0o700));
    assert_eq!(attributes("dir/a").mode.map(|mode| mode & 0o7777), Some(0o755));
    assert_eq!(attributes("b").uid, Some(7));
}

#[test]
fn a_file_is_extracted_under_another_name() {
    let mut builder = Builder::new(options());
    builder.add_bytes(b"dir/a", *b"contents").expect("adds");
    let image = open(&builder.plan().expect("plans"), Namespace::RockRidge);
    let dir = tempfile::tempdir().expect("tempdir");
    let to = dir.path().join("new/sub");
    let options = ExtractOptions::default();
    image.extract_as(b"dir/a", &to, b"b", &options).expect("extracts");
    assert_eq!(fs::read(to.join("b")).expect("exists"), b"contents");
    for name in ["..", "a/b", ""] {
        let error = image.extract_as(b"dir/a", &to, name.as_bytes(), &options);
        assert_eq!(error.expect_err("refused").kind(), ErrorKind::Invalid);
    }
    assert!(image.extract_as(b"dir", &to, b"x", &options).is_err());
}

#[test]
fn texts_of_volume_descriptors_are_read_back() {
    let mut options = options();
    options.copyright_file = "COPY.TXT".into();
    options.system_id = "X".into();
    let builder = Builder::new(options);
    let image = open(&builder.plan().expect("plans"), Namespace::RockRidge);
    for volume in image.info().expect("reads").volumes {
        assert_eq!(volume.copyright_file, "COPY.TXT", "{:?}", volume.kind);
        assert_eq!(volume.abstract_file, "");
    }
}
