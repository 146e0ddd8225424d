//! The options of a client, until it has chosen the export.

use super::Server;
use super::export::Export;
use super::listener::{Peer, Receiver, send_all};
use crate::nbd::wire::{
    BASE_ALLOCATION, BlockSizes, ClientFlags, ContextReply, ContextsOption, EXPORT_NAME_ZEROES,
    ExportInfo, GoOption, HandshakeFlags, InfoReply, MAX_OPTION_DATA, OptionHeader, OptionReply,
    QEMU_DIRTY_BITMAP, ServerReply, greeting, info, malformed, option, option_reply, read_array,
};
use std::io::{self, IoSlice, Read};

/// What is told about an export of which the client has not said what it wants to know.
const DEFAULT_INFO: [u16; 1] = [info::BLOCK_SIZE];

/// What a client has chosen.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    /// Replies to READ are structured.
    pub(super) structured: bool,
    /// Contexts of metadata that BLOCK_STATUS tells.
    pub(super) contexts: Vec<Context>,
}

/// A context of metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Context {
    /// `base:allocation`.
    Allocation,
    /// `qemu:dirty-bitmap:NAME`, by its index.
    Bitmap(usize),
}

impl Context {
    /// Returns the number by which replies name the context.
    pub(super) fn id(self) -> u32 {
        match self {
            Self::Allocation => 0,
            Self::Bitmap(index) => u32::try_from(index + 1).unwrap_or(u32::MAX),
        }
    }
}

/// Returns the contexts that an export has, with their names.
fn contexts(export: &Export) -> Vec<(Context, String)> {
    let bitmaps = export.bitmaps().iter().enumerate().map(|(index, bitmap)| {
        (Context::Bitmap(index), format!("{QEMU_DIRTY_BITMAP}{}", bitmap.info().name))
    });
    std::iter::once((Context::Allocation, BASE_ALLOCATION.to_owned())).chain(bitmaps).collect()
}

/// Returns true if a query of LIST_META_CONTEXT asks for this context.
fn lists(query: &str, name: &str) -> bool {
    let is_namespace = query.ends_with(':') && name.starts_with(query);
    is_namespace || query == name
}

/// Sends the greeting and answers options. Returns `None` if the client ends the connection.
pub(super) fn negotiate(server: &Server, peer: &dyn Peer) -> io::Result<Option<Chosen>> {
    let flags = HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES;
    send_all(peer, &mut [IoSlice::new(&greeting(flags))])?;
    let mut input = Receiver(peer);
    let flags = ClientFlags::from_bits_retain(u32::from_be_bytes(read_array(&mut input)?));
    let known = ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES;
    if !known.contains(flags) {
        return Err(malformed("the client has set flags that were not offered"));
    }
    let omits_zeroes = flags.contains(ClientFlags::NO_ZEROES);
    Negotiation { server, peer, omits_zeroes, chosen: Chosen::default() }.run()
}

struct Negotiation<'a> {
    server: &'a Server,
    peer: &'a dyn Peer,
    /// Whether zeros after the reply to EXPORT_NAME are omitted.
    omits_zeroes: bool,
    chosen: Chosen,
}

