//! The whole format: images written and read back, and streams put together
//! by hand from the specification.

use crate::formats::vmdk::DRIVER;
use crate::host::codec::Encoder;
use crate::host::output::Output;
use crate::host::sink::{MemorySink, PipeSink, Sink};
use crate::host::source::{MemorySource, Source};
use crate::vocabulary::target::{Backing, CreateRequest, Target, Unit};
use crate::{ErrorKind, Format, Image, OpenOptions, Options, Result, conformance};
use std::io::Write;
use std::sync::{Arc, Mutex};

const GRAIN: usize = 64 << 10;

/// Bytes that do not compress.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    })
    .take(len)
    .collect()
}

/// A disk of `grains` whole grains and `tail` bytes more: data, zeros, noise.
fn sample(grains: usize, tail: usize) -> Vec<u8> {
    let mut disk = vec![0; grains * GRAIN + tail];
    for (i, grain) in disk.chunks_mut(GRAIN).enumerate() {
        match i % 4 {
            0 => grain.fill(i as u8 + 1),
            1 => grain.copy_from_slice(&noise(i as u64, grain.len())),
            2 => {}
            _ => grain[grain.len() / 2] = 7,
        }
    }
    disk
}

fn open(bytes: &[u8]) -> Result<Image> {
    OpenOptions::new().open_source(Arc::new(MemorySource::new(bytes)), "test.vmdk")
}

/// What the guest sees; everything that can be promised of the image holds.
fn read(bytes: &[u8]) -> Result<Vec<u8>> {
    let image = open(bytes)?;
    assert_eq!(image.format(), Format::Vmdk);
    conformance::verify(&image)?;
    let mut disk = vec![0xa5; image.size() as usize];
    image.read_at(&mut disk, 0)?;
    Ok(disk)
}

/// Checks the image; gives the findings.
fn check(bytes: &[u8]) -> Vec<String> {
    let mut findings = Vec::new();
    let report = open(bytes)
        .and_then(|image| image.check(&mut |finding| findings.push(finding.message)))
        .expect("checks")
        .expect("VMDK is checked");
    let counted = report.corruptions + report.leaks + report.check_errors;
    assert_eq!(counted, findings.len() as u64);
    findings
}

fn create<'a>(
    output: &'a mut Output,
    size: u64,
    options: &'a Options,
    backing: Option<Backing>,
    compress: bool,
) -> Result<Box<dyn Target>> {
    (DRIVER.create)(CreateRequest { output, size, options, backing, compress })
}

/// Writes `disk` as an engine would: unit by unit, in order.
fn fill(mut target: Box<dyn Target>, disk: &[u8]) -> Result<()> {
    let unit = target.geometry().unit as usize;
    let mut encoder = target.encoder();
    for (i, piece) in disk.chunks(unit).enumerate() {
        let (at, len) = ((i * unit) as u64, piece.len() as u64);
        let mut encoded = Vec::new();
        let zero = piece.iter().all(|&b| b == 0);
        let (bytes, slot) = match &mut encoder {
            _ if zero => (piece, target.place(at, Unit::Zero { len })?),
            Some(encoder) => {
                let mut whole = piece.to_vec();
                whole.resize(unit, 0);
                assert!(encoder.encode(at, &whole, &mut encoded)?);
                (encoded.as_slice(), target.place(at, Unit::Encoded(&encoded))?)
            }
            None => (piece, target.place(at, Unit::Stored { len })?),
        };
        if let Some(slot) = slot {
            assert_eq!(slot.len, bytes.len() as u64);
            target.files()[slot.file].write_all_at(bytes, slot.offset).expect("writes");
        }
    }
    target.finish()
}

/// Writes `disk` with these options; gives the file.
fn write(disk: &[u8], options: &str) -> Vec<u8> {
    let sink = Arc::new(MemorySink::new());
    let mut output = Output::to_sink(Arc::clone(&sink) as Arc<dyn Sink>);
    let options = Options::parse(options).expect("parses");
    let target = create(&mut output, disk.len() as u64, &options, None, false).expect("creates");
    fill(target, disk).expect("fills");
    sink.to_source().as_slice().expect("in memory").to_vec()
}

#[test]
fn what_is_written_is_read_back_and_consistent() {
    for disk in [sample(1, 0), sample(9, 0), sample(700, 512), vec![0; GRAIN * 3], sample(0, 1536)]
    {
        for options in ["", "zeroed_grain=on", "subformat=streamOptimized"] {
            let file = write(&disk, options);
            assert!(read(&file).expect("reads") == disk, "{} bytes, {options}", disk.len());
            assert_eq!(check(&file), [""; 0], "{} bytes, {options}", disk.len());
            assert_eq!(file, write(&disk, options), "not the same bytes again");
        }
    }
}

