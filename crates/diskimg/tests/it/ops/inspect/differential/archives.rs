//! Appliances: tar archives and descriptors with what programs read differently.

use super::random::Random;
use diskimg_testkit::appliance::VMDK_FORMAT;

/// The members of all appliances: two disks, one of which the descriptor lists.
pub struct Disks<'a> {
    pub first: &'a [u8],
    pub second: &'a [u8],
}

/// A member and how its header is written.
struct Member {
    name: Vec<u8>,
    kind: u8,
    content: Vec<u8>,
    magic: &'static [u8],
    /// Changes to the header before the checksum is computed.
    changes: Vec<(usize, Vec<u8>)>,
    signed_checksum: bool,
}

impl Member {
    fn new(name: &str, content: &[u8]) -> Self {
        Self {
            name: name.as_bytes().to_vec(),
            kind: b'0',
            content: content.to_vec(),
            magic: b"ustar\x0000",
            changes: Vec::new(),
            signed_checksum: false,
        }
    }

    fn kind(self, kind: u8) -> Self {
        Self { kind, ..self }
    }

    fn change(mut self, at: usize, bytes: &[u8]) -> Self {
        self.changes.push((at, bytes.to_vec()));
        self
    }

    fn write(&self, archive: &mut Vec<u8>) {
        let mut header = [0; 512];
        let name = &self.name[..self.name.len().min(100)];
        header[..name.len()].copy_from_slice(name);
        header[100..108].copy_from_slice(b"0000644\0");
        header[108..124].copy_from_slice(b"0000000\x000000000\0");
        header[124..136].copy_from_slice(format!("{:011o}\0", self.content.len()).as_bytes());
        header[136..148].copy_from_slice(b"14000000000\0");
        header[156] = self.kind;
        header[257..257 + self.magic.len()].copy_from_slice(self.magic);
        for (at, bytes) in &self.changes {
            header[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        let custom = self.changes.iter().any(|(at, _)| *at == 148);
        if !custom {
            header[148..156].fill(b' ');
            let sum: i64 = match self.signed_checksum {
                true => header.iter().map(|&byte| i64::from(byte as i8)).sum(),
                false => header.iter().map(|&byte| i64::from(byte)).sum(),
            };
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        archive.extend(header);
        archive.extend(&self.content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
}

fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let length = (rest + 1..).find(|n| n.to_string().len() + rest == *n).unwrap();
        bytes.extend(format!("{length} {key}={value}\n").bytes());
    }
    bytes
}

/// Returns the descriptor of an appliance with one disk in the file `href`.
fn simple(href: &str) -> String {
    envelope(&format!("<File ovf:id=\"f\" ovf:href=\"{href}\"/>"), "")
}

fn envelope(files: &str, more: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?>\n<Envelope xmlns=\"{NS}\" xmlns:ovf=\"{NS}\" xmlns:x=\"urn:x\">\n\
         <References>{files}</References>\n<DiskSection><Info/><Disk ovf:diskId=\"d\" \
         ovf:fileRef=\"f\" ovf:capacity=\"131072\" ovf:format=\"{VMDK_FORMAT}\"/></DiskSection>\n\
         {more}</Envelope>\n"
    )
}

const NS: &str = "http://schemas.dmtf.org/ovf/envelope/1";

const OVF_2: &str = "http://schemas.dmtf.org/ovf/envelope/2";

/// The attribute with the type of a section.
const TYPE: &str = "xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type";

/// Returns an appliance whose tar archive has unusual parts.
pub fn tar(random: &mut Random, disks: &Disks<'_>) -> (String, Vec<u8>) {
    let magics: [&'static [u8]; 4] = [b"ustar\x0000", b"ustar  \0", b"", b"ustar\0\0\0"];
    let magic = magics[random.below(6).min(3)];
    let mut members =
        vec![Member::new("x.ovf", simple("d.vmdk").as_bytes()), Member::new("d.vmdk", disks.first)];
    for _ in 0..random.below(3) {
        let at = random.below(members.len() + 1);
        unusual_member(random, disks, &mut members, at);
    }
    if random.one_in(2) {
        let at = random.below(members.len());
        unusual_field(random, &mut members[at]);
    }
    let mut bytes = Vec::new();
    for mut member in members {
        member.magic = magic;
        member.write(&mut bytes);
    }
    let end = bytes.len();
    match random.below(12) {
        0 => {}
        1 => bytes.resize(end + 512, 0),
        2 => {
            bytes.resize(end + 512 * (1 + random.below(3)), 0);
            Member::new("e.vmdk", disks.second).write(&mut bytes);
            bytes.resize(bytes.len() + 1024, 0);
        }
        3 => {
            bytes.resize(end + 1024, 0);
            let junk = random.bytes(700);
            bytes.extend(junk);
        }
        4 => bytes.truncate(end - random.below(1000)),
        5 => {
            bytes.resize(end + 1024, 0);
            bytes.extend(b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        }
        _ => bytes.resize(end.next_multiple_of(10240) + 1024, 0),
    }
    ("a.ova".into(), bytes)
}

/// Inserts a member, or an extension of the next member.
fn unusual_member(random: &mut Random, disks: &Disks<'_>, members: &mut Vec<Member>, at: usize) {
    let plain = |name: &str| Member::new(name, disks.second);
    let empty = |name: &str, kind: u8| Member::new(name, b"").kind(kind);
    let record = |records: &[(&str, &str)]| Member::new("pax", &pax(records)).kind(b'x');
    let size = disks.first.len();
    let member = match random.below(53) {
        0 => plain("d.vmdk"),
        1 => plain("./d.vmdk"),
        2 => plain("D.VMDK"),
        3 => plain("a/../d.vmdk"),
        4 => plain("/d.vmdk"),
        5 => plain("x\\d.vmdk"),
        6 => plain("d.vmdk "),
        7 => plain("d.vmdk/"),
        8 => plain("d.vmdk/").kind(0),
        9 => plain("d.vmdk/e"),
        10 => empty("d.vmdk", b'5'),
        11 => empty("d.vmdk", b'2').change(157, b"/etc/hostname"),
        12 => empty("e.vmdk", b'2').change(157, b"/etc/hostname"),
        13 => empty("e.vmdk", b'1').change(157, b"d.vmdk"),
        14 => plain("e.vmdk").kind(b'1').change(157, b"d.vmdk"),
        15 => plain("e").kind(b'5'),
        16 => empty("e", b'6'),
        17 => Member::new("l", b"e.vmdk\0").kind(b'L'),
        18 => Member::new("l", b"d.vmdk\0e.vmdk\0").kind(b'L'),
        19 => record(&[("path", "e.vmdk")]),
        20 => record(&[("path", "d.vmdk"), ("path", "e.vmdk")]),
        21 => record(&[("size", "512")]),
        22 => record(&[("size", &size.to_string())]),
        23 => record(&[("size", "0x10"), ("comment", "x")]),
        24 => record(&[("GNU.sparse.major", "1"), ("GNU.sparse.name", "e.vmdk")]),
        25 => record(&[("path", "e.vmdk")]).kind(b'g'),
        26 => record(&[("size", "512")]).kind(b'g'),
        27 => record(&[("comment", "path=e.vmdk")]).kind(b'g'),
        28 => record(&[("path", "e.vmdk")]).kind(b'X'),
        29 => Member::new("pax", b"+15 path=e.vmdk\n").kind(b'x'),
        30 => Member::new("pax", b"015 path=e.vmdk\n").kind(b'x'),
        31 => Member::new("pax", b"15 path=e.vmdk\n\0\x31\x35 path=f.vmdk\n").kind(b'x'),
        32 => plain("e.vmdk").kind(b'7'),
        33 => plain("e.vmdk").kind(b'V'),
        34 => plain("__MACOSX/e.vmdk"),
        35 => plain("._d.vmdk"),
        36 => Member::new("readme.txt", b"text"),
        37 => record(&[("SUN.holesdata", " 0 512 1024")]),
        38 => record(&[("GNU.volume.label", "x"), ("GNU.volume.offset", "512")]),
        39 => record(&[("SCHILY.filetype", "dir")]),
        40 => record(&[("mtime", "1e1000"), ("comment", "x")]),
        41 => plain("C:d.vmdk"),
        42 => plain("d\u{200d}.vmdk"),
        43 => sparse(&[(0, 512), (1024, 512)], 1536),
        44 => sparse(&[(0, 512), (1024, 512)], 2048),
        45 => sparse(&[(0, 512), (0, 0), (1024, 512)], 1536),
        46 => Member::new("\u{5d}\0\0\x01\0", &pax(&[("comment", "x")])).kind(b'x'),
        47 => Member::new("\u{50}*M\u{18}\0\u{8}\0\0", &pax(&[("comment", "x")])).kind(b'x'),
        48 => Member::new("pax\0\u{1}evil", &pax(&[("comment", "x")])).kind(b'x'),
        49 => Member::new("l\u{1b}", b"e.vmdk\0").kind(b'L'),
        50 => record(&[("comment", "x")]).change(124, b"00000777777\0"),
        51 => plain("e.vmdk").change(124, b"00077777777\0"),
        _ => empty("d", b'5'),
    };
    members.insert(at, member);
}

/// Returns a member in GNU tar's old format of sparse files; a piece `(0, 0)` is an unused pair.
fn sparse(pieces: &[(usize, usize)], real_size: usize) -> Member {
    let stored = pieces.iter().map(|(_, len)| len).sum();
    let mut member = Member::new("s.bin", &vec![7; stored]).kind(b'S');
    for (index, (start, len)) in pieces.iter().enumerate().filter(|(_, piece)| piece.1 > 0) {
        let pair = format!("{start:011o}\0{len:011o}\0");
        member = member.change(386 + 24 * index, pair.as_bytes());
    }
    member.change(483, format!("{real_size:011o}\0").as_bytes())
}

/// Changes the header of a member.
fn unusual_field(random: &mut Random, member: &mut Member) {
    let len = member.content.len();
    let octal = |text: String| text.into_bytes();
    let sparse = || b"00000000000\x0000000001000\0".to_vec();
    let change = match random.below(25) {
        0 => (345, b"sub".to_vec()),
        1 => (345, b"\0sub".to_vec()),
        2 => (508, b"tar\0".to_vec()),
        3 => (124, octal(format!("{len:>11o} "))),
        4 => (124, octal(format!("{len:o} 7\0"))),
        5 => (124, octal(format!("{len:o}x\0"))),
        6 => (124, [&[0x80, 0, 0, 0, 0, 0, 0, 0][..], &(len as u32).to_be_bytes()].concat()),
        7 => (124, [&[0x80, 1, 0, 0, 0, 0, 0, 0][..], &(len as u32).to_be_bytes()].concat()),
        8 => (124, [&[0xff; 8][..], &(len as u32).to_be_bytes()].concat()),
        9 => (124, octal(format!("-{len:o}\0"))),
        10 => (148, b"0000000\0".to_vec()),
        11 => (8, b"\0evil".to_vec()),
        12 => (8, vec![0xff, 0xe4]),
        13 => (263, b"\0\0".to_vec()),
        14 => (4, b"\x01".to_vec()),
        15 => (100, b"9999999\0".to_vec()),
        16 => (108, b"zzzzzzz\0".to_vec()),
        17 => (116, b"\xff\xff\xff\xff\xff\xff\xff\xfe".to_vec()),
        18 => (136, b"xyz\0".to_vec()),
        19 => (329, b"zz\0".to_vec()),
        20 => (337, b"1 7\0".to_vec()),
        21 => (386, sparse()),
        22 => (483, octal(format!("{:011o}\0", len / 2))),
        23 => (482, vec![1]),
        _ => (300, vec![0xff, 0x80]),
    };
    member.signed_checksum = random.one_in(3);
    member.changes.push(change);
}

/// Returns an appliance whose descriptor has unusual parts.
pub fn descriptor(random: &mut Random, disks: &Disks<'_>) -> (String, Vec<u8>) {
    let file = |attributes: &str| format!("<File {attributes}/>");
    let good = "ovf:id=\"f\" ovf:href=\"d.vmdk\"";
    let other = "ovf:id=\"f\" ovf:href=\"e.vmdk\"";
    let simple = || envelope(&file(good), "");
    let section = |files: &str| format!("<References>{files}</References>");
    let in_other = format!("xmlns=\"{OVF_2}\" xmlns:o=\"{OVF_2}\"");
    let with_disk = |file: &str, disk: &str| {
        let disk = format!("{disk} ovf:diskId=\"e\" ovf:fileRef=\"g\" ovf:capacity=\"131072\"/>");
        let file = format!("{file} ovf:id=\"g\" ovf:href=\"e.vmdk\"/>");
        let text = envelope(&format!("<File {good}/>{file}"), "");
        text.replace("</DiskSection>", &format!("{disk}</DiskSection>"))
    };
    let declared = |declaration: &str| simple().replace("<?xml version=\"1.0\"?>", declaration);
    let text = match random.below(56) {
        0 => envelope(&file(&format!("{good} href=\"e.vmdk\"")), ""),
        1 => envelope(&file(&format!("href=\"e.vmdk\" {good}")), ""),
        2 => envelope(&file(&format!("{good} x:href=\"e.vmdk\"")), ""),
        3 => envelope(&file("id=\"f\" href=\"d.vmdk\""), ""),
        4 => envelope(&file("x:id=\"f\" x:href=\"d.vmdk\""), ""),
        5 => envelope(&(file(good) + &file(other)), ""),
        6 => envelope(&(file(good) + "<x:File ovf:id=\"f\" ovf:href=\"e.vmdk\"/>"), ""),
        7 => envelope(&file(good), &section(&file("ovf:id=\"g\" ovf:href=\"e.vmdk\""))),
        8 => {
            envelope(&file(good), &simple().split_once("?>").unwrap().1.replace("d.vmdk", "e.vmdk"))
        }
        9 => envelope(&file(good), &format!("<x:y>{}</x:y>", section(&file(other)))),
        10 => envelope(&format!("<!-- {} -->{}", file(other), file(good)), ""),
        11 => envelope(&format!("<![CDATA[{}]]>{}", file(other), file(good)), ""),
        12 => envelope(&format!("<?x {}?>{}", file(other), file(good)), ""),
        13 => simple().replace("d.vmdk", "%64.vmdk"),
        14 => simple().replace("d.vmdk", "d.vmdk#e.vmdk"),
        15 => simple().replace("d.vmdk", "d.vmdk?e"),
        16 => simple().replace("d.vmdk", "file:///etc/hostname"),
        17 => simple().replace("d.vmdk", "http://example.org/d.vmdk"),
        18 => simple().replace("d.vmdk", "../d.vmdk"),
        19 => simple().replace("d.vmdk", ".\\d.vmdk"),
        20 => simple().replace("d.vmdk", " d.vmdk"),
        21 => simple().replace("d.vmdk", "&#100;.vmdk"),
        22 => simple().replace("d.vmdk", "sub/d.vmdk"),
        23 => simple().replace("<References", "<References xml:base=\"sub/\""),
        24 => simple().replace(
            "<References>",
            "<References><i:include xmlns:i=\"http://www.w3.org/2001/XInclude\" href=\"x\"/>",
        ),
        25 => simple().replace("?>", "?><!DOCTYPE Envelope [<!ENTITY e \"e\">]>"),
        26 => simple().replace("version=\"1.0\"", "version=\"1.0\" encoding=\"UTF-7\""),
        27 => simple().replace("version=\"1.0\"", "version=\"1.0\" encoding=\"ISO-8859-1\""),
        28 => simple().replace("version=\"1.0\"", "version=\"1.0\" encoding=\"Shift_JIS\""),
        29 => simple().replace("<?xml", "\u{feff}<?xml"),
        30 => envelope(&file(&format!("{good} ovf:compression=\"gzip\"")), ""),
        31 => envelope(&file(&format!("{good} x:compression=\"gzip\"")), ""),
        32 => envelope(&file(&format!("{good} ovf:chunkSize=\"512\" ovf:size=\"512\"")), ""),
        33 => simple().replace("ovf:fileRef", "x:fileRef=\"g\" ovf:fileRef"),
        34 => simple().replace("ovf:fileRef", "ovf:parentRef=\"e\" ovf:fileRef"),
        35 => simple().replace(VMDK_FORMAT, "http://www.gnome.org/~markmc/qcow-image-format.html"),
        36 => simple().replace("131072", "${size}"),
        37 => simple().replace("<Disk ", "<Disk xmlns:ovf=\"urn:y\" "),
        38 => envelope(
            &(file(good) + &file("ovf:id=\"g\" ovf:href=\"http://example.org/x.iso\"")),
            "",
        ),
        39 => with_disk(&format!("<File {in_other}"), &format!("<Disk {in_other}")),
        40 => with_disk("<x:File", "<x:Disk"),
        41 => with_disk("<File xmlns=\"\"", "<Disk xmlns=\"\""),
        42 => simple().replace("<Disk ", &format!("<Disk {in_other} ")),
        43 => simple().replace("ovf:href", "href"),
        44 => simple()
            .replace("ovf:fileRef", "o:fileRef")
            .replace("<Disk ", &format!("<Disk xmlns:o=\"{OVF_2}\" ")),
        45 => simple()
            .replace("<DiskSection", &format!("<Section {TYPE}=\"ovf:DiskSection_Type\""))
            .replace("</DiskSection", "</Section"),
        46 => {
            simple().replace("xmlns:ovf=", "xmlns:o=\"urn:y\" xmlns:ovf=").replace("ovf:id", "o:id")
        }
        47 => declared("\u{feff}<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?>")
            .replace("d.vmdk", "d\u{e9}.vmdk"),
        48 => declared(&format!("<?xml version=\"1.0\"{}encoding=\"cp1251\"?>", " ".repeat(300)))
            .replace("d.vmdk", "d\u{e9}.vmdk"),
        49 => {
            declared("<?xml version=\"1.0\" encoding='UTF-8'?>").replace("d.vmdk", "d\u{e9}.vmdk")
        }
        50 => declared("<?xml version=\"1.1\"?>"),
        51 => simple().replace("131072", "1125899906842624"),
        52 => envelope(&file(&format!("{good} ovf:size=\"7\"")), ""),
        _ => simple(),
    };
    let text = match random.below(12) {
        0 => text.replace("ovf:", "o:"),
        1 => text.replace(NS, "http://schemas.dmtf.org/ovf/envelope/2"),
        2 => text.replace(NS, "urn:unknown"),
        3 => text.replace("<?xml version=\"1.0\"?>\n", ""),
        4 => text + "\0\0",
        _ => text,
    };
    let utf16 = || text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
    let bytes = match random.below(16) {
        0 => [&[0xff, 0xfe][..], &utf16()].concat(),
        1 => utf16(),
        _ => text.clone().into_bytes(),
    };
    let mut archive = Vec::new();
    let mut members = vec![
        Member::new("x.ovf", &bytes),
        Member::new("d.vmdk", disks.first),
        Member::new("e.vmdk", disks.second),
    ];
    match random.below(10) {
        0 => members.push(Member::new("y.ovf", simple().as_bytes())),
        1 => members.push(Member::new("y.OVF", simple().as_bytes())),
        2 => members.swap(0, 1),
        3 => members.push(Member::new("%64.vmdk", disks.second)),
        4 => members.push(Member::new("d.vmdk.000000000", disks.second)),
        5 => members.push(Member::new("sub/d.vmdk", disks.second)),
        6 | 7 => {
            members.push(Member::new("d\u{e9}.vmdk", disks.first));
            members.push(Member::new("d\u{c3}\u{a9}.vmdk", disks.second));
        }
        _ => {}
    }
    members.iter().for_each(|member| member.write(&mut archive));
    archive.resize(archive.len() + 1024, 0);
    (random.choose(&["b.ova", "b.ova", "b.img"]).to_owned(), archive)
}
