//! A client that sends what it is told, valid or not.

use crate::nbd::server::{Listener, Server};
use crate::nbd::wire::{
    Chunk, ClientFlags, CommandFlags, ContextsOption, GoOption, OptionHeader, OptionReply, Reply,
    Request, SimpleReply, command, greeting, option, option_reply, read_array,
};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Runs `test` with the address of a server, which ends afterwards.
pub(super) fn with_server(server: &Server, test: impl FnOnce(SocketAddr)) {
    with_server_to_stop(server, |address, _| test(address));
}

/// As [`with_server`], with what stops the server when it is set.
pub(super) fn with_server_to_stop(server: &Server, test: impl FnOnce(SocketAddr, &AtomicBool)) {
    let listener = Listener::tcp("127.0.0.1:0").expect("listens");
    let address = listener.address().expect("has one");
    let stop = Stop::default();
    std::thread::scope(|scope| {
        let served = scope.spawn(|| server.serve(&listener, &|| stop.0.load(Ordering::Relaxed)));
        {
            // Also if the test fails: the scope waits for the server.
            let _stop = StopOnDrop(&stop);
            test(address, &stop.0);
        }
        served.join().expect("does not panic").expect("serves");
    });
}

#[derive(Default)]
struct Stop(AtomicBool);

struct StopOnDrop<'a>(&'a Stop);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// What the server answered to a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Simple(u32),
    /// Kinds and payloads.
    Chunks(Vec<(u16, Vec<u8>)>),
}

pub(super) struct Client {
    pub(super) stream: TcpStream,
}

impl Client {
    /// Connects, and sends these flags after the greeting.
    pub(super) fn connect_with(address: SocketAddr, flags: ClientFlags) -> Self {
        let mut stream = TcpStream::connect(address).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("sets");
        let greeted: [u8; 18] = read_array(&mut stream).expect("greets");
        let offered = crate::nbd::wire::HandshakeFlags::from_bits_retain(3);
        assert_eq!(greeted, greeting(offered));
        stream.write_all(&flags.bits().to_be_bytes()).expect("sends");
        Self { stream }
    }

    pub(super) fn connect(address: SocketAddr) -> Self {
        Self::connect_with(address, ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES)
    }

    /// Connects and chooses the export, with structured replies and these contexts.
    pub(super) fn ready(address: SocketAddr, contexts: &[&str]) -> Self {
        let mut client = Self::connect(address);
        assert_eq!(client.option(option::STRUCTURED_REPLY, &[]), [(option_reply::ACK, vec![])]);
        if !contexts.is_empty() {
            let replies = client.contexts(option::SET_META_CONTEXT, contexts);
            assert_eq!(replies.len(), contexts.len() + 1, "{replies:?}");
        }
        client.go("");
        client
    }

    pub(super) fn go(&mut self, export: &str) -> Vec<(u32, Vec<u8>)> {
        let data = GoOption { export: export.to_owned(), infos: vec![] }.encode();
        self.option(option::GO, &data)
    }

    pub(super) fn contexts(&mut self, option: u32, queries: &[&str]) -> Vec<(u32, Vec<u8>)> {
        let queries = queries.iter().map(ToString::to_string).collect();
        self.option(option, &ContextsOption { export: String::new(), queries }.encode())
    }

    /// Sends an option and returns the replies.
    pub(super) fn option(&mut self, option: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let header = OptionHeader { option, len: data.len() as u32 }.encode();
        self.stream.write_all(&[&header, data].concat()).expect("sends");
        let mut replies = Vec::new();
        loop {
            let header: [u8; OptionReply::LEN] = read_array(&mut self.stream).expect("replies");
            let reply = OptionReply::decode(&header).expect("is a reply");
            assert_eq!(reply.option, option);
            let mut data = vec![0; reply.len as usize];
            self.stream.read_exact(&mut data).expect("has data");
            replies.push((reply.reply, data));
            if reply.is_error() || reply.reply == option_reply::ACK {
                return replies;
            }
        }
    }

    pub(super) fn send(&mut self, flags: u16, command: u16, offset: u64, len: u32, data: &[u8]) {
        let flags = CommandFlags::from_bits_retain(flags);
        let request = Request { flags, command, cookie: 77, offset, len }.encode();
        self.stream.write_all(&[&request, data].concat()).expect("sends");
    }

    pub(super) fn receive(&mut self, data: usize) -> Answer {
        let mut chunks = Vec::new();
        loop {
            match Reply::read(&mut self.stream).expect("replies") {
                Reply::Simple(SimpleReply { error, cookie }) => {
                    assert_eq!(cookie, 77);
                    let mut bytes = vec![0; if error == 0 { data } else { 0 }];
                    self.stream.read_exact(&mut bytes).expect("has data");
                    return match data {
                        0 => Answer::Simple(error),
                        _ if error != 0 => Answer::Simple(error),
                        _ => Answer::Chunks(vec![(0, bytes)]),
                    };
                }
                Reply::Chunk(Chunk { flags, kind, cookie, len }) => {
                    assert_eq!(cookie, 77);
                    let mut payload = vec![0; len as usize];
                    self.stream.read_exact(&mut payload).expect("has a payload");
                    chunks.push((kind, payload));
                    if flags.bits() == 1 {
                        return Answer::Chunks(chunks);
                    }
                }
            }
        }
    }

    /// Sends a request that has no data and returns the answer.
    pub(super) fn ask(&mut self, flags: u16, command: u16, offset: u64, len: u32) -> Answer {
        self.send(flags, command, offset, len, &[]);
        self.receive(0)
    }

    /// Returns the error number of the answer; 0 if there is none.
    pub(super) fn error(&mut self, flags: u16, command: u16, offset: u64, len: u32) -> u32 {
        match self.ask(flags, command, offset, len) {
            Answer::Simple(error) => error,
            Answer::Chunks(chunks) => match &chunks[..] {
                [(kind, payload)] if kind & 1 << 15 != 0 => {
                    u32::from_be_bytes(payload[..4].try_into().expect("a number"))
                }
                _ => 0,
            },
        }
    }

    pub(super) fn write(&mut self, flags: u16, offset: u64, data: &[u8]) -> Answer {
        self.send(flags, command::WRITE, offset, data.len() as u32, data);
        self.receive(0)
    }

    /// Returns true if the server has closed the connection.
    pub(super) fn is_closed(&mut self) -> bool {
        let mut byte = [0; 1];
        match self.stream.read(&mut byte) {
            Ok(0) => true,
            Err(e) => e.kind() == io::ErrorKind::ConnectionReset,
            Ok(_) => false,
        }
    }
}