#[test]
fn a_size_that_is_no_multiple_of_512_is_rounded_up() {
    let disk = read(&write(&[1; 1000], "")).expect("reads");
    assert_eq!((disk.len(), disk[999], disk[1000]), (1024, 1, 0));
}

#[test]
fn what_was_there_before_shows_nowhere() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("old.vmdk");
    let disk = sample(30, 512);
    for options in ["", "subformat=streamOptimized"] {
        std::fs::write(&path, vec![0xee; 8 << 20]).expect("writes");
        let mut output = Output::in_place(&path, false).expect("opens");
        let parsed = Options::parse(options).expect("parses");
        let target = create(&mut output, disk.len() as u64, &parsed, None, false).expect("creates");
        fill(target, &disk).expect("fills");
        let file = std::fs::read(&path).expect("reads");
        assert!(read(&file).expect("reads") == disk, "{options}");
        assert_eq!(check(&file), [""; 0], "{options}");
        assert!(!file.chunks(64).any(|c| c == [0xee; 64]), "{options}");
    }
}

#[test]
fn a_stream_through_a_pipe_is_the_same_stream() {
    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);
    impl Write for Shared {
        fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("alone").write(buf)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let disk = sample(600, 0);
    let shared = Shared::default();
    let mut output = Output::to_sink(Arc::new(PipeSink::new(shared.clone())));
    let options = Options::default();
    let size = disk.len() as u64;
    // Compression without a subformat is a stream.
    let target = create(&mut output, size, &options, None, true).expect("creates");
    assert!(target.sequential());
    fill(target, &disk).expect("fills");
    let file = shared.0.lock().expect("alone").clone();
    assert!(file == write(&disk, "subformat=streamOptimized"));
    let error = create(&mut output, size, &options, None, false).expect_err("not sparse");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn what_cannot_be_honoured_is_refused() {
    let refuse = |size, options: &str, backing: Option<Backing>, compress, kind| {
        let mut output = Output::to_sink(Arc::new(MemorySink::new()));
        let options = Options::parse(options).expect("parses");
        let error = create(&mut output, size, &options, backing, compress).expect_err("refused");
        assert_eq!(error.kind(), kind, "{error}");
    };
    let backing = |format: Option<&str>, id: Option<&str>, name: &str| {
        Some(Backing {
            name: name.into(),
            format: format.map(Into::into),
            content_id: id.map(Into::into),
        })
    };
    refuse(0, "", None, false, ErrorKind::Invalid);
    refuse(u64::MAX, "", None, false, ErrorKind::Limit);
    refuse(1 << 50, "", None, false, ErrorKind::Limit);
    refuse(512, "subformat=monolithicFlat", None, false, ErrorKind::Unsupported);
    refuse(512, "subformat=monolithicSparse", None, true, ErrorKind::Invalid);
    refuse(512, "subformat=streamOptimized,zeroed_grain=on", None, false, ErrorKind::Invalid);
    refuse(512, "preallocation=full", None, false, ErrorKind::Unsupported);
    refuse(512, "adapter_type=nvme", None, false, ErrorKind::Invalid);
    refuse(512, "compat6=on,hwversion=7", None, false, ErrorKind::Invalid);
    refuse(512, "backing_file=b", None, false, ErrorKind::Invalid);
    refuse(512, "", backing(Some("raw"), Some("1"), "b"), false, ErrorKind::Invalid);
    refuse(512, "", backing(None, None, "b"), false, ErrorKind::Invalid);
    refuse(512, "", backing(None, Some("1"), "a\"b"), false, ErrorKind::Invalid);
    let stream = "subformat=streamOptimized";
    refuse(512, stream, backing(None, Some("1"), "b"), false, ErrorKind::Unsupported);
}

#[test]
fn a_child_is_read_with_its_own_parent_only() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = |name: &str| dir.path().join(name);
    let base = sample(8, 0);
    std::fs::write(path("base.vmdk"), write(&base, "")).expect("writes");
    let parent = Image::open(path("base.vmdk")).expect("opens");
    let content_id = parent.layers().next().and_then(|l| l.content_ids().into_iter().next());
    for (zeroed, name) in [("zeroed_grain=on", "zero.vmdk"), ("", "stored.vmdk")] {
        let backing = Backing {
            name: "base.vmdk".into(),
            format: Some("vmdk".into()),
            content_id: content_id.clone(),
        };
        let sink = Arc::new(MemorySink::new());
        let mut output = Output::to_sink(Arc::clone(&sink) as Arc<dyn Sink>);
        let options = Options::parse(zeroed).expect("parses");
        let size = base.len() as u64;
        let mut target =
            create(&mut output, size, &options, Some(backing), false).expect("creates");
        // Zeros over grains 0 and 1, data in grain 2, the rest is the parent's.
        assert_eq!(target.place(0, Unit::Zero { len: 2 * GRAIN as u64 }).expect("places"), None);
        let slot = target.place(2 * GRAIN as u64, Unit::Stored { len: GRAIN as u64 });
        let slot = slot.expect("places").expect("a slot");
        sink.write_all_at(&[9; GRAIN], slot.offset).expect("writes");
        target.finish().expect("finishes");
        let file = sink.to_source();
        std::fs::write(path(name), file.as_slice().expect("in memory")).expect("writes");
        let image = Image::open(path(name)).expect("opens");
        conformance::verify(&image).expect("holds");
        let mut wanted = base.clone();
        wanted[..2 * GRAIN].fill(0);
        wanted[2 * GRAIN..3 * GRAIN].fill(9);
        let mut disk = vec![1; base.len()];
        image.read_at(&mut disk, 0).expect("reads");
        assert!(disk == wanted, "{name}");
    }
    std::fs::write(path("base.vmdk"), write(&sample(9, 0), "")).expect("writes");
    let error = Image::open(path("zero.vmdk")).expect_err("another parent");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains(&content_id.expect("has one")), "{error}");
}

