//! Access to files.

use super::run_in_child;
use crate::confine::{Calls, Extract, Rules, imp};
use rustix::fs::{CWD, symlinkat};
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::process::Command;

/// Environment variable with the directory of the child process.
const TEST_DIR: &str = "DISKIMG_TEST_CONFINED_TO";

#[test]
fn a_sandboxed_process_cannot_open_files_run_programs_or_use_sockets() {
    let home = tempfile::tempdir().expect("makes a directory");
    fs::create_dir(home.path().join("allowed")).expect("makes a directory");
    fs::write(home.path().join("secret"), "secret").expect("writes");
    run_in_child("files::in_the_sandboxed_process", TEST_DIR, home.path());
    let kept = fs::read(home.path().join("secret")).expect("reads");
    assert_eq!(kept, b"secret");
}

#[test]
#[ignore = "sandboxes its process; run by the test above in a child process"]
#[allow(clippy::print_stderr)]
fn in_the_sandboxed_process() {
    let Some(home) = std::env::var_os(TEST_DIR).map(PathBuf::from) else { return };
    let (allowed, secret) = (home.join("allowed"), home.join("secret"));
    let mut open = File::open(&secret).expect("opens before the sandbox");
    // Files that cannot be examined, such as those of a file system that does not answer.
    symlinkat("loop", CWD, home.join("loop")).expect("links");
    let odd = [home.join("loop"), home.join("x".repeat(300)), home.join("secret/below")];
    let rules = Rules::new().allow_read(odd).allow_extract(&allowed, false);
    let calls = Calls { extract: Some(Extract::default()), ..Calls::create(&home) };
    if let Err(reason) = imp::restrict_calls(&calls).and_then(|()| imp::restrict_files(&rules)) {
        assert!(reason.to_string().contains("supported by this kernel"), "{reason}");
        eprintln!("no sandbox: {reason}");
        return;
    }

    fs::write(allowed.join("a"), "a").expect("writes an allowed file");
    fs::rename(allowed.join("a"), allowed.join("b")).expect("renames");
    fs::remove_file(allowed.join("b")).expect("removes");
    io::copy(&mut open, &mut io::sink()).expect("reads an open file");
    std::thread::spawn(|| assert_denied("thread", File::open("/etc/passwd")))
        .join()
        .expect("joins");

    assert_denied("open", File::open("/etc/passwd"));
    assert_denied("list", fs::read_dir("/"));
    assert_denied("write", fs::write(home.join("elsewhere"), "x"));
    assert_denied("overwrite", File::options().write(true).open(&secret));
    assert_denied("truncate", File::create(&secret));
    assert_denied("remove", fs::remove_file(&secret));
    assert_denied(
        "make a link",
        symlinkat(&secret, CWD, home.join("link")).map_err(io::Error::from),
    );
    assert_denied("open through a link", {
        symlinkat(&secret, CWD, allowed.join("link")).expect("links");
        File::open(allowed.join("link"))
    });
    assert_denied("run", Command::new("/bin/true").status());
    assert_denied("connect", std::net::TcpStream::connect("127.0.0.1:1"));
    assert_denied("listen", std::net::TcpListener::bind("127.0.0.1:0"));
    assert_denied("unix socket", std::os::unix::net::UnixStream::pair());
}

#[track_caller]
fn assert_denied<T>(what: &str, outcome: io::Result<T>) {
    match outcome {
        Ok(_) => panic!("{what}: succeeded"),
        Err(e) => assert_eq!(e.kind(), io::ErrorKind::PermissionDenied, "{what}: {e}"),
    }
}
