//! Encoding and decoding of compressed units.

use crate::samples::{UNIT, unit};
use diskimg::storage::codec::{Codec, Decoder, Encoder};
use divan::Bencher;
use divan::counter::BytesCount;

/// Throughput in guest bytes.
fn guest_bytes() -> BytesCount {
    BytesCount::new(UNIT)
}

const CODECS: [Codec; 3] = [Codec::Deflate, Codec::Zlib, Codec::Zstd];

fn encoder(codec: Codec) -> Encoder {
    match codec {
        Codec::Deflate => Encoder::deflate_4k_window(),
        Codec::Zlib => Encoder::zlib(),
        _ => Encoder::zstd(),
    }
}

#[divan::bench(args = CODECS)]
fn encode(bencher: Bencher<'_, '_>, codec: Codec) {
    let (mut encoder, unit, mut out) = (encoder(codec), unit(), Vec::with_capacity(2 * UNIT));
    bencher.counter(guest_bytes()).bench_local(|| {
        out.clear();
        encoder.encode(&unit, UNIT, &mut out)
    });
}

#[divan::bench(args = CODECS)]
fn decode(bencher: Bencher<'_, '_>, codec: Codec) {
    let (mut decoder, mut unit, mut stored) = (Decoder::default(), unit(), Vec::new());
    encoder(codec).encode(&unit, UNIT, &mut stored).expect("text is compressible");
    bencher.counter(guest_bytes()).bench_local(|| decoder.decode(codec, &stored, &mut unit));
}
