//! VMDK: descriptors and the five types of sparse extents.

use crate::exercise;
use crate::samples;
use diskimg::{ExternalFiles, Format, OpenOptions};
use diskimg_testkit::esx::{self as esx, Cowd, Grain, Grains, SeSparse};
use diskimg_testkit::hosted::{self as hosted, Sparse, Stream, Writer};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::OnceLock;
use tempfile::TempDir;

const SECTOR: usize = 512;

/// Length in bytes of the header and the space reserved for the descriptor after it.
const HEADER_AND_DESCRIPTOR: usize = 21 * SECTOR;

/// Input: a descriptor file, by itself and in a directory with extents and a parent.
pub(crate) fn descriptor(input: &[u8]) {
    exercise::image(input.to_vec(), Format::Vmdk);
    PARTS.with(|directory| {
        let path = directory.dir.path().join("d.vmdk");
        std::fs::write(&path, input).unwrap_or_else(|error| panic!("cannot write: {error}"));
        directory.open(&path);
    });
}

/// Returns a sparse extent with an embedded descriptor.
pub(crate) fn plain_extent() -> Vec<u8> {
    static EXTENT: OnceLock<Vec<u8>> = OnceLock::new();
    EXTENT.get_or_init(|| samples::image(&[7; 64 << 10], Format::Vmdk, "", false)).clone()
}

/// Writes the files that descriptors refer to.
fn write_parts(dir: &Path) {
    let extent = Sparse { grain_sectors: 8, descriptor: String::new(), ..Sparse::plain(1100) };
    let parent = hosted::descriptor("monolithicFlat", "RW 4196 FLAT \"f.vmdk\" 0", None);
    for (name, bytes) in [
        ("s1.vmdk", extent.build(&grains())),
        ("e.vmdk", Cowd::esx(4196).build(&grains())),
        ("f.vmdk", vec![7; 4196 * SECTOR]),
        ("parent.vmdk", parent.replace("5b6a7c8d", "2af54bc8").into_bytes()),
    ] {
        let written = std::fs::write(dir.join(name), bytes);
        written.unwrap_or_else(|error| panic!("cannot create temporary files: {error}"));
    }
}

pub(crate) fn descriptor_seeds() -> Vec<Vec<u8>> {
    let parent = Some(("2af54bc8", "parent.vmdk"));
    let all = "RW 1100 SPARSE \"s1.vmdk\"\nRW 77 ZERO\nRW 100 FLAT \"f.vmdk\" 3\n\
               RDONLY 1100 VMFS \"s2.vmdk\"\nNOACCESS 10 FLAT \"f 2.vmdk\" 103\n\
               RW 63 FLAT \"\\\\.\\PhysicalDrive0\" 0 partitionUUID \\\\?\\Volume{0}\\";
    let mut seeds = vec![
        hosted::descriptor("monolithicSparse", &hosted::extent_line(2048), None),
        hosted::descriptor("twoGbMaxExtentFlat", all, parent),
        hosted::descriptor("custom", "RW 4192256 ZERO", None),
        esx::descriptor("vmfsSparse", "VMFSSPARSE", 4196, "e.vmdk", parent),
        hosted::descriptor("twoGbMaxExtentSparse", "RW 1100 SPARSE \"s1.vmdk\"", parent),
        hosted::descriptor("monolithicFlat", "RW 4196 FLAT \"f.vmdk\" 0", None),
        esx::descriptor("seSparse", "SESPARSE", 4803, "e.vmdk", None),
        esx::descriptor("vmfsRawDeviceMap", "VMFSRDM", 4803, "rdm.vmdk", None),
    ];
    seeds.push(seeds[2].replace("4192256", "17592186044416"));
    let more = "\nddb.geometry.cylinders = \"16383\"\nddb.geometry.heads=\"16\"\n\
                ddb.geometry.sectors=\"63\"\nddb.uuid=\"60 00 C2 9e 4b 1c 2f 54-1f c4 9c 0a 6d 3e 2a 11\"\n\
                ddb.uuid.image=\"e5ad4b3c-6c2e-4f0c-9d8c-1d6a6d4b2a51\"\n\
                ddb.uuid.parent=\"00000000-0000-0000-0000-000000000000\"\nencoding=\"windows-1252\"\n\
                changeTrackPath=\"disk-ctk.vmdk\"\n";
    seeds.push(seeds[2].clone() + more);
    seeds.into_iter().map(String::into_bytes).collect()
}

