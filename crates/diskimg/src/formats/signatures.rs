//! Formats that are recognized by their signature, but not read: disk images, compressed files and
//! archives. A file with such a signature is not a raw disk unless the caller says so.
//!
//! ```text
//!   first bytes    conectix   vhdxfile   LUKS\xba\xbe   …
//!   offset 64      VDI signature
//!   offset 257     ustar (tar)
//!   last sector    conectix (fixed VHD)   koly (DMG)
//! ```

use crate::open::probe::ProbeBuffer;

/// What kind of file a signature stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A disk image.
    Image,
    /// A compressed file or an archive.
    Packed,
}

/// A format that is recognized but not read.
pub(crate) struct Signature {
    /// The format's name: the one that OpenStack uses, if there is one.
    pub(crate) name: &'static str,
    /// The format with its article, for error messages: "a VHDX image".
    pub(crate) what: &'static str,
    /// Another name of the format, used by QEMU or another program.
    pub(crate) alias: Option<&'static str>,
    pub(crate) kind: Kind,
    /// Whether the bytes have a signature of this format, even one that QEMU does not check.
    pub(crate) matches: fn(&ProbeBuffer<'_>) -> bool,
    /// Whether QEMU's probing detects this format.
    pub(crate) qemu: fn(&ProbeBuffer<'_>) -> bool,
    /// Virtual size in bytes, if the header has it.
    pub(crate) size: fn(&ProbeBuffer<'_>) -> Option<u64>,
    /// Whether images of this format are always encrypted.
    pub(crate) encrypted: bool,
    /// What to do with such a file.
    pub(crate) advice: Option<&'static str>,
}

impl Signature {
    /// An image format that QEMU recognizes by the same bytes.
    const fn image(
        name: &'static str,
        what: &'static str,
        matches: fn(&ProbeBuffer<'_>) -> bool,
    ) -> Self {
        Self {
            name,
            what,
            alias: None,
            kind: Kind::Image,
            matches,
            qemu: matches,
            size: |_| None,
            encrypted: false,
            advice: None,
        }
    }

    /// An image format that QEMU does not recognize.
    const fn unknown_to_qemu(
        name: &'static str,
        what: &'static str,
        matches: fn(&ProbeBuffer<'_>) -> bool,
    ) -> Self {
        Self { qemu: |_| false, ..Self::image(name, what, matches) }
    }

    /// A compressed file or an archive.
    const fn packed(
        name: &'static str,
        what: &'static str,
        matches: fn(&ProbeBuffer<'_>) -> bool,
    ) -> Self {
        let advice = Some("decompress or unpack it first");
        Self { kind: Kind::Packed, advice, ..Self::unknown_to_qemu(name, what, matches) }
    }
}

/// Every format that is recognized but not read.
pub(crate) static SIGNATURES: &[Signature] = &[
    #[cfg(not(feature = "qcow2"))]
    Signature {
        advice: Some("this build does not include qcow2 (cargo feature qcow2)"),
        ..Signature::image("qcow2", "a qcow2 image", |b| {
            b.head.starts_with(b"QFI\xfb") && be32(b.head, 4).is_some_and(|version| version >= 2)
        })
    },
    #[cfg(not(feature = "vmdk"))]
    Signature {
        advice: Some("this build does not include VMDK (cargo feature vmdk)"),
        ..Signature::image("vmdk", "a VMDK image", |b| {
            let magics: [&[u8]; 3] = [b"KDMV", b"COWD", b"\xbe\xba\xfe\xca"];
            magics.iter().any(|magic| b.head.starts_with(magic)) || is_descriptor(b.head)
        })
    },
    #[cfg(not(feature = "qed"))]
    Signature {
        advice: Some("this build does not include QED (cargo feature qed)"),
        ..Signature::image("qed", "a QED image", |b| b.head.starts_with(b"QED\0"))
    },
    // Version 2 and later are qcow2. Version 0 does not exist; no other format starts like it.
    #[cfg(not(feature = "qcow"))]
    Signature {
        advice: Some("this build does not include QCOW version 1 (cargo feature qcow)"),
        qemu: |b| b.head.starts_with(b"QFI\xfb\0\0\0\x01"),
        ..Signature::image("qcow", "a QCOW version 1 image", |b| {
            b.head.starts_with(b"QFI\xfb") && be32(b.head, 4).is_none_or(|version| version < 2)
        })
    },
    // QEMU before version 2.2, and libvirt.
    Signature::unknown_to_qemu("cow", "a COW (user-mode Linux) image", |b| {
        b.head.starts_with(b"OOOM\0\0\0")
    }),
    // QEMU probes the first sector only, so that a fixed VHD is a raw disk to it.
    #[cfg(not(feature = "vhd"))]
    Signature {
        alias: Some("vpc"),
        advice: Some("this build does not include VHD (cargo feature vhd)"),
        size: vhd_size,
        qemu: |b| b.head.starts_with(VHD_COOKIE),
        ..Signature::image("vhd", "a VHD image", |b| vhd_footer(b).is_some())
    },
    #[cfg(not(feature = "vhdx"))]
    Signature {
        advice: Some("this build does not include VHDX (cargo feature vhdx)"),
        ..Signature::image("vhdx", "a VHDX image", |b| b.head.starts_with(b"vhdxfile"))
    },
    #[cfg(not(feature = "vdi"))]
    Signature {
        advice: Some("this build does not include VDI (cargo feature vdi)"),
        size: |b| b.head.get(0x170..0x178)?.try_into().ok().map(u64::from_le_bytes),
        ..Signature::image("vdi", "a VDI image", |b| {
            b.head.get(64..68) == Some(&[0x7f, 0x10, 0xda, 0xbe])
        })
    },
    Signature {
        encrypted: true,
        // QEMU supports version 1 only.
        qemu: |b| b.head.starts_with(b"LUKS\xba\xbe\0\x01"),
        ..Signature::image("luks", "a LUKS volume", |b| b.head.starts_with(b"LUKS\xba\xbe"))
    },
    #[cfg(not(feature = "parallels"))]
    Signature {
        alias: Some("parallels"),
        advice: Some("this build does not include Parallels (cargo feature parallels)"),
        qemu: |b| is_parallels(b) && b.head.get(16..20) == Some(&[2, 0, 0, 0]),
        ..Signature::image("ploop", "a Parallels image", is_parallels)
    },
    #[cfg(not(feature = "bochs"))]
    Signature {
        advice: Some("this build does not include Bochs (cargo feature bochs)"),
        qemu: |b| {
            b.head.starts_with(BOCHS_MAGIC)
                && b.head.get(32..39) == Some(b"Redolog")
                && b.head.get(48..55) == Some(b"Growing")
                && matches!(b.head.get(64..68), Some([0, 0, 1 | 2, 0]))
        },
        ..Signature::image("bochs", "a Bochs image", |b| b.head.starts_with(BOCHS_MAGIC))
    },
    #[cfg(not(feature = "cloop"))]
    Signature {
        advice: Some("this build does not include cloop (cargo feature cloop)"),
        qemu: |b| b.head.starts_with(CLOOP_SCRIPT),
        ..Signature::image("cloop", "a cloop image", |b| b.head.starts_with(&CLOOP_SCRIPT[..23]))
    },
    // QEMU recognizes a DMG by its name.
    #[cfg(not(feature = "dmg"))]
    Signature {
        advice: Some("this build does not include DMG (cargo feature dmg)"),
        qemu: has_dmg_name,
        ..Signature::image("dmg", "an Apple disk image (DMG)", is_dmg)
    },
    Signature {
        encrypted: true,
        advice: Some(
            "decrypt it first: hdiutil convert -format UDZO -o OUTPUT.dmg INPUT.dmg (on a Mac)",
        ),
        qemu: |b| has_dmg_name(b) && is_encrypted_dmg(b),
        ..Signature::image("dmg-encrypted", "an encrypted Apple disk image (DMG)", is_encrypted_dmg)
    },
    #[cfg(not(feature = "sparseimage"))]
    Signature {
        advice: Some("this build does not include sparse images (cargo feature sparseimage)"),
        ..Signature::unknown_to_qemu("sparseimage", "an Apple sparse image (sparseimage)", |b| {
            b.head.starts_with(b"sprs\0\0")
        })
    },
    #[cfg(not(feature = "sparsebundle"))]
    Signature {
        advice: Some("this build does not include sparse bundles (cargo feature sparsebundle)"),
        ..Signature::unknown_to_qemu("sparsebundle", "an Apple sparse bundle", |b| {
            let bundle_type = b"com.apple.diskimage.sparsebundle";
            b.head.trim_ascii_start().starts_with(b"<")
                && b.head.windows(bundle_type.len()).any(|window| window == bundle_type)
        })
    },
    #[cfg(not(feature = "asif"))]
    Signature {
        advice: Some("this build does not include ASIF (cargo feature asif)"),
        ..Signature::unknown_to_qemu("asif", "an Apple sparse image (ASIF)", |b| {
            b.head.starts_with(b"shdw\0\0")
        })
    },
    #[cfg(not(feature = "ewf"))]
    Signature {
        advice: Some("this build does not include EWF (cargo feature ewf)"),
        ..Signature::unknown_to_qemu("ewf", "an EWF (EnCase) image", |b| {
            b.head.starts_with(b"EVF\x09\x0d\x0a\xff\0")
        })
    },
    Signature {
        advice: Some("acquire or export it as E01"),
        ..Signature::unknown_to_qemu("ewf2", "an EWF version 2 (Ex01) image", |b| {
            b.head.starts_with(b"EVF2\x0d\x0a\x81\0")
        })
    },
    Signature::unknown_to_qemu("ewf-logical", "EWF logical evidence (L01, Lx01)", |b| {
        b.head.starts_with(b"LVF\x09\x0d\x0a\xff\0") || b.head.starts_with(b"LEF2\x0d\x0a\x81\0")
    }),
    Signature {
        encrypted: true,
        ..Signature::unknown_to_qemu("adcrypt", "an image with AD encryption", |b| {
            b.head.starts_with(b"ADCRYPT\0")
        })
    },
    Signature {
        advice: Some("convert it first: affconvert -r INPUT.aff"),
        ..Signature::unknown_to_qemu("aff", "an AFF image", |b| b.head.starts_with(b"AFF10\r\n\0"))
    },
    Signature {
        advice: Some("export it as raw or as EWF in the program that made it"),
        ..Signature::unknown_to_qemu("aff4", "an AFF4 image", is_aff4)
    },
    Signature::unknown_to_qemu("simg", "an Android sparse image", |b| {
        b.head.starts_with(&[0x3a, 0xff, 0x26, 0xed, 1, 0])
    }),
    Signature::unknown_to_qemu("wim", "a WIM image", |b| b.head.starts_with(b"MSWIM\0\0\0")),
    Signature {
        advice: Some("convert the descriptor to UTF-8"),
        ..Signature::unknown_to_qemu("vmdk-utf16", "a VMDK descriptor in UTF-16", |b| {
            is_utf16_descriptor(b.head)
        })
    },
    #[cfg(not(feature = "ova"))]
    Signature {
        advice: Some("this build does not include OVA (cargo feature ova)"),
        ..Signature::unknown_to_qemu("ova", "an OVA or OVF appliance", |b| {
            let name = b.path.map(|path| path.as_os_str().to_ascii_lowercase());
            name.is_some_and(|name| {
                let name = name.as_encoded_bytes();
                name.ends_with(b".ova") || name.ends_with(b".ovf")
            })
        })
    },
    // RFC 1952, 2.3.1: ID1, ID2, CM = deflate.
    Signature::packed("gzip", "a gzip file", |b| b.head.starts_with(&[0x1f, 0x8b, 8])),
    Signature::packed("xz", "an xz file", |b| b.head.starts_with(b"\xfd7zXZ\0")),
    // The compression level, then the magic of a block or of the end of the stream.
    Signature::packed("bzip2", "a bzip2 file", |b| {
        b.head.starts_with(b"BZh")
            && matches!(b.head.get(3), Some(b'1'..=b'9'))
            && matches!(b.head.get(4..10), Some(b"1AY&SY" | b"\x17\x72\x45\x38\x50\x90"))
    }),
    // RFC 8878, 3.1.1 and 3.1.2: a frame, or a skippable frame. Others may follow that one, however
    // long it is; lz4 files may begin with it as well.
    Signature::packed("zstd", "a zstd file", |b| {
        let is_skippable = |head: &[u8; 4]| head[0] & 0xf0 == 0x50 && head[1..] == *b"\x2a\x4d\x18";
        b.head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
            || b.head.first_chunk().is_some_and(is_skippable)
    }),
    // A frame, or one of the older format.
    Signature::packed("lz4", "an lz4 file", |b| {
        b.head.starts_with(&[0x04, 0x22, 0x4d, 0x18])
            || b.head.starts_with(&[0x02, 0x21, 0x4c, 0x18])
    }),
    Signature::packed("lzip", "an lzip file", |b| {
        b.head.starts_with(b"LZIP\0") || b.head.starts_with(b"LZIP\x01")
    }),
    Signature::packed("grzip", "a grzip file", |b| b.head.starts_with(b"GRZipII\0\x02\x04:)")),
    Signature::packed("lzop", "an lzop file", |b| b.head.starts_with(b"\x89LZO\0\x0d\x0a\x1a\x0a")),
    Signature::packed("zip", "a zip archive", |b| {
        // A member, the central directory, the two end records, a spanned archive.
        let marks =
            [b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"PK\x07\x08", b"PK00"];
        marks.iter().any(|mark| b.head.starts_with(*mark))
    }),
    Signature::packed("7z", "a 7z archive", |b| b.head.starts_with(b"7z\xbc\xaf\x27\x1c")),
    Signature::packed("rar", "a RAR archive", |b| b.head.starts_with(b"Rar!\x1a\x07")),
    Signature::packed("cab", "a cabinet file", |b| b.head.starts_with(b"MSCF\0\0\0\0")),
    Signature::packed("xar", "a XAR archive", |b| b.head.starts_with(b"xar!\0")),
    Signature::packed("ar", "an ar archive", |b| {
        b.head.starts_with(b"!<arch>\n") || b.head.starts_with(b"!<thin>\n")
    }),
    Signature::packed("rpm", "an RPM package", |b| b.head.starts_with(&[0xed, 0xab, 0xee, 0xdb])),
    Signature::packed("cpio", "a cpio archive", |b| is_cpio(b.head)),
    // The name of the method, such as -lh5-.
    Signature::packed("lha", "an LHA archive", |b| {
        matches!(b.head.get(2..7), Some([b'-', b'l', b'h' | b'z', method, b'-'])
            if method.is_ascii_alphanumeric())
    }),
    Signature::packed("arj", "an ARJ archive", |b| {
        b.head.starts_with(&[0x60, 0xea]) && b.head.get(10) == Some(&2)
    }),
    Signature::packed("warc", "a WARC archive", |b| b.head.starts_with(b"WARC/")),
    Signature::packed("mtree", "an mtree specification", |b| b.head.starts_with(b"#mtree")),
    // GNU tar and bsdtar accept any number of bits in the third byte.
    Signature::packed("compress", "a compress (.Z) file", |b| b.head.starts_with(&[0x1f, 0x9d])),
    Signature::packed("lzma", "an lzma file", |b| is_lzma(b.head)),
    Signature::packed("lrzip", "an lrzip file", |b| b.head.starts_with(b"LRZI\0")),
    Signature::packed("uuencode", "a uuencoded file", |b| is_uuencoded(b.head)),
    Signature::packed("tar", "a tar archive", |b| is_tar(b.head)),
];

#[cfg(not(feature = "vhd"))]
const VHD_COOKIE: &[u8] = b"conectix";

#[cfg(not(feature = "bochs"))]
const BOCHS_MAGIC: &[u8] = b"Bochs Virtual HD Image";

#[cfg(not(feature = "cloop"))]
/// The start of a cloop image, version 2.0. Later versions differ in the third line.
const CLOOP_SCRIPT: &[u8] =
    b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n";

#[cfg(not(feature = "vhd"))]
/// The footer is the last sector of a VHD; a dynamic or differencing disk has a copy in its first.
/// Some early programs wrote footers of 511 bytes.
fn vhd_footer<'a>(buffer: &'a ProbeBuffer<'_>) -> Option<&'a [u8]> {
    let tail = buffer.tail;
    let ends = [512, 511].map(|len| tail.len().checked_sub(len).map(|start| &tail[start..]));
    let mut candidates = [Some(buffer.head)].into_iter().chain(ends).flatten();
    candidates.find(|bytes| bytes.starts_with(VHD_COOKIE))
}

#[cfg(not(feature = "vhd"))]
fn vhd_size(buffer: &ProbeBuffer<'_>) -> Option<u64> {
    vhd_footer(buffer)?.get(48..56)?.try_into().ok().map(u64::from_be_bytes)
}

/// Version 2 of the encryption has a header, version 1 a trailer.
fn is_encrypted_dmg(buffer: &ProbeBuffer<'_>) -> bool {
    buffer.head.starts_with(b"encrcdsa") || buffer.tail.ends_with(b"cdsaencr")
}

/// An AFF4 image is a zip archive. Its first member has the volume's URN, which is the archive's
/// comment as well. AFF4 Standard 1.0, 4.2.
fn is_aff4(buffer: &ProbeBuffer<'_>) -> bool {
    let is_zip = buffer.head.starts_with(b"PK\x03\x04");
    let has_member = buffer.head.get(30..).is_some_and(|name| {
        name.starts_with(b"container.description") || name.starts_with(b"container%2edescription")
    });
    let has_comment = || buffer.tail.windows(7).any(|bytes| bytes == b"aff4://");
    is_zip && (has_member || has_comment())
}

fn has_dmg_name(buffer: &ProbeBuffer<'_>) -> bool {
    buffer.path.is_some_and(|path| path.as_os_str().as_encoded_bytes().ends_with(b".dmg"))
}

#[cfg(not(feature = "dmg"))]
/// The trailer starts with `koly`, then version 4. It is usually the last sector, but a file's
/// length need not be a multiple of 512: QEMU rounds it up and searches `koly` in the two last
/// sectors of that length, which the file's last 1023 bytes contain. Old images have the same
/// structure at the start.
fn is_dmg(buffer: &ProbeBuffer<'_>) -> bool {
    let ProbeBuffer { head, tail, .. } = buffer;
    let last_sectors = &tail[tail.len().saturating_sub(1023)..];
    last_sectors.windows(4).any(|bytes| bytes == b"koly")
        || tail.windows(8).any(|bytes| bytes == b"koly\0\0\0\x04")
        || head.starts_with(b"koly\0\0\0\x04")
}

#[cfg(not(feature = "parallels"))]
fn is_parallels(buffer: &ProbeBuffer<'_>) -> bool {
    [b"WithoutFreeSpace", b"WithouFreSpacExt"].iter().any(|magic| buffer.head.starts_with(*magic))
}

/// Whether the first block is the header of a tar archive: with the magic or, as in the oldest
/// archives, with a valid checksum only.
fn is_tar(head: &[u8]) -> bool {
    let Some(block) = head.first_chunk::<512>() else {
        return head.get(257..262) == Some(b"ustar");
    };
    if block[257..262] == *b"ustar" {
        return true;
    }
    has_tar_checksum(block)
}

/// Whether the checksum of a tar archive's header is valid in any spelling that a program accepts:
/// octal digits anywhere in the field, a number in base 256, or one in base 64, as early versions of
/// GNU tar wrote it.
pub(crate) fn has_tar_checksum(block: &[u8; 512]) -> bool {
    // The field itself counts as blanks.
    let others = || block[..148].iter().chain(&block[156..]).copied();
    let blanks = 8 * i64::from(b' ');
    let unsigned = others().map(i64::from).sum::<i64>() + blanks;
    let signed = others().map(|byte| i64::from(byte.cast_signed())).sum::<i64>() + blanks;
    let is_sum = |stated: i64| [unsigned.abs(), signed.abs()].contains(&stated.abs());
    let field = &block[148..156];
    // To Python, an underscore may separate digits.
    let text: Vec<u8> = field.iter().copied().filter(|&byte| byte != b'_').collect();
    let octal = text.split(|byte| !matches!(byte, b'0'..=b'7')).any(|digits| {
        let value = digits.iter().fold(0, |value, digit| value << 3 | i64::from(digit - b'0'));
        !digits.is_empty() && is_sum(value)
    });
    let low = i64::from(i32::from_be_bytes([field[4], field[5], field[6], field[7]]));
    let base_256 = field[0] & 0x80 != 0 && is_sum(low);
    let base_64 = matches!(field[0], b'+' | b'-') && {
        let digits = field[1..].iter().map_while(|&byte| base_64_digit(byte));
        is_sum(digits.fold(0, |value, digit| value << 6 | digit))
    };
    octal || base_256 || base_64
}

fn base_64_digit(byte: u8) -> Option<i64> {
    let digit = match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(digit.into())
}

/// Whether `head` starts with the magic of a cpio archive: text, or a word in either byte order.
/// bsdtar examines nothing else.
fn is_cpio(head: &[u8]) -> bool {
    let texts = [&b"070701"[..], b"070702", b"070707", b"070727"];
    let words = [&b"\xc7\x71"[..], b"\x71\xc7"];
    texts.iter().chain(&words).any(|magic| head.starts_with(magic))
}

/// Whether `head` starts with the header of an lzma file: possible properties and a usual size of
/// the dictionary. bsdtar examines nothing else; Python and 7-Zip accept smaller dictionaries, but
/// not every size of the contents.
fn is_lzma(head: &[u8]) -> bool {
    const MAX_PROPERTIES: u8 = (4 * 5 + 4) * 9 + 8;
    let Some([properties, d0, d1, d2, d3, size @ ..]) = head.first_chunk::<13>() else {
        return head.starts_with(b"\xffLZMA");
    };
    let dictionary = u32::from_le_bytes([*d0, *d1, *d2, *d3]);
    let usual = dictionary.is_power_of_two()
        || dictionary.is_multiple_of(3) && (dictionary / 3).is_power_of_two()
        || dictionary == u32::MAX
        // What little memory leaves, to XZ Utils.
        || dictionary.is_multiple_of(1 << 20) && (3 << 20..=63 << 20).contains(&dictionary);
    let size = u64::from_le_bytes(*size);
    let is_sized = size == u64::MAX || (1..1 << 56).contains(&size);
    let possible = match dictionary {
        // What follows zeros is never decoded. Subheaders of raw CD sectors look like this.
        u32::MAX | 4..4096 => {
            is_sized
                && head.get(13) == Some(&0)
                && head[13..].iter().take(512).any(|&byte| byte != 0)
        }
        4096.. => true,
        _ => false,
    };
    *properties <= MAX_PROPERTIES && usual && possible || head.starts_with(b"\xffLZMA")
}

/// Whether `head` starts with the first line of a uuencoded file: `begin 644 NAME`, or that of its
/// variant in base 64.
pub(crate) fn is_uuencoded(head: &[u8]) -> bool {
    let rest = head.strip_prefix(b"begin ").or_else(|| head.strip_prefix(b"begin-base64 "));
    rest.is_some_and(|rest| matches!(rest, [b'0'..=b'7', b'0'..=b'7', b'0'..=b'7', b' ', ..]))
}

/// Whether `head` starts with the first line of a VMDK descriptor in UTF-16, in either byte order,
/// with or without a byte order mark.
pub(crate) fn is_utf16_descriptor(head: &[u8]) -> bool {
    const FIRST_LINE: &[u8] = b"# disk descriptor";
    let units: Vec<[u8; 2]> =
        head.chunks_exact(2).take(64).map(|unit| [unit[0], unit[1]]).collect();
    [u16::from_le_bytes, u16::from_be_bytes].iter().any(|decode| {
        let text = units.iter().map(|unit| decode(*unit)).skip_while(|unit| *unit == 0xfeff);
        let ascii = text.map_while(|unit| u8::try_from(unit).ok());
        let line: Vec<u8> = ascii.take(FIRST_LINE.len()).collect();
        line.eq_ignore_ascii_case(FIRST_LINE)
    })
}

/// Whether `head` starts like a VMDK descriptor: with the comment or the version line that come
/// first, after empty lines and other comments. With the feature `vmdk`, its own parser decides.
#[cfg(not(feature = "vmdk"))]
fn is_descriptor(head: &[u8]) -> bool {
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    for line in head.split(|&b| b == b'\n' || b == b'\r').map(<[u8]>::trim_ascii) {
        if let Some(comment) = line.strip_prefix(b"#") {
            if comment.trim_ascii().eq_ignore_ascii_case(b"Disk DescriptorFile") {
                return true;
            }
        } else if !line.is_empty() {
            let name = line.split(|&b| b == b'=').next().unwrap_or_default();
            return name.len() < line.len() && name.trim_ascii().eq_ignore_ascii_case(b"version");
        }
    }
    false
}

#[cfg(not(all(feature = "qcow2", feature = "qcow")))]
fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}
