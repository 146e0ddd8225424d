//! Tests of outputs: names, modes, and which files exist after an error.

use super::competing::Replaced;
use super::rename::{Staged, publish};
use super::*;
use crate::storage::sink::FileSink;

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(directory)
        .expect("lists")
        .map(|e| e.expect("entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn a_dropped_output_leaves_only_the_old_file() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("a.img");
    std::fs::write(&path, b"old").expect("writes");
    let output = Output::create(&path).expect("creates");
    output.sink().write_all_at(b"half", 0).expect("writes");
    assert_eq!(std::fs::read(&path).expect("reads"), b"old");
    drop(output);
    assert_eq!(std::fs::read(&path).expect("reads"), b"old");
    assert_eq!(names(dir.path()), ["a.img"]);
}

#[test]
fn a_new_output_replaces_nothing() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("a.img");
    let exists = |error: io::Error| assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    std::fs::write(&path, b"old").expect("writes");
    exists(Output::create_new(&path).expect_err("exists"));
    std::fs::remove_file(&path).expect("removes");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("nowhere", &path).expect("links");
        exists(Output::create_new(&path).expect_err("is a link"));
        std::fs::remove_file(&path).expect("removes");
    }
    let mut output = Output::create_new(&path).expect("creates");
    std::fs::write(dir.path().join("a.data"), b"theirs").expect("writes");
    for companion in [Output::companion, Output::named_companion] {
        let error = companion(&mut output, Path::new("a.data")).expect_err("exists");
        assert_eq!(error.io_error().kind(), io::ErrorKind::AlreadyExists);
    }
    output.sink().write_all_at(b"new", 0).expect("writes");
    // Another program is faster.
    std::fs::write(&path, b"other").expect("writes");
    output.commit(Durability::Flushed).expect_err("exists now");
    assert_eq!(std::fs::read(&path).expect("reads"), b"other");
    std::fs::remove_file(&path).expect("removes");
    let output = Output::create_new(&path).expect("creates");
    output.sink().write_all_at(b"new", 0).expect("writes");
    output.commit(Durability::Flushed).expect("commits");
    assert_eq!(std::fs::read(&path).expect("reads"), b"new");
    assert_eq!(names(dir.path()), ["a.data", "a.img"]);
}

#[test]
fn a_committed_output_replaces_the_old_file_and_creates_its_companion() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("a.img");
    std::fs::write(&path, b"old").expect("writes");
    let mut output = Output::create(&path).expect("creates");
    let data = output.companion(Path::new("a.data")).expect("creates");
    data.write_all_at(b"data", 0).expect("writes");
    output.sink().write_all_at(b"new", 0).expect("writes");
    output.commit(Durability::Flushed).expect("commits");
    assert_eq!(std::fs::read(&path).expect("reads"), b"new");
    assert_eq!(names(dir.path()), ["a.data", "a.img"]);
}

#[test]
fn a_companion_with_a_different_spelling_of_a_used_name_is_an_error() {
    let dir = tempfile::tempdir().expect("tempdir");
    std::fs::create_dir(dir.path().join("sub")).expect("mkdir");
    let mut output = Output::create(dir.path().join("a.img")).expect("creates");
    for name in ["a.img", "./a.img", "sub/../a.img"] {
        let error = output.companion(Path::new(name)).expect_err(name);
        assert_eq!(error.io_error().kind(), io::ErrorKind::InvalidInput, "{name}");
    }
    output.companion(Path::new("a.data")).expect("creates");
    output.companion(Path::new("./a.data")).expect_err("is already a companion");
    drop(output);
    assert_eq!(names(dir.path()), ["sub"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_pipe_is_written_by_its_path_in_dev_fd() {
    use std::io::Read;
    use std::os::fd::AsRawFd;
    let (mut reader, writer) = io::pipe().expect("pipe");
    let path = format!("/dev/fd/{}", writer.as_raw_fd());
    let output = Output::create(path).expect("opens");
    drop(writer);
    output.sink().write_all_at(b"bytes", 0).expect("writes");
    output.commit(Durability::Flushed).expect("commits");
    let mut read = Vec::new();
    reader.read_to_end(&mut read).expect("reads");
    assert_eq!(read, b"bytes");
}

/// Root can read any directory, so this tests something only for other users.
#[cfg(unix)]
#[test]
fn an_output_is_created_in_an_unreadable_directory() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("tempdir");
    let mode = |mode| {
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).expect("chmod");
    };
    mode(0o300);
    let output = Output::create(dir.path().join("a.img")).expect("creates");
    let outcome = output.commit(Durability::Flushed);
    mode(0o700);
    outcome.expect("commits");
}

#[cfg(unix)]
#[test]
fn a_symbolic_link_is_followed_and_the_mode_is_kept() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let dir = tempfile::tempdir().expect("tempdir");
    let (file, link) = (dir.path().join("real"), dir.path().join("link"));
    std::fs::write(&file, b"old").expect("writes");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).expect("chmod");
    symlink("real", &link).expect("links");
    let output = Output::create(&link).expect("creates");
    output.sink().write_all_at(b"new", 0).expect("writes");
    output.commit(Durability::Cached).expect("commits");
    assert!(std::fs::symlink_metadata(&link).expect("stat").is_symlink());
    assert_eq!(std::fs::read(&file).expect("reads"), b"new");
    let mode = std::fs::metadata(&file).expect("stat").permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
}

