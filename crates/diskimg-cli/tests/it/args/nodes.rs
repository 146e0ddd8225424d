//! Images that are described by options (`--image-opts`) or JSON (`json:`), compared with qemu-img.

use crate::support::{Lab, Ran};
use serde_json::Value;

/// Runs of a command by diskimg and by qemu-img with the same image.
struct Pair {
    ours: Ran,
    theirs: Ran,
}

struct Images(Lab);

impl Images {
    fn new() -> Self {
        let lab = Lab::new();
        lab.raw("a.raw");
        lab.raw("a,b.raw");
        lab.qemu("convert -O qcow2 a.raw a.qcow2").ok();
        lab.qemu("convert -O vmdk a.raw a.vmdk").ok();
        lab.qemu("create -q -f qcow2 -b a.raw -F raw over.qcow2 2M").ok();
        std::fs::write(lab.path("other.raw"), vec![7; 1 << 20]).expect("writes");
        // A qcow2 image in the middle of a file.
        lab.qemu("create -q -f qcow2 -o data_file=data.raw data.qcow2 1M").ok();
        lab.qemu("convert -n -O qcow2 a.raw data.qcow2").ok();
        std::fs::copy(lab.path("other.raw"), lab.path("other-data.raw")).expect("copies");
        lab.qemu("create -q -f qcow2 empty.qcow2 1M").ok();
        lab.qemu(
            "create -q --object secret,id=s,data=x -f qcow2 -o encrypt.format=luks,\
             encrypt.key-secret=s,encrypt.iter-time=10 encrypted.qcow2 1M",
        )
        .ok();
        let embedded = [vec![0; 512], lab.read("a.qcow2"), vec![0; 512]].concat();
        std::fs::write(lab.path("embedded"), embedded).expect("writes");
        Self(lab)
    }

    /// Runs a command with the image as its first operand.
    fn run(&self, command: &str, image: &str, rest: &[&str]) -> Pair {
        let args: Vec<_> = command.split(' ').chain([image]).chain(rest.iter().copied()).collect();
        let qemu = self.0.command("qemu-img").args(&args).output().expect("runs");
        Pair {
            ours: self.0.run(&args),
            theirs: Ran {
                code: qemu.status.code(),
                out: String::from_utf8(qemu.stdout).expect("UTF-8"),
                err: String::from_utf8(qemu.stderr).expect("UTF-8"),
            },
        }
    }
}

const JSON: &[&str] = &[
    r#"json:{"driver":"qcow2","file.filename":"a.qcow2"}"#,
    r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"a.qcow2"}}"#,
    r#"json:{"file":{"filename":"a.qcow2"}}"#,
    r#"json:{'driver':'qcow2','file':{'filename':'a.qcow2'}}  "#,
    r#"json:{"driver":"raw","file":{"filename":"a.qcow2"}}"#,
    r#"json:{"driver":"vmdk","file":{"filename":"a.vmdk"}}"#,
    r#"json:{"driver":"raw","offset":65536,"size":262144,"file":{"filename":"a.raw"}}"#,
    r#"json:{"driver":"raw","offset":"64k","size":"256k","file":{"filename":"a.raw"}}"#,
    r#"json:{"driver":"raw","offset":512,"file":{"driver":"file","filename":"a.raw"}}"#,
    r#"json:{"driver":"raw","size":4096,"file":{"filename":"a.raw"}}"#,
    r#"json:{"file":{"driver":"raw","offset":512,"size":458752,"file":{"filename":"embedded"}}}"#,
    r#"json:{"driver":"qcow2","backing":null,"file":{"filename":"over.qcow2"}}"#,
    r#"json:{"driver":"raw","backing":null,"file":{"filename":"a.raw"}}"#,
    r#"json:{"driver":"qcow2","read-only":true,"node-name":"x","lazy-refcounts":true,"file":{"filename":"a.qcow2","locking":"off","aio":"threads"}}"#,
    r#"json:{"driver":"file","filename":"a.raw"}"#,
    r#"json:{"driver":"raw","node-name":"a012345678901234567890123456789","file":{"filename":"a.raw"}}"#,
];