fn grains() -> Grains {
    [(0, Grain::Data(1)), (3, Grain::Data(2)), (7, Grain::Data(9))].into()
}

/// Inserts a descriptor between header and tables, with the size of the disk in the header.
fn with_descriptor(create_type: &str, header: &[u8], rest: &[u8]) -> Vec<u8> {
    let mut capacity = [0; 8];
    if let Some(bytes) = header.get(12..20) {
        capacity.copy_from_slice(bytes);
    }
    let line = hosted::extent_line(u64::from_le_bytes(capacity));
    let text = hosted::descriptor(create_type, &line, None);
    let mut file = header[..header.len().min(SECTOR)].to_vec();
    file.resize(SECTOR, 0);
    file.extend(text.as_bytes());
    file.resize(HEADER_AND_DESCRIPTOR, 0);
    file.extend(rest);
    file
}

/// Length in bytes of the fields of a sparse header.
const HEADER_FIELDS: usize = 79;

/// Input: the fields of the header, then everything after the descriptor.
pub(crate) fn sparse(input: &[u8]) {
    let (header, rest) = input.split_at(input.len().min(HEADER_FIELDS));
    exercise::image(with_descriptor("monolithicSparse", header, rest), Format::Vmdk);
}

pub(crate) fn sparse_seeds() -> Vec<Vec<u8>> {
    let plain = Sparse { grain_sectors: 8, gtes: 512, ..Sparse::plain(163) };
    let small = Sparse { version: 2, flags: 7, gtes: 4, ..plain.clone() };
    let single = Sparse { flags: 1, unclean: 1, ..plain.clone() };
    let mut files = vec![plain.build(&grains()), small.build(&grains()), single.build(&grains())];
    files.extend(streams());
    files
        .iter()
        .map(|file| [&file[..HEADER_FIELDS], &file[HEADER_AND_DESCRIPTOR..]].concat())
        .collect()
}

/// Returns a streamOptimized image as written by each of four programs.
fn streams() -> Vec<Vec<u8>> {
    let disk = samples::disk(7 * 8 * SECTOR + 3 * SECTOR);
    let writers = [Writer::VSphere, Writer::Vmdktool, Writer::OpenVmdk, Writer::Qemu];
    let stream = |writer| Stream { grain_sectors: 8, ..Stream::of(writer) }.build(&disk);
    writers.map(stream).to_vec()
}

/// Input: a byte that selects the header, then everything after the descriptor of a streamOptimized
/// image: markers, compressed grains, tables, footer.
pub(crate) fn stream(input: &[u8]) {
    static HEADERS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let headers =
        HEADERS.get_or_init(|| streams().iter().map(|file| file[..SECTOR].to_vec()).collect());
    let Some((&first, rest)) = input.split_first() else { return };
    let header = &headers[usize::from(first) % headers.len()];
    exercise::image(with_descriptor("streamOptimized", header, rest), Format::Vmdk);
}

pub(crate) fn stream_seeds() -> Vec<Vec<u8>> {
    let seed =
        |(index, file): (usize, Vec<u8>)| [&[index as u8], &file[HEADER_AND_DESCRIPTOR..]].concat();
    streams().into_iter().enumerate().map(seed).collect()
}

/// A temporary directory with a descriptor and the extent that it refers to.
struct Directory {
    dir: TempDir,
    extent: File,
}

impl Directory {
    /// # Panics
    /// If the files cannot be created.
    fn new(descriptor: &str) -> Self {
        let make = || -> std::io::Result<Self> {
            let dir = tempfile::tempdir()?;
            std::fs::write(dir.path().join("d.vmdk"), descriptor)?;
            let extent = File::create(dir.path().join("e.vmdk"))?;
            Ok(Self { dir, extent })
        };
        make().unwrap_or_else(|error| panic!("cannot create temporary files: {error}"))
    }

