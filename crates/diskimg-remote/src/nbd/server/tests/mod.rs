//! The server with clients that send anything.

mod client;

use super::{MAX_REQUEST, Server};
use crate::nbd::wire::{
    BASE_ALLOCATION, BlockStatus, ClientFlags, Descriptor, ExportInfo, GoOption, InfoReply,
    ServerReply, TransmissionFlags, chunk, command, error, info, option, option_reply,
};
use client::{Answer, Client, with_server, with_server_to_stop};
use diskimg::{Create, ErrorKind, Format, GuestWriter, Image, OpenOptions, Options};
use std::io::{Cursor, Write};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;

const SIZE: u64 = (1 << 20) + 100;
const CLUSTER: u64 = 64 << 10;

fn bytes() -> Vec<u8> {
    let mut bytes = vec![0; SIZE as usize];
    bytes[..CLUSTER as usize].fill(1);
    bytes[2 * CLUSTER as usize..3 * CLUSTER as usize].fill(2);
    bytes
}

/// A qcow2 image with two clusters of data.
fn writer() -> (TempDir, GuestWriter) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("image");
    // 100 bytes are less than a sector.
    Create::new(Format::Qcow2).size(SIZE.next_multiple_of(512)).run(&path).expect("is created");
    let options = OpenOptions::new().format(Format::Qcow2);
    let disk = GuestWriter::open(&path, &options).expect("opens");
    disk.write_at(&bytes()[..CLUSTER as usize], 0).expect("writes");
    disk.write_at(&bytes()[2 * CLUSTER as usize..][..CLUSTER as usize], 2 * CLUSTER)
        .expect("writes");
    disk.flush().expect("flushes");
    (dir, disk)
}

fn image() -> Image {
    let (dir, disk) = writer();
    drop(disk);
    // Deleted while it is open.
    Image::open(dir.path().join("image")).expect("opens")
}

fn size() -> u64 {
    SIZE.next_multiple_of(512)
}

fn ack() -> (u32, Vec<u8>) {
    (option_reply::ACK, Vec::new())
}

#[test]
fn the_export_is_listed_and_described() {
    let server = Server::new(image()).export_name("disk").description("A disk");
    with_server(&server, |address| {
        let mut client = Client::connect(address);
        let listed = ServerReply { export: "disk".into(), description: "A disk".into() };
        let replies = client.option(option::LIST, &[]);
        assert_eq!(replies, [(option_reply::SERVER, listed.encode()), ack()]);
        let all = vec![info::NAME, info::DESCRIPTION, info::BLOCK_SIZE, 99];
        let go = GoOption { export: "disk".into(), infos: all };
        let replies = client.option(option::INFO, &go.encode());
        let infos: Vec<_> = replies[..replies.len() - 1]
            .iter()
            .map(|(_, data)| InfoReply::decode(data).expect("is information"))
            .collect();
        let flags = TransmissionFlags::HAS_FLAGS
            | TransmissionFlags::READ_ONLY
            | TransmissionFlags::SEND_FLUSH
            | TransmissionFlags::SEND_FUA
            | TransmissionFlags::CAN_MULTI_CONN
            | TransmissionFlags::SEND_CACHE;
        assert!(infos.contains(&InfoReply::Export(ExportInfo { size: size(), flags })));
        assert!(infos.contains(&InfoReply::Name("disk".into())));
        assert!(infos.contains(&InfoReply::Description("A disk".into())));
        assert_eq!(infos.len(), 4);
        assert_eq!(client.go("other"), [(option_reply::ERR_UNKNOWN, vec![])]);
        assert_eq!(client.go("disk").last(), Some(&ack()));
        assert_eq!(client.error(0, command::READ, 0, 1), 0);
    });
}

