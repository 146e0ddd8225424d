//! Files that have the signatures of several formats, or almost have one.

use super::random::Random;

/// Signatures and their offsets; a negative one counts from the end.
const MARKS: &[(isize, &[u8])] = &[
    (0, b"QFI\xfb\0\0\0\x03"),
    (0, b"QFI\xfb\0\0\0\x02"),
    (0, b"QFI\xfb\0\0\0\x01"),
    (0, b"KDMV\x01\0\0\0"),
    (0, b"COWD\x01\0\0\0"),
    (0, b"\xbe\xba\xfe\xca\0\0\0\0"),
    (0, b"QED\0"),
    (0, b"conectix"),
    (0, b"vhdxfile"),
    (0, b"LUKS\xba\xbe\0\x01"),
    (0, b"LUKS\xba\xbe\0\x02"),
    (0, b"WithoutFreeSpace\x02\0\0\0"),
    (0, b"WithouFreSpacExt\x02\0\0\0"),
    (0, b"Bochs Virtual HD Image\0\0\0\0\0\0\0\0\0\0Redolog\0\0\0\0\0\0\0\0\0Growing\0\0\0\0\0\0\0\0\0\0\0\x02\0"),
    (0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n"),
    (0, b"# Disk DescriptorFile\nversion=1\ncreateType=\"monolithicFlat\"\nRW 1 FLAT \"/etc/hostname\" 0\n"),
    (0, b"# x\rversion=7\nversion=1\ncreateType=\"monolithicFlat\"\nRW 1 FLAT \"/etc/hostname\" 0\n"),
    (0, b"#\n   \r\nversion=3\r\ncreateType=\"vmfs\"\nRW 1 VMFS \"/etc/hostname\"\n"),
    (0, b"OOOM\0\0\0\x02"),
    (0, b"koly\0\0\0\x04"),
    (0, b"encrcdsa"),
    (0, b"PK\x03\x04\x0a\0\0\0\0\0"),
    (0, b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
    (0, b"\x1f\x8b\x08\0"),
    (0, b"\x1f\x9d\x90"),
    (0, b"BZh91AY&SY"),
    (0, b"\xfd7zXZ\0"),
    (0, b"7z\xbc\xaf\x27\x1c\0\x04"),
    (0, b"Rar!\x1a\x07\0"),
    (0, b"!<arch>\n"),
    (0, b"070701000000000000"),
    (0, b"\xc7\x71\0\0\0\0\xa4\x81"),
    (0, b"MSCF\0\0\0\0"),
    (0, b"xar!\0\x1c\0\x01"),
    (0, b"\x28\xb5\x2f\xfd"),
    (0, b"\x04\x22\x4d\x18"),
    (0, b"\x89LZO\0\r\n\x1a\n"),
    (0, b"LZIP\x01"),
    (0, b"#mtree\nx type=file\n"),
    (0, b"begin 644 x\n"),
    (0, b"hello\n\nbegin 644 x\n#0V%T\n`\nend\n"),
    (0, b"\nbegin-base64 644 x\nQ2F0\n====\n"),
    (0, b"# x\na type=file mode=0644\nb type=file\nc type=file\nd type=file\n\0"),
    (0, b"/set type=file\na\nb mode=0644\nc\n\0"),
    (0, b"\0\0\0\x01\0\xff\xff\xff\xff\xff\xff\xff\xff\0"),
    (0, b"\x50\x2a\x4d\x18\0\x01\0\0"),
    (0, b"\x02\x21\x4c\x18"),
    (0, b"LZIP\0\x0c"),
    (0, b"070727"),
    (0, b"\xc7\x71\x01\0\x02\0\xa4\x01\0\0\0\0\x01\0\0\0\0\0\0\0\x05\0\0\0\x05\0evil\0\0hello\0"),
    (0, b"MZ"),
    (0, b"MZ"),
    (0, b"\x7fELF"),
    (0x2000, b"\x1a\0-lh0-\x05\0\0\0\x05\0\0\0\0\0\0\0\x20\0\x04evil\0\0hello\0"),
    (0x1000, b"MSCF\0\0\0\0\x4b\0\0\0\0\0\0\0\x2c\0\0\0\0\0\0\0\x03\x01\x01\0\x01\0\0\0\x01\0\0\0\x45\0\0\0\x01\0\0\0\x05\0\0\0\0\0\0\0\0\0\0\x50\0\0\x20\0evil.txt\0"),
    (0, b"\xeb\x58\x90MSDOS5.0\0\x02\x01\x01\0\x02"),
    (2, b"-lh5-"),
    (64, &[0x7f, 0x10, 0xda, 0xbe, 1, 0, 1, 0]),
    (257, b"ustar\x0000"),
    (257, b"ustar  \0"),
    (446, &[0x80, 0, 2, 0, 0x83, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0]),
    (446, &[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0xff, 0xff, 0, 0]),
    (510, &[0x55, 0xaa]),
    (512, b"EFI PART\0\0\x01\0"),
    (1080, &[0x53, 0xef]),
    (32768, b"\x01CD001\x01\0"),
    (32768, b"\0BEA01\x01\0"),
    (34816, b"\0NSR02\x01\0"),
    (-512, b"conectix\0\0\0\x02\0\x01\0\0"),
    (-511, b"conectix"),
    (-512, b"koly\0\0\0\x04\0\0\x02\0"),
    (-700, b"koly\0\0\0\x04"),
    (-505, b"koly\0\0\0\x05"),
    (-1000, b"koly\0\0\0\x05"),
    (-22, b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
    (-40, b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x12\0"),
    (-8, b"cdsaencr"),
];

/// Returns a file with up to four signatures, of which some are changed.
pub fn case(random: &mut Random) -> (String, Vec<u8>) {
    let len = random.choose(&[&512usize, &1024, &4096, &34816, &40960, &49152, &600, &100]);
    let mut bytes = match random.below(4) {
        0 => random.bytes(*len),
        1 => b"some text and more\n".iter().copied().cycle().take(*len).collect(),
        _ => vec![0; *len],
    };
    for _ in 0..1 + random.below(4) {
        let (at, mark) = MARKS[random.below(MARKS.len())];
        let mut mark = mark.to_vec();
        match random.below(12) {
            0 => {
                let place = random.below(mark.len());
                mark[place] ^= 1 << random.below(8);
            }
            1 => mark.truncate(1 + random.below(mark.len())),
            2 => mark.make_ascii_lowercase(),
            _ => {}
        }
        let shift = if random.one_in(16) { random.below(4) as isize - 1 } else { 0 };
        let from = if at < 0 { bytes.len() as isize } else { 0 };
        let at = from + at + shift;
        if let Ok(at) = usize::try_from(at)
            && let Some(place) = bytes.get_mut(at..at + mark.len())
        {
            place.copy_from_slice(&mark);
        }
    }
    let extension = random.choose(&["img", "img", "img", "raw", "dmg", "iso", "vmdk", "bin"]);
    (format!("marks.{extension}"), bytes)
}
