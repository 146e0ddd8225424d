//! A server that does what real ones do not do on request.

use crate::nbd::wire::*;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// A server on the loopback interface. Its threads end with the test's process.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
}

impl Server {
    /// Starts a server that does `serve` with each connection and its number. A connection is closed
    /// when `serve` returns.
    pub(super) fn start(
        serve: impl Fn(&mut Peer, usize) -> Option<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("has an address");
        let serve = Arc::new(serve);
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().flatten().enumerate() {
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || serve(&mut Peer(stream), number));
            }
        });
        Self { address }
    }

    pub(super) fn url(&self) -> String {
        format!("nbd://{}/disk", self.address)
    }
}

/// What a server agrees to.
#[derive(Debug, Clone)]
pub(super) struct Offer {
    pub(super) size: u64,
    pub(super) flags: TransmissionFlags,
    pub(super) sizes: Option<BlockSizes>,
    pub(super) structured: bool,
    /// By number.
    pub(super) contexts: Vec<&'static str>,
    /// The option GO is known.
    pub(super) go: bool,
}

impl Offer {
    pub(super) fn new(size: u64) -> Self {
        Self {
            size,
            flags: TransmissionFlags::HAS_FLAGS | TransmissionFlags::SEND_FLUSH,
            sizes: Some(BlockSizes { min: 1, preferred: 4096, max: MAX_PAYLOAD }),
            structured: true,
            contexts: vec![BASE_ALLOCATION],
            go: true,
        }
    }
}

/// The side of the server of a connection.
#[derive(Debug)]
pub(super) struct Peer(pub(super) TcpStream);

impl Peer {
    pub(super) fn send(&mut self, bytes: &[u8]) -> Option<()> {
        self.0.write_all(bytes).ok()
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        read_array(&mut self.0).ok()
    }

    fn bytes(&mut self, len: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes).ok()?;
        Some(bytes)
    }

    pub(super) fn greet(&mut self) -> Option<()> {
        self.send(&greeting(HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES))?;
        self.array::<4>().map(drop)
    }

    /// Receives an option with its data.
    pub(super) fn option(&mut self) -> Option<(u32, Vec<u8>)> {
        let header = OptionHeader::decode(&self.array()?).ok()?;
        Some((header.option, self.bytes(header.len as usize)?))
    }

    pub(super) fn answer(&mut self, option: u32, reply: u32, data: &[u8]) -> Option<()> {
        let header = OptionReply { option, reply, len: data.len() as u32 };
        self.send(&[&header.encode(), data].concat())
    }

    /// Does the whole handshake.
    pub(super) fn agree(&mut self, offer: &Offer) -> Option<()> {
        self.greet()?;
        loop {
            let (option, data) = self.option()?;
            match option {
                option::STRUCTURED_REPLY if offer.structured => {}
                option::SET_META_CONTEXT if !offer.contexts.is_empty() => {
                    let wanted = ContextsOption::decode(&data).ok()?;
                    for (id, name) in offer.contexts.iter().enumerate() {
                        if wanted.queries.iter().any(|query| query == name) {
                            let context = ContextReply { id: id as u32, name: (*name).into() };
                            self.answer(option, option_reply::META_CONTEXT, &context.encode())?;
                        }
                    }
                }
                option::GO if offer.go => {
                    let export = ExportInfo { size: offer.size, flags: offer.flags };
                    let export = InfoReply::Export(export).encode();
                    self.answer(option, option_reply::INFO, &export)?;
                    if let Some(sizes) = offer.sizes {
                        let sizes = InfoReply::BlockSizes(sizes).encode();
                        self.answer(option, option_reply::INFO, &sizes)?;
                    }
                    return self.answer(option, option_reply::ACK, &[]);
                }
                option::EXPORT_NAME => {
                    let export = ExportInfo { size: offer.size, flags: offer.flags };
                    return self.send(&export.encode());
                }
                _ => {
                    self.answer(option, option_reply::ERR_UNSUP, b"not here")?;
                    continue;
                }
            }
            self.answer(option, option_reply::ACK, &[])?;
        }
    }

    /// Receives a request with its data, until the client leaves.
    pub(super) fn request(&mut self) -> Option<(Request, Vec<u8>)> {
        let request = Request::decode(&self.array()?).ok()?;
        let len = if request.command == command::WRITE { request.len } else { 0 };
        let data = self.bytes(len as usize)?;
        (request.command != command::DISC).then_some((request, data))
    }

    pub(super) fn simple(&mut self, request: &Request, error: u32) -> Option<()> {
        self.send(&SimpleReply { error, cookie: request.cookie }.encode())
    }

    pub(super) fn chunk(
        &mut self,
        request: &Request,
        kind: u16,
        payload: &[u8],
        last: bool,
    ) -> Option<()> {
        let flags = if last { ChunkFlags::DONE } else { ChunkFlags::empty() };
        let chunk = Chunk { flags, kind, cookie: request.cookie, len: payload.len() as u32 };
        self.send(&[&chunk.encode(), payload].concat())
    }

    /// Sends a part of the reply to a READ.
    pub(super) fn data(
        &mut self,
        request: &Request,
        offset: u64,
        data: &[u8],
        last: bool,
    ) -> Option<()> {
        self.chunk(request, chunk::OFFSET_DATA, &[&offset.to_be_bytes(), data].concat(), last)
    }

    pub(super) fn status(&mut self, request: &Request, parts: &[(u32, u32)]) -> Option<()> {
        let descriptors = parts.iter().map(|&(len, flags)| Descriptor { len, flags }).collect();
        let status = BlockStatus { context: 0, descriptors };
        self.chunk(request, chunk::BLOCK_STATUS, &status.encode(), true)
    }

    /// Answers a request as `disk` demands.
    pub(super) fn serve(&mut self, disk: &mut [u8], request: &Request, data: &[u8]) -> Option<()> {
        let range = request.offset as usize..request.offset as usize + request.len as usize;
        match request.command {
            command::READ => self.data(request, request.offset, &disk[range], true),
            command::WRITE => {
                disk[range].copy_from_slice(data);
                self.simple(request, 0)
            }
            command::WRITE_ZEROES => {
                disk[range].fill(0);
                self.simple(request, 0)
            }
            _ => self.simple(request, 0),
        }
    }

    /// Sends nothing more.
    pub(super) fn stall(&mut self) -> Option<()> {
        std::thread::sleep(Duration::from_secs(60));
        None
    }
}