#[test]
fn an_old_client_chooses_the_export_by_its_name() {
    let server = Server::new(image()).export_name("disk");
    with_server(&server, |address| {
        for (flags, zeroes) in [(3, 0), (1, 124)] {
            let flags = ClientFlags::from_bits_retain(flags);
            let mut client = Client::connect_with(address, flags);
            let header = crate::nbd::wire::OptionHeader { option: option::EXPORT_NAME, len: 4 };
            client.stream.write_all(&[&header.encode()[..], b"disk"].concat()).expect("sends");
            let mut reply = vec![9; 10 + zeroes];
            std::io::Read::read_exact(&mut client.stream, &mut reply).expect("replies");
            let info: [u8; 10] = reply[..10].try_into().expect("has the length");
            assert_eq!(ExportInfo::decode(&info).expect("decodes").size, size());
            assert!(reply[10..].iter().all(|&byte| byte == 0));
            client.send(0, command::READ, CLUSTER - 1, 2, &[]);
            assert_eq!(client.receive(2), Answer::Chunks(vec![(0, vec![1, 0])]));
        }
        let mut client = Client::connect(address);
        let header = crate::nbd::wire::OptionHeader { option: option::EXPORT_NAME, len: 1 };
        client.stream.write_all(&[&header.encode()[..], b"x"].concat()).expect("sends");
        assert!(client.is_closed());
    });
}

#[test]
fn options_that_are_invalid_or_unknown_are_answered() {
    let server = Server::new(image());
    with_server(&server, |address| {
        let mut client = Client::connect(address);
        let only = |reply: u32| [(reply, vec![])];
        assert_eq!(client.option(99, b"data"), only(option_reply::ERR_UNSUP));
        assert_eq!(client.option(option::STARTTLS, &[]), only(option_reply::ERR_POLICY));
        assert_eq!(client.option(option::LIST, b"x"), only(option_reply::ERR_INVALID));
        assert_eq!(client.option(option::GO, b"xx"), only(option_reply::ERR_INVALID));
        assert_eq!(client.option(option::INFO, &[0xff; 40]), only(option_reply::ERR_INVALID));
        let long = vec![0; 100_000];
        assert_eq!(client.option(option::GO, &long), only(option_reply::ERR_TOO_BIG));
        // Contexts need structured replies.
        let refused = client.contexts(option::SET_META_CONTEXT, &[BASE_ALLOCATION]);
        assert_eq!(refused, only(option_reply::ERR_INVALID));
        assert_eq!(client.option(option::STRUCTURED_REPLY, &[]), [ack()]);
        assert_eq!(client.option(option::STRUCTURED_REPLY, &[]), only(option_reply::ERR_INVALID));
        let reply = |id: u32| {
            let data = [&id.to_be_bytes(), BASE_ALLOCATION.as_bytes()].concat();
            [(option_reply::META_CONTEXT, data), ack()]
        };
        for queries in [&[][..], &["base:"], &["x:y", BASE_ALLOCATION]] {
            assert_eq!(client.contexts(option::LIST_META_CONTEXT, queries), reply(0));
        }
        assert_eq!(client.contexts(option::LIST_META_CONTEXT, &["qemu:"]), [ack()]);
        assert_eq!(client.contexts(option::SET_META_CONTEXT, &["base:"]), [ack()]);
        assert_eq!(client.contexts(option::SET_META_CONTEXT, &[BASE_ALLOCATION]), reply(0));
        // A later choice replaces the one before.
        assert_eq!(client.contexts(option::SET_META_CONTEXT, &[]), [ack()]);
        client.go("");
        assert_eq!(client.error(0, command::BLOCK_STATUS, 0, 512), error::EINVAL);
        let mut client = Client::connect(address);
        assert_eq!(client.option(option::ABORT, &[]), [ack()]);
        assert!(client.is_closed());
    });
}