#[cfg(unix)]
#[test]
fn a_companion_replaces_only_a_regular_file() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().expect("tempdir");
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("victim"), b"mine").expect("writes");
    symlink("victim", path("a-link")).expect("links");
    symlink("nowhere", path("a-dangling")).expect("links");
    symlink("/dev/null", path("a-null")).expect("links");
    std::fs::create_dir(path("a-dir")).expect("mkdir");
    let made = std::process::Command::new("mkfifo").arg(path("a-pipe")).status();
    assert!(made.expect("mkfifo runs").success());
    let before = names(dir.path());
    for name in ["a-link", "a-dangling", "a-null", "a-dir", "a-pipe"] {
        let mut output = Output::create(path("a.img")).expect("creates");
        let error = output.companion(Path::new(name)).expect_err(name);
        assert!(error.refused && error.path() == Some(&path(name)), "{error}");
    }
    // A name given by the user may be a link or a block device.
    let mut output = Output::create(path("a.img")).expect("creates");
    for name in ["a-null", "a-dir", "a-pipe"] {
        assert!(output.named_companion(Path::new(name)).expect_err(name).refused, "{name}");
    }
    output.protect(existing_identity(&path("victim")), "it is read");
    let error = output.named_companion(Path::new("a-link")).expect_err("is protected");
    assert!(error.refused && error.to_string().contains("it is read"), "{error}");
    output.named_companion(Path::new("a-dangling")).expect("follows the link");
    output.commit(Durability::Cached).expect("commits");
    assert!(path("nowhere").is_file() && path("a.img").is_file());
    assert_eq!(std::fs::read(path("victim")).expect("reads"), b"mine");
    assert_eq!(names(dir.path()).len(), before.len() + 2);
}

/// Returns false if a file that is removed keeps its name until it is closed, as under Wine.
fn removes_open_files() -> bool {
    let file = tempfile::NamedTempFile::new().expect("creates");
    std::fs::remove_file(file.path()).expect("removes");
    !file.path().exists()
}

/// Creates a temporary file that is ready to be renamed to `name`.
fn staged(directory: &Path, name: &str) -> Staged {
    let file = tempfile::NamedTempFile::new_in(directory).expect("creates");
    std::fs::write(file.path(), b"new").expect("writes");
    let path = directory.join(name);
    let replaces = Replaced::named(&path);
    let (opened, file) = file.into_parts();
    let id = HostFileId::of(&opened);
    let sink = Arc::new(FileSink::new(opened, true).expect("a sink"));
    Staged { path, file, sink, id, replaces }
}

#[test]
fn a_commit_that_fails_midway_keeps_all_old_files_and_no_new_ones() {
    if !removes_open_files() {
        return;
    }
    for lost in ["a-1", "a-2", "a-3", "a.img"] {
        for old in
            [&["a.img", "a-1", "a-2", "a-3"][..], &["a.img", "a-1", "a-3"], &["a.img"], &["a-2"]]
        {
            let dir = tempfile::tempdir().expect("tempdir");
            for name in old {
                std::fs::write(dir.path().join(name), name).expect("writes");
            }
            let before = names(dir.path());
            let stage = |name| {
                let staged = staged(dir.path(), name);
                if name == lost {
                    std::fs::remove_file(&staged.file).expect("removes");
                }
                staged
            };
            let companions = ["a-1", "a-2", "a-3"].map(stage).into();
            let error = publish(Some(stage("a.img")), companions, Durability::Flushed)
                .expect_err("a file is missing");
            assert_eq!(error.path(), Some(&*dir.path().join(lost)), "{error}");
            assert!(error.hint.is_none(), "{error}");
            assert_eq!(names(dir.path()), before, "{lost}");
            for name in old {
                let file = std::fs::read_to_string(dir.path().join(name)).expect("reads");
                assert_eq!(file, *name, "{lost}");
            }
        }
    }
}

#[test]
fn several_files_replace_several_and_no_other_files_remain() {
    let dir = tempfile::tempdir().expect("tempdir");
    for name in ["a.img", "a-1"] {
        std::fs::write(dir.path().join(name), "old").expect("writes");
    }
    let companions = ["a-1", "a-2"].map(|name| staged(dir.path(), name)).into();
    publish(Some(staged(dir.path(), "a.img")), companions, Durability::Flushed).expect("commits");
    assert_eq!(names(dir.path()), ["a-1", "a-2", "a.img"]);
    for name in names(dir.path()) {
        assert_eq!(std::fs::read(dir.path().join(name)).expect("reads"), b"new");
    }
}

