//! VHDX.
//!
//! A file has at least 4 MiB, because its regions start at multiples of 1 MiB. The input is what is
//! not zeros in it:
//!
//! ```text
//!   input   header │ region table │ metadata table │ items │ BAT    │ log
//!   file    64 KiB   192 KiB        2 MiB            +64K    3 MiB    1 MiB
//! ```

use crate::exercise;
use diskimg::Format;
use diskimg_testkit::vhdx::{
    Descriptor, HEADER_BYTES, HEADERS_AT, Log, MIB, PAGE, REGIONS_AT, TABLE_BYTES, Vhdx, ZERO, put,
    seal,
};

/// The parts of the input: offset in the file and length. The log is the rest.
const PARTS: [(usize, usize); 5] = [
    (HEADERS_AT[0] as usize, 80),
    (REGIONS_AT[0] as usize, 16 + 4 * 32),
    (2 << 20, 32 + 8 * 32),
    ((2 << 20) + (64 << 10), 512),
    (3 << 20, 512),
];

/// Host offset of the log, and how much of it the input has at most.
const LOG: (usize, usize) = (1 << 20, 64 << 10);

/// Length of the file: two blocks of 1 MiB, of which one may be a bitmap.
const FILE_BYTES: usize = 6 << 20;

/// Input: the parts of a file that are not zeros. The checksums of the header, of the region table
/// and of the entries of the log are corrected.
pub(crate) fn vhdx(input: &[u8]) {
    let mut file = vec![0; FILE_BYTES];
    put(&mut file, 0, b"vhdxfile");
    let mut rest = input;
    for (at, len) in PARTS {
        let (part, after) = rest.split_at(len.min(rest.len()));
        put(&mut file, at, part);
        rest = after;
    }
    put(&mut file, LOG.0, &rest[..rest.len().min(LOG.1)]);
    seal(&mut file[HEADERS_AT[0] as usize..][..HEADER_BYTES]);
    seal(&mut file[REGIONS_AT[0] as usize..][..TABLE_BYTES]);
    seal_log(&mut file);
    // Data, which is a bitmap as well.
    for (i, byte) in file[4 << 20..].iter_mut().step_by(509).enumerate() {
        *byte = i as u8;
    }
    exercise::image(file, Format::Vhdx);
}

/// Corrects the checksum of everything that looks like an entry.
fn seal_log(file: &mut [u8]) {
    let log = &mut file[LOG.0..LOG.0 + MIB as usize];
    for at in (0..LOG.1).step_by(PAGE) {
        let len = u32::from_le_bytes([log[at + 8], log[at + 9], log[at + 10], log[at + 11]]);
        let len = len as usize;
        if log[at..].starts_with(b"loge") && len > 0 && len <= LOG.1 {
            let mut entry: Vec<u8> = log.iter().cycle().skip(at).take(len).copied().collect();
            entry.resize(len.max(8), 0);
            seal(&mut entry);
            put(log, at + 4, &entry[4..8]);
        }
    }
}

pub(crate) fn vhdx_seeds() -> Vec<Vec<u8>> {
    let disk = Vhdx::dynamic(4 * MIB).data(1, [1; 100]).state(2, ZERO);
    let child = Vhdx::child(&Vhdx::dynamic(4 * MIB), ".\\base.vhdx").partial(1, 7, [0, 3, 9]);
    let large = Vhdx { sector: 4096, block_bytes: 32 << 20, ..Vhdx::dynamic(64 << 40) };
    let log = |image: &Vhdx, file: &mut Vec<u8>| {
        let at = image.bat_at();
        let page = file[at as usize..at as usize + PAGE].to_vec();
        file[at as usize..at as usize + PAGE].fill(0);
        let len = file.len() as u64;
        let zeros = Descriptor::Zero { at: 4 * MIB, len: 8192 };
        let table = Descriptor::Data { at, page };
        let log = Log::default().entry(len, vec![zeros.clone()]).entry(len, vec![table, zeros]);
        image.put_log(file, &log);
    };
    let mut seeds = Vec::new();
    for image in [&disk, &child, &Vhdx { sector: 4096, ..disk.clone() }] {
        let mut file = image.build();
        seeds.push(parts(&file));
        log(image, &mut file);
        seeds.push(parts(&file));
    }
    // Only the metadata is that of a large disk.
    let mut file = disk.build();
    put(&mut file, disk.metadata_at() as usize, &large.metadata());
    seeds.push(parts(&file));
    seeds
}

/// Returns the input for a file of the testkit.
fn parts(file: &[u8]) -> Vec<u8> {
    let mut input = Vec::new();
    for (at, len) in PARTS {
        input.extend(&file[at..at + len]);
    }
    let log = &file[LOG.0..LOG.0 + LOG.1];
    let end = log.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    input.extend(&log[..end]);
    input
}
