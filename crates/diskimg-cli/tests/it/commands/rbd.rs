//! Images in a Ceph cluster, on a real one. What is written is read by `rbd`, and the reverse.

use crate::support::{Lab, Ran, diskimg};
use diskimg_testkit::radosgw::Radosgw;
use diskimg_testkit::tool::{run, try_run};
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// A cluster with the pool `rbd`, and a lab with `a.raw` and the same as `a.qcow2`.
struct Cluster {
    lab: Lab,
    ceph: Radosgw,
    config: String,
}

impl Cluster {
    fn new() -> Self {
        let (lab, ceph) = (Lab::new(), Radosgw::with_block_devices());
        let noise = |seed: u32, len: u32| -> Vec<u8> {
            (0..len).map(|i| (i.wrapping_mul(seed) >> 7) as u8 | 1).collect()
        };
        let parts = [noise(77_777, 5_000_000), vec![0; 27_000_000], noise(33_333, 3_111_936)];
        fs::write(lab.path("a.raw"), parts.concat()).expect("writes");
        lab.qemu("convert -f raw -O qcow2 a.raw a.qcow2").ok();
        let config = ceph.config();
        Self { lab, ceph, config }
    }

    /// Runs a command in which `rbd:` names get the configuration.
    fn line(&self, line: &str) -> Ran {
        let words = line.split_whitespace().map(|word| match word.starts_with("rbd:rbd/") {
            true => format!("{word}:conf={}", self.config),
            false => word.to_owned(),
        });
        let mut command = self.lab.command(diskimg());
        command.args(words).env("CEPH_CONF", &self.config);
        Ran::new(command.output().expect("runs"))
    }

    fn rbd(&self, args: &[&str]) -> String {
        run("rbd", [&["-c", &self.config], args].concat())
    }

    /// Returns the contents of an image, read by `rbd`.
    fn contents(&self, name: &str) -> Vec<u8> {
        let file = self.lab.path("exported");
        let _ = fs::remove_file(&file);
        self.rbd(&["--no-progress", "export", name, &file.display().to_string()]);
        fs::read(file).expect("was exported")
    }
}

#[test]
#[ignore = "needs ceph-mon, ceph-osd, radosgw and ceph-common"]
fn images_are_read_from_and_written_to_a_cluster() {
    let cluster = Cluster::new();
    let raw = fs::read(cluster.lab.path("a.raw")).expect("reads");
    reading(&cluster, &raw);
    creating(&cluster, &raw);
    modifying(&cluster, &raw);
    failures(&cluster);
}

fn reading(cluster: &Cluster, raw: &[u8]) {
    let file = cluster.lab.path("a.raw").display().to_string();
    cluster.rbd(&["--no-progress", "import", &file, "rbd/a"]);
    let info = cluster.line("info --sandbox=require rbd:rbd/a").ok();
    assert!(info.contains("virtual size") && info.contains("protocol type: rbd"), "{info}");
    cluster.line("convert --sandbox=require -O raw rbd:rbd/a b.raw").ok();
    assert!(fs::read(cluster.lab.path("b.raw")).expect("reads") == raw);
    // What is not stored is a hole.
    let map = cluster.line("map --output=json -f raw rbd:rbd/a").ok();
    let map: serde_json::Value = serde_json::from_str(&map).expect("is JSON");
    let diff = cluster.rbd(&["diff", "rbd/a", "--format", "json"]);
    let diff: serde_json::Value = serde_json::from_str(&diff).expect("is JSON");
    let bytes = |list: &serde_json::Value, is_data: &dyn Fn(&serde_json::Value) -> bool| {
        let list = list.as_array().expect("a list").iter().filter(|entry| is_data(entry));
        list.map(|entry| entry["length"].as_u64().expect("a number")).sum::<u64>()
    };
    let stored = bytes(&map, &|entry| entry["data"] == true);
    assert_eq!(stored, bytes(&diff, &|entry| entry["exists"] == "true"));
    assert!(stored < 14_000_000, "{stored}");
    // A snapshot keeps what the image had.
    cluster.rbd(&["snap", "create", "--no-progress", "rbd/a@then"]);
    run("rbd", ["-c", &*cluster.config, "resize", "--no-progress", "--size", "40M", "rbd/a"]);
    cluster.line("compare rbd:rbd/a@then a.raw").ok();
    let described = "driver=raw,file.driver=rbd,file.pool=rbd,file.image=a,file.snapshot=then";
    cluster.line(&format!("convert --image-opts {described} -O raw b.raw")).ok();
    assert!(fs::read(cluster.lab.path("b.raw")).expect("reads") == raw);
}

