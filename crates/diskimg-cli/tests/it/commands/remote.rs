//! Images behind HTTP, on a real server.

use crate::support::Lab;
use diskimg_testkit::nginx::{Nginx, Site};
use std::fs;

/// Returns a server with `a.qcow2`, whose contents are those of `a.raw` in the lab, compressed.
fn server() -> (Lab, Nginx) {
    let (lab, server) = (Lab::new(), Nginx::start());
    let bytes: Vec<u8> = (0..6_000_000u32).map(|i| (i / 1000 + i) as u8).collect();
    fs::write(lab.path("a.raw"), [bytes, vec![0; 2_000_000]].concat()).expect("writes");
    lab.qemu("convert -c -O qcow2 a.raw a.qcow2").ok();
    fs::copy(lab.path("a.qcow2"), server.file("a.qcow2")).expect("copies");
    (lab, server)
}

#[test]
fn commands_read_urls() {
    let (lab, server) = server();
    let url = server.url(Site::Plain, "a.qcow2");
    let local = lab.line("info --output=json a.qcow2").ok();
    let remote = lab.line(&format!("info --sandbox=require --output=json {url}")).ok();
    let remote = remote.replace(&url, "a.qcow2").replace("\"http\"", "\"file\"");
    let without_size = |text: &str| {
        let lines = text.lines().filter(|line| !line.contains("actual-size"));
        lines.map(|line| line.trim_end_matches(',')).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(without_size(&remote), without_size(&local));
    assert!(server.responses().len() <= 4, "{:?}", server.responses());
    let map = |name: &str| lab.line(&format!("map --output=json {name}")).ok();
    assert_eq!(map(&url), map("a.qcow2"));
    assert!(lab.line(&format!("compare {url} a.raw")).ok().contains("identical"));
    assert_eq!(lab.line(&format!("measure {url}")).ok(), lab.line("measure a.qcow2").ok());
    assert!(lab.line(&format!("inspect --claimed qcow2 {url}")).ok().contains("verdict: safe"));
    lab.line(&format!("convert -O raw {url} b.raw")).ok();
    assert!(lab.read("b.raw") == lab.read("a.raw"));
    lab.line(&format!("convert -O vmdk {} c.vmdk", server.url(Site::Plain, "moved"))).ok();
    assert!(lab.line("compare c.vmdk a.raw").ok().contains("identical"));
    lab.line(&format!("dd if={url} of=d.raw bs=1M count=1")).ok();
    assert!(lab.read("d.raw") == lab.read("a.raw")[..1 << 20]);
}

#[test]
fn info_of_a_large_image_reads_little_of_it() {
    let (lab, server) = server();
    let (usual, small) = ("preallocation=metadata", "preallocation=metadata,cluster_size=4k");
    for (name, options, size) in [("large.qcow2", usual, "40G"), ("small.qcow2", small, "4G")] {
        lab.qemu(&format!("create -q -f qcow2 -o {options} {name} {size}")).ok();
        lab.qemu(&format!("bitmap --add {name} one")).ok();
        lab.qemu(&format!("snapshot -c first {name}")).ok();
        fs::rename(lab.path(name), server.file(name)).expect("moves");
        let len = fs::metadata(server.file(name)).expect("is there").len();
        assert!(len > 4 << 30, "{len}");
        let before = server.responses().len();
        let shown = lab.line(&format!("info {}", server.url(Site::Plain, name))).ok();
        assert!(shown.contains("first"), "{shown}");
        let responses = server.responses().split_off(before);
        let bytes: u64 = responses.iter().map(|(_, len)| len).sum();
        assert!(responses.len() <= 10 && bytes <= 1 << 20, "{responses:?}");
    }
}

#[test]
fn under_the_name_qemu_img_urls_are_read_too() {
    let (lab, server) = server();
    let url = server.url(Site::Plain, "a.qcow2");
    lab.as_qemu_img(&format!("convert -O raw {url} b.raw")).ok();
    assert!(lab.read("b.raw") == lab.read("a.raw"));
}

#[test]
fn certificates_are_verified() {
    let (lab, server) = server();
    let url = server.url(Site::Tls, "a.qcow2");
    let error = lab.line(&format!("info {url}")).fails(1);
    assert!(error.contains("invalid peer certificate"), "{error}");
    let ca = server.authority().display().to_string();
    lab.line(&format!("info --ca-bundle {ca} {url}")).ok();
    lab.line(&format!("info --insecure {url}")).ok();
    // The certificate is that of another name.
    let other = url.replace("localhost", "127.0.0.1");
    lab.line(&format!("info --ca-bundle {ca} {other}")).fails(1);
}

#[test]
fn passwords_are_taken_from_the_url_a_netrc_file_or_a_file_of_headers() {
    let (lab, server) = server();
    let url = server.url(Site::Password, "a.qcow2");
    let error = lab.line(&format!("info {url}")).fails(1);
    assert!(error.contains("401"), "{error}");
    let with_user = url.replace("//", "//user:pass%3Aword@");
    let shown = lab.line(&format!("info {with_user}")).ok();
    assert!(!shown.contains("pass") && shown.contains("***@localhost"), "{shown}");
    let error = lab.line(&format!("info {}", with_user.replace("word", "wrong"))).fails(1);
    assert!(!error.contains("wrong"), "{error}");
    fs::write(lab.path("netrc"), "machine localhost login user password pass:word")
        .expect("writes");
    let mut command = lab.command(crate::support::diskimg());
    let out = command.args(["info", &url]).env("NETRC", lab.path("netrc")).output().expect("runs");
    assert!(out.status.success(), "{out:?}");
    fs::write(lab.path("headers"), "Authorization: Basic dXNlcjpwYXNzOndvcmQ=\n").expect("writes");
    lab.line(&format!("info --header-file headers {url}")).ok();
}

#[test]
fn a_server_without_ranges_is_read_in_one_pass() {
    let (lab, server) = server();
    let url = server.url(Site::NoRanges, "a.qcow2");
    lab.line(&format!("convert -O raw {url} b.raw")).ok();
    assert!(lab.read("b.raw") == lab.read("a.raw"));
    assert_eq!(server.responses().len(), 1);
}

#[test]
fn a_backing_file_beside_the_image_is_read_only_if_that_is_allowed() {
    let (lab, server) = server();
    lab.qemu("create -q -f qcow2 -b a.qcow2 -F qcow2 over.qcow2").ok();
    lab.qemu("create -q -f qcow2 -u -b http://localhost/x -F qcow2 evil.qcow2 1M").ok();
    lab.qemu("create -q -f qcow2 -u -b /etc/passwd -F raw host.qcow2 1M").ok();
    for name in ["over.qcow2", "evil.qcow2", "host.qcow2"] {
        fs::copy(lab.path(name), server.file(name)).expect("copies");
    }
    let url = |name: &str| server.url(Site::Plain, name);
    let convert = |options: &str, name: &str| {
        lab.line(&format!("convert {options} -O raw {} b.raw", url(name)))
    };
    convert("--external-files same-dir", "over.qcow2").ok();
    assert!(lab.read("b.raw") == lab.read("a.raw"));
    convert("--external-files none", "over.qcow2").fails(1);
    for name in ["evil.qcow2", "host.qcow2"] {
        let error = convert("--external-files any", name).fails(1);
        assert!(error.contains("refused") || error.contains("relative path"), "{error}");
    }
}

#[test]
fn iso_images_are_read_and_compared() {
    let (lab, server) = server();
    fs::write(lab.path("one.txt"), "1").expect("writes");
    lab.line("iso create -o a.iso one.txt").ok();
    fs::copy(lab.path("a.iso"), server.file("a.iso")).expect("copies");
    let url = server.url(Site::Plain, "a.iso");
    assert!(lab.line(&format!("iso ls {url}")).ok().contains("one.txt"));
    assert_eq!(lab.line(&format!("iso cat {url} one.txt")).ok(), "1");
    lab.line(&format!("iso diff a.iso {url}")).ok();
}

#[test]
fn a_description_on_the_command_line_can_have_a_url_and_one_in_an_image_cannot() {
    let (lab, server) = server();
    let url = server.url(Site::Plain, "a.qcow2");
    let file = format!(r#"{{"driver":"http","url":"{url}","readahead":65536,"timeout":5}}"#);
    let json = format!(r#"json:{{"driver":"qcow2","file":{file}}}"#);
    let info = lab.run(["info", "--sandbox=require", "--output=json", &json]).ok();
    assert!(info.contains(r#""format": "qcow2""#), "{info}");
    let options = format!("driver=qcow2,file.driver=http,file.url={url}");
    lab.line(&format!("compare --image-opts {options} driver=qcow2,file.filename=a.qcow2")).ok();
    let answered = server.responses().len();
    lab.qemu("create -q -f qcow2 over.qcow2 1M").ok();
    let rebased = ["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", &json, "over.qcow2"];
    let rebased = lab.command("qemu-img").args(rebased).status().expect("runs");
    assert!(rebased.success());
    lab.line("convert -O raw --external-files=any --sandbox=off over.qcow2 b.raw").fails(1);
    assert_eq!(server.responses().len(), answered);
}

#[test]
fn secrets_in_names_and_descriptions_are_not_shown() {
    let (lab, server) = server();
    let url = server.url(Site::Plain, "a.qcow2").replace("http://", "http://u:SECRET@");
    let url = format!("{url}?sig=SECRET");
    let missing = "https://u:SECRET@127.0.0.1:1/x?sig=SECRET";
    for args in [
        ["convert", "--dry-run", &url, "b.raw"].as_slice(),
        &["ls", &url],
        &["info", &url],
        &["info", missing],
        &["info", "--image-opts", &format!("driver=raw,file.driver=https,file.url={missing}")],
        &["info", &format!(r#"json:{{"driver":"https","url":"{missing}"}}"#)],
        &["info", &format!(r#"json:{{"driver":"https","url":"{}"}}"#, missing.replace('/', "\\/"))],
    ] {
        let ran = lab.run(args);
        assert!(!format!("{}{}", ran.out, ran.err).contains("SECRET"), "{args:?}: {ran:?}");
    }
}

#[test]
fn inspect_copies_no_more_than_it_may() {
    let (lab, server) = server();
    let url = server.url(Site::NoRanges, "a.qcow2");
    let error = lab.line(&format!("inspect --max-size 4k {url}")).fails(1);
    assert!(error.contains("longer than 4096 bytes"), "{error}");
    lab.line(&format!("inspect --max-size 100M {url}")).ok();
}

#[test]
fn errors_name_the_server_and_the_reason() {
    let (lab, server) = server();
    let error = lab.line(&format!("info {}", server.url(Site::Plain, "nothing"))).fails(1);
    assert!(error.contains("404") && error.contains("localhost"), "{error}");
    let url = server.url(Site::Plain, "a.qcow2");
    let error = lab.line(&format!("info --no-private-addresses {url}")).fails(1);
    assert!(error.contains("is private"), "{error}");
    let error = lab.line("info http://name.invalid/x").fails(1);
    assert!(error.contains("name.invalid"), "{error}");
    // What is written is a file.
    for line in [format!("resize {url} +1M"), format!("convert a.qcow2 {url}")] {
        let error = lab.line(&line).fails(1);
        assert!(error.contains("http"), "{line}: {error}");
    }
}

#[test]
fn one_gibibyte_of_address_space_is_enough() {
    let (lab, server) = server();
    let url = server.url(Site::Tls, "a.qcow2");
    let ca = server.authority();
    let mut command = lab.command("prlimit");
    command
        .arg("--as=1073741824")
        .arg(crate::support::diskimg())
        .args(["convert", "--ca-bundle"])
        .arg(ca);
    let out = command.args(["-O", "raw", &url, "b.raw"]).output().expect("runs");
    assert!(out.status.success(), "{out:?}");
    assert!(lab.read("b.raw") == lab.read("a.raw"));
}

#[test]
fn commands_for_files_refuse_urls_in_plain_words() {
    let lab = Lab::new();
    lab.qemu("create -q -f qcow2 a.qcow2 1M").ok();
    for url in ["http://localhost/a", "s3://bucket/a", "nbd://localhost/a", "rbd:pool/a"] {
        for line in [
            "resize URL 1M",
            "rebase -u -b x -F raw URL",
            "commit URL",
            "snapshot -c s URL",
            "amend -o compat=1.1 URL",
            "bitmap --add URL b",
            "create URL 1M",
            "create -f qcow2 URL 1M",
            "bench URL",
            "bench -w -f raw URL",
            "check -r all URL",
            "check --backup copy -r all URL",
            "serve -w -k socket URL",
            "iso create -o URL .",
            "iso remaster -o URL a.iso",
            "map --html URL a.qcow2",
        ] {
            let error = lab.line(&line.replace("URL", url)).fails(1);
            let expected = format!("{url}: this must be a file or a device, not a URL");
            assert!(error.contains(&expected), "{line}: {error}");
        }
    }
    // A password in it is not shown.
    let error = lab.line("resize http://me:hunter2@host/a 1M").fails(1);
    assert!(error.contains("***@host") && !error.contains("hunter2"), "{error}");
    // An existing file is meant, whatever its name.
    fs::create_dir(lab.path("http:")).expect("creates");
    fs::copy(lab.path("a.qcow2"), lab.path("http:/a")).expect("copies");
    lab.line("resize http:/a 2M").ok();
}
