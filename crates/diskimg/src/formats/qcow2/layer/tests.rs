use super::*;
use crate::ErrorKind;
use crate::formats::qcow2::header::{MAGIC, RawHeader};
use crate::open::limits::Limits;
use crate::storage::codec::Codec;
use crate::storage::source::MemorySource;
use zerocopy::FromZeros;

const CLUSTER: usize = 512;

/// Returns an image of 16 host clusters and a disk of 64 clusters. The L1 table is in cluster 2,
/// the only L2 table in cluster 3.
fn image(l2: &[u64], change: impl FnOnce(&mut RawHeader, &mut Vec<u8>)) -> Vec<u8> {
    let mut header = RawHeader::new_zeroed();
    header.magic = MAGIC;
    header.version = 3.into();
    header.cluster_bits = 9.into();
    header.size = (64 * CLUSTER as u64).into();
    header.l1_size = 1.into();
    header.l1_table_offset = (2 * CLUSTER as u64).into();
    header.refcount_table_offset = (CLUSTER as u64).into();
    header.refcount_table_clusters = 1.into();
    header.refcount_order = 4.into();
    header.header_length = 112.into();
    let mut file = vec![0; 16 * CLUSTER];
    file[2 * CLUSTER..][..8].copy_from_slice(&(COPIED | (3 * CLUSTER as u64)).to_be_bytes());
    for (index, entry) in l2.iter().enumerate() {
        file[3 * CLUSTER + index * 8..][..8].copy_from_slice(&entry.to_be_bytes());
    }
    change(&mut header, &mut file);
    let bytes = header.encoded();
    file[..bytes.len()].copy_from_slice(bytes);
    file
}

fn open(file: Vec<u8>) -> Result<Qcow2> {
    let limits = Limits::default();
    let context = OpenContext { with_parent: true, ..OpenContext::isolated(&limits) };
    Qcow2::open(Arc::new(MemorySource::new(file)), &context)
}

fn map(file: Vec<u8>, range: Range<u64>) -> Result<Vec<(Range<u64>, Kind)>> {
    let mut out = Vec::new();
    open(file)?.map(range, &mut out)?;
    Ok(out.into_iter().map(|e| (e.guest, e.kind)).collect())
}

fn at(cluster: u64) -> u64 {
    COPIED | (cluster * CLUSTER as u64)
}

fn data(offset: u64) -> Kind {
    Kind::Data(HostOffset { file: 0, offset })
}

#[test]
fn contiguous_clusters_are_merged_and_clusters_without_entry_are_unallocated() {
    let file = image(&[at(4), at(5), at(7), ZERO, ZERO, at(8) | ZERO], |_, _| {});
    let zero = HostOffset { file: 0, offset: 0x1000 };
    assert_eq!(
        map(file.clone(), 0..32768).expect("maps"),
        [
            (0..1024, data(0x800)),
            (1024..1536, data(0xe00)),
            (1536..2560, Kind::Zero(None)),
            (2560..3072, Kind::Zero(Some(zero))),
            (3072..32768, Kind::Unallocated),
        ]
    );
    assert_eq!(map(file, 700..701).expect("maps"), [(700..701, data(0x800 + 700))]);
}

#[test]
fn a_cluster_cut_by_the_end_of_the_file_ends_in_zeros_and_one_beyond_it_is_an_error() {
    let image = || image(&[at(15), at(16)], |_, file| file.truncate(15 * CLUSTER + 100));
    assert_eq!(
        map(image(), 0..512).expect("maps"),
        [(0..100, data(0x1e00)), (100..512, Kind::Zero(None))]
    );
    let error = map(image(), 0..1024).expect_err("truncated");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("the file ends at 0x1e64"), "{error}");
}