#[test]
fn what_is_read_has_chunks_of_data_and_of_zeros() {
    let server = Server::new(image());
    with_server(&server, |address| {
        let mut client = Client::ready(address, &[]);
        let (start, len) = (CLUSTER - 10, 2 * CLUSTER as u32);
        let data = |at: u64, byte: u8, len: u64| {
            let bytes = vec![byte; len as usize];
            (chunk::OFFSET_DATA, [&at.to_be_bytes()[..], &bytes].concat())
        };
        let hole = [&CLUSTER.to_be_bytes()[..], &(CLUSTER as u32).to_be_bytes()].concat();
        let parts =
            [data(start, 1, 10), (chunk::OFFSET_HOLE, hole), data(2 * CLUSTER, 2, CLUSTER - 10)];
        assert_eq!(client.ask(0, command::READ, start, len), Answer::Chunks(parts.into()));
        // As a single chunk (DF).
        let bytes = &bytes()[start as usize..][..len as usize];
        let whole = (chunk::OFFSET_DATA, [&start.to_be_bytes()[..], bytes].concat());
        assert_eq!(client.ask(4, command::READ, start, len), Answer::Chunks(vec![whole]));
    });
}

#[test]
fn block_status_tells_what_is_allocated() {
    let server = Server::new(image());
    with_server(&server, |address| {
        let mut client = Client::ready(address, &[BASE_ALLOCATION]);
        let status = |parts: &[(u64, u32)]| {
            let part = |&(len, flags): &(u64, u32)| Descriptor { len: len as u32, flags };
            let descriptors = parts.iter().map(part).collect();
            let payload = BlockStatus { context: 0, descriptors }.encode();
            Answer::Chunks(vec![(chunk::BLOCK_STATUS, payload)])
        };
        let ask = |client: &mut Client, flags, at, len: u64| {
            client.ask(flags, command::BLOCK_STATUS, at, len as u32)
        };
        let all = [(CLUSTER, 0), (CLUSTER, 3), (CLUSTER, 0), (size() - 3 * CLUSTER, 3)];
        assert_eq!(ask(&mut client, 0, 0, size()), status(&all));
        assert_eq!(ask(&mut client, 8, 0, size()), status(&all[..1]));
        assert_eq!(ask(&mut client, 8, 100, 50), status(&[(50, 0)]));
        assert_eq!(ask(&mut client, 0, CLUSTER - 1, 2), status(&[(1, 0), (1, 3)]));
    });
}

#[test]
fn block_status_of_a_disk_that_is_written_covers_many_entries() {
    const COUNT: u64 = 3000;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("image");
    let clusters = Options::parse("cluster_size=512").expect("parses");
    let create = Create::new(Format::Qcow2).options(clusters).size(COUNT * 1024);
    create.run(&path).expect("is created");
    let options = OpenOptions::new().format(Format::Qcow2);
    let disk = GuestWriter::open(&path, &options).expect("opens");
    (0..COUNT).for_each(|part| disk.write_at(&[1; 512], part * 1024).expect("writes"));
    with_server(&Server::writable(disk), |address| {
        let mut client = Client::ready(address, &[BASE_ALLOCATION]);
        let parts = (0..COUNT * 2).map(|part| Descriptor { len: 512, flags: part as u32 % 2 * 3 });
        let payload = BlockStatus { context: 0, descriptors: parts.collect() }.encode();
        assert_eq!(
            client.ask(0, command::BLOCK_STATUS, 0, (COUNT * 1024) as u32),
            Answer::Chunks(vec![(chunk::BLOCK_STATUS, payload)])
        );
    });
}

