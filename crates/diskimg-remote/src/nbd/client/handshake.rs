//! The handshake: how the client and the server agree on an export.
//!
//! ```text
//!   greeting ─► STARTTLS (with nbds:) ─► STRUCTURED_REPLY ─► SET_META_CONTEXT ─► GO
//!     │                                   what the server does not know is left out
//!     ├► without fixed newstyle: ───────────────────────────────────────────────► EXPORT_NAME
//!     └► oldstyle: the export follows at once
//! ```

use super::export::Export;
use super::stream::{Socket, skip};
use super::tls::TlsSettings;
use super::transport::{ReadHalf, WriteHalf};
use super::{lost, printable, violation};
use crate::nbd::wire::{
    ClientFlags, ContextReply, ContextsOption, EXPORT_NAME_ZEROES, ExportInfo, GoOption,
    HandshakeFlags, IHAVEOPT, InfoReply, MAX_OPTION_DATA, NBDMAGIC, OLDSTYLE_MAGIC, OptionHeader,
    OptionReply, TransmissionFlags, info, option, option_reply, read_array,
};
use diskimg::storage::source::SourceError;
use std::io::{self, Read, Write};

/// Maximum number of replies to one option. A server has few contexts and few kinds of information.
const MAX_REPLIES: usize = 64;

/// What the client wants.
#[derive(Debug, Clone)]
pub(in crate::nbd) struct Wanted {
    pub(in crate::nbd) export: String,
    /// Contexts of metadata.
    pub(in crate::nbd) contexts: Vec<String>,
    pub(in crate::nbd) tls: Option<TlsSettings>,
}

/// Agrees on an export over a new connection, whose deadline must be set.
///
/// # Errors
/// Returns `Transient` if the connection is lost, and `Storage` if the server refuses or violates the
/// protocol.
pub(super) fn shake_hands(
    mut socket: Socket,
    wanted: &Wanted,
) -> Result<(ReadHalf, WriteHalf, Export), SourceError> {
    let greeting = greet(&mut socket).map_err(lost)?;
    let flags = match greeting {
        Greeting::Oldstyle(export) => {
            if wanted.tls.is_some() {
                return Err(refused("the server does not support TLS"));
            }
            if !wanted.export.is_empty() {
                return Err(refused(format!("the server has no export '{}'", wanted.export)));
            }
            let writer = WriteHalf::Plain(socket.try_clone()?);
            let export = Export::new(export, None, false, Vec::new())?;
            return Ok((ReadHalf::Plain(socket), writer, export));
        }
        Greeting::Newstyle(flags) => flags,
    };
    let fixed = flags.contains(HandshakeFlags::FIXED_NEWSTYLE);
    let omits_zeros = flags.contains(HandshakeFlags::NO_ZEROES);
    let mut answer = ClientFlags::empty();
    answer.set(ClientFlags::FIXED_NEWSTYLE, fixed);
    answer.set(ClientFlags::NO_ZEROES, omits_zeros);
    socket.write_all(&answer.bits().to_be_bytes()).map_err(lost)?;
    if wanted.tls.is_some() && !fixed {
        return Err(refused("the server does not support TLS"));
    }
    let writer = WriteHalf::Plain(socket.try_clone()?);
    let mut options = Options { reader: ReadHalf::Plain(socket), writer };
    if let Some(tls) = &wanted.tls {
        options = options.start_tls(tls)?;
    }
    let export = match fixed {
        true => options.agree(wanted, omits_zeros)?,
        false => options.export_name(wanted, omits_zeros, (false, Vec::new()))?,
    };
    Ok((options.reader, options.writer, export))
}

enum Greeting {
    Oldstyle(ExportInfo),
    Newstyle(HandshakeFlags),
}

fn greet(socket: &mut Socket) -> io::Result<Greeting> {
    use crate::nbd::wire::malformed;
    if u64::from_be_bytes(read_array(socket)?) != NBDMAGIC {
        return Err(malformed("it is not an NBD server"));
    }
    match u64::from_be_bytes(read_array(socket)?) {
        IHAVEOPT => {
            let flags = u16::from_be_bytes(read_array(socket)?);
            Ok(Greeting::Newstyle(HandshakeFlags::from_bits_retain(flags)))
        }
        OLDSTYLE_MAGIC => {
            let size = u64::from_be_bytes(read_array(socket)?);
            // The upper half was never used.
            let flags = u32::from_be_bytes(read_array(socket)?) as u16;
            skip(socket, EXPORT_NAME_ZEROES, EXPORT_NAME_ZEROES)?;
            let flags = TransmissionFlags::from_bits_retain(flags);
            Ok(Greeting::Oldstyle(ExportInfo { size, flags }))
        }
        _ => Err(malformed("it is not an NBD server")),
    }
}

