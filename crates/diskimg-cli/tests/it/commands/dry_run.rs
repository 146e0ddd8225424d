//! `--dry-run`: nothing is created or changed, and errors are those of the real run.

use crate::support::Lab;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;

/// Content and times of all files in the directory, and the time of the directory.
type State = (SystemTime, BTreeMap<String, (Vec<u8>, SystemTime, i64)>);

fn state(lab: &Lab) -> State {
    let directory = lab.path(".");
    let entry = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.expect("reads");
        let metadata = entry.metadata().expect("examines");
        let bytes = if metadata.is_file() {
            std::fs::read(entry.path()).expect("reads")
        } else {
            Vec::new()
        };
        let name = entry.file_name().into_string().expect("Unicode");
        (name, (bytes, metadata.modified().expect("has"), metadata.ctime_nsec()))
    };
    let modified = std::fs::metadata(&directory).and_then(|found| found.modified()).expect("has");
    (modified, std::fs::read_dir(&directory).expect("lists").map(entry).collect())
}

/// Runs a line with `--dry-run` and asserts that it succeeds and changes nothing.
#[track_caller]
fn planned(lab: &Lab, line: &str) -> String {
    let before = state(lab);
    let text = lab.line(&format!("{line} --dry-run")).ok();
    assert!(state(lab) == before, "{line}: something was changed");
    text
}

#[test]
fn it_says_what_would_be_written_and_changes_nothing() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.line("convert a.raw old.qcow2").ok();
    lab.line("create -q base.qcow2 1M").ok();
    for (line, wanted) in [
        ("convert a.raw new.qcow2", &["format:      qcow2", "1 MiB", "creates:     new.qcow2"][..]),
        ("convert -c a.raw old.qcow2", &["before compression", "replaces:    old.qcow2"]),
        ("convert -n -O qcow2 a.raw old.qcow2", &["overwrites:  old.qcow2"]),
        ("convert -n -O raw old.qcow2 a.raw", &["overwrites:  a.raw"]),
        ("convert a.raw -", &["writes:      standard output"]),
        ("convert -B base.qcow2 -F qcow2 a.raw top.qcow2", &["backing file: base.qcow2"]),
        ("convert -O vmdk -o subformat=monolithicFlat a.raw v.vmdk", &["v.vmdk", "v-flat.vmdk"]),
        ("convert -O qcow2 -o data_file=d.raw a.raw q.qcow2", &["q.qcow2", "creates:     d.raw"]),
        ("convert a.raw base.qcow2 --force -O ova", &["format:      ova"]),
        ("create new.qcow2 1G", &["disk size:   1 GiB", "creates:     new.qcow2"]),
        ("create old.qcow2 1G -o preallocation=full", &["replaces:    old.qcow2"]),
        ("iso create -o new.iso a.raw", &["format:      iso", "creates:     new.iso"]),
        ("iso create -o old.qcow2 a.raw", &["size:        1.", "replaces:    old.qcow2"]),
        ("create -b base.qcow2 -F qcow2 top.qcow2", &["backing file: base.qcow2", "1 MiB"]),
    ] {
        let text = planned(&lab, line);
        assert!(text.starts_with("dry run: nothing was written\n"), "{line}: {text}");
        for part in wanted {
            assert!(text.contains(part), "{line}: {text}");
        }
    }
}

#[test]
fn the_files_are_those_of_the_real_run_and_the_size_is_an_upper_bound() {
    let lab = Lab::new();
    lab.raw("a.raw");
    for options in [
        "-O qcow2",
        "-O qcow2 -c",
        "-O raw",
        "-O vmdk",
        "-O vmdk -o subformat=twoGbMaxExtentSparse",
        "-O vmdk -o subformat=twoGbMaxExtentFlat",
        "-O ova",
    ] {
        let line = format!("convert --reflink=never {options} a.raw out.ova --report=json");
        let before = state(&lab);
        let ran = lab.line(&format!("{line} --dry-run"));
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        assert!(state(&lab) == before);
        let plan: serde_json::Value = serde_json::from_str(&ran.err).expect("JSON");
        lab.line(&format!("convert -q {options} a.raw out.ova")).ok();
        let after = state(&lab);
        let created = after.1.keys().filter(|name| !before.1.contains_key(*name));
        let mut files: Vec<_> = plan["files"].as_array().expect("files").iter().collect();
        files.sort_by_key(|file| file["filename"].to_string());
        assert!(files.iter().all(|file| file["action"] == "create"), "{plan}");
        let names: Vec<_> = files.iter().filter_map(|file| file["filename"].as_str()).collect();
        assert_eq!(names, created.clone().collect::<Vec<_>>(), "{options}");
        assert_eq!(plan["guest-bytes"], 1 << 20);
        let stored: u64 = 128 << 10;
        assert!(plan["required-bytes"].as_u64() >= Some(stored), "{plan}");
        for name in created {
            std::fs::remove_file(lab.path(name)).expect("removes");
        }
    }
}