/// As the specification says; the connection remains usable.
#[test]
fn requests_that_are_invalid_get_error_numbers() {
    let (_dir, disk) = writer();
    for server in [Server::new(image()), Server::writable(disk)] {
        let writable = server.export.is_writable();
        let denied = |number: u32| if writable { number } else { error::EPERM };
        with_server(&server, |address| {
            let mut client = Client::ready(address, &[BASE_ALLOCATION]);
            for (flags, command, offset, len, expected) in [
                (0, command::READ, size(), 1, error::EINVAL),
                (0, command::READ, u64::MAX, 2, error::EINVAL),
                (0, command::READ, 0, 0, error::EINVAL),
                (0, command::READ, 0, MAX_REQUEST + 1, error::EINVAL),
                (0, command::READ, 0, u32::MAX, error::EINVAL),
                (2, command::READ, 0, 1, error::EINVAL),
                (0x8000, command::READ, 0, 1, error::EINVAL),
                (0, command::BLOCK_STATUS, 0, u32::MAX, error::EINVAL),
                (0, command::BLOCK_STATUS, 0, 0, error::EINVAL),
                (0, command::CACHE, size(), 1, error::EINVAL),
                (0, command::CACHE, 0, 1, 0),
                (0, command::FLUSH, 0, 0, 0),
                (2, command::FLUSH, 0, 0, error::EINVAL),
                (0, command::RESIZE, 0, 1, error::EINVAL),
                (0, 999, 0, 1, error::EINVAL),
                (0, command::TRIM, size(), 1, denied(error::EINVAL)),
                (0, command::WRITE_ZEROES, size() - 1, 2, denied(error::ENOSPC)),
                (0, command::WRITE_ZEROES, 0, 0, denied(error::EINVAL)),
                (4, command::WRITE_ZEROES, 0, 1, denied(error::EINVAL)),
                // Allocating is not faster than writing.
                (0x12, command::WRITE_ZEROES, 0, 1, denied(error::ENOTSUP)),
                (1, command::READ, 0, 1, 0),
            ] {
                let found = client.error(flags, command, offset, len);
                assert_eq!(found, expected, "{flags} {command} {offset} {len} {writable}");
            }
            // The data of a request that fails are skipped.
            let data = vec![9; 100_000];
            let expected = Answer::Simple(denied(error::ENOSPC));
            assert_eq!(client.write(0, size() - 1, &data), expected);
            assert_eq!(client.write(4, 0, &data), Answer::Simple(denied(error::EINVAL)));
            let long = vec![9; MAX_REQUEST as usize + 1];
            assert_eq!(client.write(0, 0, &long), Answer::Simple(denied(error::EINVAL)));
            assert_eq!(client.error(0, command::READ, 0, 1), 0);
            client.send(0, command::DISC, 0, 0, &[]);
            assert!(client.is_closed());
        });
    }
}

#[test]
fn a_flush_of_one_connection_covers_the_writes_of_another() {
    let (dir, disk) = writer();
    let server = Server::writable(disk);
    with_server(&server, |address| {
        let mut first = Client::ready(address, &[]);
        let mut second = Client::ready(address, &[]);
        assert_eq!(first.write(0, 10, b"written"), Answer::Simple(0));
        let read = Answer::Chunks(vec![(
            chunk::OFFSET_DATA,
            [&10u64.to_be_bytes()[..], b"written"].concat(),
        )]);
        assert_eq!(second.ask(0, command::READ, 10, 7), read);
        assert_eq!(second.ask(0, command::FLUSH, 0, 0), Answer::Simple(0));
        let stored = |at, len: usize| {
            let options = OpenOptions::new().format(Format::Qcow2).force_share(true);
            let mut bytes = vec![0; len];
            let image = options.open(dir.path().join("image")).expect("opens");
            image.read_at(&mut bytes, at).expect("reads");
            bytes
        };
        assert_eq!(stored(10, 7), b"written");
        // FUA.
        assert_eq!(first.write(1, 20, b"at once"), Answer::Simple(0));
        assert_eq!(stored(20, 7), b"at once");
        assert_eq!(first.error(1, command::WRITE_ZEROES, 0, CLUSTER as u32), 0);
        assert_eq!(stored(0, 30), [0; 30]);
        assert_eq!(first.error(1, command::TRIM, 0, size() as u32), 0);
        assert_eq!(stored(2 * CLUSTER, 9), [0; 9]);
        // NO_HOLE.
        assert_eq!(first.error(3, command::WRITE_ZEROES, 0, 5), 0);
        let mut third = Client::ready(address, &[BASE_ALLOCATION]);
        let allocated = Descriptor { len: CLUSTER as u32, flags: 0 };
        let status = BlockStatus { context: 0, descriptors: vec![allocated] }.encode();
        let expected = Answer::Chunks(vec![(chunk::BLOCK_STATUS, status)]);
        assert_eq!(third.ask(8, command::BLOCK_STATUS, 0, size() as u32), expected);
    });
}