/// The error of a server that does not want.
fn refused(why: impl Into<String>) -> SourceError {
    SourceError::Storage(io::Error::new(io::ErrorKind::PermissionDenied, why.into()))
}

/// A reply to an option that says no.
struct Refusal {
    reply: u32,
    message: String,
}

impl Refusal {
    /// The server does not know the option, or does not want it.
    fn is_unsupported(&self) -> bool {
        use option_reply::{ERR_INVALID, ERR_PLATFORM, ERR_POLICY, ERR_UNSUP};
        matches!(self.reply, ERR_UNSUP | ERR_POLICY | ERR_PLATFORM | ERR_INVALID)
    }

    /// Returns the error that the export cannot be used.
    fn error(&self, export: &str) -> SourceError {
        let why = match self.reply {
            option_reply::ERR_UNKNOWN => {
                let message = format!("the server has no export '{}'", printable(export));
                return SourceError::Storage(io::Error::new(io::ErrorKind::NotFound, message));
            }
            option_reply::ERR_SHUTDOWN => {
                let message = "the server is shutting down";
                let error = io::Error::new(io::ErrorKind::ConnectionAborted, message);
                return SourceError::Transient(error);
            }
            option_reply::ERR_TLS_REQD => "the server requires TLS, a nbds: URI",
            option_reply::ERR_POLICY => "the server does not allow it",
            option_reply::ERR_BLOCK_SIZE_REQD => "the server requires another block size",
            option_reply::ERR_EXT_HEADER_REQD => "the server requires extended headers",
            _ => "the server refuses the export",
        };
        refused(match &*self.message {
            "" => why.to_owned(),
            message => format!("{why}: {message}"),
        })
    }
}

/// The phase of options.
struct Options {
    reader: ReadHalf,
    writer: WriteHalf,
}

impl Options {
    fn send(&mut self, option: u32, data: &[u8]) -> Result<(), SourceError> {
        let header = OptionHeader { option, len: data.len() as u32 };
        self.writer.write_both(&header.encode(), data).map_err(lost)
    }

    /// Sends an option and calls `note` for each reply with information. Returns why the server
    /// refuses, if it does.
    fn ask(
        &mut self,
        option: u32,
        data: &[u8],
        mut note: impl FnMut(u32, &[u8]) -> io::Result<()>,
    ) -> Result<Result<(), Refusal>, SourceError> {
        self.send(option, data)?;
        for _ in 0..MAX_REPLIES {
            let (reply, data) = self.reply(option).map_err(lost)?;
            match reply.reply {
                option_reply::ACK if data.is_empty() => return Ok(Ok(())),
                option_reply::ACK => return Err(violation("data where there are none")),
                _ if reply.is_error() => {
                    let message = printable(&String::from_utf8_lossy(&data));
                    return Ok(Err(Refusal { reply: reply.reply, message }));
                }
                kind => note(kind, &data).map_err(lost)?,
            }
        }
        Err(violation("the replies to an option do not end"))
    }

    fn reply(&mut self, option: u32) -> io::Result<(OptionReply, Vec<u8>)> {
        use crate::nbd::wire::malformed;
        let reply = OptionReply::decode(&read_array(&mut self.reader)?)?;
        if reply.option != option {
            return Err(malformed("a reply to an option that was not sent"));
        }
        let len = reply.len as usize;
        if len > MAX_OPTION_DATA {
            return Err(malformed(format!("a reply has {len} bytes, more than {MAX_OPTION_DATA}")));
        }
        let mut data = vec![0; len];
        self.reader.read_exact(&mut data)?;
        Ok((reply, data))
    }