/// Puts a stream together as the specification describes it.
struct Stream {
    footer: bool,
    markers: bool,
    /// In front of unmarked grains: their size.
    sized: bool,
    /// Guest grains in the order in which they are stored.
    order: Vec<usize>,
    grain_sectors: u64,
    level_0: bool,
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
        }
    }
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
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

    /// A zlib stream: deflated, or (valid too) in stored blocks that are larger
    /// than what they hold.
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

    fn build(&self, disk: &[u8]) -> Vec<u8> {
        let sectors = disk.len() as u64 / 512;
        let mut file = self.header(sectors, u64::MAX);
        file.extend(b"# Disk DescriptorFile\nversion=1 \nCID=0dc3c2a9 \nparentCID=ffffffff \n");
        file.extend(b"createType=\"streamOptimized\" \n");
        file.extend(format!("RDONLY {sectors} SPARSE \"generated-stream.vmdk\"\n").as_bytes());
        file.resize(64 << 10, 0);
        let grain_bytes = self.grain_sectors as usize * 512;
        let mut table = vec![0u32; 512];
        for &grain in &self.order {
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
fn streams_of_every_shape_are_read() {
    let mut disk = sample(3, 40 << 10);
    let shapes = [
        ("vSphere", Stream::default()),
        ("directory told by the header", Stream { footer: false, ..Stream::default() }),
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
    // A grain that no table lists is not there.
    let part = Stream { order: vec![0, 1], ..Stream::default() }.build(&disk);
    disk[2 * GRAIN..].fill(0);
    assert!(read(&part).expect("reads") == disk);
}

#[test]
fn zeros_behind_the_end_of_a_stream_are_padding_and_less_than_the_end_is_truncation() {
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

#[test]
fn damage_is_named() {
    let disk = sample(4, 0);
    let whole = Stream::default().build(&disk);
    let first = 64 << 10;
    let text = 512
        + "# Disk DescriptorFile\nversion=1 \nCID=0dc3c2a9 \nparentCID=ffffffff \n".len()
        + "createType".len();
    for (at, bytes, said) in [
        (first, &[5u8][..], "its marker says sector 5"),
        (first + 8, &[0, 0, 0, 0], "a compressed size of 0 bytes"),
        (first + 8, &[0, 0, 4, 0], "a compressed size of 262144 bytes"),
        (first + 12, &[0xff, 0xff], "damaged deflate stream"),
        (text, b"?", "line 5"),
        (12, &[1], "513 in the extent's header"),
        (20, &[0, 1], "grain size"),
        (72, &[1], ""),
    ] {
        let mut file = whole.clone();
        put(&mut file, at, bytes);
        match read(&file) {
            Ok(found) => assert!(said.is_empty() && found == disk),
            Err(error) => assert!(error.to_string().contains(said), "{said}: {error}"),
        }
    }
}

#[test]
fn damage_in_the_short_last_grain_of_a_stream_is_found() {
    let disk = [noise(1, GRAIN), noise(2, 1536)].concat();
    let file = write(&disk, "subformat=streamOptimized");
    assert!(read(&file).expect("reads") == disk);
    let grains = 128 * 512;
    let marker = |w: &[u8]| w == 128u64.to_le_bytes();
    let last = grains + file[grains..].windows(8).position(marker).expect("marker");
    let mut damaged = file.clone();
    damaged[last + 12 + 200] ^= 1;
    assert!(read(&damaged).is_err_and(|e| e.kind() == ErrorKind::Corrupt));
}

#[test]
fn a_capacity_rounded_up_to_a_grain_does_not_enlarge_the_disk() {
    let disk = sample(3, 1536);
    for options in ["", "subformat=streamOptimized"] {
        let mut file = write(&disk, options);
        let at = file.len() - 1024;
        let headers: &[usize] = if options.is_empty() { &[0] } else { &[0, at] };
        let capacity = |file: &mut [u8], sectors: u64| {
            headers.iter().for_each(|&at| put(file, at + 12, &sectors.to_le_bytes()));
        };
        capacity(&mut file, 4 * 128);
        assert!(read(&file).expect("reads") == disk, "{options}");
        assert_eq!(check(&file), [""; 0], "{options}");
        for wrong in [3 * 128 + 2, 4 * 128 + 4] {
            capacity(&mut file, wrong);
            assert!(read(&file).is_err_and(|e| e.kind() == ErrorKind::Corrupt), "{wrong}");
        }
    }
}

#[test]
fn other_layouts_are_named_and_not_read() {
    let plain = write(&sample(2, 0), "");
    let edit = |from: &str, to: &str| {
        let text = String::from_utf8(plain[512..21 * 512].to_vec()).expect("ASCII");
        let mut text = text.replace(from, to).into_bytes();
        text.resize(20 * 512, 0);
        let mut file = plain.clone();
        put(&mut file, 512, &text);
        open(&file).expect_err(to)
    };
    for (from, to, kind, said) in [
        ("\nRW 256", "\nRW 256 FLAT \"gone\" 0\nRW 256", ErrorKind::Refused, "'gone'"),
        ("SPARSE \"disk", "VSANSPARSE \"disk", ErrorKind::Unsupported, "vSAN"),
        ("SPARSE \"disk", "SESPARSE \"disk", ErrorKind::Corrupt, "starts no such extent"),
        ("disk.vmdk\"", "disk.vmdk\" 1", ErrorKind::Unsupported, "at an offset"),
        ("\nRW 256", "\nRW 127", ErrorKind::Corrupt, "256 in the extent's header"),
        ("\nRW 256", "\n# 256", ErrorKind::Corrupt, "lists no extent"),
        ("\nRW 256", "\nWR 256", ErrorKind::Corrupt, "line 8"),
        ("parentCID=ffffffff", "parentCID=1", ErrorKind::Corrupt, "parentFileNameHint is missing"),
        ("version=1", "version=1\nparentFileNameHint=\"b\"", ErrorKind::Corrupt, "no parent"),
        (
            "#DDB\n",
            "ddb.uuid.parent=\"1f000000-0000-0000-0000-000000000000\"\n",
            ErrorKind::Invalid,
            "VirtualBox",
        ),
    ] {
        let error = edit(from, to);
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(said), "{error}");
    }
    let nothing = OpenOptions::new()
        .format(Format::Vmdk)
        .open_source(Arc::new(MemorySource::new(vec![0; 4096])), "test.vmdk")
        .expect_err("no VMDK");
    assert!(nothing.to_string().contains("neither a sparse extent"), "{nothing}");
    for (bytes, said) in [
        (b"COWD\x01\0\0\0".to_vec(), "COWD"),
        (vec![0xbe, 0xba, 0xfe, 0xca, 0, 0, 0, 0], "seSparse"),
    ] {
        let error = open(&bytes).expect_err(said);
        assert_ne!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains(said), "{error}");
    }
}

#[test]
fn an_empty_or_custom_create_type_is_read_where_the_file_holds_the_disk() {
    let disk = sample(2, 0);
    let plain = write(&disk, "");
    for name in ["", "custom", "MONOLITHICSPARSE"] {
        let mut file = plain.clone();
        let old = b"\"monolithicSparse\"";
        let at = file.windows(old.len()).position(|w| w == old).expect("there");
        let new = format!("\"{name}\"{}", " ".repeat(old.len() - 2 - name.len()));
        put(&mut file, at, new.as_bytes());
        assert!(read(&file).expect("reads") == disk, "{name}");
    }
}

#[test]
fn a_damaged_directory_is_mended_from_the_redundant_one() {
    let disk = sample(700, 0);
    let whole = write(&disk, "");
    let gd = u64::from_le_bytes(whole[56..64].try_into().expect("8 bytes"));
    let mut entry = whole.clone();
    put(&mut entry, gd as usize * 512, &[0xff; 4]);
    let mut all = whole.clone();
    put(&mut all, 56, &[0xff, 0xff, 0xff, 0]);
    for file in [entry, all] {
        assert!(read(&file).expect("reads") == disk);
        let notes = open(&file).and_then(|i| i.info(0)).expect("tells").notes;
        assert!(notes.iter().any(|n| n.contains("redundant")), "{notes:?}");
    }
}

#[test]
fn tables_are_bounded_before_they_are_allocated() {
    let mut file = write(&sample(1, 0), "");
    // 2^50 sectors: a directory of 64 GiB.
    put(&mut file, 12, &(1u64 << 50).to_le_bytes());
    let text = String::from_utf8(file[512..21 * 512].to_vec()).expect("ASCII");
    let text = text.replace("RW 128 ", &format!("RW {} ", 1u64 << 50));
    put(&mut file, 512, &text.as_bytes()[..20 * 512]);
    assert_eq!(open(&file).expect_err("too large").kind(), ErrorKind::Limit);
}

#[test]
fn the_check_finds_what_is_wrong() {
    let disk = sample(5, 0);
    let sparse = write(&disk, "");
    let stream = write(&disk, "subformat=streamOptimized");
    let sector = |file: &[u8], at: usize| {
        u64::from_le_bytes(file[at..at + 8].try_into().expect("8 bytes")) as usize * 512
    };
    // Both copies: the one grain table follows its directory.
    let (rgt, gt) = (sector(&sparse, 48) + 512, sector(&sparse, 56) + 512);
    let both = |entry: usize, value: u32| {
        let mut file = sparse.clone();
        put(&mut file, gt + entry * 4, &value.to_le_bytes());
        put(&mut file, rgt + entry * 4, &value.to_le_bytes());
        check(&file)
    };
    let found = |findings: Vec<String>, said: &str| {
        assert!(findings.len() == 1 && findings[0].contains(said), "{said}: {findings:?}");
    };
    let first = u32::from_le_bytes(sparse[gt..gt + 4].try_into().expect("4 bytes"));
    found(both(1, first), "overlaps another");
    found(both(1, first + 1), "overlaps another");
    found(both(1, 1 << 30), "leaves the file");
    found(both(1, 22), "the extent's own tables");
    let mut file = sparse.clone();
    put(&mut file, rgt, &[0; 4]);
    found(check(&file), "the redundant one");
    let mut file = sparse.clone();
    put(&mut file, gt - 512, &[0xff; 4]);
    found(check(&file), "point out of the file");

    // A grain whose entry is lost, a marker that leads astray.
    let tail = stream.len() - 1024;
    let table = sector(&stream, tail + 56) - 512 - 2048;
    let mut file = stream.clone();
    put(&mut file, table, &[0; 4]);
    found(check(&file), "no table names the grain");
    let mut file = stream.clone();
    put(&mut file, table - 512, &u32::MAX.to_le_bytes());
    assert!(check(&file)[0].contains("leads out of the file"));
    let mut file = stream.clone();
    put(&mut file, 64 << 10, &[9]);
    let findings = check(&file);
    assert!(findings.iter().any(|f| f.contains("says sector 9")), "{findings:?}");
}

#[test]
fn no_single_byte_of_the_structures_makes_reading_or_checking_fall_over() {
    let disk = sample(5, 512);
    for file in [
        write(&disk, ""),
        write(&disk, "subformat=streamOptimized"),
        Stream { footer: false, markers: false, ..Stream::default() }.build(&disk[..4 * GRAIN]),
    ] {
        let front = 0..80;
        let tables = 21 * 512..30 * 512;
        let tail = file.len().saturating_sub(4096)..file.len();
        for at in front.chain(tables.step_by(61)).chain(tail.step_by(11)) {
            for value in [0, 1, 0x7f, 0xff] {
                let mut file = file.clone();
                file[at] = value;
                let Ok(image) = open(&file) else { continue };
                let _ = image.check(&mut |_| ());
                let end = image.size().min(256 << 10);
                let mut disk = vec![0; end as usize];
                let _ = image.read_at(&mut disk, 0);
                let _ = image.read_at(&mut disk[..1], image.size() - 1);
            }
        }
    }
}