/// Descriptions whose other files `info` does not open.
const INFO: &[&str] = &[
    r#"json:{"driver":"qcow2","file":{"filename":"data.qcow2"},"data-file":{"filename":"missing"}}"#,
    r#"json:{"driver":"qcow2","file":{"filename":"data.qcow2"},"data-file":"x"}"#,
    r#"json:{"driver":"qcow2","file":{"filename":"data.qcow2"},"data-file":null}"#,
    r#"json:{"driver":"qcow2","file":{"filename":"encrypted.qcow2"},"encrypt.key-secret":"zz"}"#,
    r#"json:{"driver":"qcow2","file":{"filename":"encrypted.qcow2"},"encrypt":{"format":"luks"}}"#,
    r#"json:{"driver":"qcow2","file":{"filename":"a.qcow2"},"encrypt.key-secret":"zz"}"#,
];

/// Data files and nodes that are referred to by their names, which `info` does not open.
const CHILDREN: &[&str] = &[
    r#"json:{"driver":"qcow2","file":{"filename":"data.qcow2"},"data-file":{"driver":"file","filename":"other-data.raw"}}"#,
    r#"json:{"driver":"qcow2","file":{"filename":"data.qcow2"},"data-file":{"filename":"other-data.raw"}}"#,
    r#"json:{"driver":"qcow2","file":{"filename":"data.qcow2"},"data-file":{"driver":"raw","file":{"filename":"other-data.raw"}}}"#,
    r#"json:{"driver":"qcow2","file":{"filename":"data.qcow2"},"data-file":{"driver":"raw","offset":512,"file":{"filename":"other-data.raw"}}}"#,
    r#"json:{"driver":"qcow2","file":{"filename":"data.qcow2"},"data-file":{"driver":"qcow2","file":{"filename":"a.qcow2"}}}"#,
    r#"json:{"driver":"qcow2","file":{"filename":"data.qcow2"},"data-file":null}"#,
    r#"json:{"driver":"qcow2","file":{"filename":"data.qcow2","node-name":"f"},"data-file":"f"}"#,
    r#"json:{"driver":"qcow2","file":{"filename":"over.qcow2","node-name":"f"},"backing":"f"}"#,
    r#"json:{"driver":"qcow2","file":{"filename":"empty.qcow2","node-name":"f"},"backing":{"driver":"raw","file":"f"}}"#,
    r#"json:{"driver":"qcow2","file":{"driver":"raw","node-name":"r","file":{"filename":"over.qcow2"}},"backing":"r"}"#,
    r#"json:{"driver":"qcow2","file":{"filename":"data.qcow2"},"data-file":{"filename":"other-data.raw","node-name":"d"},"backing":"d"}"#,
    r#"json:{"driver":"qcow2","encrypt.key-secret":"zz","file":{"filename":"over.qcow2"}}"#,
];

const OPTIONS: &[&str] = &[
    "driver=qcow2,file.filename=a.qcow2",
    "file.filename=a.qcow2",
    "driver=qcow2,file.driver=file,file.filename=a.qcow2",
    "driver=raw,file.filename=a,,b.raw",
    "driver=raw,offset=512,size=4k,file.filename=a.raw",
    "driver=raw,file.filename=x,file.filename=a.raw",
    "driver=qcow2,file.filename=a.qcow2,cache.direct=off,discard=unmap,detect-zeroes=off",
];

/// Descriptions that are errors when the image is read, and the sentence that both programs print.
const READ_ERRORS: &[(&str, &str)] = &[
    (
        r#"json:{"driver":"qcow2","file":{"filename":"data.qcow2"},"data-file":"x"}"#,
        "Cannot find device='x' nor node-name='x'",
    ),
    (
        r#"json:{"driver":"qcow2","file":{"filename":"data.qcow2"},"data-file":""}"#,
        "Cannot find device='' nor node-name=''",
    ),
    (
        r#"json:{"driver":"qcow2","file":{"filename":"data.qcow2"},"data-file":{"filename":"missing"}}"#,
        "No such file or directory",
    ),
    (
        r#"json:{"driver":"qcow2","file":{"filename":"data.qcow2"},"data-file":{"filename":"other.raw","zz":1}}"#,
        "Block protocol 'file' doesn't support the option 'zz'",
    ),
    (
        r#"json:{"driver":"qcow2","file":{"filename":"a.qcow2"},"data-file":{"filename":"other.raw"}}"#,
        "'data-file' can only be set for images with an external data file",
    ),
    (
        r#"json:{"driver":"qcow2","file":{"filename":"over.qcow2"},"backing":"f"}"#,
        "Cannot find device='f' nor node-name='f'",
    ),
    (
        r#"json:{"driver":"qcow2","file":{"filename":"over.qcow2","node-name":"f"},"backing":{"driver":"raw","file":"f"}}"#,
        "Cannot reference an existing block device with additional options or a new filename",
    ),
    (
        r#"json:{"driver":"qcow2","file":{"filename":"encrypted.qcow2"},"encrypt.key-secret":"zz"}"#,
        "No secret with id 'zz'",
    ),
];

