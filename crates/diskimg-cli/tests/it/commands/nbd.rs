//! Images behind NBD, on real servers.

use crate::support::Lab;
use diskimg_testkit::nbd::{NbdServer, certificates};
use diskimg_testkit::tool::run;
use std::fs;

/// Returns a lab with `a.qcow2`, which has data, zeros and holes, and `a.raw` with the same contents.
fn lab() -> Lab {
    let lab = Lab::new();
    lab.qemu("create -q -f qcow2 a.qcow2 64M").ok();
    let image = lab.path("a.qcow2").display().to_string();
    for command in
        ["write -P 5 1M 3M", "write -P 9 33000k 1M", "write -z 10M 1M", "write -P 1 64511k 1k"]
    {
        run("qemu-io", ["-c", command, &image]);
    }
    lab.qemu("convert -O raw a.qcow2 a.raw").ok();
    lab
}

fn path(lab: &Lab, name: &str) -> String {
    lab.path(name).display().to_string()
}

/// Returns the map that nbdinfo prints, as (start, length, reads as zeros), merged.
fn map_of_nbdinfo(url: &str) -> Vec<(u64, u64, bool)> {
    let mut map: Vec<(u64, u64, bool)> = Vec::new();
    for line in run("nbdinfo", ["--map", url]).lines() {
        let mut words = line.split_whitespace().map(|word| word.parse::<u64>().unwrap_or(0));
        let mut next = || words.next().expect("a number");
        let (start, len, flags) = (next(), next(), next());
        match map.last_mut() {
            Some(last) if last.2 == (flags & 2 != 0) => last.1 += len,
            _ => map.push((start, len, flags & 2 != 0)),
        }
    }
    map
}

/// Returns the map that the command prints.
fn map_of(lab: &Lab, url: &str) -> Vec<(u64, u64, bool)> {
    let json = lab.line(&format!("map --sandbox=require -f raw --output=json {url}")).ok();
    let map: serde_json::Value = serde_json::from_str(&json).expect("is JSON");
    let entry = |entry: &serde_json::Value| {
        let number = |name: &str| entry[name].as_u64().expect("a number");
        (number("start"), number("length"), entry["zero"].as_bool().expect("a switch"))
    };
    map.as_array().expect("a list").iter().map(entry).collect()
}

#[test]
fn commands_read_exports() {
    let lab = lab();
    let server = NbdServer::qemu(&["-r", "-f", "qcow2", &path(&lab, "a.qcow2")]);
    let url = server.url("disk");
    assert_eq!(map_of(&lab, &url), map_of_nbdinfo(&url));
    let old = format!("nbd:unix:{}:exportname=disk", server.socket().display());
    let info = lab.line(&format!("info --sandbox=require {old}")).ok();
    assert!(info.contains("64 MiB (67108864 bytes)"), "{info}");
    assert!(lab.line(&format!("info {url}")).ok().contains("protocol type: nbd"));
    lab.line(&format!("convert --sandbox=require {url} b.raw")).ok();
    assert!(lab.read("b.raw") == lab.read("a.raw"));
    assert!(lab.line(&format!("compare --sandbox=require {url} a.raw")).ok().contains("identical"));
    assert_eq!(lab.line(&format!("measure {url}")).ok(), lab.line("measure a.raw").ok());
    lab.line(&format!("dd if={url} of=d.raw bs=1M count=2")).ok();
    assert!(lab.read("d.raw") == lab.read("a.raw")[..2 << 20]);
    lab.as_qemu_img(&format!("convert -O qcow2 {url} c.qcow2")).ok();
    lab.qemu("compare c.qcow2 a.raw").ok();
    let error = lab.line(&format!("info {}", server.url("other"))).fails(1);
    assert!(error.contains("the server has no export 'other'"), "{error}");
    let error = lab.line(&format!("info {url}&timeout=1")).fails(1);
    assert!(error.contains("unknown parameter 'timeout'"), "{error}");
    lab.line("info nbd+unix:///?socket=missing").fails(1);
}

