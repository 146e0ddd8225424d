//! Images in an S3 store, on a real one. What is written is read by boto3, and the reverse.

use crate::support::{Lab, Ran, diskimg};
use diskimg_testkit::radosgw::Radosgw;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A store with the bucket `bucket`, and a lab with `a.raw`.
struct Stored {
    lab: Lab,
    store: Radosgw,
}

impl Stored {
    fn new() -> Self {
        let (lab, store) = (Lab::new(), Radosgw::start());
        store.boto3(&["create-bucket", "bucket"]);
        let bytes: Vec<u8> = (0..30_720_000u32).map(|i| (i / 1000 + i * 7) as u8).collect();
        let holes = vec![0; 70_656_000];
        fs::write(lab.path("a.raw"), [&bytes[..], &holes, &bytes[..2_048_000]].concat())
            .expect("writes");
        let keys = format!(
            "[user]\naws_access_key_id = {}\naws_secret_access_key = {}\nendpoint_url = {}\n",
            Radosgw::ACCESS_KEY,
            Radosgw::SECRET_KEY,
            store.endpoint()
        );
        fs::write(lab.path("keys"), keys).expect("writes");
        Self { lab, store }
    }

    /// Returns a command without keys.
    fn bare(&self, line: &str) -> Command {
        let mut command = self.lab.command(diskimg());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
            command.env_remove(name);
        }
        let home = self.lab.path("home");
        command.args(line.split_whitespace()).env("HOME", home);
        command.env("AWS_EC2_METADATA_DISABLED", "true");
        command
    }

    /// Returns a command with the keys in variables.
    fn command(&self, line: &str) -> Command {
        let mut command = self.bare(line);
        command.env("AWS_ACCESS_KEY_ID", Radosgw::ACCESS_KEY);
        command.env("AWS_SECRET_ACCESS_KEY", Radosgw::SECRET_KEY);
        command.env("AWS_ENDPOINT_URL_S3", self.store.endpoint());
        command
    }

    fn run(&self, line: &str) -> Ran {
        Ran::new(self.command(line).output().expect("runs"))
    }

    /// Downloads an object with boto3.
    fn get(&self, key: &str) -> String {
        let file = self.lab.path("got").display().to_string();
        self.store.boto3(&["get", "bucket", key, &file]);
        file
    }

    fn list(&self) -> String {
        self.store.boto3(&["list", "bucket"])
    }
}

#[test]
#[ignore = "needs ceph-mon, ceph-osd, radosgw and boto3"]
fn images_are_read_from_and_written_to_a_store() {
    let stored = Stored::new();
    formats(&stored);
    reading(&stored);
    credentials(&stored);
    endings(&stored);
    continued(&stored);
}

/// Writes each kind of layout: headers first or last, streams, and fixed sizes.
fn formats(stored: &Stored) {
    for (name, options) in [
        ("a.qcow2", "-O qcow2"),
        ("c.qcow2", "-c -O qcow2 --verify"),
        ("a.raw", "-O raw --digest sha256"),
        ("a.vmdk", "-O vmdk"),
        ("s.vmdk", "-O vmdk -o subformat=streamOptimized"),
        ("a.vhdx", "-O vhdx"),
        ("f.vhd", "-O vpc -o subformat=fixed,force_size=on"),
        ("a.vdi", "-O vdi"),
    ] {
        let url = format!("s3://bucket/images/{name}");
        stored.run(&format!("convert --sandbox=require {options} a.raw {url}")).ok();
        let got = stored.get(&format!("images/{name}"));
        let format = options.split(' ').skip_while(|word| *word != "-O").nth(1).expect("has one");
        stored.lab.qemu(&format!("compare -f raw -F {format} a.raw {got}")).ok();
        let local = format!("compare --sandbox=require -f raw a.raw {url}");
        assert!(stored.run(&local).ok().contains("identical"), "{name}");
    }
    stored.run("dd --sandbox=require if=a.raw of=s3://bucket/part.raw bs=1M skip=1 count=3").ok();
    assert!(
        fs::read(stored.get("part.raw")).expect("reads")
            == stored.lab.read("a.raw")[1 << 20..4 << 20]
    );
    stored.run("convert --no-clobber -O raw a.raw s3://bucket/only.raw").ok();
    // A copy within the store.
    stored.run("convert -O raw s3://bucket/images/a.vhdx s3://bucket/copy.raw").ok();
    assert!(fs::read(stored.get("copy.raw")).expect("reads") == stored.lab.read("a.raw"));
    assert_eq!(stored.store.boto3(&["uploads", "bucket"]), "");
}

fn reading(stored: &Stored) {
    let url = "s3://bucket/images/a.qcow2";
    let info = stored.run(&format!("info --sandbox=require --output=json {url}")).ok();
    assert!(info.contains("\"s3\"") && info.contains(url), "{info}");
    stored.run(&format!("map {url}")).ok();
    stored.run(&format!("check {url}")).ok();
    let inspected = stored.run(&format!("inspect --claimed qcow2 {url}")).ok();
    assert!(inspected.contains("verdict: safe"), "{inspected}");
    // Written by boto3 in parts.
    stored.lab.line("convert -c -O qcow2 a.raw theirs.qcow2").ok();
    let theirs = stored.lab.path("theirs.qcow2").display().to_string();
    stored.store.boto3(&["upload", "bucket", "theirs", &theirs]);
    let same = stored.run("compare -F raw s3://bucket/theirs a.raw").ok();
    assert!(same.contains("identical"), "{same}");
    // A backing file beside the image.
    stored.lab.qemu("create -q -f qcow2 -u -b a.qcow2 -F qcow2 over.qcow2 103424000").ok();
    let over = stored.lab.path("over.qcow2").display().to_string();
    stored.store.boto3(&["put", "bucket", "images/over.qcow2", &over]);
    let over = "s3://bucket/images/over.qcow2";
    stored.run(&format!("convert --external-files same-dir -O raw {over} back.raw")).ok();
    assert!(stored.lab.read("back.raw") == stored.lab.read("a.raw"));
    stored.run(&format!("convert --external-files none -O raw {over} back.raw")).fails(1);
    // The address space that OpenStack's services allow.
    let mut limited = stored.lab.command("prlimit");
    limited.arg("--as=1073741824").arg(diskimg()).args(["info", url]);
    for (name, value) in stored.command("").get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    Ran::new(limited.output().expect("runs")).ok();
}