impl Negotiation<'_> {
    fn run(mut self) -> io::Result<Option<Chosen>> {
        loop {
            let mut input = Receiver(self.peer);
            let header = OptionHeader::decode(&read_array(&mut input)?)?;
            let len = header.len as usize;
            if len > MAX_OPTION_DATA {
                io::copy(&mut input.take(len as u64), &mut io::sink())?;
                if header.option == option::EXPORT_NAME {
                    return Ok(None);
                }
                self.reply(header.option, option_reply::ERR_TOO_BIG, &[])?;
                continue;
            }
            let mut data = vec![0; len];
            input.read_exact(&mut data)?;
            match header.option {
                option::EXPORT_NAME => return self.export_name(&data),
                option::ABORT => {
                    // The client may have gone already.
                    let _ = self.acknowledge(header.option);
                    return Ok(None);
                }
                option::GO => {
                    if self.describe(option::GO, &data)? {
                        return Ok(Some(self.chosen));
                    }
                }
                option::INFO => drop(self.describe(option::INFO, &data)?),
                option::LIST => self.list(&data)?,
                option::STRUCTURED_REPLY => self.structured_reply(&data)?,
                option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
                    self.contexts(header.option, &data)?;
                }
                option::STARTTLS => self.reply(header.option, option_reply::ERR_POLICY, &[])?,
                _ => self.reply(header.option, option_reply::ERR_UNSUP, &[])?,
            }
        }
    }

    fn reply(&self, option: u32, reply: u32, data: &[u8]) -> io::Result<()> {
        let len = u32::try_from(data.len()).map_err(|_| malformed("a reply is too long"))?;
        let header = OptionReply { option, reply, len }.encode();
        send_all(self.peer, &mut [IoSlice::new(&header), IoSlice::new(data)])
    }

    fn acknowledge(&self, option: u32) -> io::Result<()> {
        self.reply(option, option_reply::ACK, &[])
    }

    /// Returns true if the export has this name. The empty name is that of the default export.
    fn is_known(&self, name: &str) -> bool {
        name.is_empty() || name == self.server.name
    }

    fn export_info(&self) -> ExportInfo {
        let export = &self.server.export;
        ExportInfo { size: export.size(), flags: export.flags(self.chosen.structured) }
    }

    /// The oldest way to choose an export, to which there is no reply with an error.
    fn export_name(self, name: &[u8]) -> io::Result<Option<Chosen>> {
        if !std::str::from_utf8(name).is_ok_and(|name| self.is_known(name)) {
            return Err(malformed("the client wants an export that does not exist"));
        }
        let zeroes = if self.omits_zeroes { 0 } else { EXPORT_NAME_ZEROES };
        let info = self.export_info().encode();
        let zeroes = &[0; EXPORT_NAME_ZEROES][..zeroes];
        send_all(self.peer, &mut [IoSlice::new(&info), IoSlice::new(zeroes)])?;
        Ok(Some(self.chosen))
    }

    /// Answers INFO and GO. Returns true if the export was described.
    fn describe(&mut self, option: u32, data: &[u8]) -> io::Result<bool> {
        let Ok(wanted) = GoOption::decode(data) else {
            return self.reply(option, option_reply::ERR_INVALID, &[]).map(|()| false);
        };
        if !self.is_known(&wanted.export) {
            return self.reply(option, option_reply::ERR_UNKNOWN, &[]).map(|()| false);
        }
        let mut infos = vec![InfoReply::Export(self.export_info())];
        let mut kinds = [DEFAULT_INFO.as_slice(), &wanted.infos].concat();
        kinds.sort_unstable();
        kinds.dedup();
        infos.extend(kinds.into_iter().filter_map(|kind| self.info(kind)));
        for info in infos {
            self.reply(option, option_reply::INFO, &info.encode())?;
        }
        self.acknowledge(option)?;
        Ok(true)
    }

    fn info(&self, kind: u16) -> Option<InfoReply> {
        match kind {
            info::NAME => Some(InfoReply::Name(self.server.name.clone())),
            info::DESCRIPTION if !self.server.description.is_empty() => {
                Some(InfoReply::Description(self.server.description.clone()))
            }
            info::BLOCK_SIZE => {
                let preferred = self.server.export.preferred_block();
                let sizes = BlockSizes { min: 1, preferred, max: super::MAX_REQUEST };
                Some(InfoReply::BlockSizes(sizes))
            }
            _ => None,
        }
    }

    fn list(&self, data: &[u8]) -> io::Result<()> {
        if !data.is_empty() {
            return self.reply(option::LIST, option_reply::ERR_INVALID, &[]);
        }
        let Server { name, description, .. } = self.server;
        let reply = ServerReply { export: name.clone(), description: description.clone() };
        self.reply(option::LIST, option_reply::SERVER, &reply.encode())?;
        self.acknowledge(option::LIST)
    }

    fn structured_reply(&mut self, data: &[u8]) -> io::Result<()> {
        if !data.is_empty() || self.chosen.structured {
            return self.reply(option::STRUCTURED_REPLY, option_reply::ERR_INVALID, &[]);
        }
        self.chosen.structured = true;
        self.acknowledge(option::STRUCTURED_REPLY)
    }

    /// Answers LIST_META_CONTEXT and SET_META_CONTEXT.
    fn contexts(&mut self, option: u32, data: &[u8]) -> io::Result<()> {
        let sets = option == option::SET_META_CONTEXT;
        if sets {
            self.chosen.contexts.clear();
        }
        let wanted = match ContextsOption::decode(data) {
            Ok(wanted) if self.chosen.structured => wanted,
            _ => return self.reply(option, option_reply::ERR_INVALID, &[]),
        };
        if !self.is_known(&wanted.export) {
            return self.reply(option, option_reply::ERR_UNKNOWN, &[]);
        }
        let is_wanted = |name: &str| match sets {
            true => wanted.queries.iter().any(|query| query == name),
            false => {
                wanted.queries.is_empty() || wanted.queries.iter().any(|query| lists(query, name))
            }
        };
        for (context, name) in contexts(&self.server.export) {
            if is_wanted(&name) {
                let id = if sets { context.id() } else { 0 };
                let reply = ContextReply { id, name };
                self.reply(option, option_reply::META_CONTEXT, &reply.encode())?;
                if sets {
                    self.chosen.contexts.push(context);
                }
            }
        }
        self.acknowledge(option)
    }
}