#[test]
fn formats_are_read_over_nbd() {
    let lab = lab();
    // The bytes of the image, not its disk.
    let server = NbdServer::qemu(&["-r", "-f", "raw", &path(&lab, "a.qcow2")]);
    let url = server.url("disk");
    assert!(lab.line(&format!("compare {url} a.raw")).ok().contains("identical"));
    lab.line(&format!("check {url}")).ok();
    let map = |name: &str| lab.line(&format!("map --output=json {name}")).ok();
    assert_eq!(map(&url), map("a.qcow2"));
    assert!(lab.line(&format!("inspect {url}")).ok().contains("qcow2"));
}

#[test]
fn servers_of_all_ages_are_read() {
    let lab = lab();
    let image = path(&lab, "a.raw");
    for args in [
        &["file", &image][..],
        &["-o", "file", &image],
        &["--no-sr", "file", &image],
        &["--mask-handshake=0", "file", &image],
        &["--mask-handshake=1", "--no-sr", "file", &image],
        &["-t", "1", "file", &image],
        &["--filter=noextents", "file", &image],
        &["--filter=noparallel", "--filter=nozero", "file", &image],
        &[
            "--filter=blocksize-policy",
            "file",
            &image,
            "blocksize-minimum=4096",
            "blocksize-preferred=64K",
            "blocksize-maximum=64K",
            "blocksize-error-policy=error",
        ],
        &["--filter=delay", "file", &image, "rdelay=5ms"],
    ] {
        let server = NbdServer::nbdkit(args);
        lab.line(&format!("convert -f raw {} b.raw", server.url(""))).ok();
        assert!(lab.read("b.raw") == lab.read("a.raw"), "{args:?}");
    }
    let server = NbdServer::nbdkit(&["file", &image]);
    assert_eq!(map_of(&lab, &server.url("")), map_of_nbdinfo(&server.url("")));
}

#[test]
fn errors_of_a_server_are_told() {
    let lab = lab();
    let image = path(&lab, "a.raw");
    let args = ["--filter=error", "file", &image, "error-pread=EIO", "error-pread-rate=100%"];
    let server = NbdServer::nbdkit(&args);
    let error = lab.line(&format!("convert -f raw {} b.raw", server.url(""))).fails(1);
    assert!(error.contains("the server reports: Input/output error"), "{error}");
    assert!(!lab.path("b.raw").exists());
}

#[test]
fn certificates_are_verified_and_sent() {
    let (lab, folder) = (lab(), tempfile::tempdir().expect("a folder"));
    certificates(folder.path());
    let server = NbdServer::nbdkit_tls(folder.path(), &["file", &path(&lab, "a.raw")]);
    let url = server.url("");
    let error = lab.line(&format!("info {url}")).fails(1);
    assert!(error.contains("invalid peer certificate"), "{error}");
    let directory = folder.path().display();
    let own = format!("{url}?tls-certificates={directory}");
    lab.line(&format!("convert --sandbox=require -f raw {own} b.raw")).ok();
    assert!(lab.read("b.raw") == lab.read("a.raw"));
    lab.line(&format!("info --ca-bundle {directory}/ca.pem {url}")).ok();
    lab.line(&format!("info --insecure {url}")).ok();
    lab.line(&format!("info {url}?tls-verify-peer=false")).ok();
    lab.line(&format!("info {own}&tls-hostname=other")).fails(1);
    let port = url.trim_start_matches("nbds://localhost:").trim_end_matches('/');
    let object = format!("--object tls-creds-x509,id=t,endpoint=client,dir={directory}");
    let node = format!("driver=nbd,server.type=inet,server.host=localhost,server.port={port}");
    let node = format!("--image-opts {node},tls-creds=t");
    let map = format!("map --sandbox=require {object} {node}");
    lab.line(&map).ok();
    lab.line(&format!("{map},tls-hostname=other")).fails(1);
    lab.line(&format!("{},tls-hostname=other", map.replace(",dir", ",verify-peer=off,dir"))).ok();
    let plain = url.replace("nbds:", "nbd:");
    let error = lab.line(&format!("info {plain}")).fails(1);
    assert!(error.contains("the server requires TLS"), "{error}");
    let error = lab.line(&format!("info {url}?tls-psk-file=keys")).fails(1);
    assert!(error.contains("pre-shared keys is not supported"), "{error}");
    // Much in both directions.
    lab.line(&format!("convert -n -f raw -O raw a.raw {own}")).ok();
    let without = NbdServer::nbdkit(&["file", &path(&lab, "a.raw")]);
    let error = lab.line(&format!("info {}", without.url("").replace("nbd+", "nbds+"))).fails(1);
    assert!(error.contains("the server does not support TLS"), "{error}");
}

