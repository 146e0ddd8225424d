//! VMDK descriptors, OVF descriptors, cue sheets, JSON.

use super::require_linear_open;
use diskimg::iso::{IsoImage, IsoOptions};
use diskimg::open::Node;
use diskimg::storage::source::FileSource;
use diskimg::{Format, Limits};
use diskimg_testkit::growth::require_linear_time;
use std::fmt::Write as _;
use std::sync::Arc;

/// Returns `part` as often as fits in `bytes` bytes; `{n}` is replaced by a number.
fn repeated(part: &str, bytes: usize) -> String {
    let mut text = String::with_capacity(bytes);
    let mut n = 0u32;
    while text.len() + part.len() < bytes {
        text += &part.replace("{n}", &n.to_string());
        n += 1;
    }
    text
}

#[test]
fn the_time_for_a_vmdk_descriptor_is_linear() {
    let head = "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n\
                createType=\"custom\"\n";
    let max = Limits::default().descriptor_bytes as usize;
    for (what, start, part, end) in [
        ("quotes in a line", "RW 8 FLAT \"", "\"", "\n"),
        ("quotes and blanks in a line", "RW 8 FLAT \"", "\" ", "x\n"),
        ("quotes and digits in a line", "RW 8 FLAT \"", "\" 1", "x\n"),
        ("quotes and number signs in a line", "RW 8 FLAT \"", "\"#", "x\n"),
        ("blanks after a quote", "RW 8 FLAT \"a\"", " ", "x\n"),
        ("a long name", "RW 8 FLAT \"", "a", "\"\n"),
        ("a long word", "", "x", "\n"),
        ("a long comment", "#", "x", "\n"),
        ("extents", "", "RW 8 ZERO\n", ""),
        ("extents with names", "", "RW 8 FLAT \"a{n}\" 0\n", ""),
        ("extents with quotes", "", "RW 8 FLAT \"\"\"\"\" 0\n", ""),
        ("the same key", "", "CID=12345678\n", ""),
        ("different keys", "", "key{n}=1\n", ""),
        ("the disk database", "", "ddb.key{n}=\"1\"\n", ""),
        ("carriage returns", "", "\r", "\n"),
        ("lines after a zero byte", "\0", "RX 8 \"\n", ""),
        ("extents after a zero byte", "\0", "RW 8 FLAT \"\"\"\n", ""),
        ("text that is not UTF-8", "#", "\u{fffd}", "\n"),
    ] {
        require_linear_open(what, Format::Vmdk, max, |bytes| {
            let len = bytes.saturating_sub(head.len() + start.len() + end.len());
            let text = format!("{head}{start}{}{end}", repeated(part, len));
            // A byte that UTF-8 does not have, in place of a character of three bytes.
            let text = text.into_bytes();
            let invalid = "\u{fffd}".as_bytes();
            match part == "\u{fffd}" {
                true => text
                    .chunks(3)
                    .flat_map(|c| if c == invalid { b"\xff\xfe\xe9" } else { c }.to_vec())
                    .collect(),
                false => text,
            }
        });
    }
}