#[test]
fn garbage_ends_the_connection_only() {
    let server = Server::new(image());
    with_server(&server, |address| {
        // Flags that were not offered, an option and a request with wrong magic numbers.
        let mut client = Client::connect_with(address, ClientFlags::from_bits_retain(8));
        assert!(client.is_closed());
        let mut client = Client::connect(address);
        client.stream.write_all(&[0xa5; 16]).expect("sends");
        assert!(client.is_closed());
        let mut client = Client::ready(address, &[]);
        client.stream.write_all(&[0xa5; 28]).expect("sends");
        assert!(client.is_closed());
        // A client that goes in the middle of a message.
        drop(Client::connect(address));
        let mut client = Client::ready(address, &[]);
        client.stream.write_all(&[0x25, 0x60]).expect("sends");
        drop(client);
        assert_eq!(Client::ready(address, &[]).error(0, command::READ, 0, 1), 0);
    });
}

#[test]
fn a_client_that_does_not_choose_the_export_in_time_is_disconnected() {
    let server = Server::new(image()).handshake_timeout(Duration::from_millis(400));
    with_server(&server, |address| {
        let mut ready = Client::ready(address, &[]);
        let mut silent = Client::connect(address);
        assert!(silent.is_closed());
        // One that sends a little all the time.
        let mut slow = Client::connect(address);
        let start = std::time::Instant::now();
        while slow.stream.write_all(b"I").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
            assert!(start.elapsed() < Duration::from_secs(10));
        }
        assert_eq!(ready.error(0, command::READ, 0, 1), 0);
    });
}

#[test]
fn a_client_that_does_not_read_its_replies_holds_up_no_other() {
    let server = Server::new(image());
    with_server(&server, |address| {
        let mut client = Client::ready(address, &[]);
        client.stream.set_write_timeout(Some(Duration::from_millis(300))).expect("sets");
        let request = crate::nbd::wire::Request {
            flags: crate::nbd::wire::CommandFlags::DF,
            command: command::READ,
            cookie: 1,
            offset: 0,
            len: 1 << 20,
        };
        // Until the server receives no more.
        while client.stream.write_all(&request.encode().repeat(100)).is_ok() {}
        let mut other = Client::ready(address, &[]);
        for _ in 0..100 {
            assert_eq!(other.error(0, command::READ, 0, 1 << 20), 0);
        }
        drop(client);
    });
}

#[test]
fn more_clients_than_allowed_wait() {
    let server = Server::new(image()).connections(NonZeroUsize::MIN);
    with_server(&server, |address| {
        let mut first = Client::ready(address, &[]);
        assert_eq!(first.error(0, command::READ, 0, 1), 0);
        let waiting =
            std::thread::spawn(move || Client::ready(address, &[]).error(0, command::READ, 0, 1));
        std::thread::sleep(Duration::from_millis(200));
        assert!(!waiting.is_finished());
        drop(first);
        assert_eq!(waiting.join().expect("ends"), 0);
    });
}

#[test]
fn a_server_for_once_ends_with_its_last_client() {
    let server = Server::new(image()).once(true);
    let listener = super::Listener::tcp("127.0.0.1:0").expect("listens");
    let address = listener.address().expect("has one");
    std::thread::scope(|scope| {
        let served = scope.spawn(|| server.serve(&listener, &|| false));
        drop(Client::ready(address, &[]));
        served.join().expect("does not panic").expect("serves");
    });
}

#[test]
fn a_server_for_once_does_not_end_with_what_is_no_client() {
    let server = Server::new(image()).once(true);
    with_server(&server, |address| {
        // A test whether the port is open, and a client that asks and does not choose the export.
        drop(std::net::TcpStream::connect(address).expect("connects"));
        drop(Client::connect(address));
        std::thread::sleep(Duration::from_millis(500));
        let mut client = Client::ready(address, &[]);
        assert_eq!(client.error(0, command::READ, 0, 1), 0);
    });
}