#[cfg(unix)]
#[test]
fn a_companion_gets_the_mode_of_the_file_it_replaces_or_of_the_main_file() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("tempdir");
    let path = |name: &str| dir.path().join(name);
    let mode =
        |name: &str| std::fs::metadata(path(name)).expect("stat").permissions().mode() & 0o777;
    for (name, mode) in [("a.img", 0o600), ("a-old", 0o640)] {
        std::fs::write(path(name), b"old").expect("writes");
        std::fs::set_permissions(path(name), std::fs::Permissions::from_mode(mode)).expect("chmod");
    }
    let mut output = Output::create(path("a.img")).expect("creates");
    output.companion(Path::new("a-old")).expect("creates");
    output.companion(Path::new("a-new")).expect("creates");
    for name in names(dir.path()).iter().filter(|name| name.ends_with("-tmp")) {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    output.commit(Durability::Cached).expect("commits");
    assert_eq!(["a.img", "a-old", "a-new"].map(mode), [0o600, 0o640, 0o600]);
}

#[cfg(unix)]
#[test]
fn opening_a_pipe_waits_until_it_has_a_reader_or_the_caller_stops() {
    use std::io::Read;
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.expect("mkfifo runs").success());
    let mut calls = 0;
    let error = Output::create_unless(&path, &mut || {
        calls += 1;
        calls == 3
    })
    .expect_err("no reader");
    assert_eq!((error.kind(), calls), (io::ErrorKind::Interrupted, 3));
    // More than a pipe's capacity: the writer must block, not fail.
    let bytes = vec![7; 1 << 20];
    std::thread::scope(|threads| {
        let reader = threads.spawn(|| {
            let mut read = Vec::new();
            File::open(&path).expect("opens").read_to_end(&mut read).expect("reads");
            read
        });
        let output = Output::create(&path).expect("opens");
        output.sink().write_all_at(&bytes, 0).expect("writes");
        output.commit(Durability::Flushed).expect("commits");
        assert!(reader.join().expect("joins") == bytes);
    });
}

/// Returns true if locks are supported in this directory.
fn locks_are_supported(directory: &Path) -> bool {
    let file = tempfile::tempfile_in(directory).expect("creates");
    os::try_lock_file(&file) == os::FileLock::Ours
}

#[test]
fn stale_temporary_files_are_removed_and_those_in_use_are_kept() {
    let dir = tempfile::tempdir().expect("tempdir");
    if !locks_are_supported(dir.path()) {
        return;
    }
    let path = |name: &str| dir.path().join(name);
    let stale = [".a.img.000000.diskimg-tmp", ".a.data.000000.diskimg-tmp"];
    let kept = [".a.img.000000.diskimg-old", ".b.img.000000.diskimg-tmp"];
    for name in stale.iter().chain(&kept) {
        std::fs::write(path(name), name).expect("writes");
    }
    let start = || {
        let mut output = Output::create(path("a.img")).expect("creates");
        output.sink().write_all_at(b"main", 0).expect("writes");
        output.companion(Path::new("a.data")).expect("creates");
        output
    };
    let mut first = start();
    first.remove_leftovers();
    assert!(stale.iter().all(|name| !path(name).exists()));
    let second = start();
    // Two files that existed before and two of each output.
    assert_eq!(names(dir.path()).len(), 6);
    first.commit(Durability::Cached).expect("its files exist");
    let error = second.commit(Durability::Cached).expect_err("the first one has won");
    assert!(error.refused && error.path() == Some(&*path("a.img")), "{error}");
    assert_eq!(names(dir.path()), [kept[0], kept[1], "a.data", "a.img"]);
}

/// What a killed run has left may be what is read.
#[test]
fn a_protected_file_with_the_name_of_a_temporary_file_is_kept() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = |name: &str| dir.path().join(name);
    let protected = [".a.img.000000.diskimg-tmp", ".a.data.000000.diskimg-tmp"];
    let stale = ".a.img.111111.diskimg-tmp";
    for name in protected.iter().chain([&stale]) {
        std::fs::write(path(name), name).expect("writes");
    }
    for commit in [false, true] {
        let mut output = Output::create(path("a.img")).expect("creates");
        output.protect(protected.iter().filter_map(|name| existing_identity(&path(name))), "it");
        output.remove_leftovers();
        output.companion(Path::new("a.data")).expect("creates");
        if commit {
            output.commit(Durability::Cached).expect("commits");
        }
        let left = protected.map(|name| std::fs::read_to_string(path(name)).expect("is kept"));
        assert_eq!(left, protected);
    }
    assert!(!path(stale).exists() || !locks_are_supported(dir.path()));
}