#[test]
fn the_time_for_an_ovf_descriptor_is_linear() {
    const OVF: &str = "http://schemas.dmtf.org/ovf/envelope/1";
    let max = Limits::default().ovf_bytes as usize / 2;
    let disk =
        "<DiskSection><Disk ovf:diskId='d' ovf:capacity='8' ovf:fileRef='f0'/></DiskSection>";
    let many = "a{n}='' ".repeat(200);
    let namespaces: String = (0..250).map(|n| format!(" xmlns:n{n}='u{n}'")).collect();
    for (what, references, start, part, end) in [
        ("files", "<File ovf:id='f{n}' ovf:href='a{n}'/>", "", "", ""),
        ("files with one ID", "<File ovf:id='f1' ovf:href='a{n}'/>", "", "", ""),
        ("elements with prefixes", "", "", "<o:x o:y='1'/>", ""),
        ("elements without", "", "", "<x y='1'/>", ""),
        ("attributes", "", "", &*format!("<x {many}/>"), ""),
        ("texts", "", "", "a<b/>", ""),
        ("a long text", "", "<b>", "x", "</b>"),
        ("character references", "", "<b>", "&#65;", "</b>"),
        ("predefined entities", "", "<b a='", "&lt;", "'/>"),
        ("comments", "", "", "<!-- x -->", ""),
        ("an unfinished comment", "", "<!-- ", "<!--", ""),
        ("quotes", "", "<b ", "\"", ""),
        ("undeclared prefixes", "", "", "<p{n}:x q{n}:y='1'/>", ""),
        ("a long name of a file", "", "", "", ""),
        ("a long unit", "", "<x capacityAllocationUnits='", "byte * ", "'/>"),
    ] {
        require_linear_open(what, Format::Ova, max, |bytes| {
            let references = repeated(references, if references.is_empty() { 0 } else { bytes });
            let part = repeated(part, if part.is_empty() { 0 } else { bytes });
            let name = if what.starts_with("a long name") { "x".repeat(bytes) } else { "x".into() };
            let text = format!(
                "<Envelope xmlns='{OVF}' xmlns:ovf='{OVF}' xmlns:o='urn:o'{namespaces}>\
                 <References><File ovf:id='f0' ovf:href='{name}' ovf:size='{bytes}' \
                 ovf:chunkSize='1'/>{references}</References>{disk}<Other>{start}{part}{end}\
                 </Other></Envelope>"
            );
            text.into_bytes()
        });
    }
}

#[test]
fn the_time_for_a_cue_sheet_is_linear() {
    let dir = tempfile::tempdir().unwrap();
    let max = Limits::default().descriptor_bytes as usize;
    for (what, start, part) in [
        ("quotes", "FILE ", "\" "),
        ("words", "REM", " x"),
        ("tracks", "FILE a BINARY\n", "TRACK 01 AUDIO\nINDEX 01 00:00:00\n"),
        ("files", "", "FILE a BINARY\n"),
        ("blanks", "FILE", " "),
    ] {
        let sheet = |bytes: usize| {
            let path = dir.path().join(format!("{bytes}.cue"));
            std::fs::write(&path, format!("{start}{}", repeated(part, bytes - start.len())))
                .unwrap();
            path
        };
        require_linear_time(what, max / 64, max / 4, sheet, |path| {
            let source = Arc::new(FileSource::open(path).unwrap());
            IsoImage::open(source, &IsoOptions::default()).expect_err("there is no data track");
        });
    }
}

#[test]
fn the_time_for_options_in_json_is_linear() {
    for (what, start, part, end) in [
        ("members", "{\"x\":1", ",\"a{n}\":1", "}"),
        ("members of an object", "{\"x\":{\"y\":1", ",\"a{n}\":1", "}}"),
        ("a list", "{\"x\":[1", ",1", "]}"),
        ("a long string", "{'x':'", "a", "'}"),
        ("escapes", "{'x':'", "\\u0041", "'}"),
        ("quotes", "{\"x\":'", "\"", "'}"),
        ("nesting", "", "{\"a\":", ""),
    ] {
        let max = 1 << 20;
        let make = |bytes: usize| format!("{start}{}{end}", repeated(part, bytes));
        require_linear_time(what, max / 64, max / 4, make, |text| {
            let _ = Node::from_json(text);
        });
    }
    // Each of the keys would begin with the key of the object.
    let members = |n: usize| {
        let mut text = format!("{{\"{}\":{{\"x\":1", "k".repeat(n));
        (0..n / 8).for_each(|n| write!(text, ",\"{n}\":1").unwrap());
        text + "}}"
    };
    require_linear_time("a long key", 1 << 14, 1 << 18, members, |text| {
        let _ = Node::from_json(text);
    });
}
