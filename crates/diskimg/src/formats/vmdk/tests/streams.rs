//! Reading streams that are built by hand according to the specification.

use super::*;

/// Builds a stream according to the specification.
pub(super) struct Stream {
    pub(super) footer: bool,
    pub(super) markers: bool,
    /// Whether grains without markers are preceded by their size.
    pub(super) sized: bool,
    /// Numbers of the guest grains in the order in which they are stored.
    pub(super) order: Vec<usize>,
    pub(super) grain_sectors: u64,
    /// Whether grains are stored in uncompressed deflate blocks.
    pub(super) level_0: bool,
    /// Whether grains are preceded by progress markers, as VMware writes them.
    pub(super) progress: bool,
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            footer: true,
            markers: true,
            sized: false,
            order: vec![0, 1, 3],
            grain_sectors: 128,
            level_0: false,
            progress: false,
        }
    }
}

impl Stream {
    fn header(&self, sectors: u64, gd: u64) -> Vec<u8> {
        let mut header = vec![0; 512];
        put(&mut header, 0, b"KDMV\x03\0\0\0");
        let flags: u32 = if self.markers { 0x30001 } else { 0x10001 };
        put(&mut header, 8, &flags.to_le_bytes());
        for (at, value) in
            [(12, sectors), (20, self.grain_sectors), (28, 1), (36, 20), (56, gd), (64, 128)]
        {
            put(&mut header, at, &value.to_le_bytes());
        }
        put(&mut header, 44, &512u32.to_le_bytes());
        put(&mut header, 48, &0u64.to_le_bytes());
        put(&mut header, 56, &gd.to_le_bytes());
        put(&mut header, 73, b"\n \r\n\x01");
        header
    }

    fn marker(file: &mut Vec<u8>, sectors: u64, kind: u32) {
        let at = file.len();
        file.resize(at + 512, 0);
        put(file, at, &sectors.to_le_bytes());
        put(file, at + 12, &kind.to_le_bytes());
    }

    /// Returns a zlib stream: compressed, or in stored blocks, which is valid, too, and larger than
    /// the data.
    fn zlib(&self, unit: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        if !self.level_0 {
            Encoder::zlib().encode(unit, unit.len() * 2 + 1024, &mut out).expect("encodes");
            return out;
        }
        out.extend([0x78, 0x01]);
        let mut blocks = unit.chunks(1000).peekable();
        while let Some(block) = blocks.next() {
            out.push(u8::from(blocks.peek().is_none()));
            let len = block.len() as u16;
            out.extend(len.to_le_bytes());
            out.extend((!len).to_le_bytes());
            out.extend(block);
        }
        let (mut a, mut b) = (1u32, 0u32);
        for &byte in unit {
            a = (a + u32::from(byte)) % 65521;
            b = (b + a) % 65521;
        }
        out.extend(((b << 16) | a).to_be_bytes());
        out
    }

    pub(super) fn build(&self, disk: &[u8]) -> Vec<u8> {
        let sectors = disk.len() as u64 / 512;
        let mut file = self.header(sectors, u64::MAX);
        file.extend(b"# Disk DescriptorFile\nversion=1 \nCID=0dc3c2a9 \nparentCID=ffffffff \n");
        file.extend(b"createType=\"streamOptimized\" \n");
        file.extend(format!("RDONLY {sectors} SPARSE \"generated-stream.vmdk\"\n").as_bytes());
        file.resize(64 << 10, 0);
        let grain_bytes = self.grain_sectors as usize * 512;
        let mut table = vec![0u32; 512];
        for &grain in &self.order {
            if self.progress {
                // VMware repeats the marker to fill a buffer of 2048 bytes.
                for _ in 0..4 {
                    let at = file.len() + 16;
                    Self::marker(&mut file, 0, 4);
                    put(&mut file, at, &(grain as u64 * self.grain_sectors).to_le_bytes());
                }
            }
            table[grain] = (file.len() / 512) as u32;
            let end = disk.len().min((grain + 1) * grain_bytes);
            let data = self.zlib(&disk[grain * grain_bytes..end]);
            if self.markers {
                file.extend((grain as u64 * self.grain_sectors).to_le_bytes());
            }
            if self.markers || self.sized {
                file.extend((data.len() as u32).to_le_bytes());
            }
            file.extend(data);
            file.resize(file.len().next_multiple_of(512), 0);
        }
        if self.markers {
            Self::marker(&mut file, 4, 1);
        }
        let gt = (file.len() / 512) as u32;
        file.extend(table.iter().flat_map(|entry| entry.to_le_bytes()));
        if self.markers {
            Self::marker(&mut file, 1, 2);
        }
        let gd = (file.len() / 512) as u64;
        file.extend(gt.to_le_bytes());
        file.resize(file.len().next_multiple_of(512), 0);
        if self.footer {
            Self::marker(&mut file, 1, 3);
            let footer = self.header(sectors, gd);
            file.extend(footer);
            Self::marker(&mut file, 0, 0);
        } else {
            put(&mut file, 56, &gd.to_le_bytes());
        }
        file
    }
}

#[test]
fn streams_of_every_form_are_read() {
    let mut disk = sample(3, 40 << 10);
    let shapes = [
        ("vSphere", Stream::default()),
        ("directory located by the header", Stream { footer: false, ..Stream::default() }),
        ("unordered", Stream { order: vec![3, 0, 1], ..Stream::default() }),
        ("larger than the grain", Stream { level_0: true, ..Stream::default() }),
        (
            "no markers, sizes",
            Stream { markers: false, sized: true, footer: false, ..Stream::default() },
        ),
        ("no markers, bare", Stream { markers: false, footer: false, ..Stream::default() }),
        (
            "no markers, bare, stored",
            Stream { markers: false, level_0: true, footer: false, ..Stream::default() },
        ),
        (
            "small grains",
            Stream { grain_sectors: 8, order: (0..58).collect(), ..Stream::default() },
        ),
    ];
    for (name, shape) in shapes {
        let whole = shape.build(&disk);
        assert!(read(&whole).expect(name) == disk, "{name}");
        assert_eq!(check(&whole), [""; 0], "{name}");
    }
    // A grain without a table entry reads as zeros.
    let partial = Stream { order: vec![0, 1], ..Stream::default() }.build(&disk);
    disk[2 * GRAIN..].fill(0);
    assert!(read(&partial).expect("reads") == disk);
}

#[test]
fn a_stream_may_be_padded_with_zeros_but_not_truncated() {
    let disk = sample(4, 0);
    let whole = Stream::default().build(&disk);
    for padding in [1, 512, 1000, 60_000] {
        let mut padded = whole.clone();
        padded.resize(whole.len() + padding, 0);
        assert!(read(&padded).expect("reads") == disk, "{padding}");
    }
    let mut far = whole.clone();
    far.resize(whole.len() + (128 << 10), 0);
    for cut in [&whole[..whole.len() - 1], &whole[..whole.len() - 512], &whole[..70_000], &far] {
        let error = read(cut).expect_err("truncated");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("truncated"), "{error}");
    }
}
