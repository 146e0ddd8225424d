//! VMDK descriptors: in a sparse extent and as files, built from lines that readers interpret
//! differently.

use super::random::Random;

const TITLES: [&str; 9] = [
    "# Disk DescriptorFile\n",
    "# Disk Descriptor File\n",
    "#Disk DescriptorFile\r\n",
    "# disk descriptorfile\n",
    "  # Disk DescriptorFile\n",
    "# a comment\r",
    "    \r\n",
    "# \u{e4}\n",
    "",
];

const VERSIONS: [&str; 8] = [
    "version=1\n",
    "version=1\n",
    "version=1\r\n",
    "version=3\n",
    "version = 1\n",
    "VERSION=1\n",
    "version=4\n",
    "version=\"1\"\n",
];

const IDS: [&str; 12] = [
    "CID=5b6a7c8d\nparentCID=ffffffff\n",
    "CID=5b6a7c8d\nparentCID=ffffffff\n",
    "CID=5b6a7c8d\r\nparentCID=ffffffff\r\n",
    "parentCID=ffffffff\nCID=5b6a7c8d\n",
    "CID=5b6a7c8d\nparentCID=12345678\n",
    "CID = 5b6a7c8d\nparentCID = ffffffff\n",
    "cid=5b6a7c8d\nparentcid=ffffffff\n",
    "CID=5b6a7c8d\nparentCID=0xffffffff\n",
    "CID=5b6a7c8d\nparentCID=-1\n",
    "CID=5b6a7c8d\n",
    "parentCID=ffffffff\n",
    "# CID 5b6a7c8d\nparentCID=ffffffff\n",
];

/// Lines that may change the meaning of the descriptor.
const LINES: [&str; 47] = [
    "# parentFileNameHint=\"/etc/hostname\"\n",
    "ddb.parentFileNameHint=\"/etc/hostname\"\n",
    "ddb.x = \"parentFileNameHint=base.vmdk\"\n",
    "parentFileNameHint=\"\"\n",
    "parentFileNameHint = \"\"\n",
    "parentFileNameHint=\"base.vmdk\"\n",
    "parentfilenamehint=\"base.vmdk\"\n",
    "xparentFileNameHint=\"base.vmdk\"\n",
    "x=\"parentFileNameHint=\n",
    "# parentCID=12345678\n",
    "ddb.parentCID=12345678\n",
    "parentCID=ffffffff\n",
    "PARENTCID=12345678\n",
    "# CID=12345678\n",
    "ddb.CID = \"12345678\"\n",
    "longCID=1\n",
    "createType=\"monolithicSparse\"\n",
    "# createType=\"monolithicFlat\"\n",
    "ddb.createType=\"vmfs\"\n",
    "RW 2048 SPARSE \"other.vmdk\"\n",
    "RW 1 FLAT \"/etc/hostname\" 0\n",
    "# RW 1 FLAT \"/etc/hostname\" 0\n",
    "  RW 1 FLAT \"/etc/hostname\" 0\n",
    "\tRW\t1\tFLAT\t\"/etc/hostname\"\t0\n",
    "RW 1\nFLAT \"/etc/hostname\" 0\n",
    "x=RW 1 FLAT \"/etc/hostname\" 0\n",
    "RDONLY 1 ZERO\n",
    "rw 1 flat \"/etc/hostname\" 0\n",
    "ddb.uuid.parent=\"0a000000-0000-0000-0000-000000000000\"\n",
    "ddb.uuid.parent=\"00000000-0000-0000-0000-000000000000\"\n",
    "ddb.nativeParentHint=\"base.vmdk\"\n",
    "changeTrackPath=\"/etc/hostname\"\n",
    "encryptionKeys=\"x\"\n",
    "encoding=\"UTF-16\"\n",
    "encoding=\"UTF-8\"\n",
    "ddb.adapterType = \"ide\"\n",
    "ddb.comment=\"a \"b\" c\"\n",
    "; parentCID=12345678\n",
    "[parentCID=12345678]\n",
    "a=b\rparentCID=12345678\n",
    "a=b\u{1a}parentCID=12345678\n",
    "\0parentCID=12345678\n",
    "\0RW 1 FLAT \"/etc/hostname\" 0\n",
    "\u{b}parentCID=12345678\n",
    "# parentCID\0 deadbeef\n",
    "# CID\0 12345678\n",
    "# parentFileNameHint\0\"base.vmdk\"\n",
];