#[test]
fn existing_exports_are_written() {
    let lab = lab();
    // Raw: all bytes of the target are overwritten, also those that become zeros.
    lab.qemu("create -q -f raw t.raw 70M").ok();
    run("qemu-io", ["-f", "raw", "-c", "write -P 7 0 70M", &path(&lab, "t.raw")]);
    let server = NbdServer::qemu(&["-f", "raw", &path(&lab, "t.raw")]);
    let url = server.url("disk");
    lab.line(&format!("convert --sandbox=require -n -f raw -O raw a.raw {url}")).ok();
    drop(server);
    assert!(lab.read("t.raw")[..64 << 20] == lab.read("a.raw"));
    assert!(lab.read("t.raw")[64 << 20..].iter().all(|&byte| byte == 7));
    // Without -n, and too small.
    let server = NbdServer::qemu(&["-f", "raw", &path(&lab, "t.raw")]);
    let error = lab.line(&format!("convert -f raw -O raw a.raw {}", server.url("disk"))).fails(1);
    assert!(error.contains("creates no exports"), "{error}");
    lab.qemu("create -q -f raw big.raw 80M").ok();
    let error = lab.line(&format!("convert -n -f raw big.raw {}", server.url("disk"))).fails(1);
    assert!(error.contains("the source needs"), "{error}");
    drop(server);
    let server = NbdServer::qemu(&["-r", "-f", "raw", &path(&lab, "t.raw")]);
    let error = lab.line(&format!("convert -n -f raw a.raw {}", server.url("disk"))).fails(1);
    assert!(error.contains("the server allows only reading"), "{error}");
}

#[test]
fn images_in_exports_are_written_in_place() {
    let lab = lab();
    lab.qemu("create -q -f qcow2 inner.qcow2 64M").ok();
    // Room to grow.
    let file = fs::OpenOptions::new().write(true).open(lab.path("inner.qcow2")).expect("opens");
    file.set_len(80 << 20).expect("grows");
    drop(file);
    let server = NbdServer::qemu(&["-f", "raw", &path(&lab, "inner.qcow2")]);
    lab.line(&format!("convert -n -f raw -O qcow2 a.raw {}", server.url("disk"))).ok();
    drop(server);
    lab.qemu("compare inner.qcow2 a.raw").ok();
    lab.qemu("check inner.qcow2").ok();
}

#[test]
fn blocks_of_a_server_are_replaced_in_part() {
    let lab = lab();
    lab.qemu("create -q -f raw t.raw 64M").ok();
    run("qemu-io", ["-f", "raw", "-c", "write -P 7 0 64M", &path(&lab, "t.raw")]);
    let image = path(&lab, "t.raw");
    let args = [
        "--filter=blocksize-policy",
        "file",
        &image,
        "blocksize-minimum=64K",
        "blocksize-preferred=64K",
        "blocksize-maximum=1M",
        "blocksize-error-policy=error",
    ];
    let server = NbdServer::nbdkit(&args);
    fs::write(lab.path("odd.raw"), &lab.read("a.raw")[..(3 << 20) + 1536]).expect("writes");
    lab.line(&format!("convert -n -f raw -O raw odd.raw {}", server.url(""))).ok();
    drop(server);
    let (found, wanted) = (lab.read("t.raw"), lab.read("odd.raw"));
    assert!(found[..wanted.len()] == wanted);
    assert!(found[wanted.len()..].iter().all(|&byte| byte == 7));
}

