//! Handshakes.

use super::server::{Offer, Server};
use super::{cannot_open, open, open_to_write, pattern, quick, text};
use crate::nbd::Nbd;
use crate::nbd::wire::*;
use diskimg::ErrorKind;
use diskimg::open::{OpenMode, Protocol};
use std::time::{Duration, Instant};

#[test]
fn servers_of_all_ages_are_read() {
    let all = Offer::new(10_000);
    let no_go = Offer { go: false, ..all.clone() };
    let no_contexts = Offer { contexts: Vec::new(), ..all.clone() };
    let no_sizes = Offer { sizes: None, ..all.clone() };
    for offer in [all, no_go, no_contexts, no_sizes] {
        let name = format!("{offer:?}");
        let server = Server::start(move |peer, _| {
            peer.agree(&offer)?;
            let mut disk = pattern(10_000);
            while let Some((request, data)) = peer.request() {
                match request.command {
                    command::BLOCK_STATUS => peer.status(&request, &[(10_000, 0)])?,
                    _ => peer.serve(&mut disk, &request, &data)?,
                }
            }
            Some(())
        });
        let source = open(&server).expect(&name);
        let mut buf = vec![0; 1000];
        source.read_exact_at(&mut buf, 8999).expect("reads");
        assert_eq!(buf, pattern(10_000)[8999..9999], "{name}");
        assert!(!source.segment_at(5).expect("has segments").hole);
    }
}

#[test]
fn servers_without_options_are_read() {
    // Newstyle, not fixed: the zeros follow.
    let newstyle = Server::start(|peer, _| {
        peer.send(&greeting(HandshakeFlags::empty()))?;
        peer.send(&[])?;
        let flags = TransmissionFlags::HAS_FLAGS;
        let info = ExportInfo { size: 4096, flags }.encode();
        let mut client = [0; 4];
        std::io::Read::read_exact(&mut peer.0, &mut client).ok()?;
        assert_eq!(client, [0; 4]);
        let (option, name) = peer.option()?;
        assert_eq!((option, &*name), (option::EXPORT_NAME, &b"disk"[..]));
        peer.send(&[&info[..], &[0; EXPORT_NAME_ZEROES]].concat())?;
        simple_reads(peer)
    });
    let oldstyle = Server::start(|peer, _| {
        let size = 4096_u64.to_be_bytes();
        let magic = [NBDMAGIC.to_be_bytes(), OLDSTYLE_MAGIC.to_be_bytes(), size].concat();
        peer.send(&[&magic[..], &3_u32.to_be_bytes(), &[0; 124]].concat())?;
        simple_reads(peer)
    });
    fn simple_reads(peer: &mut super::server::Peer) -> Option<()> {
        let disk = pattern(4096);
        while let Some((request, _)) = peer.request() {
            assert_eq!((request.offset % 512, request.len % 512), (0, 0), "not aligned");
            let (start, len) = (request.offset as usize, request.len as usize);
            peer.simple(&request, 0)?;
            peer.send(&disk[start..start + len])?;
        }
        Some(())
    }
    let old = oldstyle.url().replace("/disk", "/").parse().expect("is a URL");
    let old = Nbd::with_options(quick()).open(&old, &OpenMode::default()).expect("opens");
    for source in [open(&newstyle).expect("opens"), old] {
        let mut buf = vec![0; 100];
        source.read_exact_at(&mut buf, 4001 - 100).expect("reads");
        assert_eq!(buf, pattern(4096)[3901..4001]);
    }
    // It has one export only, which has no name.
    assert_eq!(cannot_open(&oldstyle).kind(), ErrorKind::Io);
    let error = open_to_write(&oldstyle).expect_err("has another name");
    assert!(text(&error).contains("no export 'disk'"), "{error}");
}

#[test]
fn what_a_server_refuses_is_told() {
    for (reply, expected) in [
        (option_reply::ERR_UNKNOWN, "the server has no export 'disk'"),
        (option_reply::ERR_TLS_REQD, "the server requires TLS"),
        (option_reply::ERR_POLICY, "the server does not allow it: because"),
        (option_reply::ERR_BLOCK_SIZE_REQD, "another block size"),
        (option_reply::ERROR | 99, "the server refuses the export: because"),
    ] {
        let server = Server::start(move |peer, _| {
            peer.greet()?;
            loop {
                let (option, _) = peer.option()?;
                let reply = if option == option::GO { reply } else { option_reply::ERR_UNSUP };
                peer.answer(option, reply, b"\x1bbecause\n")?;
            }
        });
        let error = cannot_open(&server);
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(text(&error).contains(expected), "{error}");
        assert!(!text(&error).contains('\x1b'), "{error:?}");
    }
    // Without the option GO, a server can only hang up.
    let server = Server::start(|peer, _| {
        peer.greet()?;
        while let (option, _) = peer.option()?
            && option != option::EXPORT_NAME
        {
            peer.answer(option, option_reply::ERR_UNSUP, &[])?;
        }
        None
    });
    let error = cannot_open(&server);
    assert!(text(&error).contains("it may have no export 'disk'"), "{error}");
    let gone = Server::start(|_, _| None);
    assert_eq!(cannot_open(&gone).kind(), ErrorKind::Transient);
}

