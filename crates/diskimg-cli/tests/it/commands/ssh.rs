//! Images on hosts that are reached by SSH, through nbdkit.

use crate::support::Lab;
use diskimg_testkit::nbd::NbdServer;
use diskimg_testkit::tool::run;
use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

/// An SSH server with a key of its own, until it is dropped.
struct Ssh(Child);

impl Ssh {
    /// Starts a server in the lab on a free port of the loopback interface, which is returned.
    fn start(lab: &Lab) -> (Self, u16) {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("is bound").port();
        drop(free);
        let path = |name: &str| lab.path(name).display().to_string();
        for key in ["host", "user"] {
            run("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", &path(key)]);
        }
        let public = fs::read_to_string(path("host.pub")).expect("was made");
        fs::write(path("known"), format!("[127.0.0.1]:{port} {public}")).expect("writes");
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\n\
             PidFile none\nStrictModes no\nUsePAM no\nSubsystem sftp internal-sftp\n",
            path("host"),
            path("user.pub")
        );
        fs::write(path("config"), config).expect("writes");
        // It changes to this directory before it knows who connects.
        fs::create_dir_all("/run/sshd").expect("creates");
        let mut command = Command::new("/usr/sbin/sshd");
        command.args(["-D", "-f", &path("config")]).stderr(Stdio::null());
        let server = command.spawn().expect("/usr/sbin/sshd: install the package openssh-server");
        let started = std::time::Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed().as_secs() < 30, "the SSH server does not start");
        }
        (Self(server), port)
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs root, openssh-server and nbdkit"]
fn images_are_read_by_ssh_through_nbdkit() {
    let lab = Lab::new();
    let path = |name: &str| lab.path(name).display().to_string();
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| (i.wrapping_mul(77) >> 7) as u8).collect();
    fs::write(path("a.raw"), &bytes[..5_000 * 512]).expect("writes");
    lab.qemu("convert -f raw -O qcow2 a.raw a.qcow2").ok();
    let (_ssh, port) = Ssh::start(&lab);
    let port = format!("port={port}");
    let (identity, known) =
        (format!("identity={}", path("user")), format!("known-hosts={}", path("known")));
    let image = format!("path={}", path("a.qcow2"));
    let args = ["-r", "ssh", "host=127.0.0.1", &port, "user=root", &identity, &known, &image];
    let server = NbdServer::nbdkit(&args);
    lab.line(&format!("convert -O raw {} b.raw", server.url(""))).ok();
    assert!(lab.read("b.raw") == bytes[..5_000 * 512]);
}
