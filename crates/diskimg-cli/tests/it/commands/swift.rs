//! Images in OpenStack's object store, on a real one. What is written is read by python-swiftclient,
//! and the reverse.

use crate::support::{Lab, Ran, diskimg};
use diskimg_testkit::swift::{SwiftServer, Variables, is_of_openstack, swiftclient};
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A store with the container `disks`, and a lab with `a.raw`.
struct Stored {
    lab: Lab,
    store: SwiftServer,
    variables: Variables,
}

impl Stored {
    fn new() -> Self {
        let (lab, store) = (Lab::new(), SwiftServer::with_keystone());
        // Swift asks Keystone for each request, which takes long.
        let variables = store.v1();
        swiftclient(&variables, &["post", "disks"]);
        let bytes: Vec<u8> = (0..40_960_000u32).map(|i| (i / 1000 + i * 7) as u8).collect();
        let holes = vec![0; 30_720_000];
        fs::write(lab.path("a.raw"), [&bytes[..], &holes, &bytes[..2_048_000]].concat())
            .expect("writes");
        Self { lab, store, variables }
    }

    /// Returns a command without variables.
    fn bare(&self, line: &str) -> Command {
        let mut command = self.lab.command(diskimg());
        for (name, _) in std::env::vars().filter(|(name, _)| is_of_openstack(name)) {
            command.env_remove(name);
        }
        command.args(line.split_whitespace()).env("HOME", self.lab.path("home"));
        command
    }