#[test]
fn errors_are_those_of_the_real_run() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.line("create -q -f qcow2 small.qcow2 512k").ok();
    lab.line("create -q -f qcow2 base.qcow2 1M").ok();
    std::fs::write(lab.path("x.wim"), "MSWIM\0\0\0 and more").expect("writes");
    std::fs::create_dir(lab.path("dir")).expect("creates");
    let digest = "0".repeat(64);
    for line in [
        "convert none.raw out.qcow2".to_owned(),
        "convert a.raw a.raw".to_owned(),
        "convert a.raw dir".to_owned(),
        "convert a.raw none/out.qcow2".to_owned(),
        "convert x.wim out.qcow2".to_owned(),
        "convert a.raw out.ovf".to_owned(),
        "convert -O iso a.raw out.iso".to_owned(),
        "convert -O qcow2 -o cluster_size=3 a.raw out".to_owned(),
        "convert -O qcow2 -o nonsense=3 a.raw out".to_owned(),
        "convert -O qcow2 -o size=4k a.raw out".to_owned(),
        "convert -O vmdk -o subformat=nonsense a.raw out".to_owned(),
        "convert -O vmdk -o subformat=monolithicFlat -c a.raw out".to_owned(),
        "convert -O qcow2 -B none.raw -F raw a.raw out".to_owned(),
        "convert -O qcow2 -B a.raw -F raw small.qcow2 a.raw".to_owned(),
        "convert -n -O qcow2 a.raw small.qcow2".to_owned(),
        "convert -n -O qcow2 a.raw none.qcow2".to_owned(),
        "convert -n -O raw a.raw small.qcow2".to_owned(),
        "convert --reflink=always -c -O qcow2 a.raw out".to_owned(),
        "convert --verify -O raw a.raw -".to_owned(),
        "convert a.raw base.qcow2 small.qcow2".to_owned(),
        format!("convert --sha256 {digest} a.raw out"),
        "create -f qcow2 out".to_owned(),
        "create -f qcow2 none/out 1M".to_owned(),
        "create -f qcow2 -o cluster_size=3 out 1M".to_owned(),
        "create -f qcow2 -b none.raw -F raw out".to_owned(),
        "create -f iso out 1M".to_owned(),
        "create dir 1M".to_owned(),
        "iso create -o none/out.iso a.raw".to_owned(),
        "iso create -o dir a.raw".to_owned(),
        "iso create -o out.iso none.raw".to_owned(),
        "iso create -o out.iso --nocloud a.raw".to_owned(),
    ] {
        let before = state(&lab);
        let dry = lab.line(&format!("{line} --dry-run"));
        assert!(state(&lab) == before, "{line}: something was changed");
        let real = lab.line(&line);
        assert_eq!((dry.code, &dry.err), (real.code, &real.err), "{line}");
        assert_ne!(real.code, Some(0), "{line}");
        assert!(dry.out.is_empty(), "{line}: {}", dry.out);
    }
}

#[test]
fn a_lack_of_space_is_a_warning() {
    let lab = Lab::new();
    let ran = lab.line("create --dry-run -o preallocation=falloc out.raw 100P");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.err.contains("warning: the output may not fit"), "{}", ran.err);
}

#[test]
#[ignore = "needs root: runs as another user"]
fn files_that_cannot_be_created_or_replaced_are_found() {
    let lab = Lab::new();
    lab.raw("a.raw");
    for (path, mode) in [(".", 0o755), ("closed", 0o755)] {
        let path = lab.path(path);
        std::fs::create_dir_all(&path).expect("creates");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(&path, mode).expect("sets");
    }
    std::fs::write(lab.path("closed/open"), "").expect("writes");
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(lab.path("closed/open"), all).expect("sets");
    let run = |line: &str| {
        let mut command = lab.command("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.arg(crate::support::diskimg()).args(line.split(' '));
        crate::support::Ran::new(command.output().expect("runs"))
    };
    let line = "convert -O qcow2 a.raw closed/new";
    assert_eq!(run(&format!("{line} --dry-run")).fails(1), run(line).fails(1));
    let text = run("convert -O qcow2 a.raw closed/open --dry-run").ok();
    assert!(text.contains("closed/open in place, because no file can be created"), "{text}");
    assert_eq!(lab.read("closed/open"), b"");
}