fn creating(cluster: &Cluster, raw: &[u8]) {
    cluster.line("convert --sandbox=require a.qcow2 rbd:rbd/new").ok();
    assert!(cluster.contents("rbd/new") == raw);
    let used = cluster.rbd(&["du", "rbd/new", "--format", "json"]);
    let used: serde_json::Value = serde_json::from_str(&used).expect("is JSON");
    let used = used["images"][0]["used_size"].as_u64().expect("a number");
    assert!(used < 20_000_000, "holes are stored: {used}");
    let again = cluster.line("convert a.qcow2 rbd:rbd/new").fails(1);
    assert!(again.contains("there is an image with this name already"), "{again}");
    // Another format grows; as Glance does it, with a protected snapshot.
    let id = run("ceph", ["-c", &*cluster.config, "fsid"]);
    let name = format!("rbd://{}/rbd/glance/snap", id.trim());
    cluster.line(&format!("convert -O qcow2 a.raw {name}")).ok();
    cluster.line(&format!("check {name}")).ok();
    cluster.line(&format!("compare a.raw {name}")).ok();
    let snapshots = cluster.rbd(&["snap", "ls", "rbd/glance", "--format", "json"]);
    assert!(snapshots.contains("snap") && snapshots.contains("true"), "{snapshots}");
    let size = |name: &str| fs::metadata(cluster.lab.path(name)).expect("exists").len();
    cluster.line("convert -O qcow2 a.raw local.qcow2").ok();
    assert_eq!(cluster.contents("rbd/glance").len() as u64, size("local.qcow2"));
}

fn modifying(cluster: &Cluster, raw: &[u8]) {
    cluster.rbd(&["create", "--size", "64M", "rbd/old"]);
    let io = ["bench", "--no-progress", "--io-type", "write", "--io-total", "64M", "rbd/old"];
    try_run("rbd", [&["-c", &*cluster.config], &io[..]].concat());
    cluster.line("convert -n -O raw a.qcow2 rbd:rbd/old").ok();
    let contents = cluster.contents("rbd/old");
    assert!(contents.len() == 64 << 20 && contents.starts_with(raw));
    // An image is not written while it is read, however it is named.
    let whole = format!("rbd:rbd/old:conf={}:id=admin", cluster.config);
    let described = "driver=raw,file.driver=rbd,file.pool=rbd,file.image=old";
    for source in ["rbd:rbd/old", &*format!("--image-opts {described}")] {
        let error = cluster.line(&format!("convert -n -O raw {source} {whole}")).fails(1);
        assert!(error.contains("one of the source's own files"), "{error}");
    }
    assert!(cluster.contents("rbd/old") == contents);
    cluster.rbd(&["create", "--size", "1M", "rbd/small"]);
    let error = cluster.line("convert -n -O raw a.qcow2 rbd:rbd/small").fails(1);
    assert!(error.contains("rbd:rbd/small"), "{error}");
}

fn failures(cluster: &Cluster) {
    for (name, message) in [
        ("rbd:rbd/none", "cannot open the image 'rbd/none': No such file"),
        ("rbd:none/a", "cannot open the pool 'none'"),
        ("rbd:rbd", "expected rbd:POOL/"),
        ("rbd://12-34/rbd/a/then", "the image is in the cluster 12-34"),
    ] {
        let error = cluster.line(&format!("info {name}")).fails(1);
        assert!(error.contains(message), "{error}");
    }
    // Keys are not shown, and a stranger's name reaches no cluster.
    let error = cluster.line("info rbd:rbd/none:key=AQDsecret==").fails(1);
    assert!(error.contains("key=***") && !error.contains("AQD"), "{error}");
    let error = cluster.line("info --no-private-addresses rbd:rbd/a").fails(1);
    assert!(error.contains("cannot be restricted"), "{error}");
    // A new image that cannot get its name is removed, with its snapshot.
    let name = format!("rbd:rbd/late@snap:conf={}", cluster.config);
    let mut command = cluster.lab.command(diskimg());
    command.args(["convert", "-r", "4M", "a.raw", &name]).stderr(Stdio::null());
    let mut child = command.spawn().expect("starts");
    let started = Instant::now();
    while !cluster.rbd(&["ls"]).contains("late.diskimg-tmp") {
        assert!(started.elapsed() < Duration::from_secs(60), "nothing is created");
    }
    cluster.rbd(&["create", "--size", "1M", "rbd/late"]);
    assert!(!child.wait().expect("ends").success());
    let left = cluster.rbd(&["ls"]);
    assert!(!left.contains("late.diskimg-tmp"), "{left}");
    // What is not completed is removed.
    let name = format!("rbd:rbd/cut:conf={}", cluster.config);
    let mut command = cluster.lab.command(diskimg());
    command.args(["convert", "-r", "1M", "a.raw", &name]).stderr(Stdio::null());
    let mut child = command.spawn().expect("starts");
    let started = Instant::now();
    while !cluster.rbd(&["ls"]).contains("cut.diskimg-tmp") {
        assert!(started.elapsed() < Duration::from_secs(60), "nothing is created");
    }
    run("kill", ["-INT", &child.id().to_string()]);
    assert!(!child.wait().expect("ends").success());
    let left = cluster.rbd(&["ls"]);
    assert!(!left.contains("cut"), "{left}");
    // A cluster that does not answer is given up.
    cluster.ceph.hold_storage(true);
    let error = cluster.line("info rbd:rbd/a:rados_osd_op_timeout=3");
    cluster.ceph.hold_storage(false);
    let error = error.fails(1);
    assert!(error.contains("timed out"), "{error}");
}
