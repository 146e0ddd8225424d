use super::*;
use crate::ErrorKind;
use crate::formats::qcow2::extensions::{encode_end, encode_feature_names};
use crate::storage::source::MemorySource;
use zerocopy::FromZeros;

/// Returns a version 3 header of a disk of 1 MiB with clusters of 64 KiB.
fn raw() -> RawHeader {
    let mut header = RawHeader::new_zeroed();
    header.magic = MAGIC;
    header.version = 3.into();
    header.cluster_bits = 16.into();
    header.size = (1 << 20).into();
    header.l1_size = 1.into();
    header.l1_table_offset = 0x30000.into();
    header.refcount_table_offset = 0x10000.into();
    header.refcount_table_clusters = 1.into();
    header.refcount_order = 4.into();
    header.header_length = 112.into();
    header
}

/// Applies `change` to the header, and reads it from a file of four clusters.
fn read(change: impl FnOnce(&mut RawHeader)) -> Result<Header> {
    let mut header = raw();
    change(&mut header);
    let mut file = header.encoded().to_vec();
    encode_feature_names(&mut file);
    encode_end(&mut file);
    file.resize(4 << 16, 0);
    Header::read(&MemorySource::new(file), &Limits::default(), false)
}

fn kind(change: impl FnOnce(&mut RawHeader)) -> ErrorKind {
    read(change).expect_err("refused").kind()
}

#[test]
fn a_valid_header_is_read() {
    let header = read(|_| {}).expect("reads");
    assert_eq!((header.version, header.size, header.cluster_size()), (3, 1 << 20, 65536));
    assert_eq!(header.guest_bytes_per_l1_entry(), 512 << 20);
    assert_eq!(header.refcount_bits(), 16);
    let header = read(|h| h.version = 2.into()).expect("reads");
    assert_eq!((header.version, header.refcount_bits()), (2, 16));
}

#[test]
fn the_fields_of_version_3_are_ignored_in_version_2() {
    let header = read(|h| {
        h.version = 2.into();
        h.incompatible_features = u64::MAX.into();
        h.refcount_order = 99.into();
    });
    assert_eq!(header.expect("reads").incompatible, Incompatible::empty());
}

#[test]
fn fields_out_of_range_are_errors() {
    use ErrorKind::{Corrupt, Limit, Unsupported};
    type Case = (ErrorKind, fn(&mut RawHeader));
    let cases: [Case; 21] = [
        (Corrupt, |h| h.magic = *b"QFI\0"),
        (Unsupported, |h| h.version = 4.into()),
        (Corrupt, |h| h.cluster_bits = 8.into()),
        (Corrupt, |h| h.cluster_bits = 22.into()),
        (Corrupt, |h| h.cluster_bits = u32::MAX.into()),
        (Corrupt, |h| h.header_length = 103.into()),
        (Corrupt, |h| h.header_length = u32::MAX.into()),
        (Corrupt, |h| h.refcount_order = 7.into()),
        (Corrupt, |h| h.refcount_table_clusters = 0.into()),
        (Limit, |h| h.refcount_table_clusters = u32::MAX.into()),
        (Corrupt, |h| h.refcount_table_offset = 0x10200.into()),
        (Corrupt, |h| h.l1_size = 0.into()),
        (Limit, |h| h.l1_size = u32::MAX.into()),
        (Corrupt, |h| h.l1_table_offset = 0x30008.into()),
        (Corrupt, |h| h.l1_table_offset = 0xffff_ffff_ffff_0000.into()),
        (Corrupt, |h| h.size = u64::MAX.into()),
        (Corrupt, |h| h.backing_file_offset = u64::MAX.into()),
        (Unsupported, |h| h.crypt_method = 3.into()),
        (Unsupported, |h| h.compression_type = 2), // an unknown type
        (Corrupt, |h| h.compression_type = 1),     // zstd without its incompatible bit
        (Corrupt, |h| h.autoclear_features = 2.into()), // raw data file without a data file
    ];
    for (index, (wanted, change)) in cases.into_iter().enumerate() {
        assert_eq!(kind(change), wanted, "case {index}");
    }
}

#[test]
fn the_backing_file_name_must_be_in_the_first_cluster() {
    let backing = |offset: u64, len: u32| {
        read(move |h| {
            h.backing_file_offset = offset.into();
            h.backing_file_size = len.into();
        })
    };
    backing(0xf000, 1023).expect("longest");
    backing(0xf000, 1024).expect_err("too long");
    backing(0xfffe, 2).expect("just inside");
    backing(0xfffe, 3).expect_err("extends beyond the cluster");
    backing(0x10000, 1).expect_err("after the cluster");
}

#[test]
fn unknown_features_are_named_in_the_error() {
    let error = read(|h| h.incompatible_features = (1 << 5 | 1 << 63).into()).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(
        error.to_string(),
        "header at offset 0x48: Unsupported qcow2 feature(s): \
         Unknown incompatible feature: 8000000000000020"
    );
}

#[test]
fn extended_l2_entries_require_clusters_of_16_kib() {
    let extended = |bits: u32| {
        read(move |h| {
            h.cluster_bits = bits.into();
            h.l1_table_offset = (1 << bits).into();
            h.refcount_table_offset = (1 << bits).into();
            h.incompatible_features = Incompatible::EXTENDED_L2.bits().into();
        })
    };
    extended(14).expect("16 KiB");
    assert_eq!(extended(13).expect_err("8 KiB").kind(), ErrorKind::Corrupt);
}