/// Answers GO with a reply that is made by `answer`.
fn contradiction(answer: impl Fn(&mut super::server::Peer) -> Option<()> + Send + Sync + 'static) {
    let server = Server::start(move |peer, _| {
        peer.greet()?;
        loop {
            match peer.option()?.0 {
                option::GO => return answer(peer),
                other => peer.answer(other, option_reply::ERR_UNSUP, &[])?,
            }
        }
    });
    let error = cannot_open(&server);
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(text(&error).contains("violates the protocol"), "{error}");
}

#[test]
fn servers_that_contradict_themselves_are_refused() {
    let info = |size, flags| InfoReply::Export(ExportInfo { size, flags }).encode();
    let good = move || info(4096, TransmissionFlags::HAS_FLAGS);
    let reply = option_reply::INFO;
    contradiction(move |peer| peer.answer(option::GO, option_reply::ACK, &[]));
    contradiction(move |peer| peer.answer(option::INFO, option_reply::ACK, &[]));
    contradiction(move |peer| peer.answer(option::GO, option_reply::ACK, &[0]));
    contradiction(move |peer| peer.answer(option::GO, reply, &[0; MAX_OPTION_DATA + 1]));
    contradiction(move |peer| peer.answer(option::GO, reply, &good()[..9]));
    contradiction(move |peer| peer.send(&[7; 20]));
    contradiction(move |peer| {
        for _ in 0..100 {
            peer.answer(option::GO, reply, &good())?;
        }
        peer.stall()
    });
    for (size, flags) in
        [(u64::MAX, TransmissionFlags::HAS_FLAGS), (4096, TransmissionFlags::SEND_FLUSH)]
    {
        contradiction(move |peer| {
            peer.answer(option::GO, reply, &info(size, flags))?;
            peer.answer(option::GO, option_reply::ACK, &[])
        });
    }
    for (min, max) in [(0, 4096), (3, 4096), (1 << 17, 1 << 20), (512, 256), (8192, 8192)] {
        contradiction(move |peer| {
            peer.answer(option::GO, reply, &good())?;
            let sizes = InfoReply::BlockSizes(BlockSizes { min, preferred: 4096, max });
            peer.answer(option::GO, reply, &sizes.encode())?;
            peer.answer(option::GO, option_reply::ACK, &[])
        });
    }
    let other = Server::start(|peer, _| peer.send(b"SSH-2.0-OpenSSH_9.2p1 Debian"));
    let error = cannot_open(&other);
    assert!(text(&error).contains("it is not an NBD server"), "{error}");
}

#[test]
fn a_handshake_does_not_last_longer_than_allowed() {
    let mut options = quick();
    options.connect_timeout = Duration::from_millis(300);
    // Nothing at all, and a byte now and then.
    let silent = Server::start(|peer, _| peer.stall());
    let slow = Server::start(|peer, _| {
        for byte in greeting(HandshakeFlags::FIXED_NEWSTYLE) {
            peer.send(&[byte])?;
            std::thread::sleep(Duration::from_millis(100));
        }
        peer.stall()
    });
    for server in [silent, slow] {
        let started = Instant::now();
        let nbd = Nbd::with_options(options.clone());
        let error = nbd.open(&super::location(&server), &OpenMode::default()).expect_err("is slow");
        assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    }
}

#[test]
fn a_server_that_is_not_there_yet_is_waited_for_if_that_is_wanted() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = free.local_addr().expect("has an address");
    drop(free);
    let url: diskimg::open::Location = format!("nbd://{address}/").parse().expect("is a URL");
    let error = Nbd::with_options(quick()).open(&url, &OpenMode::default()).expect_err("is away");
    assert_eq!(error.kind(), ErrorKind::Transient);
    let server = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        let listener = std::net::TcpListener::bind(address).expect("binds");
        let (stream, _) = listener.accept().expect("accepts");
        let mut peer = super::server::Peer(stream);
        peer.agree(&Offer::new(512));
        peer.request();
    });
    let mut options = quick();
    options.open_timeout = Duration::from_secs(10);
    let source = Nbd::with_options(options).open(&url, &OpenMode::default()).expect("waits");
    assert_eq!(source.len(), 512);
    drop(source);
    server.join().expect("serves");
}

#[test]
fn private_addresses_are_refused_if_that_is_wanted() {
    let server = Server::start(|peer, _| peer.agree(&Offer::new(512)));
    let mut options = quick();
    options.forbid_private_addresses = true;
    let nbd = Nbd::with_options(options);
    let unix = "nbd+unix:///?socket=/none".parse().expect("is a URL");
    for at in [super::location(&server), unix] {
        let error = nbd.open(&at, &OpenMode::default()).expect_err("is private");
        assert!(text(&error).contains("is private"), "{error}");
    }
}
