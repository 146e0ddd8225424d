//! What a confined process cannot do. It is one of its own: this program, run again.

use super::{Rules, imp};
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::process::Command;

/// Says to the process run again which directory is left to it.
const HOME: &str = "DISKIMG_TEST_CONFINED_TO";

#[test]
fn a_confined_process_opens_runs_and_connects_to_nothing() {
    let home = tempfile::tempdir().expect("makes a directory");
    fs::create_dir(home.path().join("allowed")).expect("makes a directory");
    fs::write(home.path().join("secret"), "secret").expect("writes");
    let out = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "confine::tests::in_the_confined_process", "--ignored"])
        .args(["--test-threads=1"])
        .env(HOME, home.path())
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && said.contains("1 passed"), "{said}");
    let kept = fs::read(home.path().join("secret")).expect("is there");
    assert_eq!(kept, b"secret");
}

#[test]
#[ignore = "confines its whole process: the test above runs it in one of its own"]
#[allow(clippy::print_stderr)]
fn in_the_confined_process() {
    let Some(home) = std::env::var_os(HOME).map(PathBuf::from) else { return };
    let (allowed, secret) = (home.join("allowed"), home.join("secret"));
    let mut open = File::open(&secret).expect("opens before");
    let rules = Rules::nothing().writing(&allowed.join("out"));
    if let Err(missing) = imp::deny_calls().and_then(|()| imp::bound_files(&rules)) {
        // An old kernel: there is nothing to be seen.
        eprintln!("not confined: {missing}");
        return;
    }

    fs::write(allowed.join("a"), "a").expect("writes where it may");
    fs::rename(allowed.join("a"), allowed.join("b")).expect("renames");
    fs::remove_file(allowed.join("b")).expect("removes");
    io::copy(&mut open, &mut io::sink()).expect("reads what it has open");
    std::thread::spawn(|| refused("thread", File::open("/etc/passwd"))).join().expect("refused");

    refused("open", File::open("/etc/passwd"));
    refused("list", fs::read_dir("/"));
    refused("write", fs::write(home.join("elsewhere"), "x"));
    refused("overwrite", File::options().write(true).open(&secret));
    refused("truncate", File::create(&secret));
    refused("remove", fs::remove_file(&secret));
    refused("make a link", std::os::unix::fs::symlink(&secret, home.join("link")));
    refused("open through a link", {
        std::os::unix::fs::symlink(&secret, allowed.join("link")).expect("links");
        File::open(allowed.join("link"))
    });
    refused("run", Command::new("/bin/true").status());
    refused("connect", std::net::TcpStream::connect("127.0.0.1:1"));
    refused("listen", std::net::TcpListener::bind("127.0.0.1:0"));
    refused("unix socket", std::os::unix::net::UnixStream::pair());
}

#[track_caller]
fn refused<T>(what: &str, outcome: io::Result<T>) {
    match outcome {
        Ok(_) => panic!("{what}: it could"),
        Err(e) => assert_eq!(e.kind(), io::ErrorKind::PermissionDenied, "{what}: {e}"),
    }
}