#[test]
fn nodes_describe_exports() {
    let lab = lab();
    let server = NbdServer::qemu(&["-r", "-f", "qcow2", &path(&lab, "a.qcow2")]);
    let socket = server.socket().display().to_string();
    let opts = format!("driver=nbd,server.type=unix,server.path={socket},export=disk");
    let map = lab.line(&format!("map --sandbox=require --output=json --image-opts {opts}")).ok();
    let url = server.url("disk");
    assert_eq!(map, lab.line(&format!("map -f raw --output=json {url}")).ok());
    let json = format!(
        r#"json:{{"driver":"raw","file":{{"driver":"nbd","export":"disk","server":{{"type":"unix","path":"{socket}"}}}}}}"#
    );
    let mut command = lab.command(crate::support::diskimg());
    let out = command.args(["compare", &json, "a.raw"]).output().expect("runs");
    assert!(out.status.success(), "{out:?}");
    for (opts, expected) in [
        ("driver=nbd,export=disk", "NBD server address missing"),
        ("driver=nbd,server.type=inet,server.host=h", "Parameter 'port' is missing"),
        ("driver=nbd,server.type=unix", "Parameter 'path' is missing"),
        ("driver=nbd,server.type=fd,server.str=1", "does not accept value 'fd'"),
        ("driver=nbd,server.type=unix,server.path=x,foo=1", "doesn't support the option 'foo'"),
        ("driver=nbd,path=x,tls-creds=t", "No TLS credentials with id 't'"),
        ("driver=nbd,path=x,tls-hostname=t", "tls-hostname requires tls-creds"),
    ] {
        let error = lab.line(&format!("info --image-opts {opts}")).fails(1);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn names_inside_images_select_no_protocol() {
    let lab = lab();
    let server = NbdServer::qemu(&["-r", "-f", "qcow2", &path(&lab, "a.qcow2")]);
    let url = server.url("disk");
    lab.qemu("create -q -f qcow2 -u -b x -F raw o.qcow2 64M").ok();
    lab.qemu(&format!("rebase -u -f qcow2 -b {url} -F raw o.qcow2")).ok();
    lab.line("convert o.qcow2 b.raw").fails(1);
    lab.line("convert --external-files any o.qcow2 b.raw").fails(1);
}

#[test]
fn dirty_bitmaps_are_shown() {
    let lab = lab();
    lab.qemu("bitmap --add a.qcow2 b0").ok();
    let image = path(&lab, "a.qcow2");
    run("qemu-io", ["-c", "write -P 7 20M 128k", "-c", "write -P 7 1M 64k", &image]);
    let server = NbdServer::qemu(&["-r", "-B", "b0", "-f", "qcow2", &image]);
    let socket = server.socket().display().to_string();
    let opts = format!(
        "driver=nbd,server.type=unix,server.path={socket},export=disk,\
         x-dirty-bitmap=qemu:dirty-bitmap:b0"
    );
    let map = |tool: &dyn Fn(&str) -> String| -> serde_json::Value {
        let json = tool(&format!("map --output=json --image-opts {opts}"));
        let mut map: serde_json::Value = serde_json::from_str(&json).expect("is JSON");
        // Where ranges with nothing are, and what reads as zeros, is up to the program.
        for entry in map.as_array_mut().expect("a list") {
            entry.as_object_mut().expect("an object").retain(|key, _| key != "zero");
        }
        map
    };
    let ours = map(&|line| lab.line(line).ok());
    assert_eq!(ours, map(&|line| lab.qemu(line).ok()));
    let dirty = ours.as_array().expect("a list").iter().filter(|entry| entry["data"] == false);
    assert_eq!(dirty.count(), 2);
    // There is nothing to copy or to compare.
    let url = format!("{}&x-dirty-bitmap=qemu:dirty-bitmap:b0", server.url("disk"));
    let error = lab.line(&format!("convert -f raw {url} b.raw")).fails(1);
    assert!(error.contains("not their data"), "{error}");
    lab.line(&format!("compare -f raw {url} a.raw")).fails(4);
    let other = url.replace("b0", "b1");
    let error = lab.line(&format!("map -f raw {other}")).fails(1);
    assert!(error.contains("the server has no context 'qemu:dirty-bitmap:b1'"), "{error}");
}

#[test]
fn a_server_that_is_started_again_is_read_on() {
    let lab = lab();
    let image = path(&lab, "a.raw");
    let args = ["--filter=noextents", "--filter=delay", "file", &image, "rdelay=100ms"];
    let mut server = NbdServer::nbdkit(&args);
    let mut command = lab.command(crate::support::diskimg());
    command.args(["convert", "-f", "raw", "-O", "raw", &server.url(""), "b.raw"]);
    let mut child = command.spawn().expect("runs");
    std::thread::sleep(std::time::Duration::from_millis(400));
    server.kill();
    assert!(child.try_wait().expect("is a child").is_none(), "too fast");
    std::thread::sleep(std::time::Duration::from_millis(300));
    server.restart();
    assert!(child.wait().expect("is a child").success());
    assert!(lab.read("b.raw") == lab.read("a.raw"));
}

#[test]
fn a_target_whose_server_was_started_again_is_not_taken_for_written() {
    let lab = lab();
    lab.qemu("create -q -f raw t.raw 64M").ok();
    let image = path(&lab, "t.raw");
    let args = ["--filter=delay", "file", &image, "wdelay=100ms", "delay-zero=100ms"];
    let mut server = NbdServer::nbdkit(&args);
    fs::write(lab.path("full.raw"), vec![3; 64 << 20]).expect("writes");
    let mut command = lab.command(crate::support::diskimg());
    command.args(["convert", "-n", "-f", "raw", "-O", "raw", "full.raw", &server.url("")]);
    let child = command.stderr(std::process::Stdio::piped()).spawn().expect("runs");
    std::thread::sleep(std::time::Duration::from_millis(500));
    server.kill();
    server.restart();
    let out = child.wait_with_output().expect("is a child");
    let error = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success());
    assert!(error.contains("writes that were not flushed"), "{error}");
}

#[test]
fn an_export_is_not_written_while_it_is_read() {
    let lab = lab();
    let server = NbdServer::qemu(&["-f", "raw", &path(&lab, "a.raw")]);
    let (url, before) = (server.url("disk"), lab.read("a.raw"));
    let old = format!("nbd:unix:{}:exportname=disk", server.socket().display());
    for line in [
        format!("convert -n -f raw -O raw {old} {url}"),
        format!("convert --dry-run -n -f raw -O raw {old} {url}"),
    ] {
        let error = lab.line(&line).fails(1);
        assert!(error.contains("one of the source's own files"), "{error}");
    }
    let error = lab.as_qemu_img(&format!("convert -f raw -O qcow2 {old} {url}")).fails(1);
    assert!(error.contains("one of the source's own files"), "{error}");
    drop(server);
    assert!(lab.read("a.raw") == before);
}

#[test]
fn zeros_are_written_if_the_server_refuses_to_write_zeros() {
    let lab = lab();
    let args = ["--filter=error", "memory", "64M", "error=EINVAL", "error-zero-rate=100%"];
    let server = NbdServer::nbdkit(&args);
    lab.line(&format!("convert -n -O raw a.qcow2 {}", server.url(""))).ok();
    lab.line(&format!("compare -F raw a.qcow2 {}", server.url(""))).ok();
}

#[test]
fn qemu_img_overwrites_an_export_without_n() {
    let lab = lab();
    fs::write(lab.path("out"), vec![0xaa; 66 << 20]).expect("writes");
    let server = NbdServer::qemu(&["-f", "raw", &path(&lab, "out")]);
    let url = server.url("disk");
    let error = lab.line(&format!("convert -O qcow2 a.qcow2 {url}")).fails(1);
    assert!(error.contains("-n"), "{error}");
    lab.as_qemu_img(&format!("convert -O qcow2 a.qcow2 {url}")).ok();
    drop(server);
    lab.qemu("compare -f qcow2 -F raw out a.raw").ok();
}

#[test]
fn the_existing_target_of_a_conversion_can_be_a_described_export() {
    let lab = lab();
    for (number, format) in ["raw", "qcow2"].into_iter().enumerate() {
        lab.qemu(&format!("create -q -f {format} t.img 64M")).ok();
        let room = fs::OpenOptions::new().write(true).open(lab.path("t.img")).expect("opens");
        room.set_len(80 << 20).expect("grows");
        let server = NbdServer::qemu(&["-f", "raw", &path(&lab, "t.img")]);
        let socket = server.socket().display().to_string();
        let node = "driver=nbd,server.type=unix,server.path=SOCKET,export=disk";
        let node = node.replace("SOCKET", &socket);
        let nested = node.replace("driver", "file.driver").replace(",", ",file.");
        let json = format!(
            "json:{{\"driver\":\"{format}\",\"file\":{{\"driver\":\"nbd\",\"server\":{{\"type\":\
             \"unix\",\"path\":\"{socket}\"}},\"export\":\"disk\"}}}}"
        );
        let target = match number {
            0 => format!("--target-image-opts a.raw {node}"),
            _ => format!("--target-image-opts a.raw driver={format},{nested}"),
        };
        // QEMU agrees on what the words mean.
        let qemu = format!("convert -n -f raw {target}");
        lab.qemu(&qemu).ok();
        lab.line(&format!("convert --sandbox=require -n -f raw {target}")).ok();
        lab.as_qemu_img(&qemu).ok();
        lab.line(&format!("convert -n -f raw a.raw {json}")).ok();
        let unknown = if number == 0 { "size=1" } else { "file.size=1" };
        let error = lab.line(&format!("convert -n -f raw {target},{unknown}")).fails(1);
        assert!(error.contains("'nbd' doesn't support the option 'size'"), "{error}");
        let read_only = target.replace("export=disk", "export=disk,read-only=on");
        let read_only = read_only.replace("file.read-only", "read-only");
        let error = lab.line(&format!("convert -n -f raw {read_only}")).fails(1);
        assert!(error.contains("Block node is read-only"), "{error}");
        drop(server);
        let compared = lab.qemu(&format!("compare -f raw -F {format} a.raw t.img"));
        assert!(compared.out.contains("identical") || format == "raw", "{compared:?}");
        assert!(format == "qcow2" || lab.read("t.img")[..64 << 20] == lab.read("a.raw"));
    }
    let error = lab.line("convert -n --target-image-opts a.raw driver=nbd,export=x").fails(1);
    assert!(error.contains("NBD server address missing"), "{error}");
}

#[test]
fn the_scheme_of_a_url_is_in_any_case() {
    let lab = lab();
    let server = NbdServer::qemu(&["-r", "-f", "raw", &path(&lab, "a.raw")]);
    let url = server.url("disk").replace("nbd+unix", "NBD+Unix");
    lab.line(&format!("info --sandbox=require -f raw {url}")).ok();
}

#[test]
fn a_part_of_a_disk_can_be_written_to_an_export() {
    let lab = lab();
    fs::write(lab.path("out"), vec![0xaa; 4 << 20]).expect("writes");
    let server = NbdServer::qemu(&["-f", "raw", &path(&lab, "out")]);
    let url = server.url("disk");
    let line = format!("dd -O raw if=a.qcow2 of={url} bs=1M skip=1 count=2");
    // As `convert` without -n.
    let error = lab.line(&line).fails(1);
    assert!(error.contains("creates no exports"), "{error}");
    lab.as_qemu_img(&line.replace("count=2", "count=3").replace("-O raw", "-O raw -f qcow2")).ok();
    drop(server);
    let (found, disk) = (lab.read("out"), lab.read("a.raw"));
    assert!(found[..2 << 20] == disk[1 << 20..3 << 20]);
}