    fn command(&self, line: &str) -> Command {
        let mut command = self.bare(line);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    fn run(&self, line: &str) -> Ran {
        Ran::new(self.command(line).output().expect("runs"))
    }

    fn client(&self, args: &[&str]) -> String {
        swiftclient(&self.variables, args)
    }

    /// Downloads an object with swiftclient.
    fn get(&self, name: &str) -> String {
        let file = self.lab.path("got").display().to_string();
        self.client(&["download", "disks", name, "-o", &file]);
        file
    }

    fn list(&self) -> String {
        ["disks", "disks_segments"].map(|container| self.client(&["list", container])).concat()
    }
}

#[test]
#[ignore = "needs Swift, Keystone, memcached and python-swiftclient"]
fn images_are_read_from_and_written_to_swift() {
    let stored = Stored::new();
    formats(&stored);
    reading(&stored);
    credentials(&stored);
    endings(&stored);
}

/// Writes each kind of layout: headers first or last, streams, and fixed sizes.
fn formats(stored: &Stored) {
    for (name, options) in [
        ("a.qcow2", "-O qcow2 --verify"),
        ("a.raw", "-O raw --digest sha256"),
        ("s.vmdk", "-O vmdk -o subformat=streamOptimized"),
        ("a.vhdx", "-O vhdx"),
        ("f.vhd", "-O vpc -o subformat=fixed,force_size=on"),
    ] {
        let url = format!("swift://disks/images/{name}");
        stored.run(&format!("convert --sandbox=require {options} a.raw {url}")).ok();
        let got = stored.get(&format!("images/{name}"));
        let format = options.split(' ').skip_while(|word| *word != "-O").nth(1).expect("has one");
        stored.lab.qemu(&format!("compare -f raw -F {format} a.raw {got}")).ok();
        let local = format!("compare --sandbox=require -f raw a.raw {url}");
        assert!(stored.run(&local).ok().contains("identical"), "{name}");
    }
    // A copy within the store.
    stored.run("convert -O raw swift://disks/images/a.vhdx swift://disks/copy.raw").ok();
    assert!(fs::read(stored.get("copy.raw")).expect("reads") == stored.lab.read("a.raw"));
}

fn reading(stored: &Stored) {
    let url = "swift://disks/images/a.qcow2";
    let info = stored.run(&format!("info --sandbox=require --output=json {url}")).ok();
    assert!(info.contains("\"swift\"") && info.contains(url), "{info}");
    stored.run(&format!("map {url}")).ok();
    stored.run(&format!("check {url}")).ok();
    let inspected = stored.run(&format!("inspect --claimed qcow2 {url}")).ok();
    assert!(inspected.contains("verdict: safe"), "{inspected}");
    // A backing file beside the image.
    stored.lab.qemu("create -q -f qcow2 -u -b a.qcow2 -F qcow2 over.qcow2 73728000").ok();
    let over = stored.lab.path("over.qcow2").display().to_string();
    stored.client(&["upload", "disks", &over, "--object-name", "images/over.qcow2"]);
    let over = "swift://disks/images/over.qcow2";
    stored.run(&format!("convert --external-files same-dir -O raw {over} back.raw")).ok();
    assert!(stored.lab.read("back.raw") == stored.lab.read("a.raw"));
    stored.run(&format!("convert --external-files none -O raw {over} back.raw")).fails(1);
    // A temporary URL is plain HTTP.
    stored.client(&["post", "-m", "Temp-URL-Key:k"]);
    let account = stored.client(&["stat", "-v"]);
    let storage = account.lines().find_map(|line| line.trim().strip_prefix("StorageURL: "));
    let storage = storage.expect("is there").trim();
    let (host, path) = storage.split_at(storage.find("/v1/").expect("has a version"));
    let path = format!("{path}/disks/images/a.qcow2");
    let signed = stored.client(&["tempurl", "GET", "3600", &path, "k"]);
    let run =
        Ran::new(stored.bare(&format!("info {host}{}", signed.trim())).output().expect("runs"));
    assert!(run.ok().contains("qcow2"));
}

fn credentials(stored: &Stored) {
    let url = "swift://disks/small.qcow2";
    let keystone = stored.store.keystone();
    stored.lab.qemu("create -q -f qcow2 small.qcow2 1M").ok();
    let small = stored.lab.path("small.qcow2").display().to_string();
    swiftclient(&keystone, &["upload", "disks", &small, "--object-name", "small.qcow2"]);
    let run = |mut command: Command| Ran::new(command.output().expect("runs"));
    let error = run(stored.bare(&format!("info {url}"))).fails(1);
    assert!(error.contains("OS_CLOUD"), "{error}");
    let config = stored.lab.path("home/.config/openstack");
    fs::create_dir_all(&config).expect("creates");
    let clouds = format!(
        "clouds:\n  lo:\n    auth:\n      auth_url: {}\n      username: demo\n      \
         project_name: demo\n      user_domain_id: default\n      project_domain_id: default\n    \
         region_name: R1\n  app:\n    auth_type: v3applicationcredential\n    auth:\n      \
         auth_url: {}\n      application_credential_id: {}\n      \
         application_credential_secret: app-secret\n",
        stored.store.fact("keystone"),
        stored.store.fact("keystone"),
        stored.store.fact("application"),
    );
    fs::write(config.join("clouds.yaml"), clouds).expect("writes");
    let secure = "clouds: {lo: {auth: {password: demo/pw}}}\n";
    fs::write(config.join("secure.yaml"), secure).expect("writes");
    run(stored.bare(&format!("info --sandbox=require --os-cloud lo {url}"))).ok();
    run(stored.bare(&format!("info --sandbox=require {url}?cloud=lo"))).ok();
    let app = format!("info --os-cloud app --os-region-name R1 {url}");
    run(stored.bare(&app)).ok();
    let mut command = stored.bare(&format!("info --sandbox=require {url}"));
    command.env("OS_CLOUD", "lo");
    run(command).ok();
    let error = run(stored.bare(&format!("info --os-cloud other {url}"))).fails(1);
    assert!(error.contains("no cloud 'other'"), "{error}");
    let mut command = stored.bare(&format!("info --sandbox=require {url}"));
    command.envs(keystone.iter().map(|(name, value)| (name, value)));
    run(command).ok();
    let mut command = stored.bare(&format!("info {url}"));
    command.envs(keystone.iter().map(|(name, value)| (name, value)));
    command.env("OS_PASSWORD", "wrong-secret");
    let error = run(command).fails(1);
    assert!(error.contains("is wrong") && !error.contains("wrong-secret"), "{error}");
    // A URL of a stranger is not read as this user.
    let error = stored.run(&format!("info --no-private-addresses {url}")).fails(1);
    assert!(error.contains("strangers"), "{error}");
    let error = stored.run("info swift://disks/absent").fails(1);
    assert!(error.contains("no container or object"), "{error}");
    let error = stored.run("convert -O raw a.raw swift://absent/x").fails(1);
    assert!(error.contains("no container 'absent'"), "{error}");
    stored.run("convert -n -O raw a.raw swift://disks/copy.raw").fails(1);
}

/// Runs that do not succeed leave the old object and nothing else.
fn endings(stored: &Stored) {
    let before = stored.list();
    let error = stored.run("convert -O raw a.raw missing.raw swift://disks/copy.raw").fails(1);
    assert!(error.contains("missing.raw"), "{error}");
    assert_eq!(stored.list(), before);
    // So long that it is not over before swiftclient has listed the segments.
    fs::write(stored.lab.path("b.raw"), vec![1; 100_000_000]).expect("writes");
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let mut command = stored.command("convert --rate 2M -O raw b.raw swift://disks/copy.raw");
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().expect("starts");
        let started = Instant::now();
        while stored.list() == before {
            assert!(started.elapsed() < Duration::from_secs(120), "it uploads nothing");
        }
        let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).expect("is one");
        rustix::process::kill_process(pid, signal).expect("signals");
        let ended = child.wait_with_output().expect("ends");
        assert_eq!(ended.status.code(), Some(128 + signal.as_raw()), "{ended:?}");
        assert_eq!(stored.list(), before);
    }
}
