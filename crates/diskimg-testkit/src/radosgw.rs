//! A store that is compatible with S3: a cluster of Ceph with one node and its RADOS Gateway, on the
//! loopback interface, with everything in memory.

use crate::boto3::boto3;
use crate::tool::{run, try_run};
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long the cluster may take to start.
const START: Duration = Duration::from_secs(120);

/// A store, until it is dropped.
#[derive(Debug)]
pub struct Radosgw {
    folder: TempDir,
    port: u16,
    daemons: Vec<Child>,
}

impl Radosgw {
    /// The access key of its user.
    pub const ACCESS_KEY: &'static str = "testaccess";
    /// The secret access key.
    pub const SECRET_KEY: &'static str = "test/secret+key";
    /// The user of Swift's interface.
    pub const SWIFT_USER: &'static str = "t:swift";
    /// Its key.
    pub const SWIFT_KEY: &'static str = "swift/secret+key";

    /// Starts a store.
    ///
    /// # Panics
    /// Panics if a program of Ceph is missing, or if the store does not start.
    pub fn start() -> Self {
        for (program, package) in [
            ("ceph-mon", "ceph-mon"),
            ("ceph-osd", "ceph-osd"),
            ("radosgw", "radosgw"),
            ("ceph", "ceph-common"),
        ] {
            let found = Command::new(program).arg("--version").stdout(Stdio::null()).status();
            assert!(found.is_ok(), "{program} is missing: install the package {package}");
        }
        let folder = tempfile::tempdir().expect("a folder");
        // All are open at once, so that they differ.
        let free = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let [v2, v1, port] = free.map(|socket| socket.local_addr().expect("is bound").port());
        let mut store = Self { folder, port, daemons: Vec::new() };
        store.configure(v2, v1);
        store.start_monitor();
        store.start_storage();
        store.start_gateway();
        store
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn configure(&self, v2: u16, v1: u16) {
        for name in ["mon", "osd", "run", "log", "rgw"] {
            fs::create_dir(self.path(name)).expect("creates");
        }
        let root = self.folder.path().display();
        let id = uuid();
        let hosts = format!("[v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]");
        let config = format!(
            "[global]\nfsid = {id}\nmon host = {hosts}\nmon initial members = a\n\
             public addr = 127.0.0.1\ncluster addr = 127.0.0.1\nkeyring = {root}/keyring\n\
             run dir = {root}/run\nadmin socket = {root}/run/$name.asok\n\
             pid file = {root}/run/$name.pid\nlog file = {root}/log/$name.log\n\
             crash dir = {root}/run/crash\nosd pool default size = 1\n\
             osd pool default min size = 1\nosd pool default pg num = 8\n\
             osd pool default pg autoscale mode = off\n\
             osd crush chooseleaf type = 0\nmon allow pool size one = true\n\
             mon max pg per osd = 1000\n\
             mon data avail crit = 0\nmon data avail warn = 0\nrgw rados pool pg num min = 8\n\
             auth allow insecure global id reclaim = false\n\
             [mon.a]\nmon data = {root}/mon\n\
             [osd]\nosd data = {root}/osd\nosd objectstore = memstore\n\
             memstore device bytes = 2147483648\nosd memory target = 939524096\n\
             osd op num shards = 2\nosd op num threads per shard = 1\n\
             [client.rgw.x]\nrgw data = {root}/rgw\nkeyring = {root}/rgw/keyring\n\
             rgw dynamic resharding = false\n"
        );
        fs::write(self.path("conf"), config).expect("writes");
        let keyring = self.path("keyring");
        let all = ["--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *"];
        let monitor = ["-C", &keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *"];
        run("ceph-authtool", monitor);
        let admin = [&[&*keyring, "--gen-key", "-n", "client.admin"], &all[..]].concat();
        run("ceph-authtool", &admin);
        let map = self.path("monmap");
        run("monmaptool", ["--create", "--addv", "a", &hosts, "--fsid", &id, &map]);
    }

    fn start_monitor(&mut self) {
        let (config, map) = (self.path("conf"), self.path("monmap"));
        let keyring = self.path("keyring");
        let make = ["-c", &config, "-i", "a", "--mkfs", "--monmap", &map, "--keyring", &keyring];
        run("ceph-mon", make);
        self.spawn("ceph-mon", &["-i", "a"]);
        self.wait("the monitor", |store| store.try_ceph(&["mon", "stat"]));
    }

    fn start_storage(&mut self) {
        let (config, id) = (self.path("conf"), uuid());
        let key = self.path("osd/keyring");
        self.ceph(&["osd", "new", &id]);
        let caps = ["mon", "allow profile osd", "mgr", "allow profile osd", "osd", "allow *"];
        let get = [&["auth", "get-or-create", "osd.0"], &caps[..], &["-o", &key]].concat();
        self.ceph(&get);
        let make = ["-c", &config, "-i", "0", "--mkfs", "--osd-uuid", &id, "--keyring", &key];
        run("ceph-osd", make);
        self.ceph(&["osd", "crush", "add", "osd.0", "1.0", "root=default", "host=localhost"]);
        self.spawn("ceph-osd", &["-i", "0", "--keyring", &key]);
        self.wait("the storage", |store| {
            store.try_ceph(&["osd", "stat"]).filter(|text| text.contains("1 up"))
        });
    }

    fn start_gateway(&mut self) {
        let caps = ["mon", "allow rw", "osd", "allow rwx"];
        let key = self.path("rgw/keyring");
        let get = [&["auth", "get-or-create", "client.rgw.x"], &caps[..], &["-o", &key]].concat();
        self.ceph(&get);
        let frontend = format!("beast endpoint=127.0.0.1:{}", self.port);
        self.spawn("radosgw", &["-n", "client.rgw.x", "--rgw-frontends", &frontend]);
        self.wait("the gateway", |store| {
            TcpStream::connect(("127.0.0.1", store.port)).ok().map(|_| String::new())
        });
        let config = self.path("conf");
        let keys = ["--access-key", Self::ACCESS_KEY, "--secret", Self::SECRET_KEY];
        let user = ["-c", &config, "user", "create", "--uid", "t", "--display-name", "t"];
        run("radosgw-admin", &[&user[..], &keys].concat());
    }

    /// Starts a daemon in the foreground, whose process is that of the child.
    fn spawn(&mut self, program: &str, args: &[&str]) {
        let log = fs::File::create(self.path(&format!("log/{program}.err"))).expect("creates");
        let mut command = Command::new(program);
        command.args(["-f", "-c", &self.path("conf")]).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.daemons.push(command.spawn().expect("starts"));
    }

    fn try_ceph(&self, args: &[&str]) -> Option<String> {
        let config = self.path("conf");
        let output = try_run("ceph", [&["--connect-timeout", "5", "-c", &config], args].concat());
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn ceph(&self, args: &[&str]) {
        let config = self.path("conf");
        run("ceph", [&["--connect-timeout", "30", "-c", &config], args].concat());
    }

    fn wait(&mut self, what: &str, is_there: impl Fn(&Self) -> Option<String>) {
        let started = Instant::now();
        while is_there(self).is_none() {
            let last = self.daemons.last_mut().expect("was started");
            let ended = last.try_wait().expect("is a child");
            let is_late = started.elapsed() > START;
            if ended.is_some() || is_late {
                let logs = fs::read_dir(self.path("log")).expect("reads").flatten();
                let text: Vec<_> = logs
                    .filter(|log| log.path().extension().is_some_and(|e| e == "err"))
                    .map(|log| fs::read_to_string(log.path()).unwrap_or_default())
                    .collect();
                panic!("{what} does not start: {}", text.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Accesses the store with boto3; see `oracles/boto3_s3.py`. Returns what that prints.
    ///
    /// # Panics
    /// Panics if it fails, or if boto3 is missing.
    pub fn boto3(&self, args: &[&str]) -> String {
        boto3(&self.endpoint(), (Self::ACCESS_KEY, Self::SECRET_KEY), args)
    }

    /// Returns the configuration of the cluster, which names a keyring of its administrator.
    pub fn config(&self) -> String {
        self.path("conf")
    }

    /// Starts a cluster with the pool `rbd` for block devices.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub fn with_block_devices() -> Self {
        let store = Self::start();
        store.ceph(&["osd", "pool", "create", "rbd", "8"]);
        run("rbd", ["-c", &store.config(), "pool", "init", "rbd"]);
        store
    }

    /// Starts a store with a user of Swift's interface.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub fn with_swift() -> Self {
        let store = Self::start();
        let user = ["--uid", "t", "--subuser", Self::SWIFT_USER, "--access", "full"];
        let key = ["--secret-key", Self::SWIFT_KEY, "--key-type", "swift"];
        let create = ["-c", &store.config(), "subuser", "create"];
        run("radosgw-admin", &[&create[..], &user, &key].concat());
        store
    }

    /// Returns the variables by which clients of Swift find that user.
    pub fn swift(&self) -> crate::swift::Variables {
        vec![
            ("ST_AUTH", format!("{}/auth/v1.0", self.endpoint())),
            ("ST_USER", Self::SWIFT_USER.into()),
            ("ST_KEY", Self::SWIFT_KEY.into()),
        ]
    }

    /// Stops the daemon that stores data, or lets it go on.
    ///
    /// # Panics
    /// Panics if the signal cannot be sent.
    pub fn hold_storage(&self, yes: bool) {
        let storage = self.daemons[1].id().to_string();
        run("kill", [if yes { "-STOP" } else { "-CONT" }, &storage]);
    }

    /// Returns the URL of the store.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Radosgw {
    fn drop(&mut self) {
        for daemon in self.daemons.iter_mut().rev() {
            // Nothing is worth to be saved.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

fn uuid() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/uuid").expect("Linux has it");
    text.trim().to_owned()
}
