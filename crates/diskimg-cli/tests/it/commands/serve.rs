//! Disks that are exported, with the clients of libnbd and QEMU.

use crate::support::{Lab, Ran, diskimg, write_at};
use diskimg_testkit::disk::noise;
use diskimg_testkit::tool::{assert_qemu_check, full};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SIZE: usize = 8 << 20;

/// A server that runs until it is stopped or dropped.
struct Serving {
    child: Child,
    uri: String,
}

impl Serving {
    /// Starts `diskimg serve` with these arguments.
    #[track_caller]
    fn start(lab: &Lab, line: &str) -> Self {
        let mut command = lab.command(diskimg());
        command.args(["serve", "--sandbox=require"]).args(line.split_whitespace());
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
        let mut uri = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("is a pipe"));
        stdout.read_line(&mut uri).expect("reads");
        let mut serving = Self { child, uri: uri.trim_end().to_owned() };
        if serving.uri.is_empty() {
            panic!("{line}: {}", serving.messages());
        }
        serving
    }

    fn messages(&mut self) -> String {
        let mut messages = String::new();
        let stderr = self.child.stderr.take();
        stderr.map(|mut stderr| stderr.read_to_string(&mut messages));
        messages
    }

    fn signal(&self, signal: Signal) {
        let id = Pid::from_child(&self.child);
        kill_process(id, signal).expect("signals");
    }

    /// Ends the server and returns its messages.
    #[track_caller]
    fn stop(mut self) -> String {
        self.signal(Signal::TERM);
        self.wait()
    }

    #[track_caller]
    fn wait(&mut self) -> String {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.child.try_wait().expect("waits") {
                let messages = self.messages();
                assert!(status.success(), "{status}: {messages}");
                return messages;
            }
            assert!(Instant::now() < deadline, "the server does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// qemu-nbd, until it is dropped.
struct QemuNbd(Child, String);

impl QemuNbd {
    fn start(lab: &Lab, format: &str, file: &str) -> Self {
        let socket = lab.path("qemu.sock");
        let _ = fs::remove_file(&socket);
        let mut command = lab.command("qemu-nbd");
        command.args(["-r", "-t", "-e", "8", "-f", format, "-k"]).arg(&socket).arg(file);
        let child = command.spawn().expect("qemu-nbd is installed (qemu-utils)");
        let deadline = Instant::now() + Duration::from_secs(30);
        while !socket.exists() {
            assert!(Instant::now() < deadline, "qemu-nbd does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self(child, format!("nbd+unix:///?socket={}", socket.display()))
    }
}

impl Drop for QemuNbd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a client of libnbd.
#[track_caller]
fn client(lab: &Lab, program: &str, args: &[&str]) -> String {
    match lab.command(program).args(args).output() {
        Ok(output) => Ran::new(output).ok(),
        Err(e) => panic!("these tests need {program} (install libnbd-bin): {e}"),
    }
}

/// Returns the map without what nbdinfo prints after it.
fn nbd_map(lab: &Lab, uri: &str) -> String {
    client(lab, "nbdinfo", &["--map", uri])
}

/// Creates `a.raw` with data, holes and zeros.
fn make_raw(lab: &Lab) -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    for start in [0, 1 << 20, 3 << 20, (7 << 20) + 4096] {
        bytes[start..start + 300_000].copy_from_slice(&noise(start as u64, 300_000));
    }
    let file = fs::File::create(lab.path("a.raw")).expect("creates");
    file.set_len(SIZE as u64).expect("extends");
    for start in [0, 1 << 20, 3 << 20, (7 << 20) + 4096] {
        write_at(&lab.path("a.raw"), start as u64, &bytes[start..start + 300_000]);
    }
    bytes
}

#[test]
fn every_format_is_exported() {
    let lab = Lab::new();
    let bytes = make_raw(&lab);
    for format in [
        "qcow2 -c",
        "qcow2",
        "vmdk -o subformat=streamOptimized",
        "vmdk -o subformat=twoGbMaxExtentSparse",
        "vhd",
        "vhdx",
        "vdi",
        "qed",
        "qcow",
        "parallels",
        "ova",
        "raw",
    ] {
        let _ = fs::remove_file(lab.path("image"));
        let name = format.split(' ').next().expect("a name");
        let file = format!("image.{name}");
        lab.line(&format!("convert -f raw -O {format} a.raw {file}")).ok();
        let serving = Serving::start(&lab, &format!("-k s {file}"));
        // The size of some is rounded up.
        client(&lab, "nbdcopy", &[&serving.uri, "b.raw"]);
        let mut copied = lab.read("b.raw");
        assert!(copied.len() >= bytes.len(), "{format}");
        copied.truncate(bytes.len());
        assert!(copied == bytes, "{format}");
        let same = lab.qemu(&format!("compare -f raw -F raw a.raw {}", serving.uri)).ok();
        assert!(same.contains("identical"), "{format}: {same}");
        assert_eq!(serving.stop(), "", "{format}");
        fs::remove_file(lab.path("b.raw")).expect("removes");
    }
}

#[test]
fn clients_see_what_qemu_nbd_shows_them() {
    let lab = Lab::new();
    make_raw(&lab);
    lab.qemu("convert -O qcow2 a.raw a.qcow2").ok();
    lab.qemu("convert -O qcow2 -c a.raw c.qcow2").ok();
    lab.qemu("convert -O vdi a.raw a.vdi").ok();
    lab.qemu("create -q -f qcow2 -o preallocation=metadata,extended_l2=on p.qcow2 8M").ok();
    lab.qemu("create -q -f qcow2 -b a.qcow2 -F qcow2 over.qcow2 9M").ok();
    let mut written = lab.command("qemu-io");
    written.args(["-c", "write -P 3 2M 70k", "-c", "write -z 3M 1M", "over.qcow2"]);
    assert!(written.output().expect("runs").status.success());
    for (format, file) in [
        ("qcow2", "a.qcow2"),
        ("qcow2", "c.qcow2"),
        ("qcow2", "p.qcow2"),
        ("qcow2", "over.qcow2"),
        ("vdi", "a.vdi"),
        ("raw", "a.raw"),
    ] {
        let theirs = QemuNbd::start(&lab, format, file);
        let ours = Serving::start(&lab, &format!("-f {format} -k s {file}"));
        assert_eq!(nbd_map(&lab, &ours.uri), nbd_map(&lab, &theirs.1), "{file}");
        let info = |uri: &str| {
            let mut info: serde_json::Value =
                serde_json::from_str(&client(&lab, "nbdinfo", &["--json", uri])).expect("JSON");
            let export = info["exports"][0].as_object_mut().expect("an export");
            export.remove("uri");
            // It is what people read about the image.
            export.remove("content");
            info
        };
        assert_eq!(info(&ours.uri), info(&theirs.1), "{file}");
        let map = |uri: &str| lab.qemu(&format!("map --output=json -f raw {uri}")).ok();
        assert_eq!(map(&ours.uri), map(&theirs.1), "{file}");
        assert_eq!(ours.stop(), "");
    }
}

#[test]
fn a_disk_is_copied_to_a_writable_export_of_every_format() {
    let lab = Lab::new();
    let bytes = make_raw(&lab);
    for format in ["raw", "qcow2", "vmdk", "vhd", "vhdx", "vdi", "qed", "qcow", "parallels"] {
        lab.line(&format!("create -q -f {format} image 8M")).ok();
        let serving = Serving::start(&lab, &format!("-w -f {format} -k s image"));
        client(&lab, "nbdcopy", &["--connections=4", "a.raw", &serving.uri]);
        client(&lab, "nbdcopy", &[&serving.uri, "b.raw"]);
        let copied = lab.read("b.raw");
        assert!(copied[..SIZE] == bytes, "{format}");
        // Without a flush of the client.
        assert_eq!(serving.stop(), "", "{format}");
        lab.line(&format!("convert -f {format} -O raw image c.raw")).ok();
        assert!(lab.read("c.raw")[..SIZE] == bytes, "{format}");
        if !matches!(format, "raw" | "qcow" | "vhd") {
            lab.line(&format!("check -f {format} image")).ok();
        }
        fs::remove_file(lab.path("image")).expect("removes");
    }
}

/// Creates `base` with the bytes of [`make_raw`], and `image`, which has it as its backing file.
fn make_child(lab: &Lab, format: &str) {
    for name in ["base", "image"] {
        let _ = fs::remove_file(lab.path(name));
    }
    lab.line(&format!("convert -f raw -O {format} a.raw base")).ok();
    lab.line(&format!("create -q -f {format} -b base -F {format} image")).ok();
}

#[test]
fn what_is_written_to_an_image_with_a_backing_file_is_stored() {
    let lab = Lab::new();
    let mut bytes = make_raw(&lab);
    for start in [5000, 2 << 20, (7 << 20) + 100] {
        bytes[start..start + 70_000].fill(9);
    }
    for format in ["vmdk", "vpc", "vhdx", "qcow2", "qed", "qcow"] {
        make_child(&lab, format);
        let base = lab.read("base");
        let serving = Serving::start(&lab, &format!("-w -f {format} -k s image"));
        let mut command = lab.command("qemu-io");
        command.args(["-f", "raw"]);
        for start in [5000, 2 << 20, (7 << 20) + 100] {
            command.args(["-c", &format!("write -P 9 {start} 70000"), "-c", "flush"]);
        }
        let out = command.arg(&serving.uri).output().expect("qemu-io is installed");
        let out = Ran::new(out).ok();
        assert!(!out.contains("failed"), "{format}: {out}");
        client(&lab, "nbdcopy", &[&serving.uri, "b.raw"]);
        assert!(lab.read("b.raw")[..SIZE] == bytes, "{format}");
        assert_eq!(serving.stop(), "", "{format}");
        lab.line(&format!("convert -f {format} -O raw image c.raw")).ok();
        assert!(lab.read("c.raw")[..SIZE] == bytes, "{format}");
        assert!(lab.read("base") == base, "{format}");
    }
}

#[test]
fn what_is_written_to_an_image_of_several_files_is_stored() {
    let lab = Lab::new();
    let bytes = make_raw(&lab);
    lab.line("create -q -f vmdk -o subformat=twoGbMaxExtentSparse image 8M").ok();
    let serving = Serving::start(&lab, "-w -f vmdk --external-files=same-dir -k s image");
    client(&lab, "nbdcopy", &["a.raw", &serving.uri]);
    assert_eq!(serving.stop(), "");
    lab.line("convert -f vmdk -O raw image c.raw").ok();
    assert!(lab.read("c.raw")[..SIZE] == bytes);
}

#[test]
fn what_is_written_to_an_image_with_a_data_file_is_stored() {
    let lab = Lab::new();
    let bytes = make_raw(&lab);
    for raw in ["off", "on"] {
        let options = format!("data_file=data,data_file_raw={raw}");
        lab.line(&format!("create -q -f qcow2 -o {options} image 8M")).ok();
        let serving = Serving::start(&lab, "-w -f qcow2 --external-files=same-dir -k s image");
        client(&lab, "nbdcopy", &["a.raw", &serving.uri]);
        assert_eq!(serving.stop(), "");
        lab.qemu("check -f qcow2 image").ok();
        lab.qemu("convert -f qcow2 -O raw image c.raw").ok();
        assert!(lab.read("c.raw")[..SIZE] == bytes);
        let bench = "bench -w -c 10 -f qcow2 --external-files=same-dir --pattern=7 image";
        assert!(lab.line(bench).ok().contains("Run completed"));
    }
}

#[test]
fn only_the_files_of_the_image_are_opened_to_store_what_is_written() {
    let lab = Lab::new();
    lab.line("create -q -f vmdk -o subformat=twoGbMaxExtentSparse image 8M").ok();
    let mut serving = Serving::start(&lab, "-w -f vmdk --external-files=any -k s image");
    // Another file, in the place of the extent.
    let files = fs::read_dir(lab.path("")).expect("lists").flatten();
    let mut files = files.map(|entry| entry.path());
    let is_extent = |path: &PathBuf| path.to_string_lossy().contains("s001");
    let extent = files.find(is_extent).expect("has an extent");
    fs::copy(&extent, lab.path("other")).expect("copies");
    fs::rename(lab.path("other"), &extent).expect("renames");
    let mut command = lab.command("qemu-io");
    command.args(["-f", "raw", "-c", "write 0 64k", "-c", "flush", &serving.uri]);
    command.output().expect("qemu-io is installed");
    serving.signal(Signal::TERM);
    assert!(!serving.child.wait().expect("ends").success());
    let messages = serving.messages();
    assert!(messages.contains("Permission denied"), "{messages}");
}

/// Numbers that look random.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % end
    }
}

#[test]
fn random_requests_of_qemu_have_the_effect_that_a_model_says() {
    let lab = Lab::new();
    let size = SIZE as u64;
    for (seed, format) in [(1, "qcow2"), (2, "raw"), (3, "vmdk"), (4, "vhdx")] {
        let _ = fs::remove_file(lab.path("image"));
        lab.line(&format!("create -q -f {format} image 8M")).ok();
        let serving = Serving::start(&lab, &format!("-w -f {format} -k s image"));
        let mut random = Random(0x2545_f491_4f6c_dd1d ^ seed);
        let mut model = vec![0; SIZE];
        let mut script = Vec::new();
        for number in 0..if full() { 500 } else { 150 } {
            let len = 1 + random.below(if number % 7 == 0 { 700_000 } else { 5000 });
            let at = random.below(size - len);
            let pattern = 1 + random.below(255) as u8;
            let part = &mut model[at as usize..(at + len) as usize];
            match random.below(8) {
                0 => {
                    script.push(format!("write -z {at} {len}"));
                    part.fill(0);
                }
                1 => {
                    script.push(format!("write -zu {at} {len}"));
                    part.fill(0);
                }
                2 => script.push("flush".to_owned()),
                3 => {
                    script.push(format!("write -f -P {pattern} {at} {len}"));
                    part.fill(pattern);
                }
                4 => {
                    let (first, pattern) = (at as usize, model[at as usize]);
                    let len = model[first..].iter().take_while(|&&byte| byte == pattern).count();
                    script.push(format!("read -P {pattern} {at} {}", len.min(1 << 20)));
                }
                _ => {
                    script.push(format!("write -P {pattern} {at} {len}"));
                    part.fill(pattern);
                }
            }
        }
        let mut command = lab.command("qemu-io");
        command.args(["-f", "raw"]);
        for line in &script {
            command.args(["-c", line]);
        }
        let out = Ran::new(command.arg(&serving.uri).output().expect("qemu-io is installed")).ok();
        assert!(!out.contains("failed"), "{format}: {out}");
        client(&lab, "nbdcopy", &[&serving.uri, "b.raw"]);
        assert!(lab.read("b.raw")[..SIZE] == model, "{format}");
        assert_eq!(serving.stop(), "", "{format}");
        lab.line(&format!("convert -f {format} -O raw image c.raw")).ok();
        assert!(lab.read("c.raw")[..SIZE] == model, "{format}");
        if format == "qcow2" {
            assert_qemu_check(&lab.path("image"), "qcow2");
        }
    }
}

#[test]
fn what_is_trimmed_takes_no_space() {
    let lab = Lab::new();
    make_raw(&lab);
    lab.qemu("convert -O qcow2 a.raw image").ok();
    let serving = Serving::start(&lab, "-w -f qcow2 -k s image");
    let mut command = lab.command("qemu-io");
    command.args(["-f", "raw", "-c", "discard 0 8M", "-c", "flush", &serving.uri]);
    Ran::new(command.output().expect("qemu-io is installed")).ok();
    assert!(nbd_map(&lab, &serving.uri).contains("8388608    3  hole,zero"));
    assert_eq!(serving.stop(), "");
    assert!(!lab.line("map --output=json image").ok().contains("\"data\": true"));
    assert_qemu_check(&lab.path("image"), "qcow2");
}

#[test]
fn dirty_bitmaps_and_snapshots_are_exported() {
    let lab = Lab::new();
    let bytes = make_raw(&lab);
    lab.qemu("convert -O qcow2 a.raw image").ok();
    lab.qemu("snapshot -c before image").ok();
    lab.qemu("bitmap --add -g 64k image changes").ok();
    let mut command = lab.command("qemu-io");
    command.args(["-c", "write -P 9 5M 100k", "image"]);
    assert!(command.output().expect("qemu-io is installed").status.success());
    let serving = Serving::start(&lab, "-B changes -k s image");
    let map = client(&lab, "nbdinfo", &["--map=qemu:dirty-bitmap:changes", &serving.uri]);
    let lines: Vec<Vec<&str>> =
        map.lines().map(|line| line.split_whitespace().take(3).collect()).collect();
    assert_eq!(
        lines,
        [["0", "5242880", "0"], ["5242880", "131072", "1"], ["5373952", "3014656", "0"]]
    );
    assert_eq!(serving.stop(), "");
    let serving = Serving::start(&lab, "-l before -k s image");
    client(&lab, "nbdcopy", &[&serving.uri, "b.raw"]);
    assert!(lab.read("b.raw") == bytes);
    assert_eq!(serving.stop(), "");
    let error = lab.line("serve -B none -k s image").fails(1);
    assert!(error.contains("Dirty bitmap 'none' not found"), "{error}");
    assert!(!lab.path("s").exists());
}

#[test]
fn the_name_of_the_export_is_that_of_the_list() {
    let lab = Lab::new();
    make_raw(&lab);
    let mut command = lab.command(diskimg());
    command.args(["serve", "-p", "0", "-x", "a disk/1", "-D", "For tests", "-f", "raw", "a.raw"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("starts");
    let mut uri = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut uri).expect("reads");
    let serving = Serving { child, uri: uri.trim_end().to_owned() };
    assert!(serving.uri.starts_with("nbd://127.0.0.1:"), "{}", serving.uri);
    assert!(serving.uri.ends_with("/a%20disk/1"), "{}", serving.uri);
    let list = client(&lab, "nbdinfo", &["--list", &serving.uri]);
    assert!(list.contains("export=\"a disk/1\":\n\tdescription: For tests\n"), "{list}");
    client(&lab, "nbdinfo", &[&serving.uri]);
    let other = serving.uri.replace("disk", "x");
    let output = lab.command("nbdinfo").arg(other).output().expect("runs");
    assert!(!output.status.success());
}

#[test]
fn a_socket_of_a_server_that_died_is_replaced() {
    let lab = Lab::new();
    make_raw(&lab);
    let mut first = Serving::start(&lab, "-f raw -k s --pid-file pid a.raw");
    assert_eq!(
        String::from_utf8(lab.read("pid")).expect("text").trim(),
        first.child.id().to_string()
    );
    let error = lab.line("serve -f raw -k s a.raw").fails(1);
    assert!(error.contains("another server listens on this socket"), "{error}");
    client(&lab, "nbdinfo", &[&first.uri]);
    first.signal(Signal::KILL);
    first.child.wait().expect("ends");
    assert!(fs::symlink_metadata(lab.path("s")).expect("stays").file_type().is_socket());
    let second = Serving::start(&lab, "-f raw -k s --pid-file pid a.raw");
    client(&lab, "nbdinfo", &[&second.uri]);
    assert_eq!(second.stop(), "");
    assert!(!lab.path("s").exists() && !lab.path("pid").exists());
    fs::write(lab.path("s"), "a file").expect("writes");
    let error = lab.line("serve -f raw -k s a.raw").fails(1);
    assert!(error.contains("is not a socket"), "{error}");
    assert_eq!(lab.read("s"), b"a file");
}

#[test]
fn a_server_for_once_ends_with_its_clients() {
    let lab = Lab::new();
    make_raw(&lab);
    let mut serving = Serving::start(&lab, "--once -f raw -k s a.raw");
    client(&lab, "nbdcopy", &[&serving.uri, "b.raw"]);
    assert_eq!(serving.wait(), "");
    assert!(lab.read("b.raw") == lab.read("a.raw"));
    assert!(!lab.path("s").exists());
}

#[test]
fn an_image_that_is_written_is_locked() {
    let lab = Lab::new();
    lab.line("create -q -f qcow2 image 8M").ok();
    let serving = Serving::start(&lab, "-w -f qcow2 -k s image");
    let error = lab.line("serve -w -f qcow2 -k t image").fails(1);
    assert!(error.contains("lock"), "{error}");
    assert!(!lab.path("t").exists());
    let error = lab.qemu("info image").fails(1);
    assert!(error.contains("lock"), "{error}");
    assert_eq!(serving.stop(), "");
    let reading = Serving::start(&lab, "-k s image");
    lab.qemu("info image").ok();
    let error = lab.line("serve -w -f qcow2 -k t image").fails(1);
    assert!(error.contains("lock"), "{error}");
    assert_eq!(reading.stop(), "");
}

#[test]
fn what_is_missing_is_said() {
    let lab = Lab::new();
    make_raw(&lab);
    for (line, expected) in [
        ("serve a.raw", "where to listen"),
        ("serve -k s -p 1 a.raw", "mutually exclusive"),
        ("serve -b 0.0.0.0 a.raw", "--port"),
        ("serve -w -k s a.raw", "format"),
        ("serve -w -f raw -l x -k s a.raw", "only read"),
        ("serve -k s missing", "missing"),
        ("serve -w -f ova -k s a.raw", "a.raw"),
        ("serve -e 0 -k s a.raw", "0"),
        ("serve -k no/directory/s a.raw", "cannot listen"),
    ] {
        let error = lab.line(line).fails(1);
        assert!(error.contains(expected), "{line}: {error}");
        assert!(!lab.path("s").exists(), "{line}");
    }
    let error = lab.as_qemu_img("serve -k s a.raw").fails(1);
    assert!(error.contains("Command not found: serve"), "{error}");
}

#[test]
fn damage_is_reported_once() {
    let lab = Lab::new();
    make_raw(&lab);
    lab.qemu("convert -O qcow2 a.raw image").ok();
    let image = lab.read("image");
    let l1 = u64::from_be_bytes(image[40..48].try_into().expect("eight"));
    write_at(&lab.path("image"), l1 + 6, &[2]);
    let serving = Serving::start(&lab, "-k s image");
    for _ in 0..3 {
        let copied = lab.command("nbdcopy").args([&serving.uri, "null:"]).output().expect("runs");
        assert!(!copied.status.success());
    }
    let messages = serving.stop();
    assert_eq!(messages.lines().count(), 1, "{messages}");
    assert!(messages.starts_with("diskimg: image: L2 table"), "{messages}");
}

#[test]
fn a_hostile_client_does_not_disturb_others() {
    let lab = Lab::new();
    make_raw(&lab);
    let serving = Serving::start(&lab, "-f raw -p 0 a.raw");
    let address = serving.uri.trim_start_matches("nbd://").trim_end_matches('/').to_owned();
    let mut hostile = Vec::new();
    for seed in 0..10 {
        let mut stream = TcpStream::connect(&address).expect("connects");
        let _ = std::io::Write::write_all(&mut stream, &noise(seed, 100_000));
        hostile.push(stream);
    }
    client(&lab, "nbdcopy", &[&serving.uri, "b.raw"]);
    assert!(lab.read("b.raw") == lab.read("a.raw"));
    drop(hostile);
    assert_eq!(serving.stop(), "");
}

/// Offsets of ranges of 20 KiB that are written again and again.
fn ranges() -> impl Iterator<Item = usize> {
    (0..6).map(|number| (number << 20) + number * 0x1_4000)
}

/// A client writes generations of bytes, and the server is killed meanwhile.
#[test]
fn a_server_killed_while_it_writes_leaves_a_consistent_image() {
    let lab = Lab::new();
    let mut random = Random(u64::from(std::process::id()) | 1);
    let mut completed = Vec::new();
    for round in 0..if full() { 60 } else { 8 } {
        let _ = fs::remove_file(lab.path("image"));
        lab.qemu("create -q -f qcow2 -o cluster_size=4k image 8M").ok();
        let mut serving = Serving::start(&lab, "-w -f qcow2 -k s image");
        let mut command = lab.command("qemu-io");
        command.args(["-f", "raw"]);
        // Each generation is flushed before the next one begins.
        for generation in 1..=60 {
            for at in ranges() {
                command.args(["-c", &format!("write -P {generation} {at} 20k")]);
            }
            command.args(["-c", "write -z 7M 64k", "-c", "discard 6M 64k", "-c", "flush"]);
            command.args(["-c", &format!("read -P {generation} 0 20k")]);
        }
        command.arg(&serving.uri).stdout(Stdio::piped()).stderr(Stdio::null());
        let writer = command.spawn().expect("qemu-io is installed");
        std::thread::sleep(Duration::from_millis(20 + random.below(300)));
        serving.signal(Signal::KILL);
        serving.child.wait().expect("ends");
        let output = writer.wait_with_output().expect("ends");
        let output = String::from_utf8_lossy(&output.stdout);
        let flushed = output.lines().filter(|line| line.starts_with("read 20480/20480")).count();
        completed.push(flushed);
        let checked = check(&lab);
        let count = |name: &str| checked[name].as_u64().unwrap_or(0);
        assert_eq!(count("corruptions") + count("check-errors"), 0, "{round}: {checked}");
        // It can be written again at once.
        let again = Serving::start(&lab, "-w -f qcow2 -k s image");
        client(&lab, "nbdcopy", &[&again.uri, "b.raw"]);
        assert_eq!(again.stop(), "");
        let bytes = lab.read("b.raw");
        for at in ranges() {
            let found = &bytes[at..at + (20 << 10)];
            let is_right = |&byte: &u8| [flushed, flushed + 1].contains(&usize::from(byte));
            assert!(found.iter().all(is_right), "{round}: {flushed} generations, {at}");
        }
    }
    assert!(completed.iter().any(|&flushed| (1..60).contains(&flushed)), "{completed:?}");
}

#[test]
fn the_commands_read_and_write_what_is_served() {
    let lab = Lab::new();
    let bytes = make_raw(&lab);
    lab.line("convert -O vmdk a.raw a.vmdk").ok();
    lab.line("create -q -f qcow2 image 8M").ok();
    let reading = Serving::start(&lab, "-k s a.vmdk");
    let writing = Serving::start(&lab, "-w -f qcow2 -k t image");
    lab.line(&format!("convert -f raw -n -O raw {} {}", reading.uri, writing.uri)).ok();
    assert!(
        lab.line(&format!("compare -f raw -F raw a.raw {}", writing.uri)).ok().contains("ident")
    );
    assert_eq!(writing.stop(), "");
    // An image on a server is served again.
    let again = Serving::start(&lab, &format!("-f raw -p 0 {}", reading.uri));
    client(&lab, "nbdcopy", &[&again.uri, "b.raw"]);
    assert!(lab.read("b.raw") == bytes);
    assert_eq!(nbd_map(&lab, &again.uri), nbd_map(&lab, &reading.uri));
    assert_eq!(again.stop(), "");
    assert_eq!(reading.stop(), "");
    assert!(lab.line("compare a.raw image").ok().contains("identical"));
}

/// Returns the result of `qemu-img check`.
fn check(lab: &Lab) -> serde_json::Value {
    let mut command: Command = lab.command("qemu-img");
    let output = command.args(["check", "--output=json", "image"]).output().expect("runs");
    serde_json::from_slice(&output.stdout).expect("JSON")
}