fn text(random: &mut Random, kinds: &[&str], extents: &[&str]) -> String {
    let mut text = String::new();
    text += if random.one_in(2) { TITLES[0] } else { random.choose(&TITLES) };
    text += random.choose(&VERSIONS);
    let mut lines: Vec<String> = vec![
        random.choose(&IDS).to_owned(),
        format!("createType=\"{}\"\n", random.choose(kinds)),
        random.choose(extents).to_owned(),
        "ddb.adapterType = \"ide\"\n".to_owned(),
    ];
    for _ in 0..random.below(4) {
        let line = random.choose(&LINES);
        let line = match random.below(12) {
            0 => line.replace('\n', "\r\n"),
            1 => line.replace('\n', "\r"),
            2 => line.replace('=', " = "),
            3 => line.trim_end().to_owned(),
            _ => line.to_owned(),
        };
        lines.insert(random.below(lines.len() + 1), line);
    }
    text + &lines.concat()
}

/// Returns a sparse extent based on `base`, whose descriptor and sometimes header are replaced.
pub fn embedded(random: &mut Random, base: &[u8]) -> (String, Vec<u8>) {
    let kinds = ["monolithicSparse", "monolithicSparse", "streamOptimized", "monolithicFlat"];
    let extents = [
        "RW 2048 SPARSE \"a.vmdk\"\n",
        "RW 2048 SPARSE \"a.vmdk\"\n",
        "RW 2048 SPARSE \"a.vmdk\"\n",
        "RW 1024 SPARSE \"a.vmdk\"\n",
        "RW 2048 FLAT \"a.vmdk\" 0\n",
        "RDONLY 2048 SPARSE \"a.vmdk\"\n",
        "NOACCESS 2048 SPARSE \"a.vmdk\"\n",
        "RW 2048 SPARSE \"../a.vmdk\"\n",
        "RW 2050 SPARSE \"a.vmdk\"\n",
    ];
    let text = text(random, &kinds, &extents);
    let mut bytes = base.to_vec();
    bytes[512..21 * 512].fill(0);
    let text = &text.as_bytes()[..text.len().min(20 * 512)];
    bytes[512..512 + text.len()].copy_from_slice(text);
    // What the header does not include is hidden from those who go by it.
    match random.below(6) {
        0 => {
            let sectors = 1 + random.below(4);
            bytes[36..44].copy_from_slice(&(sectors as u64).to_le_bytes());
            let at = 512 * (1 + sectors) - random.below(2) * 40;
            let line = random.choose(&LINES).as_bytes();
            if text.len() + 512 <= at && random.one_in(2) {
                bytes[512 + text.len()..at].fill(b'\n');
            }
            bytes[at..at + line.len()].copy_from_slice(line);
        }
        1 => header_field(random, &mut bytes),
        _ => {}
    }
    ("embedded.vmdk".into(), bytes)
}

/// Changes a field of the header, or an entry of a grain directory.
fn header_field(random: &mut Random, bytes: &mut [u8]) {
    let fields = [4, 8, 12, 20, 28, 36, 44, 48, 56, 64, 72, 73, 77];
    let directories = [48, 56].map(|at: usize| {
        let sector = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        sector as usize * 512
    });
    match random.below(3) {
        0 => {
            let at = directories[random.below(2)];
            bytes[at] ^= 1 << random.below(8);
        }
        1 => {
            let at = directories[random.below(2)];
            let table = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            let at = table as usize * 512 + 4 * random.below(16);
            bytes[at] ^= 1 << random.below(8);
        }
        _ => {
            let at = fields[random.below(fields.len())];
            bytes[at] ^= 1 << random.below(8);
        }
    }
}

/// Returns a descriptor that is a file of its own.
pub fn alone(random: &mut Random) -> (String, Vec<u8>) {
    let kinds = ["monolithicFlat", "vmfs", "twoGbMaxExtentFlat", "monolithicSparse", "custom"];
    let extents = ["RW 1 FLAT \"/etc/hostname\" 0\n", "RW 1 VMFS \"/etc/hostname\"\n", ""];
    let mut text = text(random, &kinds, &extents).into_bytes();
    if random.one_in(4) {
        let place = random.below(text.len());
        text[place] = *random.choose(&[&0u8, &b'\r', &b'\n', &b' ', &0x80, &0x1c]);
    }
    if random.one_in(4) {
        let comment = [&b"#"[..], &vec![b'x'; random.below(600)], b"\n"].concat();
        text.splice(0..0, comment);
    }
    if random.one_in(3) {
        text.resize(
            text.len().next_multiple_of(512),
            random.choose(&[&0u8, &b'\n', &b' ']).to_owned(),
        );
    }
    (random.choose(&["alone.vmdk", "alone.img"]).to_owned(), text)
}