    /// Opens the descriptor with an extent of length `len` that has the bytes of `parts` at their
    /// offsets.
    ///
    /// # Panics
    /// If the extent cannot be written.
    fn exercise(&self, len: u64, parts: &[(u64, &[u8])]) {
        let write = || -> std::io::Result<()> {
            let mut extent = &self.extent;
            extent.set_len(0)?;
            for (at, bytes) in parts {
                extent.seek(SeekFrom::Start(*at))?;
                extent.write_all(bytes)?;
            }
            extent.set_len(len)
        };
        write().unwrap_or_else(|error| panic!("cannot write the extent: {error}"));
        self.open(&self.dir.path().join("d.vmdk"));
    }

    fn open(&self, path: &Path) {
        let metadata_only = OpenOptions::new().metadata_only(true).with_extents(true);
        exercise::open(|| metadata_only.open(path));
        let options = OpenOptions::new().external_files(ExternalFiles::SameDir);
        if let Some(image) = exercise::open(|| options.open(path)) {
            exercise::contents(&image);
        }
    }
}

thread_local! {
    static PARTS: Directory = {
        let directory = Directory::new("");
        write_parts(directory.dir.path());
        directory
    };
    static COWD: Directory =
        Directory::new(&esx::descriptor("vmfsSparse", "VMFSSPARSE", 4196, "e.vmdk", None));
    static SESPARSE: Directory =
        Directory::new(&esx::descriptor("seSparse", "SESPARSE", 4803, "e.vmdk", None));
}

/// Length in bytes of a COWD header.
const COWD_HEADER: usize = 4 * SECTOR;

/// Input: a COWD file, opened directly or, if the first byte is odd, as an extent.
pub(crate) fn cowd(input: &[u8]) {
    let Some((&first, file)) = input.split_first() else { return };
    if first % 2 == 0 {
        exercise::image(file.to_vec(), Format::Vmdk);
    } else {
        COWD.with(|directory| directory.exercise(file.len() as u64, &[(0, file)]));
    }
}

pub(crate) fn cowd_seeds() -> Vec<Vec<u8>> {
    let hosted = Cowd { grain_sectors: 8, ..Cowd::hosted(8 * 6 + 3) };
    let child = Cowd { parent: Some(("parent.vmdk", 3)), flags: 0x17, ..hosted.clone() };
    let tables_only = Cowd::esx(4196).build(&Grains::new())[..COWD_HEADER + SECTOR].to_vec();
    [
        (0, hosted.build(&[(0, Grain::Data(1)), (3, Grain::Data(2))].into())),
        (0, child.build(&[(1, Grain::Data(1))].into())),
        (1, Cowd::esx(4196).build(&grains())),
        (1, tables_only),
    ]
    .map(|(first, file)| [&[first], &file[..]].concat())
    .to_vec()
}

/// Number of bytes of a grain table (of 32 KiB) that are part of an seSparse input.
const TABLE: usize = SECTOR;

/// Returns offset and length of the parts of an seSparse extent that make up an input, in order.
fn sesparse_parts() -> [(u64, usize); 7] {
    let regions = SeSparse::dense(4803).regions();
    let at = |region: usize| regions[region].0 * SECTOR as u64;
    [
        // The used parts of the constant and the volatile header.
        (0, 512),
        (at(0), 64),
        (at(3), 64),
        (at(4), TABLE),
        (at(5), 64),
        (at(6), 64),
        (at(7), 4096),
    ]
}

/// Input: the concatenated parts of an seSparse extent.
pub(crate) fn sesparse(input: &[u8]) {
    let mut rest = input;
    let mut parts = Vec::new();
    for (at, len) in sesparse_parts() {
        let (part, following) = rest.split_at(rest.len().min(len));
        parts.push((at, part));
        rest = following;
    }
    let (last, _) = sesparse_parts()[6];
    let len = last + 8 * 4096 + rest.len() as u64;
    SESPARSE.with(|directory| directory.exercise(len, &parts));
}

pub(crate) fn sesparse_seeds() -> Vec<Vec<u8>> {
    let mut all = grains();
    all.extend([(1, Grain::Zero), (5, Grain::Unmapped)]);
    let seed = |file: &[u8]| {
        let part = |(at, len): (u64, usize)| {
            let mut part: Vec<_> = file.iter().skip(at as usize).take(len).copied().collect();
            part.resize(len, 0);
            part
        };
        sesparse_parts().map(part).concat()
    };
    let replayed = SeSparse { replay_journal: 1, ..SeSparse::dense(4803) };
    [SeSparse::dense(4803), replayed].map(|extent| seed(&extent.build(&all))).to_vec()
}
