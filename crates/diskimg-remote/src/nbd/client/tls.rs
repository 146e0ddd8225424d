//! TLS with certificates, by rustls.
//!
//! The state of a TLS connection is one for both directions. It is locked only while bytes are
//! encrypted or decrypted, never while the socket is waited for.

use super::stream::Socket;
use diskimg::{Error, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes that are encrypted or read at a time: several records.
const BLOCK: usize = 64 << 10;

/// How a server proves who it is, and this client.
#[derive(Debug, Clone)]
pub(in crate::nbd) struct TlsSettings {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl TlsSettings {
    /// Reads the certificates in `directory`, in files with the names that QEMU and libnbd use, or
    /// else in `bundle`, or else those of the system. `host` is the name in the server's certificate.
    ///
    /// # Errors
    /// Returns [`Io`](diskimg::ErrorKind::Io) if a file cannot be read, and
    /// [`Invalid`](diskimg::ErrorKind::Invalid) if its contents or the name are malformed.
    pub(in crate::nbd) fn new(
        directory: Option<&Path>,
        bundle: Option<&Path>,
        host: &str,
        verify: bool,
    ) -> Result<Self> {
        let name = ServerName::try_from(host.to_owned());
        let name =
            name.map_err(|_| Error::invalid(format!("'{host}' is not the name of a host")))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?;
        let config = match verify {
            true => config.with_root_certificates(authorities(directory, bundle)?),
            false => config
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate { provider })),
        };
        let own = directory.map(|directory| directory.join("client-cert.pem"));
        let config = match own.filter(|own| own.exists()) {
            None => config.with_no_client_auth(),
            Some(own) => {
                let file = own.with_file_name("client-key.pem");
                let text = read(&file)?;
                let key = PrivateKeyDer::from_pem_slice(&text)
                    .map_err(|_| Error::invalid("it has no private key").in_file(&file))?;
                let config = config.with_client_auth_cert(certificates(&own)?, key);
                config.map_err(|e| unusable(e).in_file(&own))?
            }
        };
        Ok(Self { config: Arc::new(config), name })
    }

    /// Begins TLS on a socket, whose deadline must be set.
    ///
    /// # Errors
    /// Returns the error of the socket, and one of the kind `Other` if the server or its certificate
    /// is not accepted.
    pub(super) fn start(&self, mut socket: Socket) -> io::Result<(TlsReader, TlsWriter)> {
        let connection = ClientConnection::new(Arc::clone(&self.config), self.name.clone());
        let mut connection = connection.map_err(io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket).map_err(|e| match e.kind() {
                io::ErrorKind::InvalidData => io::Error::other(format!("TLS failed: {e}")),
                _ => e,
            })?;
        }
        let connection = Arc::new(Mutex::new(connection));
        let reader = TlsReader {
            socket: socket.try_clone()?,
            connection: Arc::clone(&connection),
            encrypted: vec![0; BLOCK],
            unread: 0..0,
        };
        Ok((reader, TlsWriter { socket, connection, encrypted: Vec::new() }))
    }
}

/// Returns the files of a directory that are read.
pub(in crate::nbd) fn files(directory: &Path) -> [PathBuf; 3] {
    ["ca-cert.pem", "client-cert.pem", "client-key.pem"].map(|name| directory.join(name))
}

fn unusable(error: rustls::Error) -> Error {
    Error::invalid(format!("TLS cannot be used: {error}"))
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).map_err(|e| Error::io("cannot read it", e).in_file(file))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let malformed = || Error::invalid("it has no certificate").in_file(file);
    let text = read(file)?;
    let certificates = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    certificates.ok().filter(|certificates| !certificates.is_empty()).ok_or_else(malformed)
}

/// Returns the certificates of authorities that are trusted: of the directory, or else of the bundle
/// or the system, or else Mozilla's.
fn authorities(directory: Option<&Path>, bundle: Option<&Path>) -> Result<RootCertStore> {
    let own = directory.map(|directory| directory.join("ca-cert.pem"));
    let file = match own.filter(|own| own.exists()) {
        Some(own) => own,
        None => match bundle.map(Path::to_owned).or_else(crate::certificates::system_bundle) {
            Some(bundle) => bundle,
            None => return Ok(RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.to_vec())),
        },
    };
    let mut store = RootCertStore::empty();
    // Systems have some that are too old for rustls.
    let (added, _) = store.add_parsable_certificates(certificates(&file)?);
    match added {
        0 => Err(Error::invalid("it has no certificate of an authority").in_file(&file)),
        _ => Ok(store),
    }
}

/// Accepts all certificates, but not signatures that are wrong.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn lock(connection: &Mutex<ClientConnection>) -> MutexGuard<'_, ClientConnection> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads and decrypts.
#[derive(Debug)]
pub(super) struct TlsReader {
    pub(super) socket: Socket,
    connection: Arc<Mutex<ClientConnection>>,
    encrypted: Vec<u8>,
    /// The part of `encrypted` that is not decrypted yet.
    unread: std::ops::Range<usize>,
}

impl Read for TlsReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut connection = lock(&self.connection);
            match connection.reader().read(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return outcome,
            }
            if self.unread.is_empty() {
                drop(connection);
                let read = self.socket.read(&mut self.encrypted)?;
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.unread = 0..read;
                continue;
            }
            let taken = connection.read_tls(&mut &self.encrypted[self.unread.clone()])?;
            self.unread.start += taken;
            connection
                .process_new_packets()
                .map_err(|e| io::Error::other(format!("TLS failed: {e}")))?;
        }
    }
}

/// Encrypts and writes.
#[derive(Debug)]
pub(super) struct TlsWriter {
    pub(super) socket: Socket,
    connection: Arc<Mutex<ClientConnection>>,
    encrypted: Vec<u8>,
}

impl TlsWriter {
    fn encrypt(
        &mut self,
        write: impl FnOnce(&mut rustls::Writer<'_>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        self.encrypted.clear();
        let mut connection = lock(&self.connection);
        let written = write(&mut connection.writer())?;
        // What the connection itself has to say is sent, too.
        while connection.wants_write() {
            connection.write_tls(&mut self.encrypted)?;
        }
        drop(connection);
        self.socket.write_all(&self.encrypted)?;
        Ok(written)
    }
}

impl Write for TlsWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.encrypt(|writer| writer.write(&buf[..buf.len().min(BLOCK)]))
    }

    fn write_vectored(&mut self, bufs: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.encrypt(|writer| writer.write_vectored(bufs))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