#[test]
fn the_length_of_a_compressed_cluster_is_clipped_to_the_file() {
    let l2 = L2Layout { cluster_bits: 9, extended: false, data_file: false };
    let entry = l2.encode_compressed(0x1ff0, 400).expect("fits");
    let file = image(&[entry], |header, _| header.size = 512.into());
    let encoded = Encoded {
        host: HostOffset { file: 0, offset: 0x1ff0 },
        stored: 16,
        least_stored: 16,
        unit: 0..512,
        codec: Codec::Deflate,
    };
    assert_eq!(map(file, 0..512).expect("maps"), [(0..512, Kind::Encoded(encoded))]);
    let entry = l2.encode_compressed(0x2000, 400).expect("fits");
    let error = map(image(&[entry], |_, _| {}), 0..512).expect_err("beyond the end");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn an_invalid_table_is_an_error_with_its_offset() {
    let l1 = |entry: u64| {
        image(&[], move |_, file| {
            file[2 * CLUSTER..][..8].copy_from_slice(&entry.to_be_bytes());
        })
    };
    let error = map(l1(1 << 30), 0..512).expect_err("beyond the end");
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Corrupt, Some(1 << 30)));
    let version_2 = image(&[ZERO], |header, _| header.version = 2.into());
    assert_eq!(map(version_2, 0..512).expect_err("zero").kind(), ErrorKind::Corrupt);
    let error = open(image(&[], |_, file| file.truncate(2 * CLUSTER))).expect_err("no L1 table");
    assert_eq!(error.structure(), Some("active L1 table"));
}

#[test]
fn an_error_of_mapping_states_what_is_lost() {
    let l2 = L2Layout { cluster_bits: 9, extended: false, data_file: false };
    let compressed = l2.encode_compressed(0x9000, 400).expect("fits");
    let beyond = at(100);
    for entry in [beyond, compressed] {
        let lost = |range| map(image(&[at(4), entry, at(5)], |_, _| {}), range).err()?.lost();
        assert_eq!(lost(0..32768), Some(512..1024), "{entry:#x}");
    }
    let partly = map(image(&[at(4), compressed, at(5)], |_, _| {}), 700..800);
    assert_eq!(partly.expect_err("beyond the end").lost(), Some(512..1024));
    // A run of clusters, of which the file has the first one.
    let run = image(&[at(15), at(16), at(17), beyond], |_, _| {});
    assert_eq!(map(run, 0..32768).expect_err("truncated").lost(), Some(512..1536));
    // A table.
    let no_table = image(&[], |_, file| {
        file[2 * CLUSTER..][..8].copy_from_slice(&(1u64 << 30).to_be_bytes());
    });
    assert_eq!(map(no_table, 700..800).expect_err("no table").lost(), Some(0..32768));
}

#[test]
fn encrypted_bytes_are_never_returned() {
    for method in [1, 2] {
        let file = image(&[at(4)], |header, _| header.crypt_method = method.into());
        let image = open(file.clone()).expect("opens for info");
        assert!(image.details().encrypted);
        assert_eq!(map(file, 0..512).expect_err("refuses").kind(), ErrorKind::Unsupported);
    }
}

#[test]
fn an_external_data_file_is_opened_only_if_the_policy_allows_it() {
    let external = |header: &mut RawHeader, file: &mut Vec<u8>| {
        header.incompatible_features = Incompatible::DATA_FILE.bits().into();
        let mut name = Vec::new();
        crate::formats::qcow2::extensions::encode_data_file(&mut name, "/etc/passwd");
        file[112..112 + name.len()].copy_from_slice(&name);
    };
    let error = open(image(&[], external)).expect_err("refuses");
    assert_eq!(error.kind(), ErrorKind::Refused);
    let unnamed = |header: &mut RawHeader, _: &mut Vec<u8>| {
        header.incompatible_features = Incompatible::DATA_FILE.bits().into();
    };
    assert_eq!(open(image(&[], unnamed)).expect_err("no name").kind(), ErrorKind::Corrupt);
}

#[test]
fn a_check_compares_references_with_refcounts() {
    // Refcount block in cluster 4; data in clusters 5 and 6.
    let file = image(&[at(5), at(6), at(6)], |_, file| {
        file[CLUSTER..][..8].copy_from_slice(&(4 * CLUSTER as u64).to_be_bytes());
        for (cluster, count) in [1u8, 1, 1, 1, 1, 1, 1, 1].into_iter().enumerate() {
            file[4 * CLUSTER + cluster * 2 + 1] = count;
        }
    });
    let mut messages = Vec::new();
    let image = open(file).expect("opens");
    let report = image
        .check(&mut |finding| messages.push(finding.message))
        .expect("checks")
        .expect("qcow2 is checked");
    assert_eq!(
        messages,
        ["ERROR cluster 6 refcount=1 reference=2", "Leaked cluster 7 refcount=1 reference=0"]
    );
    let counts = (report.corruptions, report.leaks, report.check_errors);
    assert_eq!(counts, (1, 1, 0));
    assert_eq!(report.image_end_offset, Some(8 * CLUSTER as u64));
    assert_eq!((report.total_clusters, report.allocated_clusters), (64, 3));
    assert_eq!(report.fragmented_clusters, 1);
}