/// Descriptions that are errors, and the sentence that both programs print.
const ERRORS: &[(&str, &str)] = &[
    (r#"json:{"driver":"qcow2""#, "Could not parse the JSON options: JSON parse error"),
    (r#"json:{"driver":"raw","driver":"raw"}"#, "JSON parse error, duplicate key"),
    ("json:[1]", "Invalid JSON object given"),
    (r#"json:{"driver":"nosuch","file":{"filename":"a.raw"}}"#, "Unknown driver 'nosuch'"),
    (
        r#"json:{"driver":"raw","nosuch":1,"file":{"filename":"a.raw"}}"#,
        "Block format 'raw' does not support the option 'nosuch'",
    ),
    (
        r#"json:{"driver":"qcow2","offset":1,"file":{"filename":"a.qcow2"}}"#,
        "Block format 'qcow2' does not support the option 'offset'",
    ),
    (
        r#"json:{"driver":"raw","file":{"filename":"a.raw","nosuch":1}}"#,
        "Block protocol 'file' doesn't support the option 'nosuch'",
    ),
    (r#"json:{"driver":"raw","file":"a.raw"}"#, "Cannot find device='a.raw' nor node-name='a.raw'"),
    (r#"json:{"driver":"raw"}"#, "A block device must be specified for \"file\""),
    (r#"json:{"filename":"a.raw"}"#, "Must specify either driver or file"),
    (
        r#"json:{"driver":"raw","file":{"driver":"file"}}"#,
        "The 'file' block driver requires a file name",
    ),
    (
        r#"json:{"driver":"raw","offset":2097152,"file":{"filename":"a.raw"}}"#,
        "Offset (2097152) cannot be greater than size of the containing file (1048576)",
    ),
    (
        r#"json:{"driver":"raw","offset":512,"size":1048576,"file":{"filename":"a.raw"}}"#,
        "The sum of offset (512) and size (1048576) has to be smaller or equal",
    ),
    (
        r#"json:{"driver":"raw","size":100,"file":{"filename":"a.raw"}}"#,
        "Specified size is not multiple of 512",
    ),
    (
        r#"json:{"driver":"raw","offset":"x","file":{"filename":"a.raw"}}"#,
        "Parameter 'offset' expects a non-negative number below 2^64",
    ),
    (r#"json:{"driver":"raw","file":{"filename":"missing"}}"#, "No such file or directory"),
    (r#"json:{"driver":"raw","file":""}"#, "Cannot find device='' nor node-name=''"),
    (r#"json:{"driver":"raw","file":null}"#, "A block device must be specified for \"file\""),
    (
        r#"json:{"driver":"raw","data-file":"x","file":{"filename":"a.raw"}}"#,
        "Block format 'raw' does not support the option 'data-file'",
    ),
    (
        r#"json:{"driver":"qcow2","key-secret":"x","file":{"filename":"a.qcow2"}}"#,
        "Block format 'qcow2' does not support the option 'key-secret'",
    ),
    (
        r#"json:{"driver":"raw","encrypt.key-secret":"x","file":{"filename":"a.qcow2"}}"#,
        "Block format 'raw' does not support the option 'encrypt.key-secret'",
    ),
    (
        r#"json:{"driver":"qcow2","encrypt.format":"luks","file":{"filename":"a.qcow2"}}"#,
        "No encryption in image header, but options specified format 'luks'",
    ),
    (
        r#"json:{"driver":"qcow2","encrypt.format":"aes","file":{"filename":"encrypted.qcow2"}}"#,
        "Header reported 'luks' encryption format but options specify 'aes'",
    ),
    (
        r#"json:{"driver":"qcow2","encrypt.zz":1,"file":{"filename":"encrypted.qcow2"}}"#,
        "Parameter 'zz' is unexpected",
    ),
    (
        r#"json:{"driver":"qcow2","backing":"f","file":{"filename":"over.qcow2","node-name":"f"}}"#,
        "Block format 'qcow2' does not support the option 'backing'",
    ),
    (
        r#"json:{"driver":"raw","node-name":"x","file":{"filename":"a.raw","node-name":"x"}}"#,
        "Duplicate nodes with node-name='x'",
    ),
    (
        r#"json:{"driver":"raw","node-name":"9x","file":{"filename":"a.raw"}}"#,
        "Invalid node-name: '9x'",
    ),
    (
        r#"json:{"driver":"raw","node-name":"","file":{"filename":"a.raw"}}"#,
        "Invalid node-name: ''",
    ),
    (
        r#"json:{"driver":"raw","node-name":"a0123456789012345678901234567890","file":{"filename":"a.raw"}}"#,
        "Node name too long",
    ),
];

#[test]
fn every_spelling_shows_what_qemu_img_shows() {
    let images = Images::new();
    let json = JSON.iter().chain(INFO).map(|image| ("info --output=json", *image));
    let options = OPTIONS.iter().map(|image| ("info --output=json --image-opts", *image));
    for (command, image) in json.chain(options) {
        let Pair { ours, theirs } = images.run(command, image, &[]);
        let parsed = |ran: Ran| -> Value { serde_json::from_str(&ran.ok()).expect(image) };
        let (ours, theirs) = (parsed(ours), parsed(theirs));
        assert_eq!(ours["virtual-size"], theirs["virtual-size"], "{image}");
        assert_eq!(ours["backing-filename"], theirs["backing-filename"], "{image}");
        if theirs["format"] != "file" {
            assert_eq!(ours["format"], theirs["format"], "{image}");
        }
        // Numbers may be given as text; the order of keys is that of QEMU's hash table.
        let name = |info: &Value| {
            let name = info["filename"].as_str().expect("text").to_owned();
            match name.strip_prefix("json:") {
                Some(json) => as_text(serde_json::from_str(json).expect("JSON")),
                None => Value::String(name),
            }
        };
        assert_eq!(name(&ours), name(&theirs), "{image}");
    }
}

/// Converts numbers and sizes to text of decimal digits.
fn as_text(value: Value) -> Value {
    match value {
        Value::Number(number) => Value::String(number.to_string()),
        Value::String(text) => match diskimg::parse_size(&text) {
            Some(size) => Value::String(size.to_string()),
            None => Value::String(text),
        },
        Value::Object(members) => {
            Value::Object(members.into_iter().map(|(k, v)| (k, as_text(v))).collect())
        }
        other => other,
    }
}

#[test]
fn every_spelling_has_the_bytes_that_qemu_img_reads() {
    let images = Images::new();
    let backing = [
        r#"json:{"driver":"qcow2","file":{"filename":"over.qcow2"},"backing":{"driver":"raw","file":{"filename":"other.raw"}}}"#,
        r#"json:{"driver":"qcow2","file":{"filename":"over.qcow2"},"backing":{"driver":"raw","offset":512,"size":65536,"file":{"filename":"a.raw"}}}"#,
        r#"json:{"driver":"raw","file":{"driver":"qcow2","file":{"filename":"a.qcow2"}}}"#,
    ];
    let images_of_nodes = JSON.iter().chain(&backing).chain(CHILDREN);
    let json = images_of_nodes.map(|image| ("convert -O raw", *image));
    let options = OPTIONS.iter().map(|image| ("convert -O raw --image-opts", *image));
    for (command, image) in json.chain(options) {
        let read = |image: &str| {
            let Pair { ours, theirs } = images.run(command, image, &["theirs.raw"]);
            theirs.ok();
            ours.ok();
        };
        // Both write the same file, first diskimg and then qemu-img.
        read(image);
        let theirs = images.0.read("theirs.raw");
        images.0.run(command.split(' ').chain([image, "ours.raw"])).ok();
        let ours = images.0.read("ours.raw");
        // qemu-img rounds the size up to a whole sector.
        assert_eq!(ours.len().next_multiple_of(512), theirs.len(), "{image}");
        assert!(ours[..] == theirs[..ours.len()], "{image}");
    }
    for (command, rest) in [("map", None), ("measure -O qcow2", None), ("check", None)] {
        let rest: Vec<&str> = rest.into_iter().collect();
        let pair = images.run(command, JSON[0], &rest);
        assert_eq!((pair.ours.code, pair.theirs.code), (Some(0), Some(0)), "{command}");
    }
    let pair = images.run("compare", JSON[0], &["a.raw"]);
    assert_eq!((pair.ours.code, pair.theirs.code), (Some(0), Some(0)));
}

#[test]
fn errors_have_qemus_sentences() {
    let images = Images::new();
    let info = ERRORS.iter().map(|error| ("info", error));
    for (command, (image, sentence)) in info.chain(READ_ERRORS.iter().map(|error| ("map", error))) {
        let Pair { ours, theirs } = images.run(command, image, &[]);
        let theirs = theirs.fails(1);
        assert!(theirs.contains(sentence), "{image}: qemu-img: {theirs}");
        let ours = ours.fails(1);
        // An error of the image itself names its file.
        let named = ours.contains(image) || ours.contains(".qcow2");
        assert!(ours.contains(sentence) && named, "{image}: {ours}");
    }
    let options = [
        ("a.qcow2", "Cannot find device='a.qcow2' nor node-name='a.qcow2'"),
        ("driver=raw,nosuch=1,file.filename=a.raw", "does not support the option 'nosuch'"),
        ("driver=raw,id=x,file.filename=a.raw", "does not support the option 'id'"),
        (
            "driver=qcow2,file.filename=over.qcow2,backing.driver=raw",
            "Block format 'qcow2' does not support the option 'backing.driver'",
        ),
    ];
    for (image, sentence) in options {
        let Pair { ours, theirs } = images.run("info --image-opts", image, &[]);
        let (ours, theirs) = (ours.fails(1), theirs.fails(1));
        assert!(ours.contains(sentence) && theirs.contains(sentence), "{ours}{theirs}");
    }
    let pair = images.run("info --image-opts -f qcow2", "file.filename=a.qcow2", &[]);
    let sentence = "--image-opts and --format are mutually exclusive";
    assert!(pair.ours.fails(1).contains(sentence) && pair.theirs.fails(1).contains(sentence));
    let missing = "driver=qcow2,file.filename=over.qcow2,backing.driver=raw,\
                   backing.file.filename=missing";
    let Pair { ours, theirs } = images.run("map --image-opts", missing, &[]);
    assert!(ours.fails(1).contains("backing file: ") && theirs.code == Some(1));
}

#[test]
fn a_format_that_is_named_overrides_the_driver() {
    let images = Images::new();
    let image = r#"json:{"driver":"raw","file.filename":"a.qcow2"}"#;
    let Pair { ours, theirs } = images.run("info -f qcow2 --output=json", image, &[]);
    for ran in [ours, theirs] {
        let info: Value = serde_json::from_str(&ran.ok()).expect("JSON");
        assert_eq!(info["format"], "qcow2");
    }
}

#[test]
fn objects_are_checked_as_by_qemu_img() {
    let lab = Lab::new();
    lab.raw("a.raw");
    for objects in [
        "--object secret,id=s,data=x",
        "--object secret,id=s,file=a.raw --object secret,id=t,data=eQ==,format=base64",
        "--object secret,id=s",
        "--object secret,data=x",
        "--object secret,id=s,data=x,zz=1",
        "--object nosuch,id=s",
        "--object secret,id=s,data=x --object secret,id=s,data=x",
        "--object secret,id=s,data=x,file=a.raw",
        "--object secret,id=9s,data=x",
        "--object secret,id=s,data=x,format=nosuch",
        "--object secret,id=s,data=!!,format=base64",
        "--object secret,id=s,data=eA==,format=base64",
        "--object secret,id=s,data=,format=base64",
        "--object secret,id=s,data=x,iv=AAAA",
        "--object secret,id=s,data=x,keyid=k",
        "--object {\"qom-type\":\"secret\",\"id\":\"s\",\"data\":\"x\"}",
        "--object {\"qom-type\":\"secret\",\"id\":\"s\",\"data\":\"x\",\"zz\":1}",
        "--object {\"qom-type\":\"nosuch\",\"id\":\"s\"}",
    ] {
        let line = format!("info -f raw {objects} a.raw");
        let (ours, theirs) = (lab.line(&line), lab.qemu(&line));
        assert_eq!(ours.code, theirs.code, "{line}: {} {}", ours.err, theirs.err);
        let sentence = theirs.err.lines().next().unwrap_or_default();
        let sentence = sentence.strip_prefix("qemu-img: ").unwrap_or(sentence);
        assert!(ours.err.contains(sentence), "{line}: {} {}", ours.err, theirs.err);
    }
}

#[test]
fn a_secret_is_read_from_its_file_before_files_are_restricted() {
    let lab = Lab::new();
    lab.raw("a.raw");
    for command in ["info -f raw", "map -f raw", "check -f raw"] {
        let line = format!("{command} --sandbox=on --object secret,id=s,file=missing a.raw");
        let error = lab.line(&line).fails(1);
        assert!(error.contains("Unable to read missing: "), "{command}: {error}");
    }
    std::fs::write(lab.path("key"), "x").expect("writes");
    lab.line("convert -f raw -O raw --object secret,id=s,file=key a.raw b.raw").ok();
}

/// Decryption is not supported yet.
#[test]
fn an_encrypted_image_with_its_secret_is_a_clear_error() {
    let images = Images::new();
    let image = "driver=qcow2,file.filename=encrypted.qcow2,encrypt.key-secret=s";
    let objects = ["--object", "secret,id=s,data=x", "--image-opts"];
    let args = |command| [&[command][..], &objects, &[image]].concat();
    images.0.run(args("info")).ok();
    let error = images.0.run(args("map")).fails(1);
    assert!(error.contains("decryption is not supported"), "{error}");
}

#[test]
fn an_output_replaces_no_file_of_a_nested_node() {
    let images = Images::new();
    let before = images.0.read("a.qcow2");
    for image in [
        r#"json:{"driver":"raw","file":{"driver":"qcow2","file":{"filename":"a.qcow2"}}}"#,
        r#"json:{"driver":"raw","size":512,"file":{"driver":"qcow2","file":{"filename":"a.qcow2"}}}"#,
        r#"json:{"driver":"qcow2","file":{"filename":"over.qcow2"},"backing":{"file":{"filename":"a.qcow2"}}}"#,
    ] {
        let error = images.0.run(["convert", "-O", "raw", image, "a.qcow2"]).fails(1);
        assert!(error.contains("source"), "{image}: {error}");
        assert!(images.0.read("a.qcow2") == before, "{image}");
    }
}

#[test]
fn options_that_change_what_is_read_are_not_ignored() {
    let images = Images::new();
    let file = r#"json:{"driver":"file","filename":"a.qcow2"}"#;
    let Pair { ours, theirs } = images.run("info -f qcow2", file, &[]);
    let sentence = "A block device must be specified for \"file\"";
    assert!(theirs.fails(1).contains(sentence));
    assert!(ours.fails(1).contains(sentence));
    for image in [
        r#"json:{"driver":"qcow2","file":{"filename":"a.qcow2"},"backing":{}}"#,
        r#"json:{"driver":"qcow2","file":{"filename":"a.qcow2"},"force-share":"maybe"}"#,
        r#"json:{"driver":"qcow2","file":{"filename":"a.qcow2","locking":"maybe"}}"#,
        r#"json:{"driver":"qcow2","file":{"filename":"a.qcow2"},"key-secret":"s"}"#,
        r#"json:{"driver":"qcow2","file":{"driver":"nbd","host":"localhost"}}"#,
    ] {
        images.0.run(["info", image]).fails(1);
    }
}

/// The parent of a VMDK must have the content ID that the child records, also if it is explicit.
#[test]
fn an_explicit_parent_with_another_content_id_is_an_error() {
    let images = Images::new();
    images.0.qemu("create -q -f vmdk -b a.vmdk -F vmdk child.vmdk").ok();
    std::fs::copy(images.0.path("a.vmdk"), images.0.path("other.vmdk")).expect("copies");
    let image = |parent: &str| {
        format!(
            r#"json:{{"driver":"vmdk","file":{{"filename":"child.vmdk"}},"backing":{{"driver":"vmdk","file":{{"filename":"{parent}"}}}}}}"#
        )
    };
    images.0.run(["convert", "-O", "raw", &image("other.vmdk"), "out.raw"]).ok();
    images.0.qemu("convert -f raw -O vmdk other.raw other.vmdk").ok();
    let error = images.0.run(["convert", "-O", "raw", &image("other.vmdk"), "out.raw"]).fails(1);
    assert!(error.contains("content ID"), "{error}");
    let forced = ["convert", "--ignore-cid", "-O", "raw", &image("other.vmdk"), "out.raw"];
    images.0.run(forced).ok();
}

/// A name in an image is a path under the policy, whatever it looks like.
#[test]
fn json_in_a_name_that_an_image_records_is_refused() {
    let images = Images::new();
    let name = r#"json:{"driver":"raw","file":{"filename":"other.raw"}}"#;
    let args = ["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", name, "evil.qcow2", "1M"];
    let made = images.0.command("qemu-img").args(args).status().expect("runs");
    assert!(made.success());
    let error = images.0.run(["convert", "-O", "raw", "evil.qcow2", "out.raw"]).fails(1);
    assert!(error.contains("is not a file name"), "{error}");
}

#[test]
fn check_accepts_an_explicit_backing_file() {
    let images = Images::new();
    let json = r#"json:{"driver":"qcow2","file":{"filename":"over.qcow2"},"backing":{"driver":"raw","file":{"filename":"other.raw"}}}"#;
    let options = "driver=qcow2,file.filename=over.qcow2,backing.driver=raw,\
                   backing.file.filename=other.raw";
    for (command, image) in [("check", json), ("check --image-opts", options)] {
        let Pair { ours, theirs } = images.run(command, image, &[]);
        assert_eq!((ours.code, theirs.code), (Some(0), Some(0)), "{image}: {}", ours.err);
    }
}

#[test]
fn the_existing_target_of_a_conversion_can_be_described() {
    let images = Images::new();
    let convert = |options: &str, target: &str| {
        let line = format!("convert -f raw {options} other.raw");
        let args: Vec<_> = line.split(' ').chain([target]).collect();
        images.0.run(args)
    };
    for (options, target) in [
        ("-n --target-image-opts", "driver=qcow2,file.filename=empty.qcow2"),
        ("-n --target-image-opts", "driver=qcow2,discard=unmap,file.filename=over.qcow2"),
        ("-n", r#"json:{"driver":"qcow2","file":{"filename":"data.qcow2"}}"#),
    ] {
        convert(options, target).ok();
        let name = target.split(['=', '"']).find(|part| part.ends_with(".qcow2")).expect("a name");
        let size = images.0.qemu(&format!("info {name}")).ok().contains("2 MiB");
        let compared = images.0.qemu(&format!("compare -f qcow2 -F raw {name} other.raw"));
        assert_eq!(compared.code, Some(0), "{name}: {}{}", compared.out, compared.err);
        assert_eq!(size, name == "over.qcow2");
    }
    for (options, target, message) in [
        ("--target-image-opts", "driver=qcow2,file.filename=empty.qcow2", "requires use of -n"),
        ("-n --target-image-opts", "driver=raw,offset=512,file.filename=a.raw", "one format over"),
        ("-n --target-image-opts", "driver=raw,file.filename=missing.raw", "missing.raw"),
    ] {
        let error = convert(options, target).fails(1);
        assert!(error.contains(message), "{target}: {error}");
    }
}

#[test]
fn what_is_described_as_read_only_is_not_modified() {
    let images = Images::new();
    let before = images.0.read("empty.qcow2");
    let description = "driver=qcow2,file.filename=empty.qcow2";
    for option in ["read-only=on", "file.read-only=on"] {
        let image = format!("{description},{option}");
        for line in ["resize --image-opts X 2M", "check -r all --image-opts X"] {
            let args: Vec<_> =
                line.split(' ').map(|w| if w == "X" { &*image } else { w }).collect();
            let ran = images.0.run(args);
            assert!(ran.fails(1).contains("Block node is read-only"), "{line}");
        }
    }
    let json = r#"json:{"driver":"qcow2","file":{"filename":"empty.qcow2"},"file.filename":"b"}"#;
    let error = images.0.run(["resize", json, "2M"]).fails(1);
    assert!(error.contains("'file.filename' is given twice"), "{error}");
    assert!(images.0.read("empty.qcow2") == before);
}

#[test]
fn a_disk_that_stores_nothing_reads_as_zeros() {
    let lab = Lab::new();
    let zeros = r#"json:{"driver":"null-co","size":1048576,"read-zeroes":true}"#;
    for image in [
        zeros,
        r#"json:{"driver":"null-aio","size":"1M"}"#,
        r#"json:{"driver":"raw","file":{"driver":"null-co","size":1048576}}"#,
        r#"json:{"driver":"raw","size":1048576,"file":{"driver":"null-co"}}"#,
    ] {
        lab.run(["convert", "-O", "raw", image, "a.raw"]).ok();
        assert_eq!(lab.read("a.raw"), vec![0; 1 << 20], "{image}");
    }
    let map: Value =
        serde_json::from_str(&lab.run(["map", "--output=json", zeros]).ok()).expect("JSON");
    let qemu = lab.command("qemu-img").args(["map", "--output=json", zeros]).output();
    let theirs: Value = serde_json::from_slice(&qemu.expect("runs").stdout).expect("JSON");
    assert_eq!(map, theirs);
    let info = lab.run(["info", zeros]).ok();
    assert!(info.contains("virtual size: 1 MiB (1048576 bytes)"), "{info}");
    for (key, message) in [
        (r#""latency-ns":1"#, "doesn't support the option 'latency-ns'"),
        (r#""size":-1"#, "expects a non-negative number"),
        (r#""read-zeroes":"x""#, "expects 'on' or 'off'"),
    ] {
        let error = lab.run(["info", &format!(r#"json:{{"driver":"null-co",{key}}}"#)]).fails(1);
        assert!(error.contains(message), "{error}");
    }
}

/// A description of `file` with errors.
fn faulty(file: &str, faults: &[&str]) -> String {
    let faults = faults.join(",");
    format!(r#"json:{{"driver":"blkdebug","image":{file},"inject-error":[{faults}]}}"#)
}

#[test]
fn faults_are_salvaged_by_sectors_as_by_qemu_img() {
    let lab = Lab::new();
    std::fs::write(lab.path("disk.raw"), vec![42; 1 << 20]).expect("writes");
    lab.qemu("convert -O qcow2 disk.raw disk.qcow2").ok();
    let read =
        |sector: u64| format!(r#"{{"event":"none","iotype":"read","errno":5,"sector":{sector}}}"#);
    let lost = [100, 1000, 1001, 1002, 2047];
    let mut faults: Vec<_> = lost.map(read).to_vec();
    faults.push(r#"{"event":"none","iotype":"block-status","sector":500}"#.into());
    let faults: Vec<_> = faults.iter().map(String::as_str).collect();
    let mut expected = vec![42; 1 << 20];
    for sector in lost {
        expected[sector as usize * 512..][..512].fill(0);
    }
    for file in [
        r#"{"driver":"file","filename":"disk.raw"}"#,
        r#"{"driver":"qcow2","file":{"filename":"disk.qcow2"}}"#,
    ] {
        let image = faulty(file, &faults);
        let ran = lab.run(["convert", "--salvage", "-O", "raw", &image, "ours.raw"]);
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        assert_eq!(ran.err.matches("(512 bytes replaced with zeros)").count(), lost.len());
        assert!(lab.read("ours.raw") == expected, "{file}");
        let theirs = ["convert", "--salvage", "-O", "raw", &image, "theirs.raw"];
        assert!(lab.command("qemu-img").args(theirs).status().expect("runs").success());
        assert!(lab.read("theirs.raw") == expected, "{file}");
        let error = lab.run(["convert", "-O", "raw", &image, "none.raw"]).fails(1);
        assert!(error.contains("Input/output error"), "{error}");
        assert!(!lab.path("none.raw").exists());
        // What cannot be told is not a hole.
        let image = faulty(file, &[r#"{"event":"none","iotype":"block-status"}"#]);
        lab.run(["convert", "-O", "raw", &image, "ours.raw"]).ok();
        assert!(lab.read("ours.raw") == vec![42; 1 << 20], "{file}");
        let image = faulty(file, &[r#"{"event":"none","iotype":"read","once":true}"#]);
        lab.run(["convert", "-O", "raw", &image, "none.raw"]).fails(1);
    }
    let file = r#"{"filename":"disk.raw"}"#;
    for (fault, message) in [
        (r#"{"event":"write_aio"}"#, "the event 'write_aio' of blkdebug is not supported"),
        (r#"{"event":"none","iotype":"write"}"#, "the iotype 'write' of blkdebug"),
        (r#"{"event":"none","iotype":"read","state":1}"#, "'inject-error.0.state'"),
        (r#"{"event":"none","iotype":"read","errno":"x"}"#, "'errno' expects a number"),
    ] {
        let error = lab.run(["info", &faulty(file, &[fault])]).fails(1);
        assert!(error.contains(message), "{error}");
    }
    let error = lab.run(["info", r#"json:{"driver":"blkdebug","align":512}"#]).fails(1);
    assert!(error.contains("must be specified for \"image\""), "{error}");
}