fn credentials(stored: &Stored) {
    let url = "s3://bucket/images/a.qcow2";
    let run = |mut command: Command| Ran::new(command.output().expect("runs"));
    let endpoint = stored.store.endpoint();
    let error = run(stored.bare(&format!("info --endpoint-url {endpoint} {url}"))).fails(1);
    assert!(error.contains("no access keys were found"), "{error}");
    let line = format!("info --no-sign-request --endpoint-url {endpoint} {url}");
    let error = run(stored.bare(&line)).fails(1);
    assert!(error.contains("AccessDenied"), "{error}");
    stored.store.boto3(&["publish-bucket", "bucket"]);
    run(stored.bare(&line)).ok();
    let mut command = stored.bare(&format!("info --sandbox=require --profile user {url}"));
    command.env("AWS_SHARED_CREDENTIALS_FILE", stored.lab.path("keys"));
    run(command).ok();
    let mut command = stored.command(&format!("info {url}"));
    command.env("AWS_SECRET_ACCESS_KEY", "wrong-secret");
    let error = run(command).fails(1);
    assert!(error.contains("secret access key is wrong"), "{error}");
    assert!(!error.contains("wrong-secret"), "{error}");
    let named = "info s3://bucket/images/a.qcow2?endpoint=";
    run(stored.bare(&format!("{named}{} --no-sign-request", endpoint.replace('/', "%2F")))).ok();
    let error = stored.run("info --no-private-addresses s3://bucket/x").fails(1);
    assert!(!error.contains("AccessDenied"), "{error}");
    let error = stored.run("info s3://bucket/absent").fails(1);
    assert!(error.contains("no object of this name"), "{error}");
    let error = stored.run("convert -O raw a.raw s3://no-bucket/x").fails(1);
    assert!(error.contains("no bucket of this name"), "{error}");
    stored.run("convert -n -O raw a.raw s3://bucket/copy.raw").fails(1);
}

/// Runs that do not succeed leave the old object and nothing else.
fn endings(stored: &Stored) {
    let before = stored.list();
    let error = stored.run("convert --no-clobber -O raw a.raw s3://bucket/copy.raw").fails(1);
    assert!(error.contains("the object exists already"), "{error}");
    assert_eq!(stored.list(), before);
    // More than a disk of zeros, so that it fails after parts were sent.
    let error = stored.run("convert -O raw a.raw missing.raw s3://bucket/copy.raw").fails(1);
    assert!(error.contains("missing.raw"), "{error}");
    assert_eq!(stored.list(), before);
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let mut command = stored.command("convert --rate 10M -O raw a.raw s3://bucket/copy.raw");
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().expect("starts");
        let started = Instant::now();
        while stored.store.boto3(&["uploads", "bucket"]).is_empty() {
            assert!(started.elapsed() < Duration::from_secs(60), "it uploads nothing");
        }
        let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).expect("is one");
        rustix::process::kill_process(pid, signal).expect("signals");
        let ended = child.wait_with_output().expect("ends");
        assert_eq!(ended.status.code(), Some(128 + signal.as_raw()), "{ended:?}");
        assert_eq!(stored.store.boto3(&["uploads", "bucket"]), "");
        assert_eq!(stored.list(), before);
    }
}

/// An upload of a process that was killed is continued: parts that the store has are not sent again.
fn continued(stored: &Stored) {
    let state = stored.lab.path("state");
    let recorded = || fs::read_to_string(&state).unwrap_or_default().matches("etag").count();
    let line = "convert --sandbox=require --resume state -O qcow2 a.raw s3://bucket/resumed.qcow2";
    let mut child = stored.command(&format!("{line} --rate 10M")).spawn().expect("starts");
    let started = Instant::now();
    while recorded() == 0 {
        assert!(started.elapsed() < Duration::from_secs(60), "it records nothing");
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().expect("kills");
    child.wait().expect("ends");
    assert!(stored.store.boto3(&["uploads", "bucket"]).starts_with("resumed.qcow2 "));
    let text = fs::read_to_string(&state).expect("reads");
    stored.run(line).ok();
    assert!(!state.exists());
    assert_eq!(stored.store.boto3(&["uploads", "bucket"]), "");
    let got = stored.get("resumed.qcow2");
    stored.lab.qemu(&format!("compare -f raw -F qcow2 a.raw {got}")).ok();
    // The store knows the upload no more, so that all is sent.
    fs::write(&state, text).expect("writes");
    stored.run(line).ok();
    let got = stored.get("resumed.qcow2");
    stored.lab.qemu(&format!("compare -f raw -F qcow2 a.raw {got}")).ok();
}
