//! Both directions of each message, and messages that violate the protocol.

use super::*;

/// Checks that a message is decoded as it was, and that no shorter one is, nor a longer one.
fn round_trip<T: PartialEq + std::fmt::Debug>(
    value: T,
    encoded: &[u8],
    decode: impl Fn(&[u8]) -> io::Result<T>,
) {
    assert_eq!(decode(encoded).expect("decode"), value);
    for len in 0..encoded.len() {
        assert_ne!(decode(&encoded[..len]).ok().as_ref(), Some(&value), "{len} bytes");
    }
    assert_ne!(decode(&[encoded, &[0]].concat()).ok(), Some(value));
}

/// Decodes a structure of a fixed length.
fn fixed<const N: usize, T>(
    decode: impl Fn(&[u8; N]) -> io::Result<T>,
) -> impl Fn(&[u8]) -> io::Result<T> {
    move |bytes| decode(bytes.try_into().map_err(|_| malformed("length"))?)
}

#[test]
fn the_greeting_is_that_of_the_specification() {
    let expected = b"NBDMAGICIHAVEOPT\0\x03";
    assert_eq!(&greeting(HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES), expected);
}

#[test]
fn options_and_their_replies() {
    let header = OptionHeader { option: option::GO, len: 6 };
    round_trip(header, &header.encode(), fixed(OptionHeader::decode));
    let reply = OptionReply { option: option::GO, reply: option_reply::ERR_UNKNOWN, len: 0 };
    assert!(reply.is_error());
    round_trip(reply, &reply.encode(), fixed(OptionReply::decode));
    let go = GoOption { export: "käse".into(), infos: vec![info::BLOCK_SIZE, info::NAME] };
    round_trip(go.clone(), &go.encode(), GoOption::decode);
    let queries = vec![BASE_ALLOCATION.into(), String::new()];
    let contexts = ContextsOption { export: String::new(), queries };
    round_trip(contexts.clone(), &contexts.encode(), ContextsOption::decode);
    let context = ContextReply { id: 7, name: BASE_ALLOCATION.into() };
    round_trip(context.clone(), &context.encode(), ContextReply::decode);
    let server = ServerReply { export: "a".into(), description: "b".into() };
    round_trip(server.clone(), &server.encode(), ServerReply::decode);
}

#[test]
fn information_about_an_export() {
    let export = ExportInfo { size: 1 << 40, flags: TransmissionFlags::from_bits_retain(0x8fff) };
    round_trip(export, &export.encode(), fixed(ExportInfo::decode));
    for reply in [
        InfoReply::Export(export),
        InfoReply::Name("x".into()),
        InfoReply::Description("y".into()),
        InfoReply::BlockSizes(BlockSizes { min: 1, preferred: 4096, max: u32::MAX }),
    ] {
        round_trip(reply.clone(), &reply.encode(), InfoReply::decode);
    }
    assert_eq!(InfoReply::decode(&[0, 9, 1, 2]).expect("unknown"), InfoReply::Other(9));
}

#[test]
fn requests_and_replies() {
    let request = Request {
        flags: CommandFlags::FUA | CommandFlags::FAST_ZERO,
        command: command::WRITE_ZEROES,
        cookie: u64::MAX - 1,
        offset: 1 << 50,
        len: u32::MAX,
    };
    round_trip(request, &request.encode(), fixed(Request::decode));
    let read = |mut bytes: &[u8]| {
        let reply = Reply::read(&mut bytes)?;
        Fields::new(bytes).end().map(|()| reply)
    };
    let simple = SimpleReply { error: error::EIO, cookie: 5 };
    round_trip(Reply::Simple(simple), &simple.encode(), read);
    let chunk = Chunk { flags: ChunkFlags::DONE, kind: chunk::OFFSET_DATA, cookie: 6, len: 9 };
    round_trip(Reply::Chunk(chunk), &chunk.encode(), read);
    let magic = read(&[0; 20]).expect_err("magic");
    assert_eq!(magic.kind(), io::ErrorKind::InvalidData);
}

#[test]
fn payloads_of_chunks() {
    let hole = HoleChunk { offset: 1 << 33, len: 512 };
    round_trip(hole, &hole.encode(), fixed(HoleChunk::decode));
    let descriptors = vec![Descriptor { len: 1, flags: 0 }, Descriptor { len: 512, flags: 3 }];
    let status = BlockStatus { context: 3, descriptors };
    assert_eq!(status.encode().len(), BlockStatus::len(2));
    round_trip(status.clone(), &status.encode(), BlockStatus::decode);
    let error = ErrorChunk { error: error::EIO, message: "broken".into(), offset: None };
    round_trip(error.clone(), &error.encode(), |bytes| ErrorChunk::decode(chunk::ERROR, bytes));
    let error = ErrorChunk { offset: Some(77), ..error };
    round_trip(error.clone(), &error.encode(), |bytes| {
        ErrorChunk::decode(chunk::ERROR_OFFSET, bytes)
    });
    let unknown = ErrorChunk::decode(chunk::ERROR_BIT | 99, &error.encode()).expect("unknown");
    assert_eq!(unknown, ErrorChunk { offset: None, ..error });
}

#[test]
fn what_violates_the_protocol_is_refused() {
    let refused = |result: io::Result<()>| {
        assert_eq!(result.expect_err("malformed").kind(), io::ErrorKind::InvalidData);
    };
    // A name that is longer than its option, longer than any name, and not text.
    refused(GoOption::decode(&[0, 0, 0, 9, b'a', 0, 0]).map(drop));
    let long = GoOption { export: "x".repeat(MAX_STRING + 1), infos: Vec::new() };
    refused(GoOption::decode(&long.encode()).map(drop));
    refused(ContextReply::decode(&[0, 0, 0, 0, 0xff]).map(drop));
    // More contexts than the message has, and more than are allowed.
    refused(ContextsOption::decode(&[0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]).map(drop));
    let queries = vec![String::new(); MAX_CONTEXTS + 1];
    let many = ContextsOption { export: String::new(), queries };
    refused(ContextsOption::decode(&many.encode()).map(drop));
    // Block status without ranges, with an empty one, and with half of one.
    let status = |descriptors| BlockStatus { context: 0, descriptors }.encode();
    refused(BlockStatus::decode(&status(vec![])).map(drop));
    let empty = Descriptor { len: 0, flags: 0 };
    refused(BlockStatus::decode(&status(vec![empty])).map(drop));
    refused(BlockStatus::decode(&[0; 8]).map(drop));
    // An error that is none.
    refused(ErrorChunk::decode(chunk::ERROR, &[0; 6]).map(drop));
}