#[test]
fn requests_are_answered_although_the_server_stops_within_another_one() {
    // More than the buffers of the sockets take, so that the replies are being sent.
    const COUNT: usize = 14;
    const LEN: u32 = 1 << 20;
    // One that is valid, and one that fails.
    for at in [0, size()] {
        let (_dir, disk) = writer();
        with_server_to_stop(&Server::writable(disk), |address, stop| {
            let mut client = Client::ready(address, &[]);
            for _ in 0..COUNT {
                client.send(0, command::READ, 0, LEN, &[]);
            }
            client.send(0, command::WRITE, at, 4096, &[1; 100]);
            std::thread::sleep(Duration::from_millis(200));
            stop.store(true, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(300));
            let data = [&[0; 8][..], &bytes()[..LEN as usize]].concat();
            let read = Answer::Chunks(vec![(chunk::OFFSET_DATA, data)]);
            for number in 0..COUNT {
                assert!(client.receive(0) == read, "{number}");
            }
            assert!(client.is_closed());
        });
    }
}

#[test]
fn damage_is_an_error_of_the_request_and_is_reported() {
    let (dir, disk) = writer();
    drop(disk);
    let path = dir.path().join("image");
    let mut stored = std::fs::read(&path).expect("reads");
    // An L2 table that is not aligned, as the first entry of the L1 table says.
    let l1 = u64::from_be_bytes(stored[40..48].try_into().expect("eight")) as usize;
    stored[l1 + 6] ^= 2;
    std::fs::write(&path, stored).expect("writes");
    let reported = Arc::new(Mutex::new(Vec::new()));
    let report = Arc::clone(&reported);
    let image = Image::open(&path).expect("opens");
    let server = Server::new(image)
        .on_error(move |error| report.lock().expect("not poisoned").push(error.kind()));
    with_server(&server, |address| {
        let mut client = Client::ready(address, &[BASE_ALLOCATION]);
        assert_eq!(client.error(0, command::READ, 0, 512), error::EIO);
        assert_eq!(client.error(0, command::BLOCK_STATUS, 0, 512), error::EIO);
        let mut simple = Client::connect(address);
        simple.go("");
        assert_eq!(simple.error(0, command::READ, 0, 512), error::EIO);
        assert_eq!(simple.error(0, command::CACHE, 0, 512), 0);
    });
    assert_eq!(*reported.lock().expect("not poisoned"), [ErrorKind::Corrupt; 3]);
}

#[test]
fn several_requests_of_a_connection_are_processed_at_the_same_time() {
    let server = Server::new(image());
    with_server(&server, |address| {
        let mut client = Client::ready(address, &[]);
        for _ in 0..1000 {
            client.send(4, command::READ, 0, 4096, &[]);
        }
        let data = (chunk::OFFSET_DATA, [&[0; 8][..], &[1; 4096]].concat());
        for _ in 0..1000 {
            assert_eq!(client.receive(0), Answer::Chunks(vec![data.clone()]));
        }
    });
}

#[test]
fn a_client_is_served_on_any_streams() {
    let server = Server::new(image());
    let go = crate::nbd::wire::OptionHeader { option: option::GO, len: 6 }.encode();
    let request = crate::nbd::wire::Request {
        flags: crate::nbd::wire::CommandFlags::empty(),
        command: command::READ,
        cookie: 1,
        offset: 0,
        len: 3,
    };
    let input = [&[0, 0, 0, 3][..], &go, &[0; 6], &request.encode()].concat();
    let mut output = Vec::new();
    server.serve_stream(Cursor::new(&input), Cursor::new(&mut output)).expect("serves");
    assert!(output.ends_with(&[0, 0, 0, 1, 1, 1, 1]), "{output:?}");
    // Whatever is missing or changed ends the connection, or is answered.
    let served = AtomicUsize::new(0);
    for at in 0..input.len() {
        let _ = server.serve_stream(Cursor::new(&input[..at]), std::io::sink());
        for bit in 0..8 {
            let mut changed = input.clone();
            changed[at] ^= 1 << bit;
            let _ = server.serve_stream(Cursor::new(changed), std::io::sink());
            served.fetch_add(1, Ordering::Relaxed);
        }
    }
    assert_eq!(served.into_inner(), input.len() * 8);
}