    fn start_tls(mut self, tls: &TlsSettings) -> Result<Self, SourceError> {
        let outcome = self.ask(option::STARTTLS, &[], |_, _| Ok(()))?;
        outcome.map_err(|refusal| match refusal.is_unsupported() {
            true => refused("the server does not support TLS"),
            false => refusal.error(""),
        })?;
        // Nothing was read beyond the reply: what follows is encrypted.
        let ReadHalf::Plain(socket) = self.reader else {
            return Err(violation("TLS within TLS"));
        };
        let (reader, writer) = tls.start(socket).map_err(lost)?;
        let (reader, writer) = (Box::new(reader), Box::new(writer));
        Ok(Self { reader: ReadHalf::Tls(reader), writer: WriteHalf::Tls(writer) })
    }

    fn agree(&mut self, wanted: &Wanted, omits_zeros: bool) -> Result<Export, SourceError> {
        let structured = self.ask(option::STRUCTURED_REPLY, &[], |_, _| Ok(()))?;
        let structured = match structured {
            Ok(()) => true,
            // All else is refused, too.
            Err(refusal) if refusal.reply == option_reply::ERR_TLS_REQD => {
                return Err(refusal.error(&wanted.export));
            }
            Err(_) => false,
        };
        let contexts = match structured {
            true => self.contexts(wanted)?,
            false => Vec::new(),
        };
        let go = GoOption { export: wanted.export.clone(), infos: vec![info::BLOCK_SIZE] };
        let (mut export, mut sizes) = (None, None);
        let outcome = self.ask(option::GO, &go.encode(), |kind, data| {
            if kind == option_reply::INFO {
                match InfoReply::decode(data)? {
                    InfoReply::Export(found) => export = Some(found),
                    InfoReply::BlockSizes(found) => sizes = Some(found),
                    InfoReply::Name(_) | InfoReply::Description(_) | InfoReply::Other(_) => {}
                }
            }
            Ok(())
        })?;
        match outcome {
            Ok(()) => {
                let missing = || violation("nothing is said about the export");
                Export::new(export.ok_or_else(missing)?, sizes, structured, contexts)
            }
            Err(refusal) if refusal.reply == option_reply::ERR_UNSUP => {
                self.export_name(wanted, omits_zeros, (structured, contexts))
            }
            Err(refusal) => Err(refusal.error(&wanted.export)),
        }
    }

    /// Returns the contexts that the server has of those that are wanted.
    fn contexts(&mut self, wanted: &Wanted) -> Result<Vec<ContextReply>, SourceError> {
        let queries = wanted.contexts.clone();
        let query = ContextsOption { export: wanted.export.clone(), queries };
        let mut found: Vec<ContextReply> = Vec::new();
        let outcome = self.ask(option::SET_META_CONTEXT, &query.encode(), |kind, data| {
            if kind == option_reply::META_CONTEXT {
                found.push(ContextReply::decode(data)?);
            }
            Ok(())
        })?;
        // The option GO tells more about an export that is unknown.
        if outcome.is_err() {
            return Ok(Vec::new());
        }
        found.retain(|context| wanted.contexts.contains(&context.name));
        for (number, context) in found.iter().enumerate() {
            if found[..number].iter().any(|c| c.id == context.id || c.name == context.name) {
                return Err(violation("a context of metadata is named twice"));
            }
        }
        Ok(found)
    }

    /// Selects the export with the only option that all servers have. One that has no such export
    /// closes the connection.
    fn export_name(
        &mut self,
        wanted: &Wanted,
        omits_zeros: bool,
        (structured, contexts): (bool, Vec<ContextReply>),
    ) -> Result<Export, SourceError> {
        self.send(option::EXPORT_NAME, wanted.export.as_bytes())?;
        let mut read = || {
            let info = ExportInfo::decode(&read_array(&mut self.reader)?)?;
            if !omits_zeros {
                skip(&mut self.reader, EXPORT_NAME_ZEROES, EXPORT_NAME_ZEROES)?;
            }
            Ok(info)
        };
        let info = read().map_err(|e: io::Error| match e.kind() {
            io::ErrorKind::UnexpectedEof => {
                let message = format!(
                    "the server closed the connection: it may have no export '{}'",
                    printable(&wanted.export)
                );
                SourceError::Storage(io::Error::new(io::ErrorKind::NotFound, message))
            }
            _ => lost(e),
        })?;
        Export::new(info, None, structured, contexts)
    }
}