/// As in a directory that does not distinguish upper and lower case.
#[cfg(unix)]
#[test]
fn a_file_that_turns_out_to_be_another_file_of_the_image_does_not_replace_it() {
    let dir = tempfile::tempdir().expect("tempdir");
    std::fs::create_dir(dir.path().join("d")).expect("mkdir");
    std::os::unix::fs::symlink("d", dir.path().join("e")).expect("links");
    let before = names(&dir.path().join("d"));
    for twice in [false, true] {
        let part = |at: &str| staged(&dir.path().join(at), "a");
        let companions = if twice { vec![part("d"), part("e")] } else { vec![part("e")] };
        let main = if twice { staged(dir.path(), "m") } else { part("d") };
        let error = publish(Some(main), companions, Durability::Cached).expect_err("is one file");
        assert_eq!(error.io_error().kind(), io::ErrorKind::InvalidInput, "{error}");
        assert_eq!(names(&dir.path().join("d")), before);
    }
    // A hard link, or another name in such a directory.
    std::fs::write(dir.path().join("d/a"), "old").expect("writes");
    let mut output = Output::create(dir.path().join("d/a")).expect("creates");
    std::fs::hard_link(dir.path().join("d/a"), dir.path().join("d/A")).expect("links");
    output.companion(Path::new("A")).expect_err("is the main file");
}

#[test]
fn a_file_that_cannot_be_copied_over_the_old_one_is_kept_under_another_name() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut builder = tempfile::Builder::new();
    builder.prefix(".a.").suffix(TEMPORARY_SUFFIX);
    let file = builder.tempfile_in(dir.path()).expect("creates").into_temp_path();
    let kept = rename::keep(file);
    assert!(kept.is_file() && kept.to_string_lossy().ends_with(".diskimg-new"));
    Output::create(dir.path().join("a"))
        .expect("creates")
        .commit(Durability::Cached)
        .expect("commits");
    assert!(kept.is_file());
}

#[test]
fn the_first_of_several_concurrent_writers_wins_and_the_others_fail() {
    const IN_USE: io::ErrorKind = io::ErrorKind::PermissionDenied;
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("a.img");
    if !locks_are_supported(dir.path()) {
        return;
    }
    let wins = std::sync::Mutex::new(0);
    std::thread::scope(|threads| {
        for id in 0..4u8 {
            let (path, wins) = (&path, &wins);
            threads.spawn(move || {
                for _ in 0..50 {
                    let output = Output::create(path).expect("creates");
                    output.sink().write_all_at(&[id; 100], 0).expect("writes");
                    match output.commit(Durability::Cached) {
                        Ok(()) => *wins.lock().expect("locks") += 1,
                        // Windows without FileRenameInfoEx (Wine) replaces no file that is open.
                        Err(error) if cfg!(windows) && error.error.kind() == IN_USE => {}
                        Err(error) => assert!(error.refused, "{error}"),
                    }
                }
            });
        }
    });
    assert!(*wins.lock().expect("locks") > 0);
    let bytes = std::fs::read(&path).expect("reads");
    assert!(bytes.len() == 100 && bytes.iter().all(|&b| b == bytes[0]), "from one writer");
    assert_eq!(names(dir.path()), ["a.img"]);
}

/// The owner of the old file, or of the directory, can put another file in its place.
#[cfg(unix)]
#[test]
fn a_temporary_file_that_was_replaced_is_not_followed() {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};
    let dir = tempfile::tempdir().expect("tempdir");
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("secret"), "secret").expect("writes");
    set_permissions(path("secret"), Permissions::from_mode(0o600)).expect("sets the mode");
    for with_link in [true, false] {
        std::fs::write(path("out"), "old").expect("writes");
        set_permissions(path("out"), Permissions::from_mode(0o666)).expect("sets the mode");
        let output = Output::create(path("out")).expect("creates");
        output.sink().write_all_at(b"new", 0).expect("writes");
        let temporary = names(dir.path()).into_iter().find(|name| name.ends_with(TEMPORARY_SUFFIX));
        let temporary = path(&temporary.expect("a temporary file"));
        std::fs::rename(&temporary, path("moved")).expect("renames");
        match with_link {
            true => symlink("secret", &temporary).expect("links"),
            false => std::fs::write(&temporary, "another's").expect("writes"),
        }
        assert!(output.read_back().is_err());
        let error = output.commit(Durability::Cached).expect_err("was replaced");
        assert!(error.to_string().contains("replaced the temporary file"), "{error}");
        assert_eq!(std::fs::read(path("out")).expect("reads"), b"old");
        let mode = std::fs::metadata(path("secret")).expect("exists").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read(path("secret")).expect("reads"), b"secret");
    }
}
